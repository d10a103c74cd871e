"""Draw a benchmark's images with any adapter or text-to-image model.

srum eval generate --adapter bagel --preset shapes --benchmark shapes evaluate.limit=20
srum eval generate --trained runs/bagel-shapes --benchmark '{use="wise", data="DIR"}'
"""

from __future__ import annotations

import argparse

from rich.table import Table

from srum_core import plugins
from srum_core.cli import launching
from srum_core.cli.common import show_table
from srum_core.evaluation.commands import shared
from srum_core.evaluation.plan import default_folder
from srum_core.evaluation.run import Evaluation
from srum_core.files import lock
from srum_core.runs.progress import shown, tell
from srum_core.stages import preflight


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_model(parser)
    launching.add_arguments(parser)
    add_redo(parser)


def add_redo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--redo", action="append", default=[], choices=("images", "answers"), help="first delete what was made")
    add("--dry-run", action="store_true", help="say what would be done, load no model, write nothing")


def begin(parsed: argparse.Namespace) -> Evaluation:
    """The evaluation that was typed, not yet written down."""
    registry = plugins.discover()
    settings = shared.read_model(parsed, registry)
    return Evaluation(parsed.out or default_folder(settings), settings, registry)


def run(parsed: argparse.Namespace) -> int:
    """0 when every image is there."""
    made = begin(parsed)
    if parsed.dry_run:
        return announce(made, parsed)
    with lock(made.folder) as handle:
        preflight.refuse(shared.problems(made, "images" in parsed.redo, parsed))
        shared.redo(made, parsed.redo)
        shared.generate_all(made, parsed, handle)
    print(f"The pictures are in {shown(made.folder / 'images')}")
    return 0


def announce(made: Evaluation, parsed: argparse.Namespace) -> int:
    """Print how many images would be generated, or what is missing for it; return 1 in that case."""
    found = shared.problems(made, "images" in parsed.redo, parsed)
    for problem in found:
        tell(f"The evaluation would not start: {problem}")
    if found:
        return 1
    prompts = made.evaluated_prompts()
    plan = made.plan_evaluation(prompts)
    there = len(made.images().ids().intersection(item.id for item in plan))
    table = Table(title=f"{shown(made.folder)} (nothing is run)")
    for name, cell in (("prompts", len(prompts)), ("images", len(plan)), ("drawn", there)):
        table.add_column(name, justify="right", footer=str(cell))
    table.add_row(str(len(prompts)), str(len(plan)), str(there))
    show_table(table)
    return 0
