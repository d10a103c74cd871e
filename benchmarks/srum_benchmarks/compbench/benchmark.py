"""The benchmark `compbench`: T2I-CompBench as the SRUM authors judge it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from srum_benchmarks import published, summary, templates
from srum_benchmarks.compbench import prompts
from srum_benchmarks.options import CompBenchOptions
from srum_benchmarks.summary import Part, Scored
from srum_core.errors import ConfigError
from srum_core.records import Candidate, Layout, Prompt, PromptFile, Question, Row

BASE = ("color", "shape", "texture", "spatial", "non-spatial", "numeracy", "3d_spatial")
"""The columns of the paper's Table 1 that are one category each."""
COMPLEX = ("complex", "complex_action", "complex_spatial")
"""The three folders that the released code averages into the eighth column."""
RANGE = (0.0, 100.0)
"""Of a grade."""
_DIGITS = 1000
"""Longer numbers are no grades; Python reads up to 4300 digits."""
FAILED = -1
"""The reference's value of an unreadable answer: it stays in the mean."""
KNOWN_MESSAGES = {"two boys": "81b447ad0adb0396d3fb8f7d1c1be8e47ac11a4ac06c84cee0aafed02c40b635"}
"""A prompt and the SHA-256 of the reference's message about it: a template that gives it is the published rubric."""
_SCORE = re.compile(r'"score":\s*\d+')
_LOOSE = re.compile(r'"score":\s*"?(\d+)"?')


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ORIGINAL_IMAGES = 10
"""Images of each prompt in the original protocol."""


class CompBench:
    """Grades from 0 to 100. `complex` (the 300 prompts) and the mean of the released code's three complex folders (it
    counts 270 prompts twice) both have their overall.

    Raises ConfigError for a folder without the prompts, and for a template that cannot be used.
    """

    layouts: ClassVar[Mapping[str, str]] = {
        "compbench-srum": "CompBench_eval/qwen_eval.py of the SRUM authors: the first image of each prompt",
        "compbench-orig": "T2I-CompBench's own scorers (BLIP, UniDet, CLIP, 3-in-1)",
    }

    def __init__(self, options: CompBenchOptions | None = None) -> None:
        self.options = options or CompBenchOptions()
        self.template = templates.load(self.options.template, ["prompt"])

    def prompts(self, split: str) -> Sequence[Prompt]:
        return prompts.load(self.options.data, split, self.options.verify)

    def survey(self) -> Sequence[PromptFile]:
        return prompts.survey(self.options.data)

    published = staticmethod(partial(published.read, "compbench"))

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        text = templates.fill(self.template, {"prompt": candidate.prompt.text})
        return [Question(candidate.image, text, max_new_tokens=self.options.max_new_tokens)]

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        value, why = read(answers[0])
        return {0: why} if value is None else {}

    def item(self, prompt: Prompt) -> tuple[str, str]:
        return prompt.tags["category"], prompt.id

    def reference_seed(self, prompt: Prompt, image: int) -> int:
        """T2I-CompBench's own, 42 for the first image of every prompt; the SRUM authors seed once per process."""
        return 42 + image

    def layout(self, target: str, images: Sequence[tuple[int, Candidate]]) -> Layout:
        return for_srum(images) if target == "compbench-srum" else for_original(images)

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        """`reference` is the value in the released code; without `score` the answer could not be read."""
        (answer,) = answers
        value, _ = read(answer)
        reference = float(reference_score(answer))
        return {"reference": reference} if value is None else {"reference": reference, "score": float(value)}

    def table(self, scored: Scored) -> Sequence[Row]:
        readable = summary.coverage(summary.cells(scored, "score"))
        label = templates.label(self.template, KNOWN_MESSAGES, self.options.template)
        expected = sum(each.count for each in prompts.TEST.values())
        note = summary.note(self.options, readable, scored, expected, label)
        policy = self.options.policy
        measure = "reference" if policy == "reference" else "score"
        rows = _rows(summary.by_group(scored, measure, "category", prompts.TEST, policy), note)
        return [*rows, Row("readable", readable, len(scored), note=note)]


def _rows(groups: Mapping[str, Part], note: str) -> list[Row]:
    rows = [summary.row(name, [(1.0, part)], note, RANGE) for name, part in groups.items()]
    parts = [groups[name] for name in COMPLEX if name in groups]
    if len(parts) > 1:
        rows.append(summary.row("complex (composite)", summary.equal(parts), note, RANGE))
    plain = [part for name, part in groups.items() if name not in COMPLEX[1:]]
    if plain:
        rows.append(summary.row("overall (plain complex)", summary.equal(plain), note, RANGE))
    if groups:
        weights = columns(list(groups))
        weighted = [(weights[name], part) for name, part in groups.items()]
        rows.append(summary.row("overall", weighted, note, RANGE))
    return rows


