"""The benchmarks `wise` and `wise-verified`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from srum_benchmarks import summary, templates
from srum_benchmarks.options import WiseOptions, WiseVerifiedOptions
from srum_benchmarks.summary import Part, Scored
from srum_benchmarks.wise import prompts
from srum_benchmarks.wise.prompts import GROUPS, LEGACY, VERIFIED
from srum_core.records import Candidate, Layout, Prompt, PromptFile, Question, Row

NAMES = ("consistency", "realism", "aesthetic_quality")
WEIGHTS = {"consistency": 0.7, "realism": 0.2, "aesthetic_quality": 0.1}
_LEGACY = re.compile(r"\*{0,2}(Consistency|Realism|Aesthetic Quality)\*{0,2}\s*+(?::\s*+)?(\d)", re.IGNORECASE)
_BARE = re.compile(r"[ \t]*([012])[ \t]*")
_BINARY = re.compile(r"\*{0,2}Score\*{0,2}\s*+(?::\s*+)?([01])\b", re.IGNORECASE)

Grades = dict[str, float]


class _Wise:
    """What both versions have in common."""

    layouts: ClassVar[Mapping[str, str]] = {"wise": "WISE's scorers, legacy and verified, and copies of them"}
    version = LEGACY

    def __init__(self, options: WiseOptions | None = None) -> None:
        self.options = options or (WiseOptions() if self.version is LEGACY else WiseVerifiedOptions())
        self.template = templates.load(self.options.template, ["prompt", "explanation"])

    def prompts(self, split: str) -> Sequence[Prompt]:
        return prompts.load(self.version, self.options.data, split, self.options.verify)

    def survey(self) -> Sequence[PromptFile]:
        return prompts.survey(self.version, self.options.data)

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        prompt = candidate.prompt
        text = templates.fill(self.template, {"prompt": prompt.text, "explanation": prompt.tags["explanation"]})
        return [Question(candidate.image, text, max_new_tokens=self.options.max_new_tokens)]

    def item(self, prompt: Prompt) -> tuple[str, str]:
        return prompt.tags["category"], prompt.id

    def layout(self, target: str, images: Sequence[tuple[int, Candidate]]) -> Layout:
        """The first image of each prompt: the scorers know no others."""
        links = {Path(f"{each.prompt.id}.png"): each.image for number, each in images if number == 0}
        return Layout(links, {}, lambda folder: [path.relative_to(folder) for path in folder.glob("*.png")])

    def table(self, scored: Scored) -> Sequence[Row]:
        """Categories, groups and the overall; with `trained`, the other two groups and their images' mean only."""
        kept = [(each, values) for each, values in scored if each.prompt.tags["group"] != self.options.trained]
        measure = "reference" if self.options.policy == "reference" else "wiscore"
        readable = summary.coverage(summary.cells(kept, measure))
        trained = self.options.trained
        more = f"trained on {trained}, which is left out" if trained else ""
        expected = sum(file.count for group, file in self.version.files.items() if group != trained)
        label = templates.label(self.template, {}, self.options.template)
        note = summary.note(self.options, readable, kept, expected, more, label)
        parts = summary.by_group(kept, measure, "category", self.version.ranges, self.options.policy)
        rows = [summary.row(name, [(1.0, part)], note) for name, part in parts.items()]
        for group, names in GROUPS.items():
            if own := [parts[name] for name in names if name in parts]:
                rows.append(summary.row(group, _pooled(own), note))
        rows += self._overall(parts, readable, note)
        return [*rows, Row("readable", readable, len(kept), note=note)] if kept else rows

    def _overall(self, parts: Mapping[str, Part], readable: float, note: str) -> list[Row]:
        if self.options.trained and parts:
            return [summary.row("other groups", _pooled(list(parts.values())), note)]
        if len(parts) < len(self.version.ranges) or (self.options.policy == "reference" and readable < 1):
            return []  # as the original: no overall with anything missing
        weighted = [(self.version.weights[name], part) for name, part in parts.items()]
        rows = [summary.row("overall", weighted, note)]
        if self.version is LEGACY:  # BAGEL's and SRUM's scripts take the plain mean of the six
            rows.append(summary.row("overall (plain mean of categories)", summary.equal(parts.values()), note))
        return rows


class Wise(_Wise):
    """Three grades an image, and the WiScore in [0, 1]: 0.7 consistency + 0.2 realism + 0.1 aesthetics, halved.

    Raises ConfigError for a folder without the prompts, and for a template that cannot be used.
    """

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        _, why = read_legacy(answers[0])
        return {0: why} if why else {}

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        """`reference`: the value in the original; without `wiscore` the answer could not be read."""
        (answer,) = answers
        original = legacy(answer)
        grades, _ = read_legacy(answer)
        measures = {"readable": float(grades is not None)}
        if all(name in original for name in NAMES):
            measures["reference"] = wiscore(original)
        return {**measures, **grades, "wiscore": wiscore(grades)} if grades else measures


class WiseVerified(_Wise):
    """One grade an image, 0 or 1. Its rows are named as those of `wise` and mean something else: never mix them.

    Raises ConfigError for a folder without the prompts, and for a template that cannot be used.
    """

    version = VERIFIED

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        return {} if binary(answers[0]) else {0: "The answer holds no grade, 0 or 1."}

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        (answer,) = answers
        grades = binary(answer)
        if not grades:
            return {"readable": 0.0}
        return {"readable": 1.0, "wiscore": grades["score"], "reference": grades["score"]}


def _pooled(parts: Sequence[Part]) -> list[tuple[float, Part]]:
    """The mean over all images of several categories."""
    sums = tuple(each for part in parts for each in part.sums)
    return [(1.0, Part(sums, tuple(each for part in parts for each in part.counts)))]


# ---- answers: read as the published scorers do; digits that are no grades pass there, not here -----------------------


def legacy(text: str) -> Grades:
    """The grades that the original reads; the last one of a name counts. Without any name, three bare lines do."""
    grades = named(_LEGACY, text)
    bare = [match[1] for line in text.strip().split("\n") if (match := _BARE.fullmatch(line))]
    return grades if grades or len(bare) < 3 else dict(zip(NAMES, map(float, bare), strict=False))


def binary(text: str) -> Grades:
    """The grade of the verified version, if the answer has one: the first that is named, or else the only bare line."""
    text = text.rpartition("</think>")[2]
    if match := _BINARY.search(text):
        return {"score": float(match[1])}
    bare = [line.strip() for line in text.split("\n") if line.strip() in ("0", "1")]
    return {"score": float(bare[0])} if len(bare) == 1 else {}


def named(pattern: re.Pattern[str], text: str) -> Grades:
    return {name.lower().replace(" ", "_"): float(digit) for name, digit in pattern.findall(text)}


def read_legacy(text: str) -> tuple[Grades | None, str]:
    """All three grades, or None and why not."""
    grades = legacy(text)
    missing = [name for name in NAMES if name not in grades]
    if missing:
        return None, f"The answer holds no grade for {', '.join(missing)}."
    odd = [f"{name} {value:.0f}" for name, value in grades.items() if value > 2]
    return (None, f"Grades go from 0 to 2, not {', '.join(odd)}.") if odd else (grades, "")


def wiscore(grades: Mapping[str, float]) -> float:
    """In [0, 1] for grades from 0 to 2."""
    return sum(weight * grades[name] for name, weight in WEIGHTS.items()) / 2
