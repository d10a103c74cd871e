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
from srum_core.options import Problem, Problems, Use, build, closest, did_you_mean, reread
from srum_core.plugins.discovery import Installed, Offer, call, clash
from srum_core.plugins.hookspecs import KINDS, Component
from srum_core.records import Prompt
from srum_core.runs.files import lora_only

LIBRARIES = ("torch", "transformers", "diffusers", "peft")
"""What images and weights are computed by, besides srum."""


def discover() -> Registry:
    """Everything that is installed. Imports no component and no torch."""
    return Registry()


@frozen
class Registry(Installed):
    """The installed plugins and components."""

    _silenced: set[tuple[str, object]] = field(factory=set, init=False, repr=False)
    """(hook, module) of plugins that failed at it: they are not called again."""

    def notify(self, event: str, **arguments: Any) -> list[str]:
        """Call every plugin that listens to an event. Returns a sentence for each that fails, which is not called
        again: a run continues without it."""
        return self._call_all(event, f"{{}} failed at {event} and is not called again", arguments)

    def checkpoint_ready(self, **arguments: Any) -> list[str]:
        """Let every plugin that reloads servers do so. Returns the name under which each says that the model is served
        now; [] = there is no such plugin. Raises PluginError for one that fails."""
        hooks = self._manager.hook.srum_checkpoint_ready.get_hookimpls()
        failure = "{} failed at srum_checkpoint_ready"
        return [str(self._call(hook, failure, arguments) or arguments["name"]) for hook in hooks]

    def add_commands(self, subparsers: Any) -> list[str]:
        """Let every plugin add its commands to `srum`, ours first: none is replaced. Returns a sentence for each
        that fails."""
        return self._call_all("srum_commands", "The commands of {} are left out", {"subparsers": subparsers})

    def _call_all(self, event: str, failure: str, arguments: Mapping[str, Any]) -> list[str]:
        failures = []
        hooks = getattr(self._manager.hook, event).get_hookimpls()
        for hook in sorted(hooks, key=lambda hook: self._plugins[hook.plugin].distribution != "srum"):
            if (event, hook.plugin) in self._silenced:
                continue
            try:
                self._call(hook, failure, arguments, passed=())
            except PluginError as error:
                failures.append(str(error))
                self._silenced.add((event, hook.plugin))
        self.broken.extend(failures)
        return failures

    def _call(self, hook: pluggy.HookImpl, failure: str, arguments: Mapping[str, Any], **more: Any) -> Any:
        """With those of the arguments that it takes. Raises PluginError, which begins with the failure."""
        values = [arguments[name] for name in hook.argnames]
        return call(failure.format(self._plugins[hook.plugin]), hook.function, *values, **more)

    def listing(self) -> list[Offer]:
        """Every usable component, by kind and name."""
        return [offers[0] for _, offers in sorted(self._offers.items()) if len(offers) == 1]

    def versions(self) -> dict[str, str]:
        """Versions for a run: srum, its commit where it is a checkout, the libraries that compute, and every
        distribution with a working plugin."""
        libraries = {name: number for name in LIBRARIES if (number := _version(name))}
        plugins = {plugin.distribution: plugin.version for plugin in self._plugins.values()}
        return {"srum": _version("srum") or "not installed", **_commit(), **libraries, **plugins}

    def component(self, kind: str, name: str) -> Component:
        """Raises PluginError with what there is. A name with a colon is an import path, and is imported."""
        if ":" in name:
            source = self._import(kind, name, self._who(kind, name))
            options = call(f"{name} cannot be used", getattr, source, "Options", None)
            return Component(name, name, options if attrs.has(options) else None)
        return self._find(kind, name).component

    def load(self, kind: str, name: str) -> Any:
        """The class, imported and known to have the protocol's methods. Raises PluginError."""
        component = self.component(kind, name)
        who = self._who(kind, name)
        source = self._import(kind, component.load, who)
        if isinstance(source, type):  # a factory function is not checked
            call(who, require_protocol, source, KINDS[kind].protocol, f"{who} is incomplete: {component.load}")
        return source

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
        trains = kind == "adapter" or (kind == "generator" and ("generator", use.use) not in self._offers)
        if not trains and isinstance(checkpoint, str) and (advice := lora_only(Path(checkpoint).expanduser())):
            raise Problems([Problem(("checkpoint",), advice)])
        who = self._who(kind, use.use)
        try:
            passed = (SrumError, Problems, NameError)
            options = call(f"{who} cannot check its options", build, component.options, use.options, passed=passed)
        except NameError as error:
            raise PluginError(
                f"{who} describes its options by types that cannot be found out ({error}): "
                "import those types at run time, not only for type checkers."
            ) from error
        return call(f"{who} has a default among its options that no setting can be", reread, options, passed=())

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
            lines = "".join(f"\n  - {problem}" for problem in problems.list)
            raise ConfigError(f"{who} cannot be made with these options:{lines}") from problems
        source = self.load(kind, use.use)
        with_options = f"with {clean(dict(use.options))}" if use.options else "without options"
        failure = f"{who} could not be made {with_options}"
        instance = call(failure, source, *([] if options is None else [options]))
        incomplete = f"{who} is incomplete: {type(instance).__qualname__}"
        call(f"{who} cannot be used", require_protocol, instance, KINDS[kind].protocol, incomplete)
        return instance

    def prompts(self, source: str) -> Sequence[Prompt] | None:
        """The prompts of the first plugin that knows the source; None if none does. A plugin that fails is
        skipped; PluginError names it if no other knows the source; SrumErrors pass."""
        failures: list[PluginError] = []
        for hook in reversed(self._manager.hook.srum_prompts.get_hookimpls()):
            what = f'{self._plugins[hook.plugin]} failed at giving the prompts "{source}"'
            try:
                prompts = call(what, _prompts, hook.function, *([source] if hook.argnames else []))
            except PluginError as error:
                failures.append(error)
                continue
            if prompts is not None:
                self.broken.extend(map(str, failures))
                return prompts
        if failures:
            raise failures[0]
        return None

    def _find(self, kind: str, name: str) -> Offer:
        offers = self._offers.get((kind, name), [])
        if len(offers) == 1:
            return offers[0]
        if offers:
            raise PluginError(clash(offers))
        also = KINDS[kind].also
        if also and (also, name) in self._offers:
            return self._find(also, name)
        names = sorted(name for other, name in self._offers if other in (kind, also))
        there = f"There are {', '.join(names)}." if names else "None is installed."
        if kind != "generator" and ("generator", name) in self._offers:
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
        """What "module:Class" names. Raises PluginError, its sentence beginning with `who`."""
        module_name, _, name = path.partition(":")
        if not module_name or not name:
            raise PluginError(f'{who}: "{path}" should read "module:Class".')
        try:
            value: Any = call(f"{who}: {module_name} cannot be imported", import_module, module_name)
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
            if not call(who, hasattr, value, part):
                raise PluginError(f'{who}: {module_name} has no "{part}".{did_you_mean(part, dir(value))}')
            value = getattr(value, part)
        if not callable(value):
            raise PluginError(f"{who}: {path} is no class, and so it cannot be made into a {KINDS[kind].words}.")
        return value


