"""Folders of images: that of the SRUM authors' scorer, and that of the original scorers. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from srum_core.errors import ConfigError
from srum_core.records import Candidate, Layout

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ORIGINAL_IMAGES = 10
"""Images of each prompt in the original protocol."""


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


def original_path(category: str, prompt: str, line: int, image: int) -> Path:
    """Scorers split the name at its first underscore, and count images on across prompts."""
    if "/" in prompt or "_" in prompt:
        raise ConfigError(
            f'The original T2I-CompBench scorers cannot read "{prompt}" out of a file name: it holds / or _.'
        )
    return Path(category) / "samples" / f"{prompt}_{ORIGINAL_IMAGES * line + image:06d}.png"


def for_srum(images: Sequence[tuple[int, Candidate]]) -> Layout:
    """The first image of each prompt. The lists lie in the `_think` folders, also of a run without thinking."""
    first = [candidate for number, candidate in images if number == 0]
    think = any(candidate.thought for candidate in first)
    links, lines = {}, dict[Path, str]()
    for candidate in first:
        category = candidate.prompt.tags["category"]
        links[srum_path(category, candidate.prompt.id, think)] = candidate.image
        listed = srum_path(category, "", True).with_name("output.jsonl")
        lines[listed] = lines.get(listed, "") + srum_line(candidate) + "\n"
    return Layout(links, lines, _images_in)


def for_original(images: Sequence[tuple[int, Candidate]]) -> Layout:
    """Raises ConfigError for more images of a prompt than the names allow."""
    if any(number >= ORIGINAL_IMAGES for number, _ in images):
        raise ConfigError(
            f"T2I-CompBench counts {ORIGINAL_IMAGES} images of each prompt and has no names for more: set "
            f"evaluate.images to {ORIGINAL_IMAGES} at most."
        )
    links = {
        original_path(each.prompt.tags["category"], each.prompt.text, each.prompt.tags["line"], number): each.image
        for number, each in images
    }
    # its scorers take whatever lies there for an image, and read a number out of its name
    return Layout(links, {}, lambda folder: [path.relative_to(folder) for path in folder.glob("*/samples/*")])


def _images_in(folder: Path) -> list[Path]:
    """The images of the SRUM authors' scorer: those in `samples` where there is such a folder, else those
    next to it."""
    own = [each for each in folder.glob("*_50_*") if each.is_dir()]
    where = [each / "samples" if (each / "samples").is_dir() else each for each in own]
    return [path.relative_to(folder) for each in where for path in each.iterdir() if path.suffix.lower() in SUFFIXES]
