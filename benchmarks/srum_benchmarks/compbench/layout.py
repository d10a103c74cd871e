"""Folders of pictures: that of the SRUM authors' scorer, and that of the original scorers. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from srum_benchmarks import files
from srum_core.errors import ConfigError
from srum_core.records import Candidate, Layout

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ORIGINAL_PICTURES = 10
"""Pictures of each prompt in the original protocol."""


@frozen
class Item:
    """A picture that the SRUM authors' scorer looks at."""

    question_id: int
    prompt: str
    path: Path


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


def items(folder: Path, strict: bool = True) -> list[Item]:
    """What the SRUM authors' scorer finds in a category's folder, by number.

    Raises ConfigError for a name that is no number, which makes the reference give up the category; with `strict` also
    for a picture without a prompt (the reference leaves it out of the mean) and a prompt without a picture."""
    where = folder / "samples" if (folder / "samples").is_dir() else folder
    names = [path.name for path in where.iterdir() if path.suffix.lower() in SUFFIXES]
    odd = sorted(name for name in names if not Path(name).stem.isdecimal())
    if odd:
        raise ConfigError(
            f"{where / odd[0]}: pictures are named by their Question_id, such as 1701.png. Rename or remove it."
        )
    listed = folder.with_name(folder.name.replace("_no_think", "_think")) / "output.jsonl"
    if not listed.is_file():
        raise ConfigError(
            f"{listed} is missing: it says which picture was made for which prompt, also without thinking."
        )
    prompts = {
        entry["image_file"]: entry["original_prompt"]
        for _, entry in files.read_objects(listed)
        if "image_file" in entry and "original_prompt" in entry
    }
    if strict:
        _refuse(where, listed, sorted(set(prompts) - set(names)), sorted(set(names) - set(prompts)))
    known = sorted((name for name in names if name in prompts), key=lambda name: int(Path(name).stem))
    return [Item(int(Path(name).stem), prompts[name], where / name) for name in known]


def _refuse(where: Path, listed: Path, missing: Sequence[str], extra: Sequence[str]) -> None:
    if missing:
        raise ConfigError(f"{where}: {len(missing)} pictures are missing, such as {missing[0]}. Draw them first.")
    if extra:
        raise ConfigError(
            f"{where / extra[0]} is a picture that {listed} knows no prompt of. Remove it, or add its line."
        )


def shares(total: int, workers: int) -> list[tuple[int, int, int]]:
    """(worker, start, end) of the reference's shares of a category; the last end may lie behind the last picture."""
    each = -(-total // workers)
    return [(worker, worker * each, (worker + 1) * each) for worker in range(workers) if worker * each < total]


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
