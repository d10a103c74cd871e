"""What several commands say or ask in the same way; not a command itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from srum_core.errors import RecordError
from srum_core.run import Run

SHOWN = 20
"""Lines of a long list that are shown."""


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")


def tell(text: str) -> None:
    """To people, not to what reads the output."""
    print(text, file=sys.stderr, flush=True)


def shown(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def listed(lines: Sequence[str], elsewhere: str = "") -> str:
    """The first lines of a list, a line each, and how many more there are."""
    more = [f"… and {len(lines) - SHOWN} more{elsewhere}"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])


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
