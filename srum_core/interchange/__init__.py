"""Images, recorded answers and trained models on their way out of a run and into one. No torch.

`official` reads and writes the JSON lines of the official SRUM code, `parquet` data sets with the images inside,
`captions` images that were not judged, and `importer` makes a run out of what they read; `trained_model`
writes models. The command `record` writes a judge's answers as transcripts for its tests, `reread` reads them again
with today's judges. PIL and datasets load when used.
"""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser(
        "export",
        help="write a run's judged images (official SRUM format, Parquet), or its trained model",
        module="srum_core.interchange.command_export",
    )
    subparsers.add_parser(
        "import",
        help="make a run out of judged images in one of those formats, or of your own images with captions",
        module="srum_core.interchange.command_import",
    )
    subparsers.add_parser(
        "record",
        help="write what a judge asked and was answered in a run down as transcripts for tests",
        module="srum_core.interchange.command_record",
    )
    subparsers.add_parser(
        "reread",
        help="read a run's recorded answers again with today's judges; no model is needed",
        module="srum_core.interchange.command_reread",
    )
