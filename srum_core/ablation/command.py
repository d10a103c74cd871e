"""Run the method with one thing changed at a time, over training seeds, and put the results side by side.

Arms share what they can: images, judgements and the evaluation before training are made once per training seed. The
same command again resumes where it stopped. KEY=VALUE changes a setting of all arms. Results: ablation.md, .json, .csv
and figures in the folder, which holds an ordinary run per arm and seed (seed-0/paper, …).
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import evolve

from srum_core import plugins
from srum_core.ablation.plan import Plan, Unit, make_plan, read_arms
from srum_core.ablation.tables import Known, tabulate, write
from srum_core.cli.common import Typed, add_settings, finish_with_report, show_table
from srum_core.errors import ConfigError, SrumError
from srum_core.evaluation.formatting import Grid
from srum_core.runs.files import aside, lock, put_in_place
from srum_core.runs.progress import clock, shown, tell
from srum_core.runs.run import Run
from srum_core.runs.store import sync_folder, to_json, write_atomic
from srum_core.stages import preflight
from srum_core.stages.chunks import Step
from srum_core.stages.order import perform

Failures = Mapping[tuple[int, str], str]
"""Why an arm could not be finished, by (training seed, arm)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/ablation"), help="folder of the ablation (default: runs/ablation)")
    add("--seeds", type=int, metavar="N", help="training seeds (default: 5; with --quick 2)")
    add("--arms", default="", metavar="NAME,NAME,…", help="these arms only (default: all; --dry-run lists them)")
    add("--with", dest="files", type=Path, action="append", default=[], metavar="FILE.toml", help="further arms")
    add("--quick", action="store_true", help="few prompts, steps and images: to try it out, not to measure")
    add("--dry-run", action="store_true", help="print what would run and what is shared, load no model, write nothing")


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when all arms have finished or failed. Raises ConfigError and RecordError."""
    registry, typed = plugins.discover(), Typed.of(parsed)
    settings = typed.read(registry)
    arms = read_arms(registry, settings.adapter.use, typed.preset, parsed.files)
    if parsed.quick:
        settings = evolve(typed, settings=[*arms.quick, *typed.settings]).read(registry)
    selection = arms.named([name.strip() for name in parsed.arms.split(",") if name.strip()])
    seeds = parsed.seeds if parsed.seeds is not None else 2 if parsed.quick else 5
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: there has to be one training seed at least.")
    plan = make_plan(parsed.out.absolute(), settings, arms, selection, seeds, registry)
    plan.units[plan.seeds[0]][0].run.benchmark()  # raises if there is none, before any generation
    if parsed.dry_run:
        return _announce(plan, parsed.out)
    with lock(parsed.out):
        _work(plan, parsed.out, shlex.join(["srum", *parsed.given]))
    return 0


def _work(plan: Plan, folder: Path, command: str) -> None:
    evaluations: Known = {}

    def write_all(failures: Failures) -> Grid:
        return write(folder, plan, tabulate(plan, failures, evaluations), command)

    try:
        failures = work(plan, write_all)
    except KeyboardInterrupt:
        tell(f"\nsrum: stopped; nothing that is on disk is lost. To resume:\n  {command}")
        raise
    show_table(write_all(failures))
    print(f"The table is in {shown(folder.absolute() / 'ablation.md')}")
    finish_with_report(folder.absolute())


def _announce(plan: Plan, folder: Path) -> int:
    """Print what the arms of one training seed would make and share. Return 1 if an arm would not start."""
    fails = False
    print(f"{shown(folder.absolute())}, training seeds {', '.join(map(str, plan.seeds))} (nothing is run)")
    for unit in plan.units[plan.seeds[0]]:
        print(f"\n{unit.name}: {unit.arm.text if unit.arm else 'made once for the arms below'}")
        if unit.arm and unit.arm.settings:
            print(f"  settings  {' '.join(unit.arm.settings)}")
        sources: dict[str, list[Step]] = {}
        for task in unit.tasks:
            sources.setdefault(task.source.folder.name if task.source else "", []).append(task.step)
        if "" in sources:
            print(f"  makes     {_by_round(sources.pop(''))}")
        for name, shared in sources.items():
            print(f"  takes     {_by_round(shared)} of {name}")
        steps = [task.step for task in unit.tasks if task.source is None]
        for problem in [] if unit.done else preflight.problems(unit.run, steps):
            fails = True
            tell(f"  would not start: {problem}")
    if extra := [arm.name for arm in plan.arms.arm if arm.extra and arm not in plan.chosen]:
        print(f"\nOnly when named with --arms: {', '.join(extra)}.")
    units = [unit for seed_units in plan.units.values() for unit in seed_units]
    print(f"\n{sum(unit.done for unit in units)} of {len(units)} runs are finished.")
    return int(fails)


def _by_round(steps: Sequence[Step]) -> str:
    rounds: dict[str, list[str]] = {}
    for step in steps:
        rounds.setdefault("base" if step.round is None else f"round {step.round}", []).append(step.stage)
    return "; ".join(f"{', '.join(stages)} ({round})" for round, stages in rounds.items())


# ---- work: unfinished stages, one after another in this process ------------------------------------------------------


def work(plan: Plan, after_seed: Callable[[Failures], object]) -> Failures:
    """Run everything that is missing. An arm that fails is reported and skipped; shared stages must not fail.

    `after_seed` is called between two training seeds."""
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
    """Report the progress, and the remaining time if runs take as long as the finished ones."""
    finished = sum(unit.done for unit in units)
    text = f"{finished} of {len(units)} done · {clock(seconds)} so far"
    if finished == before:
        return text
    return f"{text}, about {clock(seconds / (finished - before) * (len(units) - finished))} left"


def _do(plan: Plan, unit: Unit) -> None:
    with lock(unit.run.folder):
        run = Run.create(unit.run.folder, unit.run.settings, unit.run.registry)
        todo = [task for task in unit.tasks if not run.done(task.step.stage, task.step.round)]
        preflight.refuse(preflight.problems(run, [task.step for task in todo if task.source is None]))
        try:
            for step, source in ((task.step, task.source) for task in todo):
                if source is not None and source.done(step.stage, step.round):
                    share(source, run, step)
                    continue  # if the source failed, this arm makes it (and most likely fails)
                if step.stage == "train" and step.round == 1:
                    for other in plan.units[run.settings.seed]:  # they encode the same images with the same model
                        if other.run.stage_settings("generate", 1) == run.stage_settings("generate", 1):
                            share_latents(other.run, run)
                perform(run, step.stage, step.round)
        finally:
            run.release()


# ---- sharing --------------------------------------------------------------------------------------------------------


def share(source: Run, target: Run, step: Step) -> None:
    """Link the finished records of a step of `source` into `target`, completely or not at all.

    The folder gets the target's own settings. Finished records and images are never changed, so hard links are safe;
    logs are copied, because a training may truncate them.
    """
    theirs, ours = source.stage_folder(step.stage, step.round), target.stage_folder(step.stage, step.round)
    ours.parent.mkdir(parents=True, exist_ok=True)
    loose = {"generate": ("prompts.jsonl",), "train": ("metrics.jsonl", "speed.jsonl")}.get(step.stage, ())
    for name in loose:
        if (theirs.parent / name).exists():
            write_atomic(ours.parent / name, (theirs.parent / name).read_bytes())
    new = link_aside(theirs, ours, leave="settings.json")
    write_atomic(new / "settings.json", to_json(target.stage_settings(step.stage, step.round)))
    put_in_place(new, ours)  # replaces unfinished records
    sync_folder(ours.parent)


def share_latents(source: Run, target: Run) -> None:
    """Link the latents of the first round; each records its source, and is made again if that has changed."""
    theirs, ours = source.round_folder(1) / "latents", target.round_folder(1) / "latents"
    if theirs.is_dir() and not ours.exists():
        put_in_place(link_aside(theirs, ours), ours)


def link_aside(source: Path, target: Path, leave: str = "") -> Path:
    """Create a folder beside `target`, to replace it, with the files of `source`."""
    new = aside(target)
    shutil.rmtree(new, ignore_errors=True)
    link_tree(source, new, leave)
    return new


def link_tree(source: Path, target: Path, leave: str = "") -> None:
    """Hard-link all files of a folder; copy them where the file system has no hard links."""
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        path = target / entry.name
        if entry.is_dir():
            link_tree(Path(entry.path), path)
        elif entry.name != leave and not entry.name.endswith(".tmp"):
            try:
                os.link(entry.path, path)
            except OSError:
                shutil.copy2(entry.path, path)
