"""The local judge: one score for every region (paper §3.2, Table 7, in our own words)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srum_core.boxes import sides
from srum_core.records import Box, Candidate, Question, Region, Score, Unreadable
from srum_judges import templates
from srum_judges.options import RegionsOptions
from srum_judges.parsing import read_regions


class LocalRegions:
    """Asks about all regions of a picture (none: no question). Every region gets exactly one score or `Unreadable`.

    Raises ConfigError for a template that cannot be used.
    """

    name = "local-regions"

    def __init__(self, options: RegionsOptions | None = None) -> None:
        self.options = options or RegionsOptions()
        self.template = templates.load(self.options.template, ["prompt", "regions"])

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [self._question(candidate, some) for some in self._groups(regions)]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        found: list[Score | Unreadable] = []
        for index, (some, answer) in enumerate(zip(self._groups(regions), answers, strict=True)):
            readings = read_regions(answer, [region.id for region in some], self.options.require_reason)
            for identity, reading in readings.items():
                if reading.value is None:
                    found.append(Unreadable(index, reading.why, identity, self.name))
                else:
                    found.append(Score(reading.value, identity, reading.reason, self.name, reading.label))
        return found

    def _groups(self, regions: Sequence[Region]) -> list[Sequence[Region]]:
        size = self.options.per_question or max(len(regions), 1)
        return [regions[start : start + size] for start in range(0, len(regions), size)]

    def _question(self, candidate: Candidate, regions: Sequence[Region]) -> Question:
        listing = "---\n".join(
            f"Region ID: {region.id}\nBounding Box: {show(region.box, sides(self.options.boxes, candidate))}\n"
            for region in regions
        )
        text = templates.fill(self.template, {"prompt": candidate.prompt.text, "regions": listing})
        options = self.options
        return Question(candidate.image, text, max_new_tokens=options.max_new_tokens, think=options.think)


def show(box: Box, sides: tuple[float, float]) -> str:
    """A box as "[x0, y0, x1, y1]" in a picture of these sides; rounded outwards, so that no box becomes empty."""
    width, height = sides
    if sides == (1.0, 1.0):
        return "[" + ", ".join(f"{value:.3f}" for value in box) + "]"
    x0, y0, x1, y1 = box
    slack = 1e-6  # 21 / 30 * 30 may be a hair above 21
    low = [math.floor(x0 * width + slack), math.floor(y0 * height + slack)]
    high = [math.ceil(x1 * width - slack), math.ceil(y1 * height - slack)]
    return "[" + ", ".join(str(value) for value in low + high) + "]"
