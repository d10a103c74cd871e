"""Run the plan: one stage after another in this process, without repeating finished ones."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from srum_core.ablation.plan import Plan, Unit
from srum_core.errors import SrumError
from srum_core.files import aside, lock, put_in_place
from srum_core.runs.progress import clock, shown, tell
from srum_core.runs.run import Run
from srum_core.runs.store import sync_folder, to_json, write_atomic
from srum_core.stages import preflight
from srum_core.stages.chunks import Step
from srum_core.stages.order import perform

Failures = Mapping[tuple[int, str], str]
"""Why an arm could not be finished, by (training seed, arm)."""


def work(plan: Plan, after_seed: Callable[[Failures], object]) -> Failures:
    """Run everything that is missing. An arm that fails is reported and skipped; shared stages must not fail.

    `after_seed` is called when all arms of a training seed are through and others follow."""
    failures: dict[tuple[int, str], str] = {}
    units = [unit for seed in plan.seeds for unit in plan.units[seed]]
    began, before = time.monotonic(), sum(unit.done for unit in units)
    for number, unit in enumerate(units):
        seed = unit.run.settings.seed
        if number and seed != units[number - 1].run.settings.seed:
            after_seed(failures)
        if unit.done:
            continue
        tell(f"seed {seed} · {unit.name} · {_progress(units, before, time.monotonic() - began)}")
        try:
            _do(plan, unit)
        except SrumError as error:
            folder = shown(unit.run.folder)
            command = shlex.join(["srum-train", "--config", f"{folder}/run.toml", "--out", folder, "--redo"])
            redo = f" In an ablation: {command} STAGE --only STAGE, then this command again."
            message = f"{error}{redo if '--redo ' in str(error) else ''}"
            if unit.arm is None:
                raise type(error)(message) from error
            failures[seed, unit.name] = str(error)
            tell(f"seed {seed} · {unit.name} failed; the others continue. {message}")
    return failures


def _progress(units: Sequence[Unit], before: int, seconds: float) -> str:
    """How far it is; how long the rest may take, if runs take as long as those that are finished."""
    done = sum(unit.done for unit in units)
    text = f"{done} of {len(units)} done · {clock(seconds)} so far"
    return f"{text}, about {clock(seconds / (done - before) * (len(units) - done))} left" if done > before else text


def _do(plan: Plan, unit: Unit) -> None:
    with lock(unit.run.folder):
        run = Run.create(unit.run.folder, unit.run.settings, unit.run.registry)
        todo = [task for task in unit.tasks if not run.done(task.step.stage, task.step.round)]
        preflight.refuse(preflight.problems(run, [task.step for task in todo if task.source is None]))
        try:
            for step, source in ((task.step, task.source) for task in todo):
                if source is not None and source.done(step.stage, step.round):
                    share(source, run, step)
                    continue  # if who should have made it failed, it is made here (and most likely fails)
                if step.stage == "train" and step.round == 1:
                    for other in plan.units[run.settings.seed]:  # who has encoded the same images with the same model
                        if other.run.stage_settings("generate", 1) == run.stage_settings("generate", 1):
                            share_latents(other.run, run)
                perform(run, step.stage, step.round)
        finally:
            run.release()


# ---- sharing --------------------------------------------------------------------------------------------------------


def share(source: Run, target: Run, step: Step) -> None:
    """Give `target` the finished records of a step of `source` by hard links, as a whole or not at all.

    The folder remembers the target's own settings. Finished records are never appended to and images never written
    over, so a link is as good as a copy; logs, which a training may cut back, are copied.
    """
    theirs, ours = source.stage_folder(step.stage, step.round), target.stage_folder(step.stage, step.round)
    ours.parent.mkdir(parents=True, exist_ok=True)
    loose = {"generate": ("prompts.jsonl",), "train": ("metrics.jsonl", "speed.jsonl")}.get(step.stage, ())
    for name in loose:
        if (theirs.parent / name).exists():
            write_atomic(ours.parent / name, (theirs.parent / name).read_bytes())
    new = link_aside(theirs, ours, leave="settings.json")
    write_atomic(new / "settings.json", to_json(target.stage_settings(step.stage, step.round)))
    put_in_place(new, ours)  # of what was begun before there was something to share
    sync_folder(ours.parent)


def share_latents(source: Run, target: Run) -> None:
    """Encoded images of the first round; each records its source, and is made again if that has changed."""
    theirs, ours = source.round_folder(1) / "latents", target.round_folder(1) / "latents"
    if theirs.is_dir() and not ours.exists():
        put_in_place(link_aside(theirs, ours), ours)


def link_aside(source: Path, target: Path, leave: str = "") -> Path:
    """The folder beside `target` that is to replace it, with the files of `source`."""
    new = aside(target)
    shutil.rmtree(new, ignore_errors=True)
    link_tree(source, new, leave)
    return new


def link_tree(source: Path, target: Path, leave: str = "") -> None:
    """A folder with the same files; copies where the file system has no hard links."""
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        there = target / entry.name
        if entry.is_dir():
            link_tree(Path(entry.path), there)
        elif entry.name != leave and not entry.name.endswith(".tmp"):
            try:
                os.link(entry.path, there)
            except OSError:
                shutil.copy2(entry.path, there)
