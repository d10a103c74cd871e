"""The zoom judge: a question for every region, each shown by itself, for models that lose sight of small things."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Box, Candidate, Question, Region, Score, Unreadable
from srum_judges import rules, templates
from srum_judges.options import ZoomOptions
from srum_judges.parsing import read_whole


class Zoom:
    """Asks one question a region. Raises ConfigError for a template or a file of synonyms that cannot be used."""

    name = "zoom"

    def __init__(self, options: ZoomOptions | None = None) -> None:
        self.options = options or ZoomOptions()
        self.template = templates.load(self.options.template, ["prompt"])
        self.rules = rules.regional(self.options)

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        crops = [widened(region.box, self.options.margin) for region in regions]
        return [templates.question(candidate, self.template, self.options, crop) for crop in crops]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        found: list[Score | Unreadable] = []
        for index, (region, answer) in enumerate(zip(regions, answers, strict=True)):
            reading = read_whole(answer, self.options.require_reason)
            if reading.value is None:
                found.append(Unreadable(index, reading.why, region.id, self.name))
            else:
                score = Score(reading.value, region.id, reading.reason, self.name, reading.label)
                found.append(rules.apply(self.rules, candidate.prompt.text, score))
        return found


def widened(box: Box, margin: float) -> Box:
    """The box with `margin` times its own width and height more on each side, as far as the picture goes."""
    x0, y0, x1, y1 = box
    wide, high = margin * (x1 - x0), margin * (y1 - y0)
    return max(0.0, x0 - wide), max(0.0, y0 - high), min(1.0, x1 + wide), min(1.0, y1 + high)
