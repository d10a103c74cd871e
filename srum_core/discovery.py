"""Finding plugins. Each entry point is loaded and asked by itself: a broken one is described and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from inspect import isroutine
from types import ModuleType

import attrs
import pluggy
from attrs import field, frozen

from srum_core.errors import PluginError
from srum_core.hookspecs import GROUP, KINDS, Component, Hooks
from srum_core.loading import why
from srum_core.structuring import did_you_mean


@frozen
class Plugin:
    """An entry point of an installed distribution."""

    distribution: str
    version: str
    entry_point: str
    """As in the distribution's metadata, "name = module"."""

    def __str__(self) -> str:
        return f'{self.distribution} {self.version} (entry point "{self.entry_point}")'


@frozen
class Found:
    """A component and the plugin that offers it."""

    kind: str
    component: Component
    plugin: Plugin

    @property
    def distribution(self) -> str:
        return self.plugin.distribution

    @property
    def version(self) -> str:
        return self.plugin.version

    def __str__(self) -> str:
        return f'The {KINDS[self.kind].words} "{self.component.name}" of {self.plugin}'


@frozen
class Finding:
    """What there is."""

    manager: pluggy.PluginManager
    plugins: Mapping[object, Plugin]
    """By module; the working ones only."""
    found: Mapping[tuple[str, str], Sequence[Found]]
    """By kind and name; more than one where plugins clash."""
    broken: Sequence[str] = field(factory=list)
    """What is not usable and why, in sentences."""


def find() -> Finding:
    """Look at every entry point of the group "srum". Imports the plugins, which are light; never their components."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    plugins: dict[object, Plugin] = {}
    broken: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda each: (_distribution(each), each.name)):
        plugin = Plugin(
            _distribution(entry), entry.dist.version if entry.dist else "?", f"{entry.name} = {entry.value}"
        )
        try:
            module = entry.load()
            _check_module(module)
            if module in plugins:
                raise PluginError(f"its module is the one of {plugins[module]}.")
            manager.register(module, name=f"{plugin.distribution}:{entry.name}")
        except (Exception, SystemExit) as error:
            broken.append(f"{plugin} could not be loaded: {why(error)}")
        else:
            plugins[module] = plugin
    _drop_misspelt(manager, plugins, broken)
    found: dict[tuple[str, str], list[Found]] = {}
    for each in _collect(manager, plugins, broken):
        found.setdefault((each.kind, each.component.name), []).append(each)
    broken += [clash(several) for several in found.values() if len(several) > 1]
    return Finding(manager, plugins, found, broken)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "(unknown distribution)"


def _check_module(module: object) -> None:
    """A forgotten `@hookimpl` would make a plugin that silently offers nothing."""
    if not isinstance(module, ModuleType):
        raise PluginError(f"the entry point should name a module, not a {type(module).__name__}.")
    functions = {name: each for name, each in vars(module).items() if isroutine(each)}
    marked = [name for name, function in functions.items() if hasattr(function, f"{GROUP}_impl")]
    bare = [name for name in functions if hasattr(Hooks, name) and name not in marked]
    if bare:
        raise PluginError(f"{bare[0]} is not marked as a hook. Put @hookimpl (from srum_core) above it.")
    if not marked:
        raise PluginError(f"it implements no hook. There are {', '.join(_hook_names())}; mark them with @hookimpl.")


def _hook_names() -> list[str]:
    return [name for name in vars(Hooks) if name.startswith("srum_")]


def _drop_misspelt(manager: pluggy.PluginManager, plugins: dict[object, Plugin], broken: list[str]) -> None:
    """pluggy's check_pending() stops at the first plugin with an unknown hook: go on until there is none left."""
    while True:
        try:
            return manager.check_pending()
        except pluggy.PluginValidationError as error:
            names = [caller.name for caller in manager.get_hookcallers(error.plugin) or () if not caller.has_spec()]
            hints = " ".join(f'there is no hook "{name}".{did_you_mean(name, _hook_names())}' for name in names)
            broken.append(f"{plugins.pop(error.plugin)} is left out: {hints} There are {', '.join(_hook_names())}.")
            manager.unregister(error.plugin)


def _collect(manager: pluggy.PluginManager, plugins: dict[object, Plugin], broken: list[str]) -> list[Found]:
    """Ask each plugin by itself, so that one that fails loses only its own components."""
    all_found: list[Found] = []
    for module, plugin in list(plugins.items()):
        try:
            found = [
                Found(kind, component, plugin)
                for kind, about in KINDS.items()
                for implementation in getattr(manager.hook, about.hook).get_hookimpls()
                if implementation.plugin is module
                for component in _checked(about.hook, implementation.function)
            ]
        except Exception as error:
            broken.append(f"{plugin} is left out: {why(error)}")
            manager.unregister(module)
            del plugins[module]
        else:
            all_found += found
    return all_found


def _checked(hook: str, function: Callable[[], Iterable[Component]]) -> list[Component]:
    offered = function()
    if not isinstance(offered, Iterable):
        raise PluginError(f"{hook}() returned {type(offered).__name__}; it should return a list of Component.")
    components = list(offered)
    for component in components:
        if not isinstance(component, Component):
            raise PluginError(f"{hook}() returned a {type(component).__name__} where a Component should be.")
        if not component.name or ":" in component.name:
            raise PluginError(f'{hook}() offers a component called "{component.name}"; a name has no colon.')
        if component.load.count(":") != 1:
            raise PluginError(f'{hook}(): load="{component.load}" of "{component.name}" should read "module:Class".')
        if component.options is not None and not attrs.has(component.options):
            raise PluginError(f'{hook}(): the options of "{component.name}" are not an attrs class.')
        if component.options is not None and "use" in attrs.fields_dict(component.options):
            raise PluginError(f'{hook}(): "{component.name}" has an option called "use", which means the component.')
    return components


def clash(found: Sequence[Found]) -> str:
    kind, name = KINDS[found[0].kind].words, found[0].component.name
    who = " and ".join(str(each.plugin) for each in found)
    paths = " or ".join(f'"{each.component.load}"' for each in found)
    return (
        f'The {kind} "{name}" is offered by {who}: neither is taken. Uninstall one of them, or name the class itself, '
        f"use = {paths}."
    )
