"""Show what the judge `count` would ask about each prompt of a file, one prompt a line; no model is needed.

srum count my_prompts.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core.errors import RecordError
from srum_count.judge import counted


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", type=Path, metavar="FILE", help="a text file, one prompt a line")


def run(parsed: argparse.Namespace) -> int:
    """0, or 1 if no prompt has a number. Raises RecordError for a file that cannot be read."""
    try:
        prompts = parsed.prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RecordError(f"{parsed.prompts} cannot be read: {error}. Name a UTF-8 text file.") from error
    numbers = {prompt: counted(prompt) for prompt in prompts if prompt.strip()}
    for prompt, things in numbers.items():
        print(f"{prompt}: {', '.join(f'{number} {name}' for number, name in things) or 'nothing is counted'}")
    return 0 if any(numbers.values()) else 1
