"""Draw a benchmark's images, have them judged, and score them: srum eval generate, judge and score in one.

srum eval run --adapter bagel --preset shapes --benchmark shapes evaluate.limit=20
srum eval run --trained runs/bagel-shapes --benchmark '{use="wise", data="DIR"}' --judge '{use="remote", url="…"}'

The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse

from srum_core.cli import launching
from srum_core.cli.common import add_verbosity, say
from srum_core.evaluation.commands import generate, score, shared
from srum_core.evaluation.plan import asks, chosen_judge
from srum_core.evaluation.run import Evaluation
from srum_core.files import lock
from srum_core.runs.progress import log_file, shown, tell
from srum_core.stages import preflight


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_model(parser)
    shared.add_judge(parser)
    launching.add_arguments(parser)
    score.add_failures(parser)
    generate.add_redo(parser)
    add_verbosity(parser)


def run(parsed: argparse.Namespace) -> int:
    """0 when the table is written."""
    made = generate.begin(parsed)
    if parsed.dry_run:
        return generate.announce(made, parsed)
    with lock(made.folder) as handle:
        preflight.refuse(shared.problems(made, "images" in parsed.redo, parsed))
        with log_file(made.folder):
            _work(made, parsed, handle)
            say(f"The evaluation is in {shown(made.folder)}")
    return 0


def _work(made: Evaluation, parsed: argparse.Namespace, handle: int) -> None:
    shared.redo(made, [each for each in parsed.redo if each == "images"])
    asked = asks(made)
    if asked:
        name, use = chosen_judge(made, parsed.judge, parsed.name)
        shared.redo(made, [each for each in parsed.redo if each == "answers"], name)
    elif parsed.judge:
        tell("Nobody is asked about these pictures: they are scored by rules. --judge does nothing.")
    shared.generate_all(made, parsed, handle)
    if asked:
        shared.judge_all(made, parsed, handle, name, use)
    shared.score_all(made, name if asked else None, parsed.failures, False)
