"""The golden set of the benchmarks' scorers: where it is, and its tables as test cases.

Tables are read when tests are collected. One that a set lacks fails its test instead of leaving it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rows import Test, each_case


def folder() -> Path:
    return Path(os.environ.get("SRUM_GOLDENS") or Path(__file__).parent) / "benchmarks"


@cache
def read(name: str) -> Any:
    path = folder() / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class Absent:
    """Stands in for a table that the set does not have."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __getitem__(self, key: Any) -> Any:
        pytest.fail(f"{folder()} has no golden table {self.what}.")


def table(name: str, *keys: str) -> Any:
    """The table behind keys of a file, such as ("understanding", "mme", "scores"), or what fails when used."""
    value = read(name)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value or Absent("/".join((name, *keys)))


def each_entry(name: str, *keys: str) -> Callable[[Test], Test]:
    """The test for every entry of a table, which is its argument `case`: subtests with the entry's id (or number)."""
    rows = table(name, *keys)
    entries = rows if isinstance(rows, list) else [rows]
    ids = [each.get("id", number) if isinstance(each, dict) else number for number, each in enumerate(entries)]
    return each_case([(str(label), {"case": entry}) for label, entry in zip(ids, entries, strict=True)])


def near(value: Any) -> Any:
    """What the goldens count as equal, unless a field says otherwise."""
    return pytest.approx(value, rel=1e-6, abs=1e-9)
