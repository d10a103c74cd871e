"""What commands about a run that is there have in common; not a command itself."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from srum_core.cli.common import say
from srum_core.errors import RecordError, SrumError
from srum_core.runs.progress import shown
from srum_core.runs.run import Run


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")


def judged_rounds(run: Run) -> list[int]:
    """The rounds that have judgements."""
    folders = [path.parent.parent for path in run.folder.glob("round-*/judgements/part-*.jsonl")]
    return sorted({int(number) for folder in folders if (number := folder.name.removeprefix("round-")).isdecimal()})


def add_round(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", type=int, metavar="K", help="which round (default: the last that is finished)")


def judged_round(run: Run, round: int | None) -> int:
    """The round that is asked for, or else the last that is judged: to the end, if any is.

    Raises RecordError if it has no judgements."""
    there = judged_rounds(run)
    if round is None and there:
        last = run.last("judge")
        return there[-1] if last is None else last
    if round not in there:
        names = f"It has judgements of round {', '.join(map(str, there))}." if there else "It has none of any round."
        which = "" if round is None else f" of round {round}"
        raise RecordError(f"There are no judgements{which} in {shown(run.folder)}. {names}")
    return round


def finish_with_report(folder: Path) -> None:
    """Write a run or an ablation as a page. Raises RecordError where that cannot be done; all else is on disk then."""
    from srum_core.report.page import write_report

    try:
        path = write_report(folder)
    except (SrumError, OSError) as error:
        raise RecordError(
            f"All else is finished, but no report of it could be made: {error} "
            f"Once that is fixed, make it with: srum report {shlex.quote(shown(folder))}"
        ) from error
    say(f"The report is in {shown(path)}")
