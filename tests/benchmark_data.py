"""Folders with made-up prompts in the formats and numbers of the published benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from srum_benchmarks import files
from srum_benchmarks.compbench import prompts as compbench
from srum_benchmarks.geneval import prompts as geneval
from srum_benchmarks.reasonbench import prompts as reasonbench
from srum_benchmarks.wise.prompts import GROUPS, Version
from srum_core.records import Candidate, Prompt, PromptFile


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def compbench_entries(split: str = "test") -> list[dict[str, Any]]:
    return [
        {"Question": f"{name} prompt {number}", "Category": name, "Question_id": category.first + number}
        for name, category in compbench.SPLITS[split].items()
        for number in range(category.count)
    ]


def compbench_folder(folder: Path) -> Path:
    write(folder / "val_comp.json", compbench_entries())
    return folder


def compbench_texts(folder: Path) -> Path:
    for name, category in compbench.TEST.items():
        path = folder / compbench.TEST[name].text.places[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} prompt {number}\n" for number in range(category.count)), encoding="utf-8")
    return folder


def geneval_lines() -> list[dict[str, Any]]:
    clause = {"class": "dog", "count": 1}
    return [
        {"tag": tag, "include": [clause], "prompt": f"a photo of {tag} {number}"}
        for tag, count in geneval.TAGS.items()
        for number in range(count)
    ]


def geneval_folder(folder: Path) -> Path:
    path = folder / "prompts" / "evaluation_metadata.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in geneval_lines()), encoding="utf-8")
    return folder


def wise_folder(folder: Path, version: Version) -> Path:
    for group, expected in version.files.items():
        first, last = version.ranges[GROUPS[group][0]][0], version.ranges[GROUPS[group][-1]][1]
        entries = [
            {"Prompt": f"prompt {identity}", "Explanation": f"meaning {identity}", "prompt_id": identity}
            for identity in range(first, last + 1)
        ]
        write(folder / expected.places[0], entries)
    return folder


def reasonbench_folder(folder: Path) -> Path:
    for name, dimension in reasonbench.DIMENSIONS.items():
        numbers = range(1, dimension.prompts.count + 1)
        entries = [{"id": number, "prompt": f"{name} prompt {number}", "tag": "t"} for number in numbers]
        write(folder / dimension.prompts.places[0], entries)
        questions = {
            group: {"q1": "Is it?", "c1": "1 if so", "q2": "Does it?", "c2": "0 if not"} for group in dimension.groups
        }
        write(folder / dimension.criteria.places[0], [{**entry, **questions} for entry in entries])
    return folder


def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the one prompt of each file that is known by its hash for granted: made-up prompts have others."""
    check = files.check

    def lenient(expected: files.Expected, path: Path, prompts: Any) -> PromptFile:
        return check(attrs.evolve(expected, spots={}), path, prompts)

    monkeypatch.setattr(files, "check", lenient)


def generated(prompt: Prompt, number: int = 0, image: Path = Path("none.png")) -> Candidate:
    return Candidate(f"{prompt.id}-{number}", prompt, image, (64, 64), number)
