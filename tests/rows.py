"""Tests over tables: one test, in which every row is a subtest that fails and is reported by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

import pytest

Test = Callable[..., None]


def each_row(names: str, table: Iterable[Any], ids: Iterable[str] = ()) -> Callable[[Test], Test]:
    """`pytest.mark.parametrize` for quick rows. Every row has a `tmp_path` and a `monkeypatch` of its own; all other
    fixtures are made once for all rows, which may change nothing in them."""
    keys = names.replace(" ", "").split(",")
    cases = [dict(zip(keys, [row] if len(keys) == 1 else row, strict=True)) for row in table]
    return each_case(list(zip(list(ids) or map(_label, cases), cases, strict=True)))


def each_case(cases: Sequence[tuple[str, Mapping[str, Any]]]) -> Callable[[Test], Test]:
    """The same for cases that are labels and arguments by name."""

    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)
        fixtures = [each for name, each in signature.parameters.items() if name not in cases[0][1]]

        @wraps(test)
        def every(*arguments: Any, subtests: pytest.Subtests, **values: Any) -> None:
            for number, (label, case) in enumerate(cases):
                with subtests.test(label), pytest.MonkeyPatch.context() as patch:
                    if "tmp_path" in values:
                        folder = values["tmp_path"] / f"row-{number}"
                        folder.mkdir()
                        case = {**case, "tmp_path": folder}
                    fixed = {"monkeypatch": patch} if "monkeypatch" in values else {}
                    test(*arguments, **{**values, **case, **fixed})

        added = inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY)
        every.__signature__ = signature.replace(parameters=[*fixtures, added])  # type: ignore[attr-defined]
        return every

    return decorate


def _label(case: Mapping[str, Any]) -> str:
    label = ", ".join(repr(value)[:80] for value in case.values())
    return label.encode(errors="backslashreplace").decode()
