"""Checks of an adapter on its trained weights, for `srum doctor`. Each returns findings with sentences.

The conformance suite of `srum_core.testing` holds what any weights can show. What only trained weights can (a flipped
sign, reversed time, a missing scale) is checked here, by comparing which convention explains the model best.
"""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser(
        "doctor",
        help="check an adapter on its trained weights, or predict its memory (--plan)",
        module="srum_core.doctor.command",
    )
