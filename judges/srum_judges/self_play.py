"""The self-play judge (the paper's future work): questions made of the prompt, and answered on the image.

In its first turn the model writes yes/no questions whose answers are all yes if the image is as asked; in its second
it answers each of them separately. Their agreement is the score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from srum_core.records import Box, Candidate, Question, Region, Score, Unreadable
from srum_judges.judges import ask, load, widened
from srum_judges.options import SelfPlayOptions
from srum_judges.parsing import Reading, read_verdict, spoken
from srum_judges.rules.keywords import forms

_PRESENCE = re.compile(
    r"(?:is|are) there\b|(?:can|do) (?:you|we) see\b"
    r"|do(?:es)? (?:the|this) (?:picture|image|photo\w*|drawing|painting|scene) (?:show|have|contain|include|depict)\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(
    r"are there (?:exactly |at least |only )?(?:[0-9]+|two|three|four|five|six|seven|eight|nine|ten|several|many|some) "
    r"(?P<things>[^?]+)\?",
    re.IGNORECASE,
)
_BEFORE_QUESTION = re.compile(
    r"""^(?: [^\w(] | _                                             # markup, bullets, what is left of a list's brackets
    | \(?[0-9]{1,3}[.):\]](?![0-9])                                 # 1.  2)  (3)
    | q(?:uestion)?[ _]{0,2}[0-9]{0,3}[*_]{0,3}[.):]                # Q1:
    | \((?:yes|no)\) | (?:yes|no)\b[^\w\s]                          # the answer to the question before it
    )+""",
    re.IGNORECASE | re.VERBOSE,
)
_WORD = re.compile(r"\w")
_NOT_YES_OR_NO = re.compile(
    r"(?:what|which|who|whom|whose|where|when|why|how)\b"
    r"|(?:would|do) you (?:like|want|need)\b|(?:shall|may|can|should) i\b",  # an offer to write more
    re.IGNORECASE,
)


class SelfPlay:
    """Asks one question an image, and then those that the answer holds: about the image as a whole, or about parts.

    `level="global"`: one score without a region, 2 · (share of yes) - 1; the reason names the questions that failed.

    `level="local"`: the questions of presence are asked for every region, shown as a crop. Its
    score is 1 if one of them is answered yes, so that the region holds something that was asked for, as it was asked
    for; -1 if none is: an odd thing, a wrong colour. The best question counts and not the mean, because a region
    need not hold everything; relations, and whether that is all, are not asked, because a part of the image
    cannot tell; "Are there three …?" becomes "Is there a …?". Where no question is of that kind, all are asked.

    Raises ConfigError for a template that cannot be used.
    """

    name = "self-play"

    def __init__(self, options: SelfPlayOptions | None = None) -> None:
        self.options = options or SelfPlayOptions()
        self.asking = load(self.options.questions_template, ["prompt"], "questions_template")
        self.answering = load(self.options.answers_template, ["question"], "answers_template")

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        if self.options.level == "local" and not regions:
            return []
        return [ask(candidate, self.asking, self.options, limit=str(self.options.limit))]

    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Question]:
        if len(answers) != 1:
            return []
        texts = self._written(answers[0])
        return [
            ask(candidate, self.answering, self.options, crop, question=text)
            for _, crop in self._places(regions)
            for text in texts
        ]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        if not answers:
            return []
        texts = self._written(answers[0])
        places = [place for place, _ in self._places(regions)]
        if not texts:
            why = "The answer holds no question that can be answered with yes or no."
            return [Unreadable(0, why, place, self.name) for place in places]
        scores: list[Score | Unreadable] = []
        for start, place in zip(range(1, len(answers), len(texts)), places, strict=True):
            readings = [read_verdict(answer) for answer in answers[start : start + len(texts)]]
            scores += self._agreement(texts, readings, start, place)
        return scores

    def _written(self, answer: str) -> list[str]:
        """The questions to put, out of the first answer."""
        texts = read_questions(answer)
        if self.options.level == "local":
            texts = list(dict.fromkeys(_single(text) for text in texts if _PRESENCE.match(text))) or texts
        return texts[: self.options.limit]

    def _places(self, regions: Sequence[Region]) -> Sequence[tuple[str | None, Box | None]]:
        """Region and crop of the parts to show: the whole image, or every region."""
        if self.options.level == "global":
            return [(None, None)]
        return [(region.id, widened(region.box, self.options.margin)) for region in regions]

    def _agreement(
        self, texts: Sequence[str], readings: Sequence[Reading], start: int, place: str | None
    ) -> list[Score | Unreadable]:
        """The score of one place, or one failure for every answer that it lacks."""
        values = [reading.value for reading in readings]
        if place is not None and 1.0 in values:
            return [Score(1.0, place, f"Yes: {texts[values.index(1.0)]}", self.name)]
        if None in values:
            return [
                Unreadable(start + index, f'"{text}" is not answered: {reading.why}', place, self.name)
                for index, (text, reading) in enumerate(zip(texts, readings, strict=True))
                if reading.value is None
            ]
        answers = [(text, reading) for text, reading in zip(texts, readings, strict=True) if reading.value != 1.0]
        failed = [f"{text} ({each.reason if _WORD.search(each.reason) else 'no'})" for text, each in answers]
        share = 1 - len(failed) / len(values)
        reason = f"{len(values) - len(failed)} of {len(values)} answers are yes."
        if failed:
            reason += f" Not so: {'; '.join(failed)}"
        return [Score(2 * share - 1, place, reason, self.name)]


def read_questions(answer: str) -> list[str]:
    """The questions of an answer that can be answered with yes or no, each once, without numbers and bullets. What is
    no such question is left out: headings, remarks, "How many …?", answers behind a question, offers."""
    text = spoken(answer)
    if isinstance(text, Reading):
        return []
    questions: dict[str, str] = {}
    for line in text.replace("？", "?").split("\n"):
        for written in dict.fromkeys(line.split("?")[:-1] if "?" in line else ()):
            question = " ".join(_BEFORE_QUESTION.sub("", written).split()).rstrip("*_` ") + "?"
            if question.count('"') % 2:
                question = f'"{question}'  # its opening quotation mark was parsed as markup
            if _WORD.search(question) and not _NOT_YES_OR_NO.match(question):
                questions.setdefault(re.sub(r"\W+", " ", question.casefold()), question)
    return list(questions.values())


def _single(text: str) -> str:
    """Whether there is one of them, where the question is whether there are several."""
    several = _SEVERAL.fullmatch(text)
    if several is None:
        return text
    things = several["things"].strip()
    thing = next(iter(forms(things.lower()) - {things.lower()}), None)
    if thing is None:
        return f"Are there any {things}?"
    return f"Is there {'an' if thing[0] in 'aeiou' else 'a'} {thing}?"
