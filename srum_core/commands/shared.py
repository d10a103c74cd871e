"""What commands about a run that is there have in common; not a command itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core.console import shown
from srum_core.errors import RecordError
from srum_core.run import Run


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")


def judged_rounds(run: Run) -> list[int]:
    """The rounds that have judgements."""
    folders = [path.parent.parent for path in run.folder.glob("round-*/judgements/part-*.jsonl")]
    return sorted({int(number) for folder in folders if (number := folder.name.removeprefix("round-")).isdecimal()})


def refuse_unjudged(run: Run, round: int) -> None:
    """Raise RecordError if a round has no judgements."""
    there = judged_rounds(run)
    if round not in there:
        names = f"It has judgements of round {', '.join(map(str, there))}." if there else "It has none of any round."
        raise RecordError(f"There are no judgements of round {round} in {shown(run.folder)}. {names}")
