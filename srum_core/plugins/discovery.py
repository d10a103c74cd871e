"""Finding plugins. Each entry point is loaded and called separately: a broken one is described and left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from inspect import isroutine
from types import ModuleType
from typing import Any, TypeVar

import pluggy
from attrs import field, frozen

from srum_core.errors import PluginError, SrumError, clean
from srum_core.options import did_you_mean
from srum_core.plugins.hookspecs import GROUP, KINDS, Component, Hooks

T = TypeVar("T")
_HOOKS = [name for name in vars(Hooks) if name.startswith("srum_")]
_RENAMED = {"srum_drawers": "srum_generators"}


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
class Offer:
    """A component and the plugin that offers it."""

    kind: str
    component: Component
    plugin: Plugin

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


@frozen
class Installed:
    """What is installed. Every entry point of the group "srum" is loaded: the plugins are light, and their components
    are not imported."""

    _manager: pluggy.PluginManager = field(factory=lambda: pluggy.PluginManager(GROUP), init=False, repr=False)
    _plugins: dict[object, Plugin] = field(factory=dict, init=False, repr=False)
    """By module; the working ones only."""
    _offers: dict[tuple[str, str], list[Offer]] = field(factory=dict, init=False, repr=False)
    """By kind and name; more than one where plugins clash."""
    broken: list[str] = field(factory=list, init=False, repr=False)
    """Unusable plugins and the reasons, as sentences."""

    def __attrs_post_init__(self) -> None:
        self._manager.add_hookspecs(Hooks)
        for plugin, entry in sorted(self._entries(), key=lambda pair: (pair[0].distribution, pair[1].name)):
            try:
                call(f"{plugin} could not be loaded", self._register, plugin, entry, passed=())
            except PluginError as error:
                self.broken.append(str(error))
        self._drop_misspelt()
        for module, plugin in list(self._plugins.items()):
            self._take_offers(module, plugin)
        self.broken.extend(clash(offers) for offers in self._offers.values() if len(offers) > 1)

    def _entries(self) -> Iterator[tuple[Plugin, EntryPoint]]:
        """The entry points of the group. The files of every distribution are read by themselves: any may be damaged."""
        seen: set[str] = set()
        for distribution in distributions():
            where = f"The distribution in {clean(getattr(distribution, '_path', distribution))}"
            try:
                entries = call(f"{where} is left out, its metadata cannot be read", _read, distribution, passed=())
            except PluginError as error:
                self.broken.append(f"{error} If it is a plugin, install it again.")
                continue
            names = {re.sub(r"[-_.]+", "-", plugin.distribution).lower() for plugin, _ in entries}
            if not names <= seen:  # the first on the path counts, as for imports
                seen |= names
                yield from entries

    def _register(self, plugin: Plugin, entry: EntryPoint) -> None:
        module = entry.load()
        if not isinstance(module, ModuleType):
            raise PluginError(f"the entry point should name a module, not a {type(module).__name__}.")
        functions = {name: value for name, value in vars(module).items() if isroutine(value)}
        marked = [name for name, function in functions.items() if hasattr(function, f"{GROUP}_impl")]
        bare = [name for name in functions if name in _HOOKS and name not in marked]
        if bare:  # it would silently offer nothing
            raise PluginError(f"{bare[0]} is not marked as a hook. Put @hookimpl (from srum_core) above it.")
        if not marked:
            raise PluginError(f"it implements no hook. There are {', '.join(_HOOKS)}; mark them with @hookimpl.")
        if module in self._plugins:
            raise PluginError(f"its module is the one of {self._plugins[module]}.")
        try:
            self._manager.register(module, name=f"{plugin.distribution}:{entry.name}")
        except BaseException:
            if self._manager.is_registered(module):  # with the hooks that came before the one that is wrong
                self._manager.unregister(module)
            raise
        self._plugins[module] = plugin

    def _drop_misspelt(self) -> None:
        """pluggy's check_pending() stops at the first plugin with an unknown hook: continue until there is none."""
        while True:
            try:
                return self._manager.check_pending()
            except pluggy.PluginValidationError as error:
                callers = self._manager.get_hookcallers(error.plugin) or ()
                names = [caller.name for caller in callers if not caller.has_spec()]
                hints = [
                    f'there is no hook "{name}".{did_you_mean(_RENAMED.get(name, name), _HOOKS)}' for name in names
                ]
                who = f"{self._plugins[error.plugin]} is left out"
                self._leave_out(error.plugin, f"{who}: {' '.join(hints)} There are {', '.join(_HOOKS)}.")

    def _take_offers(self, module: object, plugin: Plugin) -> None:
        """Call each plugin separately, so that one that fails loses only its own components."""
        offers = []
        try:
            for kind, about in KINDS.items():
                for implementation in getattr(self._manager.hook, about.hook).get_hookimpls():
                    if implementation.plugin is module:
                        components = call(
                            f"{plugin} is left out", _checked, about.hook, implementation.function, passed=()
                        )
                        offers += [Offer(kind, component, plugin) for component in components]
        except PluginError as error:
            self._leave_out(module, str(error))
            return
        for offer in offers:
            self._offers.setdefault((offer.kind, offer.component.name), []).append(offer)

    def _leave_out(self, module: object, sentence: str) -> None:
        self.broken.append(sentence)
        self._manager.unregister(module)
        del self._plugins[module]


def _read(distribution: Distribution) -> list[tuple[Plugin, EntryPoint]]:
    entries = list(distribution.entry_points.select(group=GROUP))
    if not entries:
        return []
    name, version = distribution.metadata["Name"], distribution.metadata["Version"]
    if not name or not version:
        raise PluginError("METADATA names no Name and Version")
    return [(Plugin(clean(name), clean(version), clean(f"{entry.name} = {entry.value}")), entry) for entry in entries]


def _checked(hook: str, function: Callable[[], Iterable[Component]]) -> list[Component]:
    result = function()
    if not isinstance(result, Iterable):
        raise PluginError(f"{hook}() returned {type(result).__name__}; it should return a list of Component.")
    components = list(result)
    for component in components:
        if type(component) is not Component:  # a subclass may do anything when it is used
            raise PluginError(f"{hook}() returned a {type(component).__name__} where a Component should be.")
    return components


def clash(offers: Sequence[Offer]) -> str:
    kind, name = KINDS[offers[0].kind].words, offers[0].component.name
    who = " and ".join(str(offer.plugin) for offer in offers)
    paths = " or ".join(f'"{offer.component.load}"' for offer in offers)
    return (
        f'The {kind} "{name}" is offered by {who}: neither is taken. Uninstall one of them, or name the class itself, '
        f"use = {paths}."
    )
