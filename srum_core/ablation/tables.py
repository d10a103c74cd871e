"""Compute an ablation's numbers (means per arm over training seeds and images, paired differences) and write its
files: ablation.json, .md and .csv in its folder, and two figures after the paper's Figure 3."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict, frozen

from srum_core.ablation.plan import Arm, Plan
from srum_core.errors import ConfigError
from srum_core.evaluation import statistics
from srum_core.evaluation.formatting import Grid, all_shares, markdown, number, units
from srum_core.evaluation.stage import scored
from srum_core.evaluation.statistics import RESAMPLES, Estimate
from srum_core.report import charts
from srum_core.runs.run import Run
from srum_core.runs.store import to_json, write_atomic

if TYPE_CHECKING:
    from srum_core.evaluation.statistics import Table

BASE = "base"
"""Name of the column of differences to an arm's own model before training."""


@frozen
class Means:
    """The measures of one evaluation."""

    prompts: tuple[str, ...]
    """Ids, in the order of the means."""
    images: int
    """Per prompt."""
    means: Mapping[str, tuple[float, ...]]
    """By measure: the mean of each prompt's images that have a score; NaN where none has."""
    unscored: int = 0
    """Images without a score: not finite, or a question about them was refused."""

    def mean(self, measure: str) -> float:
        return _mean([each for each in self.means[measure] if not isnan(each)])


@frozen
class Row:
    """An arm in the table. Estimates are missing where no training seed could be evaluated (or compared)."""

    arm: Arm
    seeds: tuple[int, ...]
    """Training seeds that are evaluated."""
    means: Mapping[str, Estimate]
    """By measure."""
    changes: Mapping[str, Estimate]
    """Difference of the first measure to "base" and to the arms it is compared with."""
    drop: Estimate | None
    """Difference to the reference arm."""
    notes: tuple[str, ...]
    """Notes: failures, and arms that are equal by construction."""


@frozen
class Line:
    """One evaluation in the long form: `round` None is the model before training."""

    arm: str
    seed: int
    round: int | None
    measured: Means


@frozen
class Tables:
    """What an ablation has found so far."""

    measures: tuple[str, ...]
    against: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]
    lines: tuple[Line, ...]


Known = dict[tuple[Path, int | None], Means]
"""A cache of finished evaluations, which do not change."""


def measured(run: Run, round: int | None) -> Means:
    plan, images = run.planned_evaluation(), run.settings.evaluate.images
    results = scored(run, round, [item.id for item in plan])
    scores = [each.values for each in results if each.usable]
    names = [name for name in scores[0] if all(name in each for each in scores)] if scores else []
    if not names:
        raise ConfigError(
            f'The benchmark "{run.settings.benchmark and run.settings.benchmark.use}" has no measure that all images '
            "have, so arms cannot be compared. Take another benchmark, or evaluate more prompts (evaluate.limit)."
        )
    starts = range(0, len(plan), images)
    groups = [[each.values for each in results[start : start + images] if each.usable] for start in starts]
    means = {name: tuple(_mean([each[name] for each in group]) for group in groups) for name in names}
    return Means(tuple(plan[i].prompt.id for i in starts), images, means, len(results) - len(scores))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def tabulate(plan: Plan, failures: Mapping[tuple[int, str], str], cache: Known) -> Tables:
    """Tabulate the results so far of all arms, in order."""
    lines = tuple(line for arm in plan.chosen for line in _lines(plan, arm, cache))
    final: dict[str, dict[int, Means]] = {}
    start: dict[str, dict[int, Means]] = {}
    for line in lines:
        if line.round is None:
            start.setdefault(line.arm, {})[line.seed] = line.measured
        if line.round == plan.unit(line.seed, line.arm).last:
            final.setdefault(line.arm, {})[line.seed] = line.measured
    measures = tuple(lines[0].measured.means) if lines else ()
    against = tuple(name for name in plan.arms.against if name in final)
    rows = []
    for arm in plan.chosen:
        results = final.get(arm.name, {})
        others = {} if arm.untrained else {BASE: start.get(arm.name, {})}
        others |= {name: final[name] for name in against if name != arm.name}
        reference = final.get(plan.arms.reference, {}) if arm.name != plan.arms.reference else {}
        by_seed = [means for _, means in sorted(results.items())]
        tables = {name: table for name in measures if (table := _table(by_seed, name)) is not None}
        means = {name: statistics.estimate(table) for name, table in tables.items()}
        changes = {name: each for name, other in others.items() if (each := _difference(results, other, measures))}
        drop = _difference(results, reference, measures)
        rows.append(Row(arm, tuple(results), means, changes, drop, _notes(plan, arm, results, failures)))
    return Tables(measures, against, plan.arms.reference, tuple(rows), lines)


