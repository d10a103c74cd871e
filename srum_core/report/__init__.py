"""Runs as one HTML page that needs no network and no other file: the command `srum report`."""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl

LIMIT = 1000
"""Default number of images per round."""


@hookimpl
def srum_commands(subparsers: Any) -> None:
    text = "write a run, or what srum ablate made, as one HTML page; or compare several runs on one"
    subparsers.add_parser("report", help=text, module=f"{__name__}.command")
