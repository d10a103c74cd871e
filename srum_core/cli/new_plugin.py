"""Write a plugin package: small but really working, with passing tests, ready to be installed and changed.

srum new-plugin judge my-judge        writes srum-my-judge/ here
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from srum_core import plugins
from srum_core.plugins.hookspecs import KINDS
from srum_core.plugins.scaffold import choose_names, write


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=sorted(KINDS), metavar="KIND", help=f"one of {', '.join(sorted(KINDS))}")
    parser.add_argument("name", metavar="NAME", help='the name in settings: judges=[{use = "NAME"}]')
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to put it (default: here)")


def run(parsed: argparse.Namespace) -> int:
    names = choose_names(parsed.kind, parsed.name, plugins.discover())
    folder = write(names, parsed.out)
    where = folder.as_posix() if folder.is_absolute() else f"./{folder.as_posix()}"
    print(f"{where} holds the {KINDS[parsed.kind].words} {names.name}: its README.md says which file to edit. Next:")
    for command in (f"pip install -e {shlex.quote(where + '[dev]')}", f"pytest {shlex.quote(where)}", names.command):
        print(f"  {command}")
    return 0
