"""Show the tables of several runs side by side, below published results. Needs no model, no torch, no network.

srum eval table RUN…                                    evaluations, training runs or single table.json files
srum eval table RUN… --format html --out tables.html

Each benchmark has a table of its own; notes below it name what makes numbers hard to compare.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Group

from srum_core import plugins
from srum_core.cli.common import say, show_table
from srum_core.runs.progress import shown

FORMATS = ("markdown", "csv", "html")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="an evaluation, a training run, a table.json")
    parser.add_argument("--format", choices=FORMATS, help="default: a table on a terminal, else markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: the terminal)")


def run(parsed: argparse.Namespace) -> int:
    """Return 0. Raises RecordError for a folder without a table."""
    from srum_core.evaluation import comparison
    from srum_core.runs.store import write_atomic

    tables = [table for run in parsed.runs for table in comparison.read_tables(run)]
    comparisons = comparison.compare(tables, plugins.discover())
    if parsed.format is None and parsed.out is None and sys.stdout.isatty():
        show_table(Group(*map(comparison.grid, comparisons)))
        return 0
    text = comparison.FORMATS[parsed.format or "markdown"](comparisons)
    if parsed.out is None:
        say(text, end="")
        return 0
    write_atomic(parsed.out, text.encode())
    print(f"The table is in {shown(parsed.out.absolute())}")
    return 0
