"""Scores of WISE as the published scripts compute them: the original's, and those of BAGEL and SRUM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_benchmarks.wise.benchmark import NAMES, Grades, named, wiscore
from srum_benchmarks.wise.prompts import LEGACY, VERIFIED, Version

MISSING = 9.9
"""What BAGEL's script writes for a grade it did not find."""
_BAGEL = re.compile(r"\*{0,2}(Consistency|Realism|Aesthetic Quality)\*{0,2}\s*+(?:[:：]\s*+)?(\d)", re.IGNORECASE)


def bagel(text: str) -> Grades:
    """The grades that BAGEL's and SRUM's scripts read, 9.9 where there is none."""
    return {**dict.fromkeys(NAMES, MISSING), **named(_BAGEL, text)}


@frozen
class Result:
    """`categories`: mean and number of rows; `overall` None where the published script gives none; `problems`: why."""

    categories: Mapping[str, tuple[float, int]]
    overall: float | None
    unusable: int = 0
    """Rows that are there but hold no numbers: left out of the means."""
    problems: tuple[str, ...] = ()


def reference(version: Version, rows: Mapping[int, Any], scope: str = "all") -> Result:
    """As the original computes it: no overall unless every id has a row. `rows`: id → its record.

    `scope`: "all", or a file's name as the original has them, such as "culture" or "science": no overall then."""
    scores: dict[str, list[float]] = {}
    unusable = 0
    for identity, row in rows.items():
        value = _value(version, row)
        if value is None:
            unusable += 1
        else:
            scores.setdefault(version.category(identity), []).append(value)
    order = [name for name in version.ranges if name in scores]
    categories = {name: (sum(scores[name]) / len(scores[name]), len(scores[name])) for name in order}
    if scope != "all":
        return Result(categories, None, unusable)
    missing = [identity for identity in _ids(version) if identity not in rows]
    if missing:
        return Result(categories, None, unusable, (f"{len(missing)} ids have no row, such as {missing[0]}.",))
    return Result(categories, sum(version.weights[name] * mean for name, (mean, _) in categories.items()), unusable)


def _value(version: Version, row: Any) -> float | None:
    if version is VERIFIED:
        return float(row) if row in (0, 1) else None
    numbers = [row.get(name) for name in NAMES]
    if not all(isinstance(each, int | float) for each in numbers):
        return None
    return wiscore(row)


def bagel_overall(rows: Mapping[int, Mapping[str, float]]) -> Result:
    """BAGEL's and SRUM's: the unweighted mean of the six categories. One missing row or grade takes away a whole file,
    and then there is no overall (their script crashes)."""
    problems = []
    for name, (first, last) in _files().items():
        group_rows = [rows[identity] for identity in range(first, last + 1) if identity in rows]
        if len(group_rows) < last - first + 1:
            problems.append(f"{name}: {last - first + 1 - len(group_rows)} rows are missing.")
        elif any(MISSING in row.values() for row in group_rows):
            problems.append(f"{name}: a grade is missing.")
    if problems:
        return Result({}, None, problems=tuple(problems))
    expected = reference(LEGACY, rows)
    return Result(expected.categories, sum(mean for mean, _ in expected.categories.values()) / len(expected.categories))


def _files() -> dict[str, tuple[int, int]]:
    return {"cultural": (1, 400), "spatio-temporal": (401, 700), "science": (701, 1000)}


def images(folder: Path) -> list[int]:
    """The ids whose image the scorers find: no leading zeros, png only."""
    return [identity for identity in _ids(LEGACY) if (folder / f"{identity}.png").exists()]


def _ids(version: Version) -> list[int]:
    return [identity for first, last in version.ranges.values() for identity in range(first, last + 1)]