# ---- layouts ---------------------------------------------------------------------------------------------------------


def for_srum(images: Sequence[tuple[int, Candidate]]) -> Layout:
    """The first image of each prompt. The lists lie in the `_think` folders, also of a run without thinking."""
    first = [candidate for number, candidate in images if number == 0]
    end = "think" if any(candidate.thought for candidate in first) else "no_think"
    links, lines = {}, dict[Path, str]()
    for candidate in first:
        prompt, name = candidate.prompt, f"{candidate.prompt.id}.png"
        links[Path(f"{prompt.tags['category']}_50_{end}") / name] = candidate.image
        record = {
            "prompt_id": prompt.id,
            "image_file": name,
            "original_prompt": prompt.text,
            "detailed_prompt": prompt.text,
            "think_output": candidate.thought,
        }
        listed = Path(f"{prompt.tags['category']}_50_think") / "output.jsonl"
        lines[listed] = lines.get(listed, "") + json.dumps(record, ensure_ascii=False) + "\n"
    return Layout(links, lines, _images_in)


def for_original(images: Sequence[tuple[int, Candidate]]) -> Layout:
    """Raises ConfigError for more images of a prompt than the names allow."""
    if any(number >= ORIGINAL_IMAGES for number, _ in images):
        raise ConfigError(
            f"T2I-CompBench counts {ORIGINAL_IMAGES} images of each prompt and has no names for more: set "
            f"evaluate.images to {ORIGINAL_IMAGES} at most."
        )
    links = {original_path(each.prompt, number): each.image for number, each in images}
    # its scorers take whatever lies there for an image, and read a number out of its name
    return Layout(links, {}, lambda folder: [path.relative_to(folder) for path in folder.glob("*/samples/*")])


def original_path(prompt: Prompt, image: int) -> Path:
    """Scorers split the name at its first underscore, and count images on across prompts."""
    if "/" in prompt.text or "_" in prompt.text:
        raise ConfigError(
            f'The original T2I-CompBench scorers cannot read "{prompt.text}" out of a file name: it holds / or _.'
        )
    number = ORIGINAL_IMAGES * prompt.tags["line"] + image
    return Path(prompt.tags["category"]) / "samples" / f"{prompt.text}_{number:06d}.png"


def _images_in(folder: Path) -> list[Path]:
    """The images of the SRUM authors' scorer: those in `samples` where there is such a folder, else those
    next to it."""
    own = [each for each in folder.glob("*_50_*") if each.is_dir()]
    where = [each / "samples" if (each / "samples").is_dir() else each for each in own]
    return [path.relative_to(folder) for each in where for path in each.iterdir() if path.suffix.lower() in SUFFIXES]


# ---- answers: the authors' parser and means, kept exactly; values outside 0 to 100 are left out ----------------------


def reference_score(text: str) -> int:
    """The grade that the reference reads, -1 for none. Grades above 100 pass, decimals are cut off."""
    cleaned = text.strip().replace("```json", "").replace("```", "").strip()
    try:
        value = json.loads(_object(cleaned)).get("score")
        if isinstance(value, int):
            return value
    except (ValueError, RecursionError, AttributeError):
        pass  # text that is not JSON is searched instead
    match = _LOOSE.search(text)
    return int(match[1]) if match and len(match[1]) < _DIGITS else FAILED


def _object(text: str) -> str:
    """The reference's JSON object: from the first brace to the first one that closes after the last
    score that has one. Written without its regular expression, which backtracks."""
    last, first = text.rfind("}"), text.find("{")
    ends = [
        match.end() for match in _SCORE.finditer(text) if first != -1 and first < match.start() and match.end() <= last
    ]
    return text[first : text.index("}", ends[-1]) + 1] if ends else ""


def read(text: str) -> tuple[int | None, str]:
    """The grade, or None and why there is none."""
    score = reference_score(text)
    if score == FAILED:
        return None, 'The answer holds no "score": followed by a whole number.'
    if not RANGE[0] <= score <= RANGE[1]:
        return None, f"The score {score} is not between 0 and 100."
    return score, ""


def columns(categories: Sequence[str]) -> dict[str, float]:
    """The weight of each category's mean in the overall, for the categories that are there (all of the reference's
    weights where the complex column is)."""
    parts = [name for name in COMPLEX if name in categories]
    base = [name for name in categories if name not in COMPLEX]
    share = 1 / (len(base) + bool(parts)) if categories else 0.0
    return {**dict.fromkeys(base, share), **dict.fromkeys(parts, share / max(len(parts), 1))}
