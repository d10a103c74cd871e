"""The golden set of the benchmarks' scorers: where it is, and its tables as test cases.

Cases are read when tests are collected, so that each is a test with the golden's own id. A table that a set lacks fails
its test instead of leaving it out.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest


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


def cases(name: str, *keys: str) -> list[Any]:
    """The entries of a table as parameters, with their ids (or numbers)."""
    found = table(name, *keys)
    if isinstance(found, Absent):
        return [pytest.param(found, id="absent")]
    entries = found if isinstance(found, list) else [found]
    ids = [
        str(entry.get("id", number)) if isinstance(entry, dict) else str(number) for number, entry in enumerate(entries)
    ]
    return [pytest.param(entry, id=each) for entry, each in zip(entries, ids, strict=True)]


def near(value: Any) -> Any:
    """What the goldens count as equal, unless a field says otherwise."""
    return pytest.approx(value, rel=1e-6, abs=1e-9)
