"""Judged images on their way out of a run and into one, in formats that others read. No torch.

`official` reads and writes the JSON lines of the official SRUM code, `parquet` data sets with the images inside, and
`importer` makes a run out of what either reads. PIL and datasets load when used.
"""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser(
        "export",
        help="write a run's judged pictures in the official SRUM format, or as a Parquet dataset",
        module="srum_core.interchange.command_export",
    )
    subparsers.add_parser(
        "import",
        help="make a run out of judged pictures in one of those formats, ready to be trained on",
        module="srum_core.interchange.command_import",
    )
