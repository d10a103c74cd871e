"""Write a run, or the comparison that srum ablate made, as one HTML page that needs no network and no other file.

The results of all stages, training curves, tables and images before and after, and every candidate with its boxes,
scores, reasons and reward map. An unfinished run is shown as far as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from srum_core import hookimpl
from srum_core.runs.progress import shown

LIMIT = 1000
"""Default number of images per round."""


@hookimpl
def srum_commands(subparsers: Any) -> None:
    text = "write a run, or what srum ablate made, as one HTML page with curves, images and reward maps"
    subparsers.add_parser("report", help=text, module=__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run or of an ablation")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: RUN/report.html)")
    parser.add_argument(
        "--limit",
        type=int,
        default=LIMIT,
        metavar="N",
        help=f"images of a round to show, 0 = all (default: {LIMIT}; the worst, the best, and some of the others)",
    )


def run(parsed: argparse.Namespace) -> int:
    """0. Raises RecordError for a folder that holds neither, and for records that cannot be read."""
    from srum_core.report.page import write_report

    path = write_report(parsed.folder, parsed.out, parsed.limit)
    print(f"The report is in {shown(path.absolute())}")
    return 0