def members(protocol: type) -> tuple[list[str], list[str]]:
    """(methods, data attributes) that a protocol asks for, its bases' included."""
    methods: dict[str, None] = {}
    data: dict[str, None] = {}
    for base in _protocols(protocol):
        public = {name: value for name, value in vars(base).items() if name == "__call__" or not name.startswith("_")}
        methods |= dict.fromkeys(name for name, value in public.items() if callable(value))
        data |= dict.fromkeys(get_annotations(base))
    return list(methods), list(data)


def require_protocol(instance: Any, protocol: type, who: str) -> None:
    """Raise PluginError unless all that the protocol asks for is there: in a class the methods, before anything heavy
    is built, and in an instance every member. What is only inherited from the protocol is not there."""
    methods, data = members(protocol)
    kind = instance if isinstance(instance, type) else type(instance)
    own = [base for base in kind.__mro__ if base not in _protocols(kind)]
    if kind is instance:
        # callables may also be set in __init__ if the class announces them by an annotation
        there = {name for base in own for name in (*vars(base), *get_annotations(base))}
        missing = [] if hasattr(instance, "__getattr__") else [name for name in methods if name not in there]
    else:
        there = {name for base in own for name in vars(base)} | set(getattr(instance, "__dict__", ()))
        stubs = {name for base in _protocols(kind) for name in vars(base)} - there
        missing = [name for name in (*methods, *data) if name in stubs or not hasattr(instance, name)]
    if not missing:
        return
    names = ", ".join(f"{name}(...)" if name in methods else name for name in missing)
    public = {name for name in dir(instance) if not name.startswith("_")} - set(dir(protocol))
    close = [closest(name, public) for name in missing]
    hints = "".join(f' Is "{name}" a misspelling?' for name in dict.fromkeys(close) if name)
    raise PluginError(f"{who} has no {names}, which {protocol.__module__}.{protocol.__name__} asks for.{hints}")


def _protocols(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if vars(base).get("_is_protocol", False)]


def _prompts(function: Callable[..., Iterable[Prompt] | None], *arguments: str) -> list[Prompt] | None:
    result = function(*arguments)
    prompts = None if result is None else list(result)
    if not all(isinstance(prompt, Prompt) for prompt in prompts or ()):
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
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, env=elsewhere)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {} if result.returncode else {"srum-commit": result.stdout.strip()}
