"""Plain TOML data into attrs classes: strict about types, and every problem at once instead of the first one."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import tomli_w
from attrs import field, frozen
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    CattrsError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.strategies import configure_union_passthrough

from srum_core.errors import clean
from srum_core.runs.files import from_toml

T = TypeVar("T")
Keys = tuple[str, ...]

SPEED: Mapping[str, bool] = {"srum_speed": True}
"""Metadata of an option that changes how fast something works or where, and nothing that is recorded."""
SAMPLING: Mapping[str, bool] = {"srum_sampling": True}
"""Metadata of an adapter's option that affects only sampling, not weights, latents or training: it
may differ between the rounds of a run."""


@frozen
class Use:
    """A component that a run uses. In TOML a name, or a table {use = "name", option = value, …}."""

    use: str
    """A component's name, or an import path "module:Class"."""
    options: dict[str, Any] = field(factory=dict, hash=False)


@frozen(kw_only=True)
class SmallMemory:
    """Options of an adapter that can hold its weights in less memory."""

    quantize: Literal["none", "nf4", "int8"] = "none"
    """Load weights of the repeated layers in 4 (nf4) or 8 bits, by bitsandbytes. They are frozen: LoRA is trained."""
    quantize_part: Literal["all", "understanding", "generation"] = "all"
    """Which: those that answer questions and read prompts, those that only images are generated with, or both."""
    device_map: Literal["none", "auto"] = field(default="none", metadata=SPEED)
    """auto: one process divides the repeated layers (of the language model, and of what generates images) over all
    accelerators of the machine, by what each has free; all else is on the first. They work one after another."""


@frozen
class Problem:
    """A problem with the value at `path`; `text` continues a sentence that begins with the path."""

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

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.list = list(problems)
        super().__init__(" ".join(map(str, self.list)))


def build(kind: type[T], data: Any) -> T:
    """`data` as a `kind` (an attrs class, or anything that cattrs knows). Raises Problems."""
    problems = list(_unusable(data))
    if secrets := [problem for problem in problems if problem.text == _SECRET]:
        raise Problems(secrets)  # before anything else can quote them
    try:
        result = structure(converter(), data, kind)
    except Problems as error:
        places = {problem.path for problem in problems}
        others = [other for other in error.list if other.unknown or tuple(map(clean, other.path)) not in places]
        above = {other.path for other in others} - {()}  # these speak for whatever lies below
        problems = [one for one in problems if above.isdisjoint(one.path[:end] for end in range(len(one.path) + 1))]
        raise Problems(problems + others) from error
    if problems:
        raise Problems(problems)
    return result


def structure(strict: Converter, data: Any, kind: type[T]) -> T:
    """The same by a `strict_converter`, of data that may hold anything. Raises Problems."""
    try:
        return strict.structure(data, kind)
    except (CattrsError, Problems, ValueError, TypeError, LookupError, AttributeError) as error:
        raise Problems(_explain(error)) from error


def _explain(error: Exception, path: Keys = ()) -> Iterator[Problem]:
    """Everything that cattrs has collected, and where it is."""
    if isinstance(error, Problems):
        yield from (problem.below(*path) for problem in error.list)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl) if field.init]
        for key in sorted(error.extra_fields):
            yield Problem((*path, key), "is not a setting.", did_you_mean(key, known), unknown=True)
    elif isinstance(error, ClassValidationError | IterableValidationError):
        named, others = error.group_exceptions()
        for inner, note in named:
            key = note.name if isinstance(note, AttributeValidationNote) else str(note.index)
            yield from _explain(inner, (*path, key))
        for inner in others:
            # Messages of attrs' validators begin with the field's name.
            about = re.match(r"'?(\w+)'? (.*)", _message(inner), re.DOTALL)
            if attrs.has(error.cl) and about and about[1] in attrs.fields_dict(error.cl):
                yield Problem((*path, about[1]), about[2])
            else:
                yield from _explain(inner, path)
    elif isinstance(error, KeyError):
        yield Problem(path, "is missing and has no default.")
    else:
        yield Problem(path, f"cannot be used: {_message(error)}")


def _message(error: BaseException) -> str:
    """attrs puts the attribute and the value behind the message; only the message is for people."""
    return clean(error.args[0], limit=2000) if error.args else type(error).__name__


def to_plain(value: Any) -> Any:
    """Convert to what TOML and JSON can express. TOML has no null: keys without a value are left out."""
    if isinstance(value, Use):
        value = {"use": value.use, **value.options}
    elif attrs.has(type(value)):
        value = {field.name: getattr(value, field.name) for field in attrs.fields(type(value)) if field.init}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple | set | frozenset):
        items = map(to_plain, value)
        return list(items) if isinstance(value, list | tuple) else sorted(items)
    if isinstance(value, Enum):
        return to_plain(value.value)
    return str(value) if isinstance(value, PurePath) else value


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} as {"a.b.0": 1}; empty values stay."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    parts = (flatten(item, f"{prefix}.{name}".strip(".")) for name, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def reread(options: T) -> T:
    """Options as they come back out of the TOML that they are written to. Raises whatever that meets."""
    return build(type(options), from_toml(tomli_w.dumps(to_plain(options))))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is probably a misspelling of."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(lower), n=1)
    return lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' (with the leading space), or nothing."""
    close = closest(word, known)
    return f' Did you mean "{close}"?' if close else ""


