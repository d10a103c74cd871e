"""The numbers of an ablation: per arm means over training seeds and images, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from srum_core.ablation.arms import Arm
from srum_core.ablation.plan import Plan
from srum_core.errors import ConfigError
from srum_core.evaluation import statistics
from srum_core.evaluation.stage import scored
from srum_core.evaluation.statistics import Estimate
from srum_core.runs.run import Run

if TYPE_CHECKING:
    from srum_core.evaluation.statistics import Table

BASE = "base"
"""Name of the column of differences to an arm's own model before training."""


@frozen
class Measured:
    """One evaluation."""

    prompts: tuple[str, ...]
    """Ids, in the order of the means."""
    images: int
    """Per prompt."""
    means: Mapping[str, tuple[float, ...]]
    """By measure: the mean of each prompt's images that have a score; NaN where none has."""
    unscored: int = 0
    """Images without a score: not finite, or or a question about them was refused."""

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
    measured: Measured


@frozen
class Tables:
    """What an ablation has found so far."""

    measures: tuple[str, ...]
    against: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]
    lines: tuple[Line, ...]


BySeed = dict[int, Measured]


Known = dict[tuple[Path, int | None], Measured]
"""Evaluations that were read: a finished one does not change."""


def measured(run: Run, round: int | None) -> Measured:
    plan, images = run.planned_evaluation(), run.settings.evaluate.images
    found = scored(run, round, [item.id for item in plan])
    scores = [each.values for each in found if each.usable]
    names = [name for name in scores[0] if all(name in each for each in scores)] if scores else []
    if not names:
        raise ConfigError(
            f'The benchmark "{run.settings.benchmark and run.settings.benchmark.use}" has no measure that all images '
            "have, so arms cannot be compared. Take another benchmark, or evaluate more prompts (evaluate.limit)."
        )
    starts = range(0, len(plan), images)
    groups = [[each.values for each in found[start : start + images] if each.usable] for start in starts]
    means = {name: tuple(_mean([each[name] for each in group]) for group in groups) for name in names}
    return Measured(tuple(plan[i].prompt.id for i in starts), images, means, len(found) - len(scores))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def tabulate(plan: Plan, failures: Mapping[tuple[int, str], str], read: Known) -> Tables:
    """All arms, in order, with their results so far."""
    lines = tuple(line for arm in plan.chosen for line in _lines(plan, arm, read))
    final: dict[str, BySeed] = {}
    start: dict[str, BySeed] = {}
    for line in lines:
        if line.round is None:
            start.setdefault(line.arm, {})[line.seed] = line.measured
        if line.round == plan.unit(line.seed, line.arm).last:
            final.setdefault(line.arm, {})[line.seed] = line.measured
    measures = tuple(lines[0].measured.means) if lines else ()
    against = tuple(name for name in plan.arms.against if name in final)
    rows = []
    for arm in plan.chosen:
        own = final.get(arm.name, {})
        others = {} if arm.untrained else {BASE: start.get(arm.name, {})}
        others |= {name: final[name] for name in against if name != arm.name}
        reference = final.get(plan.arms.reference, {}) if arm.name != plan.arms.reference else {}
        sorted_own = [each for _, each in sorted(own.items())]
        known = {name: table for name in measures if (table := _table(sorted_own, name)) is not None}
        means = {name: statistics.estimate(table) for name, table in known.items()}
        all_changes = {name: _difference(own, other, measures) for name, other in others.items()}
        drop, notes = _difference(own, reference, measures), _notes(plan, arm, own, failures)
        changes = {name: each for name, each in all_changes.items() if each}
        rows.append(Row(arm, tuple(own), means, changes, drop, notes))
    return Tables(measures, against, plan.arms.reference, tuple(rows), lines)


def _lines(plan: Plan, arm: Arm, read: Known) -> Iterator[Line]:
    """An arm's finished evaluations."""
    for seed in plan.seeds:
        unit = plan.unit(seed, arm.name)
        for round in [None] if arm.untrained else [None, *unit.run.settings.round_numbers]:
            key = (unit.run.folder, round)
            if key not in read and unit.run.done("evaluate", round):
                read[key] = measured(unit.run, round)
            if key in read:
                yield Line(arm.name, seed, round, read[key])


def _notes(
    plan: Plan, arm: Arm, own: Mapping[int, Measured], failures: Mapping[tuple[int, str], str]
) -> tuple[str, ...]:
    same = plan.same_as(arm)
    notes = [f"the same settings as {same}"] if same else []
    failed = [seed for seed in plan.seeds if seed not in own and (seed, arm.name) in failures]
    if failed:  # the reasons of several seeds differ in their numbers; all have been printed
        seeds = ", ".join(map(str, failed))
        notes.append(f"failed with training seed {seeds}: {failures[failed[0], arm.name]}")
    if unscored := sum(each.unscored for each in own.values()):
        notes.append(f"{unscored} images have no score (not finite, or refused); prompts without any are left out")
    return tuple(notes)


def _difference(own: Mapping[int, Measured], other: Mapping[int, Measured], measures: Sequence[str]) -> Estimate | None:
    """Of the first measure, over the training seeds that both have; None where prompts differ."""
    seeds = sorted(own.keys() & other.keys())
    if not seeds or any(own[seed].prompts != other[seed].prompts for seed in seeds):
        return None
    table = _table([each[seed] for each in (own, other) for seed in seeds], measures[0])
    return None if table is None else statistics.difference(table[: len(seeds)], table[len(seeds) :])


def _table(found: Sequence[Measured], measure: str) -> Table | None:
    """(seeds, prompts), of the prompts that have a score everywhere; None if there is none."""
    import numpy as np

    if not found or any(measure not in each.means or each.prompts != found[0].prompts for each in found):
        return None
    table = np.array([each.means[measure] for each in found], dtype=np.float64)
    table = table[:, ~np.isnan(table).any(axis=0)]
    return table if table.size else None
