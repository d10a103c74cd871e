"""The global judge: one score for the arrangement of the whole picture (paper §3.2, Table 6, in our own words)."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_judges import rules, templates
from srum_judges.options import LayoutOptions
from srum_judges.parsing import read_whole


class GlobalLayout:
    """Asks one question a picture; its score has no region. A prompt without spatial directives gets a limited score.

    Raises ConfigError for a template that cannot be used.
    """

    name = "global-layout"

    def __init__(self, options: LayoutOptions | None = None) -> None:
        self.options = options or LayoutOptions()
        self.template = templates.load(self.options.template, ["prompt"])
        self.rules = rules.layout(self.options.neutral_band)

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [templates.question(candidate, self.template, self.options)]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        (answer,) = answers
        reading = read_whole(answer, self.options.require_reason)
        if reading.value is None:
            return [Unreadable(0, reading.why, judge=self.name)]
        score = Score(
            reading.value, reason=reading.reason, judge=self.name, label=reading.label, missing=reading.missing
        )
        return [rules.apply(self.rules, candidate.prompt.text, score)]
