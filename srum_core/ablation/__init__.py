"""`srum ablate`: the same method with one thing changed at a time, over training seeds, side by side.

`plan` reads the arms and determines the stages that they share, `command` runs and links them, and `tables` puts the
numbers together and shows them. An ablation is a folder of ordinary runs.
"""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser(
        "ablate",
        help="run the method with one thing changed at a time, over seeds, and tabulate the results",
        module="srum_core.ablation.command",
    )
