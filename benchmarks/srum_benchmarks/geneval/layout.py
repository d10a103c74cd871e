"""The folder of pictures that GenEval's scorer reads, and the lines that it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srum_benchmarks.geneval.rules import Verdict
from srum_core.errors import ConfigError
from srum_core.records import Candidate, Layout

PICTURES = 4
"""Pictures of each prompt."""
_PICTURE = re.compile(r"\d+\.png")


def path(prompt: str, picture: int) -> Path:
    """Where picture number `picture` (from 0) of a prompt with this id lies."""
    return Path(prompt) / "samples" / f"{picture:05d}.png"


def made(pictures: Sequence[tuple[int, Candidate]]) -> Layout:
    """Pictures by prompt, each folder with the prompt's own line."""
    links = {path(each.prompt.id, number): each.image for number, each in pictures}
    lines = {
        Path(each.prompt.id) / "metadata.jsonl": json.dumps(each.prompt.tags["metadata"]) + "\n" for _, each in pictures
    }
    return Layout(links, lines, scored)


def scored(folder: Path) -> list[Path]:
    """What the reference scores, relative to the folder, in order: every file in samples/ of a folder named by a number
    whose name *starts* like 00000.png, so also 00005.png.bak."""
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and each.name.isdecimal())
    names = [each / "samples" / name.name for each in folders for name in sorted((each / "samples").glob("*"))]
    return [name.relative_to(folder) for name in names if _PICTURE.match(name.name)]


def check(folder: Path, prompts: Sequence[str], pictures: int = PICTURES) -> None:
    """Raise ConfigError where the reference would silently score too few pictures or too many."""
    wanted = {path(prompt, number) for prompt in prompts for number in range(pictures)}
    there = set(scored(folder))
    missing, extra = sorted(wanted - there), sorted(there - wanted)
    if missing:
        raise ConfigError(
            f"{folder} lacks {len(missing)} of {len(wanted)} pictures, such as {missing[0].as_posix()}. GenEval would "
            "score the others without a word: draw them first."
        )
    if extra:
        raise ConfigError(
            f"{folder / extra[0]} is no picture of this run, and GenEval would score it. Remove it from the folder."
        )


def row(picture: Path, metadata: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """A line of the reference's results."""
    details = {name: [[*each.box, each.score] for each in found] for name, found in verdict.kept.items()}
    return {
        "filename": picture.as_posix(),
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": verdict.correct,
        "reason": verdict.reason,
        "metadata": json.dumps(metadata),
        "details": json.dumps(details),
    }
