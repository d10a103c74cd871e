"""The prompts of T2I-CompBench, from the SRUM authors' JSON files or from the benchmark's own text files."""

from __future__ import annotations

from collections import Counter
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
    """`first` is the id of its first prompt, as the SRUM authors number them."""

    count: int
    first: int
    text: Expected
    """The original text file. One spot is known of each of the test files."""


_CATEGORIES = (  # name, stem and end of the text files, (count, first id) of train and of test, spot of test
    ("3d_spatial", "3d_spatial", "", (700, 1), (300, 701), (68, "d7b0f889ccb5e7bb")),
    ("color", "color", "", (700, 1001), (300, 1701), (291, "40c77d3a22e35c41")),
    ("complex", "complex", "", (700, 2001), (300, 3335), (32, "01765143a2c48df2")),
    ("complex_action", "complex", "_action", (504, 2701), (212, 3635), (65, "229b0235af8a8264")),
    ("complex_spatial", "complex", "_spatial", (130, 3205), (58, 3847), (7, "db3d71512b9ee9ef")),
    ("non-spatial", "non_spatial", "", (700, 3905), (300, 4605), (230, "8b63582ffc1935d8")),
    ("numeracy", "numeracy", "", (700, 4905), (300, 5605), (241, "4846ba0e9f1e5a9a")),
    ("shape", "shape", "", (700, 5905), (300, 6605), (194, "1566f7ad638892b2")),
    ("spatial", "spatial", "", (700, 6905), (300, 7605), (107, "93ae76140eafa4d4")),
    ("texture", "texture", "", (700, 7905), (300, 8605), (48, "cdadde909b7bdded")),
)


def _category(place: str, count: int, first: int, spots: Mapping[int, str]) -> Category:
    return Category(count, first, Expected((f"examples/dataset/{place}.txt",), count, spots, ORIGINAL))


TEST = {name: _category(f"{stem}_val{end}", *test, dict([spot])) for name, stem, end, _, test, spot in _CATEGORIES}
TRAIN = {name: _category(f"{stem}_train{end}", *train, {}) for name, stem, end, train, _, _ in _CATEGORIES}
SPLITS = {"test": TEST, "train": TRAIN}
JSON = {
    "test": Expected(("val_comp.json",), 2670, {1998: "093838ce19bdf93d"}, SRUM, "Question"),
    "train": Expected(("train_comp.json",), 6234, {232: "3a2d980323585a25"}, SRUM, "Question"),
}


def load(data: str, split: str, verify: bool = True) -> list[Prompt]:
    """Prompts with their ids, `category` and `line` (from 0, within the category). Raises ConfigError.

    `data`: a checkout of either repository, or a folder with its files. The two differ in five colours of the test
    prompts: the SRUM authors have the list from before September 2025."""
    if split not in SPLITS:
        raise ConfigError(f'{NAME} has the splits "test" and "train", not "{split}".')
    return files.prompts(NAME, _read(data, split), verify)


def survey(data: str) -> list[PromptFile]:
    """Existing and missing files of both splits, in the folder's format."""
    states = []
    for split in SPLITS:
        states += files.survey(data, _files(data, split), lambda split=split: _read(data, split))  # type: ignore[misc]
    return states


def _files(data: str, split: str) -> list[Expected]:
    """The file of the SRUM authors, or the texts of the original where only those are there."""
    root, texts = Path(data).expanduser(), [each.text for each in SPLITS[split].values()]
    original = data and not files.find(root, JSON[split]) and any(files.find(root, each) for each in texts)
    return texts if original else [JSON[split]]


def _read(data: str, split: str) -> files.Contents:
    expected = _files(data, split)
    paths = files.need(data, NAME, expected)
    if len(paths) > 1:
        return _from_texts(split, paths)
    entries, state = files.read_entries(expected[0], paths[0])
    prompts = _entries(paths[0], entries)
    return [state], prompts, _miscounted(paths[0], split, prompts)


def _from_texts(split: str, paths: Sequence[Path]) -> files.Contents:
    states, prompts = [], []
    for (name, category), path in zip(SPLITS[split].items(), paths, strict=True):
        lines = files.read_lines(path)
        states.append(files.check(category.text, path, lines))
        prompts += [
            Prompt(str(category.first + line), text, {"category": name, "line": line})
            for line, text in enumerate(lines)
        ]
    return states, prompts, []


def _entries(path: Path, entries: Sequence[Mapping[str, Any]]) -> list[Prompt]:
    prompts: list[Prompt] = []
    lines = Counter[str]()
    for number, entry in enumerate(entries, 1):
        identity, category = entry.get("Question_id"), entry.get("Category")
        if not isinstance(identity, int) or category not in TEST:
            raise ConfigError(
                f'{path}, entry {number}: a prompt needs a "Question_id" that is a number, and a "Category" out of '
                f"{', '.join(TEST)}."
            )
        prompts.append(Prompt(str(identity), entry["Question"], {"category": category, "line": lines[category]}))
        lines[category] += 1
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
