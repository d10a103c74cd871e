"""`python -m srum_core.evaluation.commands STAGE RUN [NAME]`: one stage of an evaluation in separate processes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srum_core.cli.launching import add_preset, exit_status
from srum_core.evaluation.answers import judge
from srum_core.evaluation.plan import judges
from srum_core.evaluation.run import Evaluation, generate_images


def main(arguments: list[str] | None = None) -> int:
    """Run one stage, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m srum_core.evaluation.commands", description=__doc__)
    parser.add_argument("stage", choices=("generate", "judge"))
    parser.add_argument("run", type=Path)
    parser.add_argument("name", nargs="?", default="", help="of the judge")
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("--batch", type=int, default=0)
    add_preset(parser)
    parsed = parser.parse_args(arguments)

    def work() -> None:
        run = Evaluation.open(parsed.run)
        if parsed.stage == "generate":
            generate_images(run)
        else:
            judge(run, parsed.name, judges(run)[parsed.name], parsed.partial, parsed.batch)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
