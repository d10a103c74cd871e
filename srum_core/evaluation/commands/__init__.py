"""Published benchmarks on any adapter or text-to-image model: generate, judge, score. See docs/evaluation.md.

srum eval prompts DIR|URL|OWNER/NAME                    are its prompts the release's? Repositories are fetched
srum eval run --adapter bagel --preset shapes --benchmark shapes
                                                        all steps at once; each can be run separately:
srum eval generate --adapter … --benchmark …            the images
srum eval judge RUN --judge …                           the judge's answers about them
srum eval score RUN                                     the tables; no model is needed
srum eval table RUN…                                    several runs side by side, below published results
srum eval layout RUN --to DIR                           the folder that the original scorer expects

Every command resumes where it stopped when it is given again.
"""

from __future__ import annotations

import argparse
from typing import Any

from srum_core import hookimpl

HELP = "run published benchmarks, step by step: srum eval --help lists the steps"
STEPS = {
    "prompts": "check a published benchmark's folder or repository: are its prompts complete, are they the release's",
    "run": "generate a benchmark's images, judge them, and score the answers",
    "generate": "generate a benchmark's images",
    "judge": "ask a judge about the images, and store every answer",
    "score": "parse the answers, and write the tables; needs no model",
    "table": "show the tables of several runs side by side, below published ones",
    "layout": "lay out the images as a benchmark's original scorer expects them",
}


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser("eval", help=HELP, module=__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    steps: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in STEPS.items():
        steps.add_parser(name, help=text, module=f"{__name__}.{name}")
