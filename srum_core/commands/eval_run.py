"""Draw a benchmark's pictures, have them judged, and score them: srum eval generate, judge and score in one.

srum eval run --adapter bagel --preset shapes --benchmark shapes evaluate.limit=20
srum eval run --trained runs/bagel-shapes --benchmark '{use="wise", data="DIR"}' --judge '{use="remote", url="…"}'

The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse

from srum_core import launching, preflight
from srum_core.commands import eval_generate, eval_score
from srum_core.console import shown, tell
from srum_core.evaluation import console
from srum_core.folders import lock


def arguments(parser: argparse.ArgumentParser) -> None:
    console.add_model(parser)
    console.add_judge(parser)
    launching.add_arguments(parser)
    eval_score.add_failures(parser)
    eval_generate.add_redo(parser)


def run(parsed: argparse.Namespace) -> int:
    """0 when the table is written."""
    made = eval_generate.begin(parsed)
    if parsed.dry_run:
        return eval_generate.announce(made, parsed)
    with lock(made.folder) as handle:
        preflight.refuse(console.problems(made, "pictures" in parsed.redo, parsed))
        console.redo(made, [each for each in parsed.redo if each == "pictures"])
        asked = console.asks(made)
        if asked:
            name, use = console.chosen_judge(made, parsed.judge, parsed.name)
            console.redo(made, [each for each in parsed.redo if each == "answers"], name)
        elif parsed.judge:
            tell("Nobody is asked about these pictures: they are scored by rules. --judge does nothing.")
        console.generate_all(made, parsed, handle)
        if asked:
            console.judge_all(made, parsed, handle, name, use)
        console.score_all(made, name if asked else None, parsed.failures, False)
    print(f"The evaluation is in {shown(made.folder)}")
    return 0
