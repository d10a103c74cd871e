"""Folders of pictures: that of the SRUM authors' scorer, and that of the original scorers. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from srum_core.errors import ConfigError
from srum_core.records import Candidate, Layout

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ORIGINAL_PICTURES = 10
"""Pictures of each prompt in the original protocol."""


def srum_path(category: str, question_id: str, think: bool) -> Path:
    return Path(f"{category}_50_{'think' if think else 'no_think'}") / f"{question_id}.png"


def srum_line(candidate: Candidate) -> str:
    """A line of the output.jsonl that must lie in the `_think` folder, also for a run without thinking."""
    name = f"{candidate.prompt.id}.png"
    record = {
        "prompt_id": candidate.prompt.id,
        "image_file": name,
        "original_prompt": candidate.prompt.text,
        "detailed_prompt": candidate.prompt.text,
        "think_output": candidate.thought,
    }
    return json.dumps(record, ensure_ascii=False)


def original_path(category: str, prompt: str, line: int, picture: int) -> Path:
    """Scorers split the name at its first underscore, and count pictures on across prompts."""
    if "/" in prompt or "_" in prompt:
        raise ConfigError(
            f'The original T2I-CompBench scorers cannot read "{prompt}" out of a file name: it holds / or _.'
        )
    return Path(category) / "samples" / f"{prompt}_{ORIGINAL_PICTURES * line + picture:06d}.png"


def for_srum(pictures: Sequence[tuple[int, Candidate]]) -> Layout:
    """The first picture of each prompt. The lists lie in the `_think` folders, also of a run without thinking."""
    first = [candidate for number, candidate in pictures if number == 0]
    think = any(candidate.thought for candidate in first)
    links, lines = {}, dict[Path, str]()
    for candidate in first:
        category = candidate.prompt.tags["category"]
        links[srum_path(category, candidate.prompt.id, think)] = candidate.image
        listed = srum_path(category, "", True).with_name("output.jsonl")
        lines[listed] = lines.get(listed, "") + srum_line(candidate) + "\n"
    return Layout(links, lines, _pictures_in)


def for_original(pictures: Sequence[tuple[int, Candidate]]) -> Layout:
    """Raises ConfigError for more pictures of a prompt than the names have room for."""
    if any(number >= ORIGINAL_PICTURES for number, _ in pictures):
        raise ConfigError(
            f"T2I-CompBench counts {ORIGINAL_PICTURES} pictures of each prompt and has no names for more: set "
            f"evaluate.pictures to {ORIGINAL_PICTURES} at most."
        )
    links = {
        original_path(each.prompt.tags["category"], each.prompt.text, each.prompt.tags["line"], number): each.image
        for number, each in pictures
    }
    # its scorers take whatever lies there for a picture, and read a number out of its name
    return Layout(links, {}, lambda folder: [path.relative_to(folder) for path in folder.glob("*/samples/*")])


def _pictures_in(folder: Path) -> list[Path]:
    """What the SRUM authors' scorer takes for pictures: those in `samples` where there is such a folder, else those
    beside it."""
    own = [each for each in folder.glob("*_50_*") if each.is_dir()]
    where = [each / "samples" if (each / "samples").is_dir() else each for each in own]
    return [path.relative_to(folder) for each in where for path in each.iterdir() if path.suffix.lower() in SUFFIXES]
