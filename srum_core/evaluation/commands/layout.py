"""Lay the images of an evaluation out as the benchmark's original scorer expects them (hard links, else copies).

srum eval layout RUN --to DIR
srum eval layout RUN --target compbench-orig --to DIR   where a benchmark has several scorers
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core import plugins
from srum_core.evaluation.layout import lay_out
from srum_core.evaluation.run import Evaluation
from srum_core.files import lock
from srum_core.runs.progress import shown


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the evaluation")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to lay them out")
    parser.add_argument("--target", default="", metavar="NAME", help="for which scorer (default: the only one)")
    parser.add_argument("--partial", action="store_true", help="lay out the pictures that are there already")


def run(parsed: argparse.Namespace) -> int:
    """0 when every image lies where its scorer looks for it."""
    made = Evaluation.open(parsed.run, plugins.discover())
    with lock(made.folder):
        layout = lay_out(made, parsed.target, parsed.to, parsed.partial)
    print(f"{len(layout.images)} pictures and {len(layout.texts)} other files are in {shown(parsed.to)}")
    return 0
