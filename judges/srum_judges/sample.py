"""The sample judge: one score for the picture as a whole, whatever it is about (the release's sample level)."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_judges import templates
from srum_judges.options import SampleOptions
from srum_judges.parsing import read_whole


class Sample:
    """Asks one question a picture; its score has no region, and the overall impression for a label.

    Raises ConfigError for a template that cannot be used.
    """

    name = "sample"

    def __init__(self, options: SampleOptions | None = None) -> None:
        self.options = options or SampleOptions()
        self.template = templates.load(self.options.template, ["prompt"])

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [templates.question(candidate, self.template, self.options)]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        (answer,) = answers
        reading = read_whole(answer, self.options.require_reason, label="overall impression")
        if reading.value is None:
            return [Unreadable(0, reading.why, judge=self.name)]
        return [Score(reading.value, reason=reading.reason, judge=self.name, label=reading.label)]