def _lines(plan: Plan, arm: Arm, cache: Known) -> Iterator[Line]:
    """Yield an arm's finished evaluations."""
    for seed in plan.seeds:
        unit = plan.unit(seed, arm.name)
        for round in [None] if arm.untrained else [None, *unit.run.settings.round_numbers]:
            key = (unit.run.folder, round)
            if key not in cache and unit.run.done("evaluate", round):
                cache[key] = measured(unit.run, round)
            if key in cache:
                yield Line(arm.name, seed, round, cache[key])


def _notes(
    plan: Plan, arm: Arm, by_seed: Mapping[int, Means], failures: Mapping[tuple[int, str], str]
) -> tuple[str, ...]:
    same = plan.same_as(arm)
    notes = [f"the same settings as {same}"] if same else []
    failed = [seed for seed in plan.seeds if seed not in by_seed and (seed, arm.name) in failures]
    if failed:  # the reasons of several seeds differ in their numbers; all have been printed
        seeds = ", ".join(map(str, failed))
        notes.append(f"failed with training seed {seeds}: {failures[failed[0], arm.name]}")
    if unscored := sum(each.unscored for each in by_seed.values()):
        notes.append(f"{unscored} images have no score (not finite, or refused); prompts without any are left out")
    return tuple(notes)


def _difference(one: Mapping[int, Means], other: Mapping[int, Means], measures: Sequence[str]) -> Estimate | None:
    """Return the difference of the first measure over the common training seeds; None if prompts differ."""
    seeds = sorted(one.keys() & other.keys())
    if not seeds or any(one[seed].prompts != other[seed].prompts for seed in seeds):
        return None
    table = _table([each[seed] for each in (one, other) for seed in seeds], measures[0])
    return None if table is None else statistics.difference(table[: len(seeds)], table[len(seeds) :])


def _table(rows: Sequence[Means], measure: str) -> Table | None:
    """Return (seeds, prompts) of the prompts with a score for every seed; None without any."""
    import numpy as np

    if not rows or any(measure not in each.means or each.prompts != rows[0].prompts for each in rows):
        return None
    table = np.array([each.means[measure] for each in rows], dtype=np.float64)
    table = table[:, ~np.isnan(table).any(axis=0)]
    return table if table.size else None


# ---- writing ---------------------------------------------------------------------------------------------------------

Cell = str | Estimate


def write(folder: Path, plan: Plan, tables: Tables, command: str) -> Grid:
    """Write all files, each atomically, and return the table."""
    figures = []
    drawings = {"ablation-drop.svg": drops(tables), "ablation-curve.svg": curves(tables, plan.arms.axis)}
    for file, (name, svg) in drawings.items():
        if svg:
            write_atomic(folder / file, svg)
            figures.append({"title": name, "svg": file})
    names, rows = columns(tables), {row.arm.name: cells(row, tables, len(plan.seeds)) for row in tables.rows}
    plain = {
        arm: {name: asdict(each) if isinstance(each, Estimate) else each for name, each in row.items()}
        for arm, row in rows.items()
    }
    data = {
        "title": title(plan),
        "command": command,
        "note": note(plan),
        "columns": names,
        "rows": [{"arm": arm, "cells": cells} for arm, cells in plain.items()],
        "figures": figures,
    }
    percent, lines = _percent(tables), []
    for arm, row in rows.items():
        texts = [
            cell if isinstance(cell, str) else number(cell, percent, name.startswith("change to"))
            for name, cell in row.items()
        ]
        lines.append([arm, *texts])
    table = Grid(["arm", *names], lines, units(percent), words=frozenset({len(names)}))
    images = [f"![{each['title']}]({each['svg']})" for each in figures]
    text = markdown([f"# {data['title']}", f"```sh\n{command}\n```", str(data["note"]), table, *images])
    write_atomic(folder / "ablation.json", to_json(data))
    write_atomic(folder / "ablation.csv", long_form(tables))
    write_atomic(folder / "ablation.md", text)
    return table


