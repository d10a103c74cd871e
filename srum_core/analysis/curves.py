"""Score images during sampling (the paper's Figure 4): the clean estimate at chosen steps, layout and detail.

srum analyze steps sft=RUN srum=RUN
srum analyze steps sft=RUN srum=RUN --judge '{use="remote", url="http://localhost:8000/v1"}'

Prompts and seeds are those that the first RUN is evaluated with, the same for every model. Without --judge the
benchmark itself must know layout and detail (shapes does, exactly). Results: steps.md, .json and a figure per rubric.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import astuple

from srum_core import config, plugins
from srum_core.analysis import models, steps
from srum_core.analysis.models import BASE
from srum_core.analysis.steps import RUBRICS, Snapshot
from srum_core.cli.common import show_table
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.answers import SELF
from srum_core.evaluation.formatting import Grid, markdown, number
from srum_core.evaluation.statistics import Estimate, difference, estimate
from srum_core.files import lock
from srum_core.options import Use
from srum_core.protocols import Answerer
from srum_core.report import charts
from srum_core.runs.progress import shown, tell
from srum_core.runs.run import made_with
from srum_core.runs.store import to_json, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

Measured = Mapping[str, Sequence[Snapshot]]


def arguments(parser: argparse.ArgumentParser) -> None:
    models.add_arguments(parser, "analyze-steps")
    add = parser.add_argument
    add("--steps", default="", metavar="N,N,…", help="which steps, from 0 (default: 0, 2, 4, 8, … and the last)")
    add("--judge", metavar="USE", help="who grades: an answerer or adapter, or self, the model under analysis itself")


def run(parsed: argparse.Namespace) -> int:
    """0 when the curves are written."""
    registry = plugins.discover()
    found = models.subjects(parsed.runs, registry)
    first = found[0].run
    benchmark, use = first.benchmark(), None if parsed.judge is None else Use(SELF)
    if use and parsed.judge != SELF:
        use = config.component("answerer", parsed.judge, registry, "--judge")
    if use is None and not hasattr(benchmark, "rubrics"):
        raise ConfigError(
            f'The benchmark "{first.settings.benchmark.use if first.settings.benchmark else ""}" cannot separate '
            'layout from detail without a judge. Name one: --judge \'{use="remote", url="http://localhost:8000/v1"}\'.'
        )
    plan = models.plan(first, parsed.prompts, parsed.count)
    with lock(parsed.out):
        settings: dict[str, Any] = {
            "judge": use and (made_with(registry, "answerer", use) if use.use != SELF else {"use": SELF}),
            "benchmark": made_with(registry, "benchmark", first.settings.benchmark)
            if first.settings.benchmark
            else None,
        }
        outside: Answerer | None = registry.create("answerer", use) if use and use.use != SELF else None
        measured, times = {}, list[float]()
        for subject in found:
            here = steps.times(subject)
            if times and here != times:
                raise ConfigError(
                    f"{subject.name} samples in other steps than {found[0].name}: they cannot be compared."
                )
            times, chosen = here, steps.chosen(parsed.steps, len(here))
            judge = subject.run.model(subject.rounds) if use and use.use == SELF else outside
            folder = parsed.out / "models" / subject.name
            measured[subject.name] = steps.trace(subject, plan, chosen, benchmark, judge, folder, settings)
            subject.run.release()
        by = "the benchmark, exactly, without a model" if use is None else use.use
        if use is not None and use.use == SELF:
            by = "each model itself (self-judged: do not compare with other models' numbers)"
        for part in write(parsed.out, measured, times, by):
            show_table(part)
    tell(f"The curves are in {shown(parsed.out)}")
    return 0


def table(measured: Measured, rubric: str) -> tuple[list[int], dict[str, Table]]:
    """(steps, model -> (images, steps)) of the images that are readable at every step in every model.

    Raises RecordError if there is none."""
    import numpy as np

    values = {
        name: {(each.image, each.step): each.scores[rubric] for each in snapshots if rubric in each.scores}
        for name, snapshots in measured.items()
    }
    first = next(iter(measured.values()))
    steps = sorted({each.step for each in first})
    images = list(dict.fromkeys(each.image for each in first))
    whole = [p for p in images if all((p, step) in found for found in values.values() for step in steps)]
    if not whole:
        raise RecordError(f"No image could be graded for {rubric} at every step: the judge's answers hold no score.")
    return steps, {
        name: np.array([[found[image, step] for step in steps] for image in whole]) for name, found in values.items()
    }


def area(scores: Table, steps: Sequence[int]) -> Table:
    """(images,): the mean height of each image's curve over the steps (trapezoids)."""
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
            "images": len(tables[BASE]),
            "asked": len({each.image for each in measured[BASE]}),
            "means": {n: [astuple(estimate(t[None, :, k])) for k in range(len(steps))] for n, t in tables.items()},
            "change": {
                n: [astuple(difference(t[None, :, k], tables[BASE][None, :, k])) for k in range(len(steps))]
                for n, t in tables.items()
                if n != BASE
            },
            "area": {n: astuple(estimate(each[None])) for n, each in areas.items()},
            "area_change": {n: astuple(difference(a[None], areas[BASE][None])) for n, a in areas.items() if n != BASE},
        }
    return found


def write(folder: Path, measured: Measured, times: Sequence[float], by: str) -> list[str | Grid]:
    """steps.json, steps.md and a figure per rubric; returns what the Markdown consists of."""
    found = summary(measured, times)
    write_atomic(folder / "steps.json", to_json({"graded_by": by, **found}))
    for rubric, each in found.items():
        lines = {
            name: [(float(step), Estimate(*mean)) for step, mean in zip(each["steps"], means, strict=True)]
            for name, means in each["means"].items()
        }
        name = f"{rubric.capitalize()} of the clean estimate"
        write_atomic(
            folder / f"steps-{rubric}.svg", charts.line_chart(name, lines, height=300, axis="sampling step", alone=True)
        )
    parts: list[str | Grid] = [f"Graded by {by}.", *(_grid(rubric, each) for rubric, each in found.items())]
    write_atomic(folder / "steps.md", markdown(parts))
    return parts


def _grid(rubric: str, found: Mapping[str, Any]) -> Grid:
    heads = [f"{step} (t = {time:.2f})" for step, time in zip(found["steps"], found["times"], strict=True)]
    rows = []
    for name, means in found["means"].items():
        cells = [number(Estimate(*each)) for each in (*means, found["area"][name])]
        own = found["area_change"].get(name)
        rows.append([name, *cells, number(Estimate(*own), signed=True) if own else ""])
    title = f"{rubric.capitalize()}, {found['images']} of {found['asked']} images readable at every step"
    return Grid(["model", *heads, "mean height", "its change to base"], rows, title)
