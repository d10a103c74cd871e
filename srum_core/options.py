"""Plain TOML data into attrs classes: strict about types, and every problem at once instead of the first one."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import attrs
import tomli_w
from attrs import field, frozen
from cattrs import Converter
from cattrs.errors import BaseValidationError, StructureHandlerNotFoundError
from cattrs.strategies import configure_union_passthrough

from srum_core.errors import clean
from srum_core.files import from_toml

T = TypeVar("T")
Keys = tuple[str, ...]

SPEED: Mapping[str, bool] = {"srum_speed": True}
"""Metadata of an option that changes how fast something works or where, and nothing that is recorded."""
SAMPLING: Mapping[str, bool] = {"srum_sampling": True}
"""Metadata of an adapter's option that changes only what the model samples, not its weights, latents or training: it
may differ between the rounds of a run."""


@frozen
class Use:
    """A component that a run uses. In TOML a name, or a table {use = "name", option = value, …}."""

    use: str
    """A component's name, or an import path "module:Class"."""
    options: dict[str, Any] = field(factory=dict, hash=False)


@frozen
class Problem:
    """What is wrong with the value at `path`; `text` continues a sentence that begins with the path."""

    path: Keys
    text: str
    hint: str = ""
    """A sentence, with its leading space."""
    unknown: bool = False
    """There is no such key."""

    def __str__(self) -> str:
        return f"{'.'.join(self.path) or 'it'} {self.text}{self.hint}"

    def below(self, *keys: str) -> Problem:
        return attrs.evolve(self, path=keys + self.path)


class Problems(Exception):
    """Everything that is wrong with some data."""

    def __init__(self, found: Iterable[Problem]) -> None:
        self.found = list(found)
        super().__init__("; ".join(map(str, self.found)))


def build(kind: type[T], data: Any) -> T:
    """`data` as a `kind` (an attrs class, or anything that cattrs knows). Raises Problems."""
    if secrets := list(_with_passwords(data)):
        raise Problems(secrets)
    try:
        made: T = converter().structure(data, kind)
    except (BaseValidationError, StructureHandlerNotFoundError, ValueError, TypeError) as error:
        raise _wrong(f"cannot be used: {_message(error)}") from error
    return made


def _with_passwords(data: Any, path: Keys = ()) -> Iterator[Problem]:
    """Settings are written to disk, into run.toml and the report: no URL among them may hold a password."""
    if isinstance(data, str) and re.search(r"://[^/?#\s,]*@", data):
        yield Problem(
            path,
            "is a URL with a user or password in it, and settings are written to disk. Leave them out; "
            "what opens a server belongs into the environment.",
        )
    parts = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in parts:
        yield from _with_passwords(value, (*path, str(key)))


def plain(value: Any) -> Any:
    """The way back, to what TOML can say. TOML has no null: keys without a value are left out."""
    if attrs.has(type(value)):
        value = {field.name: getattr(value, field.name) for field in attrs.fields(type(value)) if field.init}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(each) for each in value)
    if isinstance(value, Enum):
        return plain(value.value)
    return str(value) if isinstance(value, PurePath) else value


def reread(made: T) -> T:
    """Options as they come back out of the TOML that they are written to. Raises whatever that meets."""
    return build(type(made), from_toml(tomli_w.dumps(plain(made))))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is probably a misspelling of."""
    lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), list(lower), n=1)
    return lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' (with the leading space), or nothing."""
    close = closest(word, known)
    return f' Did you mean "{close}"?' if close else ""


def odd(value: Any) -> str:
    """What no value may be, wherever it stands, continuing a sentence about it; "" = nothing."""
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character, which no path and no text can have."
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            return "holds something that is no text (bytes that are not UTF-8, or a lone surrogate)."
    elif isinstance(value, float) and not math.isfinite(value):
        return f"should be a finite number, but it is {value}."
    elif isinstance(value, int) and value.bit_length() > 63:
        return "is too large: a whole number has at most 63 bits."
    return ""


def _odd_inside(value: Any) -> Iterator[Problem]:
    """Of data that nothing else looks into."""
    if why := odd(value):
        yield Problem((), why)
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, each in pairs:
        yield from (problem.below(str(key)) for problem in _odd_inside(each))


@cache
def converter() -> Converter:
    """cattrs, made strict: no text becomes a number, no number becomes a flag, no text a list of letters."""
    strict = Converter()
    configure_union_passthrough(str | int | float | bool | None, strict)
    strict.register_structure_hook(bool, _exactly(bool, "true or false"))
    strict.register_structure_hook(int, _exactly(int, "a whole number"))
    strict.register_structure_hook(str, _exactly(str, "a text"))
    strict.register_structure_hook(float, _number)
    strict.register_structure_hook(Path, _path)
    strict.register_structure_hook_func(lambda kind: _origin(kind) is Literal, _choice)
    strict.register_structure_hook_func(
        lambda kind: kind in (str | tuple[str, ...], int | tuple[tuple[str, ...], ...]),
        lambda value, kind: strict.structure(value, get_args(kind)[isinstance(value, list | tuple)]),
    )
    strict.register_structure_hook_factory(lambda kind: _origin(kind) in (list, tuple), _sequence)
    strict.register_structure_hook_factory(lambda kind: _origin(kind) in (dict, Mapping), _mapping)
    strict.register_structure_hook_factory(attrs.has, _attrs)
    return strict


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


