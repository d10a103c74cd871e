"""Finding plugins. Each entry point is loaded and called separately: a broken one is described and left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from inspect import isroutine
from types import ModuleType
from typing import Any, TypeVar

import pluggy
from attrs import frozen

from srum_core.errors import PluginError, SrumError, clean
from srum_core.options import did_you_mean
from srum_core.plugins.hookspecs import GROUP, KINDS, Component, Hooks

T = TypeVar("T")


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


def why(error: BaseException) -> str:
    """What went wrong, for people; the traceback stays available as the error's cause."""
    if isinstance(error, SrumError):
        return clean(error, limit=2000)
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = clean(error.name)
        package = name.partition(".")[0]
        return f'it needs the module "{name}", which is not installed. Install {package} in this environment.'
    return f"{type(error).__name__}: {clean(error)}"


def call(
    what: str, function: Callable[..., T], *arguments: Any, passed: tuple[type[Exception], ...] = (SrumError,)
) -> T:
    """Call code of a plugin. Raises PluginError "WHAT: why" for whatever it raises, `sys.exit()` too.

    KeyboardInterrupt and what is `passed` go through."""
    try:
        return function(*arguments)
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, *passed)):
            raise
        raise PluginError(f"{what}: {why(error)}") from error


def find() -> tuple[pluggy.PluginManager, dict[object, Plugin], dict[tuple[str, str], list[Found]], list[str]]:
    """Load every entry point of the group "srum". Imports the plugins, which are light; never their components.

    Returns the manager, the working plugins by module, the components by kind and name (more than one where plugins
    clash), and sentences about unusable ones."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    plugins: dict[object, Plugin] = {}
    broken: list[str] = []
    for plugin, entry in sorted(_entries(broken), key=lambda each: (each[0].distribution, each[1].name)):
        try:
            call(f"{plugin} could not be loaded", _register, manager, plugins, plugin, entry, passed=())
        except PluginError as error:
            broken.append(str(error))
    _drop_misspelt(manager, plugins, broken)
    found: dict[tuple[str, str], list[Found]] = {}
    for each in _collect(manager, plugins, broken):
        found.setdefault((each.kind, each.component.name), []).append(each)
    broken += [clash(several) for several in found.values() if len(several) > 1]
    return manager, plugins, found, broken


def _entries(broken: list[str]) -> Iterator[tuple[Plugin, EntryPoint]]:
    """The entry points of the group. The files of every distribution are read by themselves: any may be damaged."""
    seen: set[str] = set()
    for distribution in distributions():
        where = f"The distribution in {clean(getattr(distribution, '_path', distribution))}"
        try:
            found = call(f"{where} is left out, its metadata cannot be read", _read, distribution, passed=())
        except PluginError as error:
            broken.append(f"{error} If it is a plugin, install it again.")
            continue
        names = {re.sub(r"[-_.]+", "-", plugin.distribution).lower() for plugin, _ in found}
        if not names <= seen:  # the first on the path counts, as for imports
            seen |= names
            yield from found


def _read(distribution: Distribution) -> list[tuple[Plugin, EntryPoint]]:
    found = list(distribution.entry_points.select(group=GROUP))
    if not found:
        return []
    name, version = distribution.metadata["Name"], distribution.metadata["Version"]
    if not name or not version:
        raise PluginError("METADATA names no Name and Version")
    return [(Plugin(clean(name), clean(version), clean(f"{each.name} = {each.value}")), each) for each in found]


def _register(manager: pluggy.PluginManager, plugins: dict[object, Plugin], plugin: Plugin, entry: EntryPoint) -> None:
    module = entry.load()
    _check_module(module)
    if module in plugins:
        raise PluginError(f"its module is the one of {plugins[module]}.")
    try:
        manager.register(module, name=f"{plugin.distribution}:{entry.name}")
    except BaseException:
        if manager.is_registered(module):  # with the hooks that came before the one that is wrong
            manager.unregister(module)
        raise
    plugins[module] = plugin


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


def _meant(hook: str) -> str:
    renamed = {"srum_drawers": "srum_generators"}
    return did_you_mean(renamed.get(hook, hook), _hook_names())


def _drop_misspelt(manager: pluggy.PluginManager, plugins: dict[object, Plugin], broken: list[str]) -> None:
    """pluggy's check_pending() stops at the first plugin with an unknown hook: continue until there is none left."""
    while True:
        try:
            return manager.check_pending()
        except pluggy.PluginValidationError as error:
            names = [caller.name for caller in manager.get_hookcallers(error.plugin) or () if not caller.has_spec()]
            hints = " ".join(f'there is no hook "{name}".{_meant(name)}' for name in names)
            broken.append(f"{plugins.pop(error.plugin)} is left out: {hints} There are {', '.join(_hook_names())}.")
            manager.unregister(error.plugin)


def _collect(manager: pluggy.PluginManager, plugins: dict[object, Plugin], broken: list[str]) -> list[Found]:
    """Call each plugin separately, so that one that fails loses only its own components."""
    all_found: list[Found] = []
    for module, plugin in list(plugins.items()):
        try:
            found = [
                Found(kind, component, plugin)
                for kind, about in KINDS.items()
                for implementation in getattr(manager.hook, about.hook).get_hookimpls()
                if implementation.plugin is module
                for component in call(f"{plugin} is left out", _checked, about.hook, implementation.function, passed=())
            ]
        except PluginError as error:
            broken.append(str(error))
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
        if type(component) is not Component:  # a subclass may do anything when it is used
            raise PluginError(f"{hook}() returned a {type(component).__name__} where a Component should be.")
    return components


def clash(found: Sequence[Found]) -> str:
    kind, name = KINDS[found[0].kind].words, found[0].component.name
    who = " and ".join(str(each.plugin) for each in found)
    paths = " or ".join(f'"{each.component.load}"' for each in found)
    return (
        f'The {kind} "{name}" is offered by {who}: neither is taken. Uninstall one of them, or name the class itself, '
        f"use = {paths}."
    )