def odd(value: Any) -> str:
    """The general problem of a value in any place, continuing a sentence about it; "" = none."""
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


_SECRET = (
    "is a URL with a user or password in it, and settings are written to disk. Leave them out; what opens a server "
    "belongs into the environment."
)


def _unusable(value: Any, path: Keys = ()) -> Iterator[Problem]:
    """Values that cannot be settings, at any depth."""
    if why := odd(value):
        yield Problem(path, why)
    elif isinstance(value, str) and re.search(r"://[^/?#\s,]*@", value):
        yield Problem(path, _SECRET)
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in pairs:
        if why := odd(key):
            yield Problem((*path, clean(key)), why)
        else:
            yield from _unusable(item, (*path, str(key)))


# ---- cattrs, made strict ---------------------------------------------------------------------------------------------


@cache
def converter() -> Converter:
    return strict_converter(forbid_extra_keys=True)


def strict_converter(forbid_extra_keys: bool = False) -> Converter:
    """No text becomes a number, no number a flag, no text a list of letters. For `structure`."""
    strict = Converter(forbid_extra_keys=forbid_extra_keys, detailed_validation=True)
    configure_union_passthrough(str | int | float | bool | None, strict)
    for plain, words in {bool: "true or false", int: "a whole number", str: "a text"}.items():
        strict.register_structure_hook(plain, _exactly(plain, words))
    strict.register_structure_hook(float, _number)
    a_path = _exactly(str, "a path, as a text")
    strict.register_structure_hook(Path, lambda value, _: Path(value if isinstance(value, Path) else a_path(value, _)))
    strict.register_structure_hook_func(lambda kind: _origin(kind) is Literal, _choice)
    strict.register_structure_hook_func(
        lambda kind: kind in (str | tuple[str, ...], int | tuple[tuple[str, ...], ...]),
        lambda value, kind: strict.structure(value, get_args(kind)[isinstance(value, list | tuple)]),
    )
    inside: list[Any] = []

    def guarded(kind: Any, _: Any) -> Callable[[Any, Any], Any]:
        inside.append(kind)
        own = strict.get_structure_hook(kind, cache_result=False)
        inside.remove(kind)
        return _guarded(kind, own)

    def is_guarded(kind: Any) -> bool:
        return kind not in inside and (attrs.has(kind) or _origin(kind) in (list, tuple, dict, Mapping))

    strict.register_structure_hook_factory(is_guarded, guarded)
    return strict


def _guarded(kind: Any, structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A list, tuple, table or attrs class: cattrs would take whatever can be iterated over."""
    is_list, inner = _origin(kind) in (list, tuple), get_args(kind)
    count = len(inner) if _origin(kind) is tuple and inner and Ellipsis not in inner else None

    def check(value: Any, _: Any) -> Any:
        if attrs.has(kind) and isinstance(value, kind):
            return value
        if not isinstance(value, (list, tuple) if is_list else Mapping):
            raise _wrong(f"should be {'a list' if is_list else 'a table'}, but it is {_shown(value)}.")
        if count is not None and len(value) != count:
            raise _wrong(f"should be a list of {count} entries, but it has {len(value)}.")
        try:
            return structure(value, kind)
        except ClassValidationError as error:
            raise _with_validators(error, dict(value), structure) from error

    return check


def _with_validators(error: ClassValidationError, value: Mapping[str, Any], structure: Any) -> ClassValidationError:
    """cattrs makes no object where a key is wrong, and attrs stops at the first validator that refuses: add what the
    validators of all other keys refuse."""
    named, others = error.group_exceptions()
    unknown = [other for other in others if isinstance(other, ForbiddenExtraKeysError)]
    wrong = {note.name for _, note in named}.union(*(other.extra_fields for other in unknown))
    try:
        with attrs.validators.disabled():
            instance = structure({key: item for key, item in value.items() if key not in wrong}, error.cl)
    except CattrsError:  # a key that is needed is missing or wrong
        return error
    errors: list[Exception] = [*(inner for inner, _ in named), *unknown]
    for attribute in attrs.fields(error.cl):
        try:
            if attribute.validator and attribute.name not in wrong:
                attribute.validator(instance, attribute, getattr(instance, attribute.name))
        except (ValueError, TypeError) as refusal:
            errors.append(refusal)
    return ClassValidationError(error.message, errors or error.exceptions, error.cl)


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
    if not abs(value) <= sys.float_info.max:
        raise _wrong(f"should be a finite number, but it is {_shown(value)}.")
    return float(value)


def _choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    names = [to_plain(choice) for choice in choices]
    hint = did_you_mean(value, [name for name in names if isinstance(name, str)]) if isinstance(value, str) else ""
    raise _wrong(f"should be one of {', '.join(map(str, names))}, but it is {_shown(value)}.{hint}")
