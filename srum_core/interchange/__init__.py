"""Import and export of images, recorded answers and trained models. No torch.

`official` reads and writes the JSON lines of the official SRUM code, `parquet` data sets with the images inside,
`captions` images that were not judged, and `importer` makes a run of them; `trained_model` writes models. The command
`record` writes a judge's answers as transcripts for its tests, `reread` reads them again with today's judges. PIL and
datasets are imported when used.
"""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    for name, text in (
        ("export", "write a run's judged images (official SRUM format, Parquet), or its trained model"),
        ("import", "make a run from judged images in one of these formats, or from your own images with captions"),
        ("record", "write a judge's questions and answers in a run to a file, for tests"),
        ("reread", "parse a run's recorded answers again, with a newer parser or other rules; no model is needed"),
    ):
        subparsers.add_parser(name, help=text, module=f"srum_core.interchange.command_{name}")
