"""A run as one self-contained HTML page. Read gather.py (records to plain data), then page.py."""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    text = "write a run, or what srum ablate made, as one HTML page with curves, pictures and reward maps"
    subparsers.add_parser("report", help=text, module="srum_core.report.command")
