"""Parse an evaluation's answers, and write its tables. Needs no model, no torch and no network.

srum eval score RUN
srum eval score RUN --failures zero                     unreadable answers count as 0
srum eval score RUN benchmark.trained=cultural          with another option of the benchmark, which is kept
"""

from __future__ import annotations

import argparse

from srum_core.evaluation.commands.shared import Plan, add_later
from srum_core.evaluation.scoring import POLICIES
from srum_core.runs.files import lock


def arguments(parser: argparse.ArgumentParser) -> None:
    add_later(parser)
    parser.add_argument("--as", dest="name", metavar="NAME", help="the table of this judge only (default: of all)")
    add_failures(parser)
    parser.add_argument("--partial", action="store_true", help="score what exists, and report what is missing")


def add_failures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--failures",
        choices=POLICIES,
        default="",
        help="how unreadable answers count: not at all (exclude, the default), as in the original, or as zero",
    )


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when the tables are written."""
    plan = Plan.of(parsed)
    with lock(plan.evaluation.folder):
        plan.score_all(plan.name)
    return 0
