"""Doing what is planned: one stage after the other in this process, what is there already is left alone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from statistics import fmean

from attrs import define, field

from srum_core.ablation.plan import Plan, Task, Unit
from srum_core.ablation.share import share, share_latents
from srum_core.errors import SrumError
from srum_core.files import lock
from srum_core.runs.progress import clock, shown, tell
from srum_core.runs.run import Run
from srum_core.stages import preflight
from srum_core.stages.order import perform

Failures = Mapping[tuple[int, str], str]
"""Why an arm could not be finished, by (training seed, arm)."""


def work(plan: Plan, after_seed: Callable[[Failures], None]) -> Failures:
    """Everything that is not there yet. An arm that fails is told and passed over; what is shared must not fail.

    `after_seed` is called when all arms of a training seed are through and others follow."""
    failures: dict[tuple[int, str], str] = {}
    forecast = Forecast([unit for units in plan.units.values() for unit in units])
    for seed in plan.seeds:
        for unit in plan.units[seed]:
            if unit.done:
                continue
            tell(f"seed {seed} · {unit.name} · {forecast.told()}")
            try:
                _do(plan, unit, forecast)
            except SrumError as error:
                told = f"{error}{_redo(unit) if '--redo ' in str(error) else ''}"
                if unit.arm is None:
                    raise type(error)(told) from error
                failures[seed, unit.name] = str(error)
                forecast.given_up.add(id(unit))
                tell(f"seed {seed} · {unit.name} failed; the others go on. {told}")
        if seed != plan.seeds[-1]:
            after_seed(failures)
    return failures


def _redo(unit: Unit) -> str:
    folder = shown(unit.run.folder)
    command = shlex.join(["srum-train", "--config", f"{folder}/run.toml", "--out", folder, "--redo"])
    return f" In an ablation: {command} STAGE --only STAGE, then this command again."


def _do(plan: Plan, unit: Unit, forecast: Forecast) -> None:
    with lock(unit.run.folder):
        run = Run.create(unit.run.folder, unit.run.settings, unit.run.registry)
        todo = [task for task in unit.tasks if not run.done(task.step.stage, task.step.round)]
        preflight.refuse(preflight.problems(run, [task.step for task in todo if task.source is None]))
        try:
            for task in todo:
                began = time.monotonic()
                _make(plan, run, task)
                if not _taken(task):
                    forecast.learn(task, time.monotonic() - began)
        finally:
            run.release()


def _make(plan: Plan, run: Run, task: Task) -> None:
    step = task.step
    if task.source is not None and _taken(task):
        share(task.source, run, step)
        return
    if step.stage == "train" and step.round == 1:
        _take_latents(plan, run)
    perform(run, step.stage, step.round)


def _take_latents(plan: Plan, run: Run) -> None:
    """From whoever has encoded the same pictures with the same model."""
    for other in plan.units[run.settings.seed]:
        if other.run.stage_settings("generate", 1) == run.stage_settings("generate", 1):
            share_latents(other.run, run)


def _taken(task: Task) -> bool:
    """Whether there is something to take. If whoever should have made it failed, it is made (and most likely fails)."""
    return task.source is not None and task.source.done(task.step.stage, task.step.round)


@define
class Forecast:
    """How far it is, and how long the rest will take: the mean of what each stage took so far."""

    units: list[Unit]
    given_up: set[int] = field(factory=set)
    took: dict[str, list[float]] = field(factory=dict)
    began: float = field(factory=time.monotonic)

    def learn(self, task: Task, seconds: float) -> None:
        self.took.setdefault(task.step.stage, []).append(seconds)

    def left(self) -> float | None:
        """Seconds; None while a stage that is still to come has never been seen."""
        todo = [
            task.step.stage
            for unit in self.units
            if id(unit) not in self.given_up
            for task in unit.tasks
            if task.source is None and not unit.run.done(task.step.stage, task.step.round)
        ]
        if not self.took.keys() >= set(todo):
            return None
        return sum(fmean(self.took[stage]) for stage in todo)

    def told(self) -> str:
        finished = sum(unit.done for unit in self.units)
        text = f"{finished} of {len(self.units)} done · {clock(time.monotonic() - self.began)} so far"
        left = self.left()
        return text if left is None else f"{text}, about {clock(left)} left"
