"""Analyse models that runs have trained, and the one they started from. docs/results/analyses.md has the details.

srum analyze steps sft=RUN srum=RUN                     the paper's Figure 4: layout and detail along the steps
srum analyze activations sft=RUN srum=RUN               its Appendix B: how active which neurons are

Both resume when the same command is given again.
"""

from __future__ import annotations

import argparse
from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    text = "analyse models: scores along the sampling steps, and active neurons"
    subparsers.add_parser("analyze", help=text, module=__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    kinds: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in (
        ("steps", "score the clean estimate at chosen sampling steps, for layout and for detail"),
        ("activations", "compare how active the neurons of understanding and of generation are"),
    ):
        kinds.add_parser(name, help=text, module=f"{__name__}.{name}")
