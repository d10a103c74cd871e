"""Run the method with one thing changed at a time, over training seeds, and put the results side by side.

Arms share what they can: images, judgements and the evaluation before training are made once per training seed. The
same command again resumes where it stopped. KEY=VALUE changes a setting of all arms. Results: ablation.md, .json, .csv
and figures in the folder, which holds an ordinary run per arm and seed (seed-0/paper, …).
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from srum_core import plugins
from srum_core.ablation.plan import Plan, make_plan, read_arms
from srum_core.cli.common import Typed, add_settings, finish_with_report, show_table
from srum_core.errors import ConfigError
from srum_core.evaluation.formatting import Grid
from srum_core.files import lock
from srum_core.runs.progress import shown, tell
from srum_core.stages import preflight
from srum_core.stages.chunks import Step


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
    """0 when all arms are through, also those that failed: that is a result. Raises ConfigError and RecordError."""
    registry, typed = plugins.discover(), Typed.of(parsed)
    settings = typed.read(registry)
    arms = read_arms(registry, settings.adapter.use, typed.preset, parsed.files)
    if parsed.quick:
        settings = evolve(typed, settings=[*arms.quick, *typed.settings]).read(registry)
    chosen = arms.named([name.strip() for name in parsed.arms.split(",") if name.strip()])
    seeds = parsed.seeds if parsed.seeds is not None else 2 if parsed.quick else 5
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: there has to be one training seed at least.")
    plan = make_plan(parsed.out.absolute(), settings, arms, chosen, seeds, registry)
    plan.units[plan.seeds[0]][0].run.benchmark()  # an error if there is none, before any generation
    if parsed.dry_run:
        return _announce(plan, parsed.out)
    with lock(parsed.out):
        _work(plan, parsed.out, shlex.join(["srum", *parsed.given]))
    return 0


def _work(plan: Plan, folder: Path, command: str) -> None:
    from srum_core.ablation.tables import Known, tabulate, write
    from srum_core.ablation.work import Failures, work

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
    """Print what would be made and what taken over, for one training seed; the others are alike. Return 1 if an arm
    would not start."""
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
        own = [task.step for task in unit.tasks if task.source is None]
        for problem in [] if unit.done else preflight.problems(unit.run, own):
            fails = True
            tell(f"  would not start: {problem}")
    if extra := [arm.name for arm in plan.arms.arm if arm.extra and arm not in plan.chosen]:
        print(f"\nOnly when named with --arms: {', '.join(extra)}.")
    units = [unit for each in plan.units.values() for unit in each]
    print(f"\n{sum(unit.done for unit in units)} of {len(units)} runs are finished.")
    return int(fails)


def _by_round(steps: Sequence[Step]) -> str:
    rounds: dict[str, list[str]] = {}
    for step in steps:
        rounds.setdefault("base" if step.round is None else f"round {step.round}", []).append(step.stage)
    return "; ".join(f"{', '.join(stages)} ({round})" for round, stages in rounds.items())
