"""Write a run, or the comparison that srum ablate made, as one HTML page that needs no network and no other file.

srum report RUN          results of all stages, training curves, tables, images before and after, every candidate with
                         its boxes, scores, reasons and reward map; an unfinished run is shown as far as it is
srum report RUN RUN…     the first run against the others: changes with 95 % intervals, paired by prompt, curves on the
                         same axes, images of the same prompts beside each other; the table is printed as well
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core.cli.common import show_table
from srum_core.errors import ConfigError
from srum_core.report import LIMIT
from srum_core.runs.progress import shown


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="RUN", help="folder of a run or of an ablation; several runs: compare")
    add("--out", type=Path, metavar="FILE", help="where to write it (default: report.html, or comparison.html, in RUN)")
    add(
        "--limit",
        type=int,
        default=LIMIT,
        metavar="N",
        help=f"images of a round to show, 0 = all (default: {LIMIT}; the worst, the best, and some of the others)",
    )
    add("--round", type=int, metavar="K", help="compare the models after round K (default: each run's last)")


def run(parsed: argparse.Namespace) -> int:
    """Return 0. Raises RecordError for folders without runs, runs that cannot be compared, and unreadable records."""
    from srum_core.report.comparison import gather_comparison
    from srum_core.report.page import write, write_report

    if parsed.limit < 0:
        raise ConfigError(f"--limit {parsed.limit}: it is a number of images, or 0 for all.")
    if len(parsed.folders) > 1:
        data, table = gather_comparison(parsed.folders, parsed.limit, parsed.round)
        path = write(parsed.out or parsed.folders[0] / "comparison.html", data)
        show_table(table)
    elif parsed.round is not None:
        raise ConfigError("--round names what to compare, which takes two runs or more: srum report RUN RUN.")
    else:
        path = write_report(parsed.folders[0], parsed.out, parsed.limit)
    print(f"The report is in {shown(path.absolute())}")
    return 0
