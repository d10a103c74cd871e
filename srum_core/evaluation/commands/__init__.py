"""Published benchmarks on any adapter or text-to-image model: draw, ask, score. docs/evaluation.md has the details.

srum eval prompts DIR|URL|OWNER/NAME                    are its prompts the release's? Repositories are fetched
srum eval run --adapter bagel --preset shapes --benchmark shapes
                                                        all steps at once; each can be run by itself:
srum eval generate --adapter … --benchmark …            the images
srum eval judge RUN --judge …                           somebody is asked about them
srum eval score RUN                                     the tables; no model is needed
srum eval table RUN…                                    several runs beside each other and what is published
srum eval layout RUN --to DIR                           the folder that the original scorer expects

Everything goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
from typing import Any

from srum_core import hookimpl

HELP = "run published benchmarks, step by step: srum eval --help lists the steps"
STEPS = {
    "prompts": "look at a published benchmark's folder or repository: are its prompts there, are they the release's",
    "run": "draw a benchmark's pictures, have them judged, and score them",
    "generate": "draw a benchmark's pictures",
    "judge": "ask somebody about the pictures, and keep every answer",
    "score": "read the answers, and write the tables; needs no model",
    "table": "set the tables of several runs beside each other, and below published ones",
    "layout": "lay the pictures out as a benchmark's original scorer expects them",
}


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser("eval", help=HELP, module=__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    steps: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in STEPS.items():
        steps.add_parser(name, help=text, module=f"{__name__}.{name}")
