"""The work for every arm, and the arm whose work it can reuse.

Two runs make the same records where the settings that those depend on are the same (`Run.stage_settings` of the stage
and of those before it, in its round and in the rounds before). So an arm that trains otherwise shares candidates,
regions, judgements and the evaluation of the model before training; one with more rounds, or with another second one,
shares all of the first; one that generates otherwise shares nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from srum_core import config
from srum_core.ablation.arms import SHARED, Arm, Arms
from srum_core.config import Settings
from srum_core.plugins import Registry
from srum_core.runs.files import STAGES
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.order import steps


@frozen
class Task:
    """One stage of one run."""

    step: Step
    source: Run | None = None
    """The run of the same training seed whose records are taken; None = it is made."""


@frozen
class Unit:
    """One arm with one training seed, or (without an arm) what arms share."""

    arm: Arm | None
    run: Run
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        return self.arm.name if self.arm else SHARED

    @property
    def last(self) -> int | None:
        """The round whose evaluation counts; None = the model before training."""
        return None if self.arm is None or self.arm.untrained else self.run.settings.round_count

    @property
    def done(self) -> bool:
        return all(self.run.done(task.step.stage, task.step.round) for task in self.tasks)


@frozen
class Plan:
    """All work in order: seed by seed, shared stages first."""

    arms: Arms
    chosen: tuple[Arm, ...]
    seeds: tuple[int, ...]
    units: Mapping[int, tuple[Unit, ...]]
    """By training seed."""

    def unit(self, seed: int, arm: str) -> Unit:
        return next(unit for unit in self.units[seed] if unit.arm and unit.name == arm)

    def same_as(self, arm: Arm) -> str | None:
        """An earlier arm with the very same settings, if there is one."""
        mine = self.unit(self.seeds[0], arm.name)
        for other in self.units[self.seeds[0]]:
            if other.arm and other.name == arm.name:
                return None
            if other.arm and other.arm.untrained == arm.untrained and other.run.settings == mine.run.settings:
                return other.name
        return None


def make_plan(
    folder: Path, settings: Settings, arms: Arms, chosen: Sequence[Arm], seeds: int, registry: Registry
) -> Plan:
    """`seeds` training seeds from settings.seed on. Raises ConfigError for an arm's settings that cannot be used, and
    RecordError if the folders were made with other settings."""
    settings = attrs.evolve(settings, evaluate=attrs.evolve(settings.evaluate, before=True))
    changed = {arm.name: config.changed(settings, arm.settings, registry, f"in arm {arm.name}") for arm in chosen}
    numbers = tuple(range(settings.seed, settings.seed + seeds))
    units = {}
    for seed in numbers:
        here = folder / f"seed-{seed}"
        runs = {name: Run(here / name, attrs.evolve(each, seed=seed), registry) for name, each in changed.items()}
        shared = Run(here / SHARED, attrs.evolve(settings, seed=seed), registry)
        units[seed] = _units(shared, chosen, runs, arms.training_only)
    for each in units.values():
        for unit in each:
            unit.run.check()
    return Plan(arms, tuple(chosen), numbers, units)


def _units(
    shared: Run, chosen: Sequence[Arm], runs: Mapping[str, Run], training_only: Sequence[str]
) -> tuple[Unit, ...]:
    before = Step("evaluate", None)
    wanted = {arm.name: [before] if arm.untrained else steps(runs[arm.name]) for arm in chosen}
    marks = {name: [fingerprint(runs[name], step, training_only) for step in each] for name, each in wanted.items()}
    needed = {mark for each in marks.values() for mark in each}
    first: dict[str, Run] = {}
    tasks = []
    for step in [before, *(Step(stage, 1) for stage in STAGES[:3])]:
        mark = fingerprint(shared, step, training_only)
        if mark in needed:
            first[mark] = shared
            tasks.append(Task(step))
    units = [Unit(None, shared, tuple(tasks))] if tasks else []
    for arm in chosen:
        own, tasks = runs[arm.name], []
        for step, mark in zip(wanted[arm.name], marks[arm.name], strict=True):
            source = first.setdefault(mark, own)
            tasks.append(Task(step, None if source is own else source))
        units.append(Unit(arm, own, tuple(tasks)))
    return tuple(units)


def fingerprint(run: Run, step: Step, training_only: Sequence[str]) -> str:
    """All that the records of a step depend on. Before the first training, settings that only training heeds do not."""
    needed: list[tuple[str, int | None]] = [("evaluate", None)]
    if step.round is not None:
        needed = [(stage, k) for k in range(1, step.round) for stage in STAGES[:-1]]
        needed += [(stage, step.round) for stage in STAGES[: STAGES.index(step.stage) + 1]]
    parts = [run.stage_settings(*each) for each in needed]
    if ("train", 1) not in needed:
        parts = [_without(each, training_only) for each in parts]
    return json.dumps([str(step), parts], sort_keys=True)


def _without(settings: Mapping[str, Any], keys: Sequence[str], path: str = "") -> dict[str, Any]:
    """Settings without those dotted keys."""
    kept = {}
    for name, value in settings.items():
        here = f"{path}.{name}" if path else name
        if here not in keys:
            kept[name] = _without(value, keys, here) if isinstance(value, Mapping) else value
    return kept
