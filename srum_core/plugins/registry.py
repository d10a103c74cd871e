"""Making what plugins offer: options checked first, then the class imported and compared with its protocol."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import get_annotations
from pathlib import Path
from typing import Any

import attrs
import pluggy
from attrs import field, frozen

from srum_core.errors import ConfigError, PluginError, SrumError, clean
from srum_core.files import lora_only
from srum_core.options import Problem, Problems, Use, build, closest, did_you_mean, reread
from srum_core.plugins.discovery import Found, Plugin, call, clash, find
from srum_core.plugins.hookspecs import KINDS, Component
from srum_core.records import Prompt

LIBRARIES = ("torch", "transformers", "diffusers", "peft")
"""What images and weights are computed by, besides srum."""


def discover() -> Registry:
    """Everything that is installed. Imports no component and no torch."""
    return Registry(*find())


@frozen
class Registry:
    """The installed plugins and components."""

    _manager: pluggy.PluginManager = field(repr=False)
    _plugins: Mapping[object, Plugin] = field(repr=False)
    """By module; the working ones only."""
    _found: Mapping[tuple[str, str], Sequence[Found]] = field(repr=False)
    """By kind and name; more than one where plugins clash."""
    broken: list[str] = field(repr=False)
    """Unusable plugins and the reasons, as sentences."""
    _silenced: set[tuple[str, object]] = field(factory=set, init=False, repr=False)
    """(hook, module) of plugins that failed at it: they are not called again."""

    def notify(self, event: str, **arguments: Any) -> list[str]:
        """Call every plugin that listens to an event. Returns a sentence for each that fails, which is not called
        again: a run continues without it."""
        return self._call_all(event, f"{{}} failed at {event} and is not called again", arguments)

    def checkpoint_ready(self, **arguments: Any) -> list[str]:
        """Let every plugin that reloads servers do so. Returns the name under which each says that the model is served
        now; [] = there is no such plugin. Raises PluginError for one that fails."""
        names = []
        for each in self._manager.hook.srum_checkpoint_ready.get_hookimpls():
            given = [arguments[name] for name in each.argnames]
            what = f"{self._plugins[each.plugin]} failed at srum_checkpoint_ready"
            names.append(str(call(what, each.function, *given) or arguments["name"]))
        return names

    def add_commands(self, subparsers: Any) -> list[str]:
        """Let every plugin add its commands to `srum`, ours first: none is replaced. Returns a sentence for each
        that fails."""
        return self._call_all("srum_commands", "The commands of {} are left out", {"subparsers": subparsers})

    def _call_all(self, hook: str, failure: str, arguments: Mapping[str, Any]) -> list[str]:
        failed = []
        known = getattr(self._manager.hook, hook).get_hookimpls()
        for each in sorted(known, key=lambda each: self._plugins[each.plugin].distribution != "srum"):
            if (hook, each.plugin) in self._silenced:
                continue
            given = [arguments[name] for name in each.argnames]
            try:
                call(failure.format(self._plugins[each.plugin]), each.function, *given, passed=())
            except PluginError as error:
                failed.append(str(error))
                self._silenced.add((hook, each.plugin))
        self.broken.extend(failed)
        return failed

    def listing(self) -> list[Found]:
        """Every usable component, by kind and name."""
        return [found[0] for _, found in sorted(self._found.items()) if len(found) == 1]

    def versions(self) -> dict[str, str]:
        """Versions for a run: srum, its commit where it is a checkout, the libraries that compute, and every
        distribution with a working plugin."""
        libraries = {name: number for name in LIBRARIES if (number := _version(name))}
        made = {"srum": _version("srum") or "not installed", **_commit(), **libraries}
        return made | {each.distribution: each.version for each in self._plugins.values()}

    def component(self, kind: str, name: str) -> Component:
        """Raises PluginError with what there is. A name with a colon is an import path, and is imported."""
        if ":" in name:
            made = self._import(kind, name, self._who(kind, name))
            options = call(f"{name} cannot be used", getattr, made, "Options", None)
            return Component(name, name, options if attrs.has(options) else None)
        return self._find(kind, name).component

    def load(self, kind: str, name: str) -> Any:
        """The class, imported and known to have the protocol's methods. Raises PluginError."""
        component = self.component(kind, name)
        who = self._who(kind, name)
        made = self._import(kind, component.load, who)
        if isinstance(made, type):  # a factory function is not checked
            call(who, require_protocol, made, KINDS[kind].protocol, f"{who} is incomplete: {component.load}")
        return made

    def options(self, kind: str, use: Use) -> Any:
        """The component's options with its defaults filled in, or None if it has none. Raises PluginError for a
        component that cannot be found, Problems (paths relative to the component) for options that cannot be used."""
        component = self.component(kind, use.use)
        if component.options is None:
            text = f'is not a setting: the {KINDS[kind].words} "{component.name}" has none.'
            if use.options:
                raise Problems(Problem((key,), text) for key in use.options)
            return None
        checkpoint = use.options.get("checkpoint")
        # A run merges LoRA weights into the base that they name; what only answers or draws is loaded by itself.
        trains = kind == "adapter" or (kind == "generator" and ("generator", use.use) not in self._found)
        if not trains and isinstance(checkpoint, str) and (advice := lora_only(Path(checkpoint).expanduser())):
            raise Problems([Problem(("checkpoint",), advice)])
        who = self._who(kind, use.use)
        try:
            passed = (SrumError, Problems, NameError)
            made = call(f"{who} cannot check its options", build, component.options, use.options, passed=passed)
        except NameError as error:
            raise PluginError(
                f"{who} describes its options by types that cannot be found out ({error}): "
                "import those types at run time, not only for type checkers."
            ) from error
        return call(f"{who} has a default among its options that no setting can be", reread, made, passed=())

    def create(self, kind: str, use: Use | Mapping[str, Any] | str, **extra: Any) -> Any:
        """Make a component. `extra` are options that win over those of `use`.

        Order: options (ConfigError), import, class, construction, members (PluginError). Errors that the constructor
        raises for people (SrumError) pass through."""
        use = as_use(use)
        use = Use(use.use, {**use.options, **extra})
        who = self._who(kind, use.use)
        try:
            options = self.options(kind, use)
        except Problems as problems:
            found = "".join(f"\n  - {each}" for each in problems.found)
            raise ConfigError(f"{who} cannot be made with these options:{found}") from problems
        made = self.load(kind, use.use)
        given = f"with {clean(dict(use.options))}" if use.options else "without options"
        instance = call(f"{who} could not be made {given}", made, *([] if options is None else [options]))
        incomplete = f"{who} is incomplete: {type(instance).__qualname__}"
        call(f"{who} cannot be used", require_protocol, instance, KINDS[kind].protocol, incomplete)
        return instance

    def prompts(self, source: str) -> Sequence[Prompt] | None:
        """The prompts of the first plugin that knows the source; None if none does. A plugin that fails is
        skipped; PluginError names it if no other knows the source; SrumErrors pass."""
        failed: list[PluginError] = []
        for each in reversed(self._manager.hook.srum_prompts.get_hookimpls()):
            arguments = [source] if "source" in each.argnames else []
            what = f'{self._plugins[each.plugin]} failed at giving the prompts "{source}"'
            try:
                prompts = call(what, _prompts, each.function, *arguments)
            except PluginError as error:
                failed.append(error)
                continue
            if prompts is not None:
                self.broken.extend(map(str, failed))
                return prompts
        if failed:
            raise failed[0]
        return None

    def _find(self, kind: str, name: str) -> Found:
        found = self._found.get((kind, name), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise PluginError(clash(found))
        also = KINDS[kind].also
        if also and (also, name) in self._found:
            return self._find(also, name)
        names = sorted(name for each, name in self._found if each in (kind, also))
        there = f"There are {', '.join(names)}." if names else "None is installed."
        if kind != "generator" and ("generator", name) in self._found:
            raise PluginError(
                f'"{name}" only generates images: it can be evaluated (srum eval run --adapter {name}), but neither '
                f"trained nor asked as an {KINDS[kind].words} is. {there}"
            )
        broken = "".join(f"\n  - {sentence}" for sentence in self.broken)
        broken = f"\nWhat could not be loaded:{broken}" if broken else ""
        raise PluginError(
            f'No installed plugin offers the {KINDS[kind].words} "{name}".{did_you_mean(name, names)} {there} '
            f'A class of your own can be named as "module:Class".{broken}'
        )

    def _who(self, kind: str, name: str) -> str:
        return f'The {KINDS[kind].words} "{name}"' if ":" in name else str(self._find(kind, name))

    def _import(self, kind: str, path: str, who: str) -> Any:
        made = import_object(path, who)
        if not callable(made):
            raise PluginError(f"{who}: {path} is no class, and so it cannot be made into a {KINDS[kind].words}.")
        return made


def import_object(path: str, who: str) -> Any:
    """What "module:Class" names. Raises PluginError, its sentence beginning with `who`."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise PluginError(f'{who}: "{path}" should read "module:Class".')
    try:
        found: Any = call(f"{who}: {module_name} cannot be imported", import_module, module_name)
    except PluginError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise PluginError(
                f"{who}: there is no module '{missing}'. Check the spelling; a module that is not installed is "
                "found where PYTHONPATH points to."
            ) from cause
        raise
    for part in name.split("."):
        if not call(who, hasattr, found, part):
            raise PluginError(f'{who}: {module_name} has no "{part}".{did_you_mean(part, dir(found))}')
        found = getattr(found, part)
    return found


def members(protocol: type) -> tuple[list[str], list[str]]:
    """(methods, data attributes) that a protocol asks for, its bases' included."""
    methods: dict[str, None] = {}
    data: dict[str, None] = {}
    for base in _protocols(protocol):
        public = {name for name in vars(base) if not name.startswith("_") or name == "__call__"}
        methods |= {name: None for name in vars(base) if name in public and callable(vars(base)[name])}
        data |= dict.fromkeys(get_annotations(base))
    return list(methods), list(data)


def require_protocol(made: Any, protocol: type, who: str) -> None:
    """Raise PluginError unless all that the protocol asks for is there: in a class the methods, before anything heavy
    is built, and in what was made of it every member. What is only inherited from the protocol is not there."""
    methods, data = members(protocol)
    kind = made if isinstance(made, type) else type(made)
    own = [base for base in kind.__mro__ if base not in _protocols(kind)]
    if kind is made:
        # callables may also be set in __init__ if the class announces them by an annotation
        there = {name for base in own for name in (*vars(base), *get_annotations(base))}
        missing = [] if hasattr(made, "__getattr__") else [name for name in methods if name not in there]
    else:
        there = {name for base in own for name in vars(base)} | set(getattr(made, "__dict__", ()))
        stubs = {name for base in _protocols(kind) for name in vars(base)} - there
        missing = [name for name in (*methods, *data) if name in stubs or not hasattr(made, name)]
    if not missing:
        return
    shown = [f"{name}(...)" if name in methods else name for name in missing]
    public = {name for name in dir(made) if not name.startswith("_")} - set(dir(protocol))
    close = [closest(name, public) for name in missing]
    hints = "".join(f' Is "{name}" a misspelling?' for name in dict.fromkeys(close) if name)
    raise PluginError(
        f"{who} has no {', '.join(shown)}, which {protocol.__module__}.{protocol.__name__} asks for.{hints}"
    )


def _protocols(made: type) -> list[type]:
    return [base for base in made.__mro__ if vars(base).get("_is_protocol", False)]


def _prompts(function: Callable[..., Iterable[Prompt] | None], *arguments: str) -> list[Prompt] | None:
    given = function(*arguments)
    prompts = None if given is None else list(given)
    if not all(isinstance(each, Prompt) for each in prompts or ()):
        raise TypeError("it returned something that is not a Prompt")
    return prompts


def as_use(use: Use | Mapping[str, Any] | str) -> Use:
    """A name, a table as in TOML, or a Use already."""
    if isinstance(use, str):
        return Use(use)
    if isinstance(use, Use):
        return use
    return Use(use["use"], {key: value for key, value in use.items() if key != "use"})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> dict[str, str]:
    """{"srum-commit": "HASH" or "HASH-dirty"}; empty where srum is no checkout, or without git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=elsewhere)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {} if done.returncode else {"srum-commit": done.stdout.strip()}
