"""Ask somebody about the pictures of an evaluation. Every answer is kept as it was given.

srum eval judge RUN --judge '{use="remote", url="http://localhost:8000/v1"}'
srum eval judge RUN --judge self                        the model judges itself: never a headline number

Several judges may look at the same pictures: --as gives each a name.
"""

from __future__ import annotations

import argparse

from srum_core import launching, plugins
from srum_core.console import shown
from srum_core.errors import ConfigError
from srum_core.evaluation import console
from srum_core.folders import lock


def arguments(parser: argparse.ArgumentParser) -> None:
    console.add_later(parser)
    console.add_judge(parser)
    launching.add_arguments(parser)
    parser.add_argument("--partial", action="store_true", help="ask about the pictures that are there already")
    parser.add_argument("--redo", action="append", default=[], choices=("answers",), help="first delete the answers")


def run(parsed: argparse.Namespace) -> int:
    """0 when nothing is left to ask."""
    made = console.open_later(parsed, plugins.discover())
    if not console.asks(made):
        raise ConfigError(
            f"{made.settings.benchmark.use if made.settings.benchmark else ''} asks nobody about its pictures: it is "
            f"scored by rules. Go on with srum eval score {shown(made.folder)}"
        )
    name, use = console.chosen_judge(made, parsed.judge, parsed.name)
    with lock(made.folder) as handle:
        console.redo(made, parsed.redo, name)
        console.judge_all(made, parsed, handle, name, use)
    print(f"The answers are in {shown(made.folder / 'answers' / name)}")
    return 0
