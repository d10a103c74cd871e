"""GenEval's prompts: JSON lines that list what has to be in the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srum_benchmarks import files
from srum_benchmarks.files import Expected
from srum_core.errors import ConfigError
from srum_core.records import Prompt, PromptFile

NAME = "geneval"
TAGS: Mapping[str, int] = {
    "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100,
}  # fmt: skip
"""Prompts of each task, in the benchmark's order."""
FILES = {
    "short": Expected(
        ("prompts/evaluation_metadata.jsonl", "geneval/prompts/evaluation_metadata.jsonl"),
        553,
        {399: "a90b264d42c4e18c"},
        "djghosh13/geneval at af4902f",
        "prompt",
    ),
    "long": Expected(
        ("eval/gen/geneval/prompts/evaluation_metadata_long.jsonl", "prompts/evaluation_metadata_long.jsonl"),
        553,
        {443: "b7688d646e673afa"},
        "WayneJin0918/SRUM at a53ba18",
        "prompt",
    ),
}


def load(data: str, which: str = "short", verify: bool = True) -> list[Prompt]:
    """Prompts with ids "00000", "00001", … (their lines); tags `tag` and `metadata`, the line as it is."""
    return files.prompts(NAME, _read(data, which), verify)


def survey(data: str, which: str = "short") -> list[PromptFile]:
    """The state: whichever of the two files exists, or the required one as missing."""
    names = [name for name, each in FILES.items() if files.find(Path(data).expanduser(), each)] or [which]
    return [
        state
        for name in names
        for state in files.survey(data, [FILES[name]], lambda name=name: _read(data, name))  # type: ignore[misc]
    ]


def _read(data: str, which: str) -> files.Contents:
    (path,) = files.need(data, NAME, [FILES[which]])
    lines = list(files.read_objects(path))
    prompts = [_prompt(path, index, number, entry) for index, (number, entry) in enumerate(lines)]
    counts = Counter(prompt.tags["tag"] for prompt in prompts)
    problems = [
        f"{path} holds {counts[tag]} prompts of the task {tag}; the release has {count}."
        for tag, count in TAGS.items()
        if counts[tag] != count
    ]
    return [files.check(FILES[which], path, [prompt.text for prompt in prompts])], prompts, problems


def _prompt(path: Path, index: int, number: int, entry: Mapping[str, Any]) -> Prompt:
    text, tag = entry.get("prompt"), entry.get("tag")
    if not isinstance(text, str) or tag not in TAGS or not isinstance(entry.get("include"), list):
        raise ConfigError(
            f'{path}, line {number}: a GenEval prompt has a "prompt", a list "include", and a "tag" out of '
            f"{', '.join(TAGS)}."
        )
    return Prompt(f"{index:05d}", text, {"tag": tag, "metadata": dict(entry)})
