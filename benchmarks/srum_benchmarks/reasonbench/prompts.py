"""The prompts of T2I-ReasonBench and the questions that belong to them.

Prompts are read from `prompts/`, never from `deepseek_evaluation_qs/`: there, some scientific prompts hold the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from srum_benchmarks import files
from srum_benchmarks.files import Expected
from srum_core.errors import ConfigError
from srum_core.records import Candidate, Layout, Prompt, PromptFile

NAME = "reasonbench"
SOURCE = "KaiyueSun98/T2I-ReasonBench at efc1d20"


@frozen
class Dimension:
    """`groups`: the groups of questions in order of asking; `weights`: what of them is the reasoning accuracy."""

    prompts: Expected
    criteria: Expected
    groups: tuple[str, ...]
    weights: Mapping[str, float] = field(hash=False)


def _dimension(stem: str, short: str, spot: tuple[int, str], main: str, details: bool) -> Dimension:
    prompts = Expected((f"prompts/{stem}.json",), 200, dict([spot]), SOURCE, "prompt")
    criteria = Expected((f"deepseek_evaluation_qs/evaluation_{short}.json",), 200, {}, SOURCE, "prompt")
    groups = (main, "other_details_evaluation") if details else (main,)
    weights = {main: 0.7, "other_details_evaluation": 0.3} if details else {main: 1.0}
    return Dimension(prompts, criteria, (*groups, QUALITY), weights)


QUALITY = "quality_evaluation"
DIMENSIONS: Mapping[str, Dimension] = {
    "entity": _dimension("entity_reasoning", "entity", (184, "e0a2d6f5092170da"), "entity_evaluation", True),
    "idiom": _dimension("idiom_interpretation", "idiom", (58, "6479577a1981630c"), "reason_evaluation", False),
    "scientific": _dimension(
        "scientific_reasoning", "scientific", (151, "abff27e63a876a73"), "scientific_evaluation", True
    ),
    "textual_image": _dimension(
        "textual_image_design", "textual_image", (26, "64303fa2ea6e393c"), "reason_evaluation", False
    ),
}
_FILES = [each for dimension in DIMENSIONS.values() for each in (dimension.prompts, dimension.criteria)]


def load(data: str, verify: bool = True) -> list[Prompt]:
    """Prompts with ids such as "idiom-0001"; tags `dimension`, `number`, and `criteria`: group → pairs of question and
    criterion. Raises ConfigError."""
    return files.prompts(NAME, _read(data), verify)


def survey(data: str) -> list[PromptFile]:
    """Existing and missing files of prompts and questions."""
    return files.survey(data, _FILES, lambda: _read(data))


def _read(data: str) -> files.Contents:
    paths = dict(zip(_FILES, files.need(data, NAME, _FILES), strict=True))
    states, prompts, problems = [], [], []
    for name, dimension in DIMENSIONS.items():
        path, criteria_path = paths[dimension.prompts], paths[dimension.criteria]
        entries, state = files.read_entries(dimension.prompts, path)
        criteria, other = files.read_entries(dimension.criteria, criteria_path)
        states += [state, other]
        by_id = {_number(criteria_path, place, entry): entry for place, entry in enumerate(criteria, 1)}
        numbers = [_number(path, place, entry) for place, entry in enumerate(entries, 1)]
        if numbers != list(range(1, len(numbers) + 1)):
            problems.append(f"{path}: the ids do not count up one by one from 1.")
        for number, entry in zip(numbers, entries, strict=True):
            if number not in by_id:
                raise ConfigError(f"{criteria_path} has no questions about id {number} of {path}.")
            groups = {
                group: _pairs(criteria_path, number, by_id[number].get(group), group) for group in dimension.groups
            }
            tags = {"dimension": name, "number": number, "criteria": groups}
            prompts.append(Prompt(f"{name}-{number:04d}", entry["prompt"], tags))
    return states, prompts, problems


def _number(path: Path, place: int, entry: Mapping[str, Any]) -> int:
    try:
        return int(entry["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'{path}, entry {place}: there is no number "id" in it.') from error


def _pairs(path: Path, number: int, pairs: Any, group: str) -> list[list[str]]:
    """[question, criterion] by order: some entries name them otherwise than q1, c1, q2, …"""
    words = list(pairs.values()) if isinstance(pairs, dict) else []
    if not words or len(words) % 2:
        raise ConfigError(f'{path}, id {number}: "{group}" should hold questions and criteria in turns.')
    return [[str(question), str(criterion)] for question, criterion in zip(words[::2], words[1::2], strict=True)]


def layout(candidates: Sequence[Candidate]) -> Layout:
    """Images where the original scorers expect them: the first four characters of a name are the id."""
    links = {
        Path(each.prompt.tags["dimension"]) / f"{each.prompt.tags['number']:04d}.png": each.image for each in candidates
    }
    return Layout(links, {}, _images_in)


def _images_in(folder: Path) -> list[Path]:
    """The images that the original scorers read."""
    paths = [path for name in DIMENSIONS for path in (folder / name).glob("*") if path.suffix in (".png", ".jpg")]
    return [path.relative_to(folder) for path in paths]
