"""The score of a model as T2I-ReasonBench's script computes it from its CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srum_benchmarks.reasonbench.benchmark import accuracy
from srum_benchmarks.reasonbench.prompts import DIMENSIONS, QUALITY


def reference_model_score(dimension: str, rows: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """(accuracy, quality) in per cent, two decimals, from the averages at the end of each line of the original's CSV.
    Lines that hold no numbers are left out, such as the summary of an earlier run."""
    groups = DIMENSIONS[dimension].groups
    kept = [numbers for row in rows if (numbers := _numbers(row[-len(groups) :])) is not None]
    images = [dict(zip(groups, numbers, strict=True)) for numbers in kept]
    accurate = sum(accuracy(dimension, each) for each in images) / len(images)
    quality = sum(each[QUALITY] for each in images) / len(images)
    return round(100 * accurate, 2), round(100 * quality, 2)


def _numbers(cells: Sequence[Any]) -> list[float] | None:
    try:
        return [float(cell) for cell in cells]
    except (TypeError, ValueError):
        return None
