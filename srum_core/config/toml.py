"""Settings as TOML: bare, to repeat a run, or with a comment on every knob, to be read."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_type_hints

import attrs
import tomli_w

from srum_core.config.settings import COMPONENTS, Settings
from srum_core.errors import clean
from srum_core.options import to_plain

if TYPE_CHECKING:
    from srum_core.plugins import Registry

_VERSIONS = "# What the run was made with; not read again."


def as_data(settings: Settings) -> dict[str, Any]:
    """Convert settings to TOML data; an absent component is "" (TOML has no null)."""
    data = to_plain(settings)
    return {field.name: data.get(field.name, "") for field in attrs.fields(Settings)}


def to_toml(settings: Settings, versions: Mapping[str, str] | None = None) -> str:
    """TOML that `load_settings` makes the same settings of. `versions` (`Registry.versions()`) are for people."""
    text = tomli_w.dumps(as_data(settings))
    return text + (f"\n{_VERSIONS}\n{tomli_w.dumps({'versions': dict(versions)})}" if versions else "")


def describe(settings: Settings, registry: Registry) -> str:
    """The same TOML with a comment above every knob, the options of components included."""
    lines = [*_comment(inspect.getdoc(Settings) or ""), ""]
    _table(lines, (), as_data(settings), Settings, registry)
    return "\n".join(lines).strip() + "\n"


def _table(lines: list[str], path: tuple[str, ...], data: Any, about: type | None, registry: Registry) -> None:
    """Append a table: what it holds itself, then the tables in it (TOML allows no other order)."""
    docs = knob_docs(about) if about else {}
    tables: dict[str, list[Any]] = {}
    for key, value in data.items():
        entries = value if isinstance(value, list) else [value]
        if entries and all(isinstance(entry, dict) for entry in entries):
            tables[key] = entries
        else:
            lines += [*_comment(docs.get(key, "")), _line(key, value)]
    for key, entries in tables.items():
        header = f"[{'.'.join(map(_bare, (*path, key)))}]"
        for entry in entries:
            inner = _about(path, key, entry, about, registry)
            doc = docs.get(key) or (inspect.getdoc(inner) or "" if inner else "")
            lines += ["", *_comment(doc), f"[{header}]" if isinstance(data[key], list) else header]
            _table(lines, (*path, key), entry, inner, registry)


def _about(path: tuple[str, ...], key: str, data: Any, about: type | None, registry: Registry) -> type | None:
    """The attrs class behind a table, if there is one."""
    if not path and key in COMPONENTS:
        return registry.component(COMPONENTS[key], data["use"]).options
    kind = get_type_hints(about).get(key) if about else None
    return kind if isinstance(kind, type) and attrs.has(kind) else None


def knob_docs(kind: type) -> dict[str, str]:
    """The text under each field of a class, which Python does not keep: read from its source, where there is one."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue  # without source (frozen programs, classes made at run time) there are no comments, only values
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    docs[name] = doc
    return docs


def _line(key: str, value: Any) -> str:
    """KEY = VALUE, lists of numbers and texts on one line."""
    if isinstance(value, list) and not any(isinstance(entry, dict) for entry in value):
        return f"{_bare(key)} = [{', '.join(_line('x', entry).removeprefix('x = ') for entry in value)}]"
    text = tomli_w.dumps({key: value}).rstrip("\n")
    return "".join(one if one.isprintable() or one == "\n" else f"\\U{ord(one):08x}" for one in text)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(clean(text, 2000), 100)]


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
