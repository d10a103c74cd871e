"""Generate a benchmark's images, judge and score them: srum eval generate, judge and score in one.

srum eval run --adapter bagel --preset shapes --benchmark shapes evaluate.limit=20
srum eval run --trained runs/bagel-shapes --benchmark '{use="wise", data="DIR"}' --judge '{use="remote", url="…"}'

The same command again resumes where it stopped.
"""

from __future__ import annotations

import argparse

from srum_core.cli.common import add_verbosity, say
from srum_core.evaluation.commands import score
from srum_core.evaluation.commands.shared import Plan, add_judge, add_model
from srum_core.evaluation.plan import asks
from srum_core.runs.files import lock
from srum_core.runs.progress import log_file, shown, tell
from srum_core.stages import preflight


def arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_judge(parser)
    score.add_failures(parser)
    add_verbosity(parser)


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when the table is written."""
    plan = Plan.of(parsed)
    if parsed.dry_run:
        return plan.announce()
    folder = plan.evaluation.folder
    with lock(folder) as handle:
        preflight.refuse(plan.problems())
        with log_file(folder):
            _work(plan, handle)
            say(f"The evaluation is in {shown(folder)}")
    return 0


def _work(plan: Plan, handle: int) -> None:
    plan.delete("images")
    needs_judge = asks(plan.evaluation)
    if needs_judge:
        name, use = plan.chosen_judge()
        plan.delete("answers", name)
    elif plan.judge:
        tell("This benchmark needs no judge: its images are scored by rules. --judge has no effect.")
    plan.generate_all(handle)
    if needs_judge:
        plan.judge_all(handle, name, use)
    plan.score_all(name if needs_judge else None)
