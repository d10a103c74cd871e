"""Set the tables of several runs beside each other and below what is published. Needs no model, no torch, no network.

srum eval table RUN…                                    evaluations, training runs or single table.json files
srum eval table RUN… --format html --out tables.html

Each benchmark has a table of its own; what makes numbers hard to compare is said below it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core import plugins
from srum_core.console import shown

FORMATS = ("markdown", "csv", "html")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="an evaluation, a training run, a table.json")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="default: markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: the terminal)")


def run(parsed: argparse.Namespace) -> int:
    """0. Raises RecordError for a folder without a table."""
    from srum_core import comparing
    from srum_core.store import write_atomic

    made = comparing.compare([table for run in parsed.runs for table in comparing.found(run)], plugins.discover())
    text = comparing.FORMATS[parsed.format](made)
    if parsed.out is None:
        print(text, end="")
        return 0
    write_atomic(parsed.out, text.encode())
    print(f"The table is in {shown(parsed.out.absolute())}")
    return 0
