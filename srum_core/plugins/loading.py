"""Importing what a plugin names, and comparing it with a protocol. Failures become sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import get_annotations
from typing import Any, TypeVar

from srum_core.errors import PluginError, SrumError, clean
from srum_core.options import closest, did_you_mean

T = TypeVar("T")


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
            raise PluginError(f'{who}: {module_name} has no "{part}".{did_you_mean(part, _public(found))}')
        found = getattr(found, part)
    return found


def _public(found: Any) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]


def members(protocol: type) -> tuple[list[str], list[str]]:
    """(methods, data attributes) that a protocol asks for, its bases' included."""
    methods: dict[str, None] = {}
    data: dict[str, None] = {}
    for base in _protocols(protocol):
        public = {name for name in vars(base) if not name.startswith("_") or name == "__call__"}
        methods |= {name: None for name in vars(base) if name in public and callable(vars(base)[name])}
        data |= dict.fromkeys(get_annotations(base))
    return list(methods), list(data)


def check_class(made: Any, protocol: type, who: str) -> None:
    """Before anything heavy is built: the class has the protocol's methods. A factory function is not looked into."""
    if not isinstance(made, type) or hasattr(made, "__getattr__"):
        return
    # callables may also be set in __init__ if the class announces them by an annotation
    there = {name for base in _own(made) for name in (*vars(base), *get_annotations(base))}
    _refuse([name for name in members(protocol)[0] if name not in there], protocol, who, _public(made))


def check_instance(instance: Any, protocol: type, who: str) -> None:
    """Once made: every member is there, methods and data. What is only inherited from the protocol is not there."""
    methods, data = members(protocol)
    own = {name for base in _own(type(instance)) for name in vars(base)} | set(getattr(instance, "__dict__", ()))
    stubs = {name for base in _protocols(type(instance)) for name in vars(base)} - own
    missing = [name for name in (*methods, *data) if name in stubs or not hasattr(instance, name)]
    _refuse(missing, protocol, who, _public(instance))


def _protocols(made: type) -> list[type]:
    return [base for base in made.__mro__ if vars(base).get("_is_protocol", False)]


def _own(made: type) -> list[type]:
    return [base for base in made.__mro__ if base not in _protocols(made)]


def _refuse(missing: list[str], protocol: type, who: str, there: Iterable[str]) -> None:
    if not missing:
        return
    shown = [f"{name}(...)" if name in members(protocol)[0] else name for name in missing]
    close = [closest(name, set(there) - set(dir(protocol))) for name in missing]
    hints = "".join(f' Is "{name}" a misspelling?' for name in dict.fromkeys(close) if name)
    asked = f"{protocol.__module__}.{protocol.__name__}"
    raise PluginError(f"{who} has no {', '.join(shown)}, which {asked} asks for.{hints}")
