"""A hearing: what one judge asks about one picture, the answers, and what they add up to. No torch.

The judging stage, the verification of boxes, re-reading and the testing kit all go through it, so a recorded run and a
live one are read by the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median

import attrs
from attrs import define

from srum_core.errors import PluginError, RecordError
from srum_core.protocols import Judge
from srum_core.records import Candidate, Exchange, Question, Region, Score, Unreadable

Ask = Callable[[Sequence[Question]], Sequence[str]]
"""Answers, one per question, in order."""
Seed = Callable[..., int]
"""A seed that depends on what it is for, and on nothing else."""
Reading = list[Score | Unreadable]


@define
class Hearing:
    """`answers[v][i]` is the last answer to question i in vote v; `exchanges` are all that were given, in order."""

    name: str
    judge: Judge
    candidate: Candidate
    regions: tuple[Region, ...]
    questions: list[Question]
    answers: list[list[str]]
    exchanges: list[Exchange]

    @classmethod
    def open(cls, name: str, judge: Judge, candidate: Candidate, regions: Sequence[Region], votes: int = 1) -> Hearing:
        """Ask the judge for its questions; nothing is answered yet. One that asks nothing has one vote."""
        questions = list(judge.questions(candidate, regions))
        answers = [[""] * len(questions) for _ in range(votes if questions else 1)]
        return cls(name, judge, candidate, tuple(regions), questions, answers, [])

    @classmethod
    def replay(
        cls,
        name: str,
        judge: Judge,
        candidate: Candidate,
        regions: Sequence[Region],
        exchanges: Iterable[Exchange],
        reworded: bool = False,
    ) -> Hearing:
        """The hearing that these exchanges record, in order; those of other judges are left out.

        Raises RecordError if the judge asks more or fewer questions today or, unless they may be `reworded` (in the
        test of a parser, say), asks them in other words."""
        own = [exchange for exchange in exchanges if exchange.asked_by == name]
        votes = 1 + max((exchange.vote for exchange in own), default=0)
        hearing = cls.open(name, judge, candidate, regions, votes)
        heard = {(exchange.vote, exchange.index) for exchange in own}
        missing = {(vote, index) for vote in range(votes) for index in range(len(hearing.questions))} ^ heard
        texts = [question.text for question in hearing.questions]
        if missing or not (reworded or all(exchange.question.text == texts[exchange.index] for exchange in own)):
            raise RecordError(
                f'The judge "{name}" asks {len(texts)} questions about picture {candidate.id} today, and they are not '
                "those that the recorded answers belong to. Keep the settings that shape its questions (such as its "
                "template), or judge again with --redo judge."
            )
        for exchange in own:
            hearing.hear(exchange.vote, exchange.index, exchange.question, exchange.answer)
        return hearing

    def hear(self, vote: int, index: int, question: Question, answer: str) -> None:
        self.answers[vote][index] = answer
        self.exchanges.append(Exchange(self.name, question, answer, index, vote))

    def said(self, vote: int) -> list[str]:
        """The answers of one vote, without questions that they repeat."""
        return [
            without_echo(answer, each.text) for answer, each in zip(self.answers[vote], self.questions, strict=True)
        ]

    def read(self, vote: int) -> Reading:
        """What the judge reads in one vote. Raises PluginError for nonsense about its own questions and regions."""
        found = list(self.judge.scores(self.candidate, self.regions, self.said(vote)))
        known = {None, *(region.id for region in self.regions)}
        for each in found:
            if isinstance(each, Unreadable) and not 0 <= each.question < len(self.questions):
                raise PluginError(
                    f'"{self.name}" calls the answer to a question unreadable that it did not ask ({each.question}; '
                    f"it asked {len(self.questions)} about picture {self.candidate.id})."
                )
            if each.region not in known:
                raise PluginError(
                    f'"{self.name}" speaks of region "{each.region}", which picture {self.candidate.id} does not have.'
                )
        return found

    def unreadable(self) -> list[tuple[int, int]]:
        """(vote, question) of every answer to be asked for again."""
        return [
            (vote, index)
            for vote in range(len(self.answers))
            for index in sorted({each.question for each in self.read(vote) if isinstance(each, Unreadable)})
        ]

    def outcome(self, doubt: float = 0.0) -> Reading:
        """One score or failure per thing scored. With several votes the median of those that could be read, times
        1 - doubt * spread; a failure where fewer than half of them could."""
        readings = [self.read(vote) for vote in range(len(self.answers))]
        if len(readings) == 1:
            return readings[0]
        every = [each for reading in readings for each in reading]
        return [_settle(votes, len(readings), doubt) for votes in _by_region(every)]


def conduct(hearings: Sequence[Hearing], ask: Ask, retries: int, temperature: float, seed: Seed) -> None:
    """Ask everything, then what cannot be read again, at most `retries` times, with sampling on and a new seed.

    A single first answer is greedy; several votes are sampled from the start."""
    todo = [
        (hearing, vote, index)
        for hearing in hearings
        for vote in range(len(hearing.answers))
        for index in range(len(hearing.questions))
    ]
    for attempt in range(retries + 1):
        asked = []
        for hearing, vote, index in todo:
            question = hearing.questions[index]
            if attempt or len(hearing.answers) > 1:
                own = seed(hearing.candidate.id, hearing.name, index, attempt, *([vote] if vote else []))
                question = attrs.evolve(question, temperature=temperature, seed=own)
            asked.append(question)
        for (hearing, vote, index), question, answer in zip(todo, asked, ask(asked), strict=True):
            hearing.hear(vote, index, question, answer)
        again = {id(hearing): hearing for hearing, _, _ in todo}.values()
        todo = [(hearing, *place) for hearing in again for place in hearing.unreadable()]
        if not todo:
            return


def without_echo(answer: str, question: str) -> str:
    """What an answer says of its own. A server with the wrong chat template, or a model that never learnt to answer,
    repeats the question, and the example in it would be read as the answer.

    Only long repetitions count: those of the whole question, and answers that are nothing but a piece of it."""
    question = question.strip()
    if len(question) >= 200 and question in answer:
        return answer.rpartition(question)[2]
    if len(answer.strip()) >= 40 and answer.strip() in question:
        return ""
    return answer


def _by_region(found: Sequence[Score | Unreadable]) -> list[list[Score | Unreadable]]:
    """Groups of what is said about the same thing, in order of first mention."""
    groups: dict[tuple[str | None, str], list[Score | Unreadable]] = {}
    for each in found:
        groups.setdefault((each.region, each.judge), []).append(each)
    return list(groups.values())


def _settle(votes: Sequence[Score | Unreadable], count: int, doubt: float) -> Score | Unreadable:
    read = [each for each in votes if isinstance(each, Score)]
    if 2 * len(read) < count:
        why = f"Only {len(read)} of {count} answers could be read."
        failed = next((each for each in votes if isinstance(each, Unreadable)), Unreadable(0, "", read[0].region))
        return attrs.evolve(failed, why=f"{why} {failed.why}".strip())
    values = [score.value for score in read]
    middle = median(values)
    spread = fmean(abs(value - middle) for value in values)
    nearest = min(read, key=lambda score: abs(score.value - middle))
    value = middle * (1 - doubt * spread)
    return attrs.evolve(nearest, value=value, votes=tuple(values), spread=spread)
