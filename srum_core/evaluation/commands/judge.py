"""Ask a judge about the images of an evaluation. Every answer is stored unchanged.

srum eval judge RUN --judge '{use="remote", url="http://localhost:8000/v1"}'
srum eval judge RUN --judge self                        the model judges itself: not comparable with other models

Several judges may judge the same images: --as gives each a name.
"""

from __future__ import annotations

import argparse

from srum_core.cli import launching
from srum_core.errors import ConfigError
from srum_core.evaluation.commands.shared import Plan, add_judge, add_later
from srum_core.evaluation.plan import asks
from srum_core.runs.files import lock
from srum_core.runs.progress import shown


def arguments(parser: argparse.ArgumentParser) -> None:
    add_later(parser)
    add_judge(parser)
    launching.add_arguments(parser)
    parser.add_argument("--partial", action="store_true", help="ask about the images that exist already")
    parser.add_argument("--redo", action="append", default=[], choices=("answers",), help="first delete the answers")


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when every question has an answer."""
    plan = Plan.of(parsed)
    evaluation, folder = plan.evaluation, plan.evaluation.folder
    if not asks(evaluation):
        raise ConfigError(
            f"{evaluation.settings.benchmark.use if evaluation.settings.benchmark else ''} needs no judge: its images "
            f"are scored by rules. Continue with srum eval score {shown(folder)}"
        )
    name, use = plan.chosen_judge()
    with lock(folder) as handle:
        plan.delete("answers", name)
        plan.judge_all(handle, name, use)
    print(f"The answers are in {shown(folder / 'answers' / name)}")
    return 0
