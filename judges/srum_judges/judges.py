"""The judges of a whole image and of its regions, and the verifier of boxes (paper §3.1 and §3.2, in our own words)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attrs import evolve

from srum_core.models import templates
from srum_core.records import Box, Candidate, Question, Region, Score, Unreadable, sides
from srum_judges import rules
from srum_judges.options import (
    AskingOptions,
    LayoutOptions,
    RegionsOptions,
    RuledOptions,
    SampleOptions,
    VerifyOptions,
    ZoomOptions,
)
from srum_judges.parsing import Reading, read_regions, read_verdicts, read_whole


class _Judge(ABC):
    """Options and a template. Raises ConfigError for a template or a file of synonyms that cannot be used."""

    name: ClassVar[str]
    kind: ClassVar[Any]
    """Of its options."""
    placeholders: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options or self.kind()
        self.template = load(self.options.template, self.placeholders)


class WholeImageJudge(_Judge):
    """Asks one question an image; its score has no region."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [ask(candidate, self.template, self.options)]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        (answer,) = answers
        return [self.score(candidate, answer)]

    @abstractmethod
    def score(self, candidate: Candidate, answer: str) -> Score | Unreadable: ...


class GlobalLayout(WholeImageJudge):
    """One score for the arrangement of the whole image (Table 6), limited where the prompt has no spatial directive."""

    name, kind = "global-layout", LayoutOptions

    def score(self, candidate: Candidate, answer: str) -> Score | Unreadable:
        reading = read_whole(answer, self.options.require_reason)
        score = _score(self.name, reading)
        if isinstance(score, Unreadable):
            return score
        score = evolve(score, missing=reading.missing)
        return rules.layout(candidate.prompt.text, score, self.options.neutral_band)


class Sample(WholeImageJudge):
    """One score for the image as a whole, whatever it is about (the release's sample level)."""

    name, kind = "sample", SampleOptions

    def score(self, candidate: Candidate, answer: str) -> Score | Unreadable:
        return _score(self.name, read_whole(answer, self.options.require_reason, label="overall impression"))


class RegionJudge(_Judge):
    """Asks about all regions of an image, listed in a question (none: no question). Every region gets exactly one score
    or `Unreadable`."""

    placeholders: ClassVar[tuple[str, ...]] = ("prompt", "regions")

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.rule = rules.regional(self.options) if isinstance(self.options, RuledOptions) else None

    def question(self, candidate: Candidate, regions: Sequence[Region]) -> Question:
        size = sides(self.options.boxes, candidate)
        lines = "---\n".join(f"Region ID: {each.id}\nBounding Box: {show(each.box, size)}\n" for each in regions)
        return ask(candidate, self.template, self.options, regions=lines)

    @abstractmethod
    def read(self, answer: str, ids: Sequence[str]) -> Mapping[str, Reading]:
        """One reading for every id."""

    def groups(self, regions: Sequence[Region]) -> list[Sequence[Region]]:
        """The regions of each question: at most `per_question`, 0 = all in one; no regions, no question."""
        size = self.options.per_question or max(len(regions), 1)
        return [regions[start : start + size] for start in range(0, len(regions), size)]

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [self.question(candidate, group) for group in self.groups(regions)]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        scores: list[Score | Unreadable] = []
        for index, (group, answer) in enumerate(zip(self.groups(regions), answers, strict=True)):
            for identity, reading in self.read(answer, [region.id for region in group]).items():
                score = _score(self.name, reading, index, identity)
                if self.rule and isinstance(score, Score):
                    score = self.rule(candidate.prompt.text, score)
                scores.append(score)
        return scores


class LocalRegions(RegionJudge):
    """One score for every region, asked about together (Table 7)."""

    name, kind = "local-regions", RegionsOptions

    def read(self, answer: str, ids: Sequence[str]) -> Mapping[str, Reading]:
        return read_regions(answer, ids, self.options.require_reason)


class Zoom(RegionJudge):
    """One score for every region, each shown as a crop: for models that overlook small objects."""

    name, kind = "zoom", ZoomOptions
    placeholders = ("prompt",)

    def groups(self, regions: Sequence[Region]) -> list[Sequence[Region]]:
        return [[region] for region in regions]

    def question(self, candidate: Candidate, regions: Sequence[Region]) -> Question:
        (region,) = regions
        return ask(candidate, self.template, self.options, widened(region.box, self.options.margin))

    def read(self, answer: str, ids: Sequence[str]) -> Mapping[str, Reading]:
        (identity,) = ids
        return {identity: read_whole(answer, self.options.require_reason)}


class VerifyBoxes(RegionJudge):
    """The verifier (paper §3.1): 1.0 for a sensible region with something that matters to the prompt, else -1.0.

    The ground stage asks it before any judge sees the regions, and drops those with a score below 0, with its reason.
    """

    name, kind = "verify-boxes", VerifyOptions

    def read(self, answer: str, ids: Sequence[str]) -> Mapping[str, Reading]:
        readings = read_verdicts(answer, ids).items()
        return {name: evolve(each, reason=each.reason or "The answer gives no reason.") for name, each in readings}


def load(name: str, placeholders: Sequence[str], option: str = "template") -> str:
    """A template of this package or of a file; see `srum_core.models.templates.load`."""
    return templates.load(__package__, name, placeholders, option)


def ask(
    candidate: Candidate, template: str, options: AskingOptions, crop: Box | None = None, **values: str
) -> Question:
    """A question about an image or a part of it; {prompt} is filled in automatically."""
    text = templates.fill(template, {"prompt": candidate.prompt.text, **values})
    return Question(candidate.image, text, crop, options.max_new_tokens, options.think)


def _score(judge: str, reading: Reading, index: int = 0, region: str | None = None) -> Score | Unreadable:
    if reading.value is None:
        return Unreadable(index, reading.why, region, judge)
    return Score(reading.value, region, reading.reason, judge, reading.label)


def show(box: Box, sides: tuple[float, float]) -> str:
    """A box as "[x0, y0, x1, y1]" in an image of these sides; rounded outwards, so that no box becomes empty."""
    width, height = sides
    if sides == (1.0, 1.0):
        return "[" + ", ".join(f"{value:.3f}" for value in box) + "]"
    x0, y0, x1, y1 = box
    slack = 1e-6  # 21 / 30 * 30 may be a hair above 21
    low = [math.floor(x0 * width + slack), math.floor(y0 * height + slack)]
    high = [math.ceil(x1 * width - slack), math.ceil(y1 * height - slack)]
    return "[" + ", ".join(str(value) for value in low + high) + "]"


def widened(box: Box, margin: float) -> Box:
    """The box with `margin` times its own width and height more on each side, as far as the image goes."""
    x0, y0, x1, y1 = box
    wide, high = margin * (x1 - x0), margin * (y1 - y0)
    return max(0.0, x0 - wide), max(0.0, y0 - high), min(1.0, x1 + wide), min(1.0, y1 + high)
