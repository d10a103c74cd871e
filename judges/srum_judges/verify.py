"""The verifier (paper §3.1): which proposed boxes are sensible regions with something that matters to the prompt.

The ground stage asks it before any judge sees the regions, and drops those with a score below 0, with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_judges import templates
from srum_judges.listing import groups, questions_about
from srum_judges.options import VerifyOptions
from srum_judges.parsing import read_verdicts


class VerifyBoxes:
    """Asks about all regions of a picture (none: no question): 1.0 for yes, -1.0 for no, else `Unreadable`.

    Raises ConfigError for a template that cannot be used.
    """

    name = "verify-boxes"

    def __init__(self, options: VerifyOptions | None = None) -> None:
        self.options = options or VerifyOptions()
        self.template = templates.load(self.options.template, ["prompt", "regions"])

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return questions_about(candidate, regions, self.template, self.options)

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        found: list[Score | Unreadable] = []
        for index, (some, answer) in enumerate(zip(groups(regions, self.options.per_question), answers, strict=True)):
            for identity, reading in read_verdicts(answer, [region.id for region in some]).items():
                if reading.value is None:
                    found.append(Unreadable(index, reading.why, identity, self.name))
                else:
                    reason = reading.reason or "The answer gives no reason."
                    found.append(Score(reading.value, identity, reason, self.name, reading.label))
        return found