def _wrong(text: str) -> Problems:
    return Problems([Problem((), text)])


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'the text "{clean(value, 100)}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else clean(value, 100)


def _exactly(kind: type, words: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            quoted = " (put it in quotes)" if kind is str and isinstance(value, int | float) else ""
            raise _wrong(f"should be {words}, but it is {_shown(value)}{quoted}.")
        return value

    return structure


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise _wrong(f"should be a number, but it is {_shown(value)}.")
    return float(value)


def _path(value: Any, _: Any) -> Path:
    return value if isinstance(value, Path) else Path(_exactly(str, "a path, as a text")(value, Path))


def _choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    names = [plain(choice) for choice in choices]
    hint = did_you_mean(value, [name for name in names if isinstance(name, str)]) if isinstance(value, str) else ""
    raise _wrong(f"should be one of {', '.join(map(str, names))}, but it is {_shown(value)}.{hint}")


def _sequence(kind: Any, strict: Converter) -> Callable[[Any, Any], Any]:
    """list[X], tuple[X, ...] and tuple[X, Y]."""
    sort, inner = _origin(kind), get_args(kind) or (Any,)
    fixed = len(inner) if sort is tuple and Ellipsis not in inner and get_args(kind) else None

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _wrong(f"should be a list, but it is {_shown(value)}.")
        if fixed is not None and len(value) != fixed:
            raise _wrong(f"should be a list of {fixed} entries, but it has {len(value)}.")
        types = inner if fixed is not None else (inner[0],) * len(value)
        made, found = _each(strict, {str(i): (each, types[i]) for i, each in enumerate(value)})
        if found:
            raise Problems(found)
        return sort(made.values())

    return structure


def _mapping(kind: Any, strict: Converter) -> Callable[[Any, Any], Any]:
    _, inner = get_args(kind) or (str, Any)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(f"should be a table, but it is {_shown(value)}.")
        made, found = _each(strict, {str(key): (each, inner) for key, each in value.items()})
        if found:
            raise Problems(found)
        return made

    return structure


def _attrs(kind: type, strict: Converter) -> Callable[[Any, Any], Any]:
    hints = get_type_hints(kind)
    fields = {field.name: field for field in attrs.fields(kind) if field.init}

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise _wrong(f"should be a table, but it is {_shown(value)}.")
        found = [_unknown(key, fields) for key in value if key not in fields]
        found += [
            Problem((name,), "is missing and has no default.")
            for name, field in fields.items()
            if field.default is attrs.NOTHING and name not in value
        ]
        known = {key: (each, hints.get(key, Any)) for key, each in value.items() if key in fields}
        made, wrong = _each(strict, known)
        instance, refused = _construct(kind, fields, made)
        if found or wrong or refused:
            raise Problems(found + wrong + refused)
        return instance

    return structure


def _each(strict: Converter, parts: Mapping[str, tuple[Any, Any]]) -> tuple[dict[str, Any], list[Problem]]:
    """Structure every {key: (value, type)}: the good ones, and what is wrong with the others."""
    made: dict[str, Any] = {}
    found: list[Problem] = []
    for key, (value, kind) in parts.items():
        if why := odd(key) or odd(value):
            found.append(Problem((clean(key),), why))
            continue
        try:
            if kind is Any and (inside := list(_odd_inside(value))):
                raise Problems(inside)
            made[key] = value if kind is Any else strict.structure(value, kind)
        except Problems as problems:
            found += [problem.below(key) for problem in problems.found]
        except (BaseValidationError, ValueError, TypeError) as error:
            found.append(Problem((key,), f"cannot be used: {_message(error)}"))
    return made, found


def _unknown(key: str, fields: Iterable[str]) -> Problem:
    return Problem((key,), "is not a setting.", did_you_mean(key, fields), unknown=True)


def _construct(
    kind: type, fields: Mapping[str, attrs.Attribute[Any]], values: Mapping[str, Any]
) -> tuple[Any, list[Problem]]:
    """The instance, or what its validators say. attrs stops at the first, so each value is then tried on its own."""
    alias = {name: str(field.alias) for name, field in fields.items()}  # attrs calls `_x` "x" in the constructor
    by_alias = {alias[name]: value for name, value in values.items()}
    needed = {alias[name] for name, field in fields.items() if field.default is attrs.NOTHING}
    if not needed <= by_alias.keys():
        return None, []  # what is missing has been reported; nothing can be made without it
    whole = _refusal(kind, fields, by_alias)
    if not isinstance(whole, Problem):
        return whole, []
    base = {key: by_alias[key] for key in needed}
    one_by_one = ({**base, key: value} for key, value in by_alias.items() if key not in needed)
    alone = [_refusal(kind, fields, arguments) for arguments in ([base] if needed else one_by_one)]
    return None, [each for each in alone if isinstance(each, Problem)] or [whole]


def _refusal(kind: type, fields: Iterable[str], arguments: Mapping[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except (ValueError, TypeError) as error:
        message = _message(error)
        named = re.match(r"'?(\w+)'? (.*)", message, re.DOTALL)
        if named and named[1] in fields:
            return Problem((named[1],), named[2])
        return Problem((), f"cannot be used: {message}")


def _message(error: BaseException) -> str:
    """attrs puts the attribute and the value behind the message; only the message is for people."""
    return clean(error.args[0], limit=2000) if error.args else type(error).__name__
