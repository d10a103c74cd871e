"""`python -m srum_core.evaluation STAGE RUN [NAME]`: one stage of an evaluation in a process (group) of its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srum_core.errors import SrumError
from srum_core.evaluation.console import perform
from srum_core.evaluation.run import Evaluation


def main(arguments: list[str] | None = None) -> int:
    """0 when done, 2 with a sentence for errors that a person can mend, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m srum_core.evaluation", description=__doc__)
    parser.add_argument("stage", choices=("generate", "judge"))
    parser.add_argument("run", type=Path)
    parser.add_argument("name", nargs="?", default="", help="of the judge")
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("--batch", type=int, default=0)
    parsed = parser.parse_args(arguments)
    try:
        perform(Evaluation.open(parsed.run), parsed.stage, parsed.name, parsed.partial, parsed.batch)
    except SrumError as error:
        print(f"srum: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
