"""Snapshots as curves: means per step with intervals over pictures, paired changes, and the area under each curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srum_core.analysis.models import BASE
from srum_core.analysis.steps import RUBRICS, Snapshot
from srum_core.errors import RecordError
from srum_core.evaluation.statistics import Estimate, difference, estimate
from srum_core.report.figures import chart
from srum_core.runs.store import to_json, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

Measured = Mapping[str, Sequence[Snapshot]]


def table(measured: Measured, rubric: str) -> tuple[list[int], dict[str, Table]]:
    """(steps, model -> (pictures, steps)) of the pictures that are readable at every step in every model.

    Raises RecordError if there is none."""
    import numpy as np

    values = {
        name: {(each.picture, each.step): each.scores[rubric] for each in snapshots if rubric in each.scores}
        for name, snapshots in measured.items()
    }
    first = next(iter(measured.values()))
    steps = sorted({each.step for each in first})
    pictures = list(dict.fromkeys(each.picture for each in first))
    whole = [p for p in pictures if all((p, step) in found for found in values.values() for step in steps)]
    if not whole:
        raise RecordError(f"No picture could be graded for {rubric} at every step: the judge's answers hold no score.")
    return steps, {
        name: np.array([[found[picture, step] for step in steps] for picture in whole])
        for name, found in values.items()
    }


def area(scores: Table, steps: Sequence[int]) -> Table:
    """(pictures,): the mean height of each picture's curve over the steps (trapezoids)."""
    import numpy as np

    if len(steps) == 1:
        return scores[:, 0]
    found: Table = ((scores[:, 1:] + scores[:, :-1]) / 2 * np.diff(steps)).sum(axis=1) / (steps[-1] - steps[0])
    return found


def summary(measured: Measured, times: Sequence[float]) -> dict[str, Any]:
    """Everything that is printed, as plain data."""
    found: dict[str, Any] = {}
    for rubric in RUBRICS:
        steps, tables = table(measured, rubric)
        areas = {name: area(each, steps) for name, each in tables.items()}
        found[rubric] = {
            "steps": steps,
            "times": [times[step] for step in steps],
            "pictures": len(tables[BASE]),
            "asked": len({each.picture for each in measured[BASE]}),
            "means": {n: [_plain(estimate(t[None, :, k])) for k in range(len(steps))] for n, t in tables.items()},
            "change": {
                n: [_plain(difference(t[None, :, k], tables[BASE][None, :, k])) for k in range(len(steps))]
                for n, t in tables.items()
                if n != BASE
            },
            "area": {n: _plain(estimate(each[None])) for n, each in areas.items()},
            "area_change": {n: _plain(difference(a[None], areas[BASE][None])) for n, a in areas.items() if n != BASE},
        }
    return found


def write(folder: Path, measured: Measured, times: Sequence[float], by: str) -> str:
    """steps.json, steps.md and a figure per rubric; returns the Markdown."""
    found = summary(measured, times)
    write_atomic(folder / "steps.json", to_json({"graded_by": by, **found}))
    for rubric, each in found.items():
        lines = {
            name: [(float(step), Estimate(*mean)) for step, mean in zip(each["steps"], means, strict=True)]
            for name, means in each["means"].items()
        }
        figure = chart(f"steps-{rubric}.svg", f"{rubric.capitalize()} of the clean estimate", "step of drawing", lines)
        write_atomic(folder / figure.file, figure.svg)
    text = "\n\n".join([f"Graded by {by}.", *(_markdown(rubric, each) for rubric, each in found.items())]) + "\n"
    write_atomic(folder / "steps.md", text)
    return text


def _markdown(rubric: str, found: Mapping[str, Any]) -> str:
    heads = [f"{step} (t = {time:.2f})" for step, time in zip(found["steps"], found["times"], strict=True)]
    lines = [
        f"{rubric.capitalize()}, {found['pictures']} of {found['asked']} pictures readable at every step:",
        "",
        "| model | " + " | ".join([*heads, "mean height", "its change to base"]) + " |",
        "| --- " * (len(heads) + 3) + "|",
    ]
    for name, means in found["means"].items():
        change = shown(found["area_change"][name], signed=True) if name in found["area_change"] else ""
        cells = [*map(shown, means), shown(found["area"][name]), change]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(value: Estimate) -> tuple[float, float | None, float | None]:
    return value.value, value.low, value.high


def shown(value: Sequence[float | None], signed: bool = False) -> str:
    """0.612 [0.580, 0.644]."""
    mean, low, high = (None if each is None else f"{each:{'+' if signed else ''}.3f}" for each in value)
    return f"{mean} [{low}, {high}]".replace("-", "−") if low is not None else f"{mean}".replace("-", "−")
