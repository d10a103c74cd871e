"""`python -m srum_core.cli.stage STAGE RUN ROUND`: one stage as its own process (group). ROUND may be `base`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srum_core.cli.launching import add_preset, exit_status, take_preset
from srum_core.runs.files import STAGES
from srum_core.runs.run import Run
from srum_core.stages.order import perform


def main(arguments: list[str] | None = None) -> int:
    """Run one stage, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m srum_core.cli.stage", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("run", type=Path)
    parser.add_argument("round", help="number of the round, or base")
    add_preset(parser)
    parsed = parser.parse_args(arguments)
    if parsed.round != "base" and not (parsed.round.isdecimal() and int(parsed.round)):
        parser.error(f"there is no round {parsed.round}: rounds count from 1, and the model before training is base.")
    take_preset(parsed.launch)
    return exit_status(
        lambda: perform(Run.open(parsed.run), parsed.stage, None if parsed.round == "base" else int(parsed.round))
    )


if __name__ == "__main__":
    sys.exit(main())
