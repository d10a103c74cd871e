"""The local judge: one score for every region (paper §3.2, Table 7, in our own words)."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_judges import rules, templates
from srum_judges.listing import groups, questions_about
from srum_judges.options import RegionsOptions
from srum_judges.parsing import read_regions


class LocalRegions:
    """Asks about all regions of a picture (none: no question). Every region gets exactly one score or `Unreadable`.

    Raises ConfigError for a template or a file of synonyms that cannot be used.
    """

    name = "local-regions"

    def __init__(self, options: RegionsOptions | None = None) -> None:
        self.options = options or RegionsOptions()
        self.template = templates.load(self.options.template, ["prompt", "regions"])
        self.rules = rules.regional(self.options)

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return questions_about(candidate, regions, self.template, self.options)

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        found: list[Score | Unreadable] = []
        for index, (some, answer) in enumerate(zip(groups(regions, self.options.per_question), answers, strict=True)):
            readings = read_regions(answer, [region.id for region in some], self.options.require_reason)
            for identity, reading in readings.items():
                if reading.value is None:
                    found.append(Unreadable(index, reading.why, identity, self.name))
                else:
                    score = Score(reading.value, identity, reading.reason, self.name, reading.label)
                    found.append(rules.apply(self.rules, candidate.prompt.text, score))
        return found