def _percent(tables: Tables) -> bool:
    return all_shares(each.value for row in tables.rows for each in row.means.values())


def title(plan: Plan) -> str:
    settings = plan.units[plan.seeds[0]][0].run.settings
    benchmark = settings.benchmark.use if settings.benchmark else ""
    return f"Ablation: {settings.adapter.use} on {benchmark}, {settings.evaluate.split} split"


def note(plan: Plan) -> str:
    """Return the caption of the numbers: data, settings and machine, without the machine's name."""
    run = plan.units[plan.seeds[0]][0].run
    evaluate, count = run.settings.evaluate, len(run.planned_evaluation())
    packages = {"Python": platform.python_version(), **run.registry.versions()}
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    seeds = f"{len(plan.seeds)} training seed{'s' if len(plan.seeds) > 1 else ''}"
    return (
        f"{seeds}; {count // evaluate.images} prompts with {evaluate.images} image(s) each, the same prompts and "
        f"image seeds in every arm. Intervals: 95 %, paired two-level bootstrap over prompts and training "
        f"seeds, {RESAMPLES} resamples. {date.today().isoformat()}; {machine}; {versions}."
    )


def columns(tables: Tables) -> list[str]:
    changes = [f"change to {name}" for name in (BASE, *tables.against)] if tables.measures else []
    return [*tables.measures, *changes, "seeds", "what it is"]


def cells(row: Row, tables: Tables, seeds: int) -> dict[str, Cell]:
    """Return cells by column. An arm without a finished seed shows "failed" or "not finished"."""
    values: dict[str, Cell] = {**row.means, **{f"change to {name}": each for name, each in row.changes.items()}}
    failed = any(each.startswith("failed") for each in row.notes)
    if not row.seeds and tables.measures:
        values[tables.measures[0]] = "failed" if failed else "not finished"
    values["seeds"] = f"{len(row.seeds)} of {seeds}"
    values["what it is"] = "; ".join([row.arm.text or row.arm.name, *row.notes])
    return {name: values.get(name, "") for name in columns(tables)}


def drops(tables: Tables) -> tuple[str, str]:
    """Draw the paper's Figure 3, left: (title, SVG) of marked arms' changes against the reference; "" without any."""
    rows = {row.arm.name: row.drop for row in tables.rows if row.arm.drop and row.drop is not None}
    if not rows:
        return "", ""
    percent = _percent(tables)
    name = f"Change in {tables.measures[0]} against {tables.reference} ({units(percent)})"
    return name, charts.dumbbells(name, {"change": rows}, percent, change=True)


def curves(tables: Tables, axis: str) -> tuple[str, str]:
    """Draw Figure 3, right: (title, SVG) of the first measure against a setting; "" without a curve."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for row in tables.rows:
        if row.arm.curve and tables.measures and (mean := row.means.get(tables.measures[0])):
            lines.setdefault(row.arm.curve.line, []).append((row.arm.curve.x, mean))
    if not any(len(points) > 1 for points in lines.values()):
        return "", ""
    name = f"{tables.measures[0]} against {axis} ({units(False)})"
    return name, charts.line_chart(name, lines, height=300, axis=axis, alone=True)


def long_form(tables: Tables) -> str:
    """Return CSV with a row per evaluation: arm, seed, round (empty = before training), prompts, images, measures."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["arm", "seed", "round", "prompts", "images", *tables.measures])
    for line in tables.lines:
        one, round = line.measured, "" if line.round is None else line.round
        values = [one.mean(name) if name in one.means else "" for name in tables.measures]
        rows.writerow([line.arm, line.seed, round, len(one.prompts), one.images, *values])
    return text.getvalue()
