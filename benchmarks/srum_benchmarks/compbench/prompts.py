"""The prompts of T2I-CompBench, from the SRUM authors' JSON files or from the benchmark's own text files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_benchmarks import files
from srum_benchmarks.files import Expected
from srum_core.errors import ConfigError
from srum_core.records import Prompt, PromptFile

NAME = "compbench"
SRUM = "WayneJin0918/SRUM at a53ba18"
ORIGINAL = "Karine-Huang/T2I-CompBench at 1b70949"


@frozen
class Category:
    """`first` is the id of its first prompt, as the SRUM authors number them; `stem` names the original text files."""

    stem: str
    count: int
    first: int
    suffix: str = ""


TEST: Mapping[str, Category] = {
    "3d_spatial": Category("3d_spatial", 300, 701),
    "color": Category("color", 300, 1701),
    "complex": Category("complex", 300, 3335),
    "complex_action": Category("complex", 212, 3635, "_action"),
    "complex_spatial": Category("complex", 58, 3847, "_spatial"),
    "non-spatial": Category("non_spatial", 300, 4605),
    "numeracy": Category("numeracy", 300, 5605),
    "shape": Category("shape", 300, 6605),
    "spatial": Category("spatial", 300, 7605),
    "texture": Category("texture", 300, 8605),
}
TRAIN: Mapping[str, Category] = {
    "3d_spatial": Category("3d_spatial", 700, 1),
    "color": Category("color", 700, 1001),
    "complex": Category("complex", 700, 2001),
    "complex_action": Category("complex", 504, 2701, "_action"),
    "complex_spatial": Category("complex", 130, 3205, "_spatial"),
    "non-spatial": Category("non_spatial", 700, 3905),
    "numeracy": Category("numeracy", 700, 4905),
    "shape": Category("shape", 700, 5905),
    "spatial": Category("spatial", 700, 6905),
    "texture": Category("texture", 700, 7905),
}
SPLITS = {"test": TEST, "train": TRAIN}
_WORDS = {"test": "val", "train": "train"}
JSON = {
    "test": Expected(("val_comp.json",), 2670, {1998: "093838ce19bdf93d"}, SRUM, "Question"),
    "train": Expected(("train_comp.json",), 6234, {232: "3a2d980323585a25"}, SRUM, "Question"),
}
_SPOTS = {
    "3d_spatial": (68, "d7b0f889ccb5e7bb"),
    "color": (291, "40c77d3a22e35c41"),
    "complex": (32, "01765143a2c48df2"),
    "complex_action": (65, "229b0235af8a8264"),
    "complex_spatial": (7, "db3d71512b9ee9ef"),
    "non-spatial": (230, "8b63582ffc1935d8"),
    "numeracy": (241, "4846ba0e9f1e5a9a"),
    "shape": (194, "1566f7ad638892b2"),
    "spatial": (107, "93ae76140eafa4d4"),
    "texture": (48, "cdadde909b7bdded"),
}


def expected_text(split: str, category: str) -> Expected:
    """A text file of the original release; one spot is known of each of the test files."""
    each = SPLITS[split][category]
    spots = dict([_SPOTS[category]]) if split == "test" else {}
    place = f"examples/dataset/{each.stem}_{_WORDS[split]}{each.suffix}.txt"
    return Expected((place,), each.count, spots, ORIGINAL)


def load(data: str, split: str, verify: bool = True) -> list[Prompt]:
    """Prompts with their ids, `category` and `line` (from 0, within the category). Raises ConfigError.

    `data`: a checkout of either repository, or a folder with its files. The two differ in five colours of the test
    prompts: the SRUM authors have the list from before September 2025."""
    if split not in SPLITS:
        raise ConfigError(f'{NAME} has the splits "test" and "train", not "{split}".')
    found, prompts, problems = _read(data, split)
    if verify:
        files.refuse(NAME, found, problems)
    return prompts


def survey(data: str) -> list[PromptFile]:
    """Existing and missing files of both splits, in the folder's format."""
    found = []
    for split in SPLITS:
        wanted = list(expected_texts(split).values()) if _has_texts(data, split) else [JSON[split]]
        found += files.survey(data, wanted, lambda split=split: _read(data, split)[2])  # type: ignore[misc]
    return found


def expected_texts(split: str) -> dict[str, Expected]:
    return {name: expected_text(split, name) for name in SPLITS[split]}


def _has_texts(data: str, split: str) -> bool:
    root = Path(data).expanduser()
    texts = expected_texts(split).values()
    return bool(data) and files.find(root, JSON[split]) is None and any(files.find(root, each) for each in texts)


def _read(data: str, split: str) -> tuple[list[PromptFile], list[Prompt], list[str]]:
    """The files, their prompts, and what more is wrong with them."""
    if _has_texts(data, split):
        return _from_texts(data, split, expected_texts(split))
    (path,) = files.need(data, NAME, [JSON[split]])
    entries = files.read_json(path, list)
    found = files.check(JSON[split], path, files.texts(path, entries, "Question"))
    prompts = _entries(path, entries)
    return [found], prompts, _miscounted(path, split, prompts)


def _from_texts(
    data: str, split: str, texts: Mapping[str, Expected]
) -> tuple[list[PromptFile], list[Prompt], list[str]]:
    paths = files.need(data, NAME, list(texts.values()))
    found, prompts = [], []
    for (name, expected), path in zip(texts.items(), paths, strict=True):
        lines = [line.strip() for line in files.read_lines(path)]
        found.append(files.check(expected, path, lines))
        first = SPLITS[split][name].first
        prompts += [
            Prompt(str(first + line), text, {"category": name, "line": line}) for line, text in enumerate(lines)
        ]
    return found, prompts, []


def _entries(path: Path, entries: Sequence[Any]) -> list[Prompt]:
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        identity, category = entry.get("Question_id"), entry.get("Category")
        if not isinstance(identity, int) or category not in TEST:
            raise ConfigError(
                f'{path}, entry {number}: a prompt needs a "Question_id" that is a number, and a "Category" out of '
                f"{', '.join(TEST)}."
            )
        line = lines[category] = lines.get(category, -1) + 1
        prompts.append(Prompt(str(identity), entry["Question"], {"category": category, "line": line}))
    return prompts


def _miscounted(path: Path, split: str, prompts: Sequence[Prompt]) -> list[str]:
    problems = []
    for name, category in SPLITS[split].items():
        ids = [int(prompt.id) for prompt in prompts if prompt.tags["category"] == name]
        if len(ids) != category.count:
            problems.append(f"{path} holds {len(ids)} {name} prompts; the release has {category.count}.")
        elif ids != list(range(category.first, category.first + category.count)):
            problems.append(f"{path}: the ids of the {name} prompts do not count up from {category.first} one by one.")
    return problems
