"""An interview: one judge's questions about one image, the answers, and their scores. No torch.

The judging stage, the verification of boxes, re-reading and the testing kit all go through it, so a recorded run and a
live one are read by the same lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean, median
from typing import Any, TypeVar

import attrs
from attrs import define

from srum_core.errors import PluginError, RecordError, clean, refuse
from srum_core.protocols import Answerer, Judge
from srum_core.records import Answer, Candidate, Exchange, Question, Region, Score, Unreadable
from srum_core.runs.files import redo_option

T = TypeVar("T")
Ask = Callable[[Sequence[Question]], Sequence[str]]
"""Answers, one per question, in order."""
Seed = Callable[..., int]
"""A seed that depends on its purpose only."""
Lookup = Callable[[Question], str | None]
"""The recorded answer to a question, None if there is none."""
Reading = list[Score | Unreadable]
LONGEST_ANSWER = 32_000
"""Characters, finished thoughts aside. Longer answers are unreadable, so that no answer can block a run."""
_THOUGHT = re.compile(r"</think(?:ing)?\s*+>", re.IGNORECASE)
MOST_TURNS = 8
"""A judge that has still not asked everything after so many turns will never have."""


@define
class Entry:
    """One question of a vote, and its last answer."""

    question: Question
    turn: int = 0
    answer: str = ""
    times: int = 0
    """How often it was answered."""

    @property
    def text(self) -> str:
        """The answer, without a question that it repeats."""
        return without_echo(self.answer, self.question.text)

    @property
    def refused(self) -> str:
        """Why the question was refused; "" if it was not."""
        return Answer.of(self.answer).refused

    @property
    def too_long(self) -> str:
        """Why the answer is not read; "" if it is."""
        if not self.answer or legible(self.answer):
            return ""
        return f"The answer has {len(self.answer)} characters; at most {LONGEST_ANSWER} are read."


@define
class Interview:
    """`questions` are those that the judge asks first, in every vote; `exchanges` are all answers, in order."""

    name: str
    judge: Judge
    candidate: Candidate
    regions: tuple[Region, ...]
    questions: list[Question]
    votes: list[list[Entry]]
    """Of each of several answers to the same questions, these and what followed from them, in order of asking."""
    exchanges: list[Exchange]
    reading: Reading | None = None
    """The result of a judge without questions for the image, from a batch."""

    @classmethod
    def open(
        cls, name: str, judge: Judge, candidate: Candidate, regions: Sequence[Region], votes: int = 1
    ) -> Interview:
        """Ask the judge for its first questions; nothing is answered yet. One that asks nothing has one vote."""
        questions = listed(f'`questions` of "{name}"', judge.questions(candidate, regions), Question)
        entries = [[Entry(question) for question in questions] for _ in range(votes if questions else 1)]
        return cls(name, judge, candidate, tuple(regions), questions, entries, [])

    @classmethod
    def replay(
        cls,
        name: str,
        judge: Judge,
        candidate: Candidate,
        regions: Sequence[Region],
        exchanges: Iterable[Exchange],
        reworded: bool = False,
    ) -> Interview:
        """The interview that these exchanges record, in order; those of other judges are left out.

        Raises RecordError if the judge asks more or fewer questions today or, unless they may be `reworded` (in the
        test of a parser, say), asks them in other words."""
        own = [exchange for exchange in exchanges if exchange.asked_by == name]
        votes = 1 + max((exchange.vote for exchange in own), default=0)
        interview = cls.open(name, judge, candidate, regions, min(votes, len(own) or 1))  # each vote has an exchange
        same = all(interview._repeat(exchange, reworded) for exchange in own)
        if not same or any(interview.follow(vote) for vote in range(len(interview.votes))):
            count = max(map(len, interview.votes))
            raise RecordError(
                f'The judge "{name}" asks {count} questions about image {candidate.id} today, and they are not '
                "those that the recorded answers belong to. Keep the settings that shape its questions (such as its "
                f"template), or judge again with {redo_option(candidate.image, 'judge')}."
            )
        return interview

    def _repeat(self, exchange: Exchange, reworded: bool) -> bool:
        """Replay the recorded answers; False if they do not match today's questions."""
        if exchange.vote >= len(self.votes):
            return False
        vote = self.votes[exchange.vote]
        if exchange.index == len(vote):
            self.follow(exchange.vote)
        if exchange.index >= len(vote):
            return False
        if not reworded and exchange.question.text != vote[exchange.index].question.text:
            return False
        answer = Answer(exchange.answer, exchange.model, exchange.refused)
        self.receive(exchange.vote, exchange.index, exchange.question, answer)
        return True

    @property
    def answers(self) -> list[list[str]]:
        """`answers[v][i]` is the last answer to question i of vote v."""
        return [[entry.answer for entry in vote] for vote in self.votes]

    def receive(self, vote: int, index: int, question: Question, answer: str) -> None:
        """Another answer than before takes along the turns that followed from it."""
        entries, entry = self.votes[vote], self.votes[vote][index]
        if entry.times and answer != entry.answer:
            entries[:] = [each for each in entries if each.turn <= entry.turn]
        entry.answer = answer
        entry.times += 1
        reply = Answer.of(answer)
        self.exchanges.append(Exchange(self.name, question, str(answer), index, vote, reply.model, reply.refused))

    def texts(self, vote: int) -> list[str]:
        """The answers of one vote, without questions that they repeat."""
        return [entry.text for entry in self.votes[vote]]

    def follow(self, number: int) -> list[int]:
        """The questions of one vote that wait for an answer; once there are none, those that follow from the answers.

        Raises PluginError for a judge that never comes to an end."""
        vote, further = self.votes[number], getattr(self.judge, "further", None)
        if vote and all(entry.times for entry in vote) and further is not None:
            asked, turn = further(self.candidate, self.regions, self.texts(number)), vote[-1].turn + 1
            questions = listed(f'`further` of "{self.name}"', asked, Question)
            vote += [Entry(question, turn) for question in questions]
            if vote[-1].turn == MOST_TURNS:
                raise PluginError(
                    f'"{self.name}" still has questions about image {self.candidate.id} after {MOST_TURNS} turns. '
                    "Its `further` must come to an end: it gets all answers so far, and gives [] when it knows enough."
                )
        return [index for index, entry in enumerate(vote) if not entry.times]

    def read(self, vote: int) -> Reading:
        """The judge's scores for one vote. Raises PluginError for invalid questions or regions in them."""
        try:
            reading = self.reading
            if reading is None:
                scores = self.judge.scores(self.candidate, self.regions, self.texts(vote))
                reading = listed(f'`scores` of "{self.name}"', scores, Score, Unreadable)
        except ValueError as error:  # a Score takes neither NaN nor anything outside of [-1, 1]
            raise PluginError(f'"{self.name}" cannot score image {self.candidate.id}: {clean(error)}') from error
        ids, count = {None, *(region.id for region in self.regions)}, len(self.votes[vote])
        for each in reading:
            if isinstance(each, Unreadable) and not 0 <= each.question < max(count, 1):
                raise PluginError(
                    f'"{self.name}" calls the answer to a question unreadable that it did not ask ({each.question}; '
                    f"it asked {count} about image {self.candidate.id})."
                )
            if each.region not in ids:
                raise PluginError(
                    f'"{self.name}" scores region "{each.region}", which image {self.candidate.id} does not have.'
                )
        return self.with_refusals(vote, reading)

    def with_refusals(self, vote: int, reading: Sequence[T | Unreadable]) -> list[T | Unreadable]:
        """The scores, with a failure for every question that was refused or whose answer is too long."""
        why = {i: entry.refused or entry.too_long for i, entry in enumerate(self.votes[vote])}
        why = {index: reason for index, reason in why.items() if reason}
        failed = {each.question for each in reading if isinstance(each, Unreadable)}
        scores = [
            attrs.evolve(each, why=why[each.question])
            if isinstance(each, Unreadable) and each.question in why
            else each
            for each in reading
        ]
        return [*scores, *(Unreadable(index, why[index], judge=self.name) for index in why if index not in failed)]

    def unreadable(self) -> list[tuple[int, int]]:
        """(vote, question) of every answer that cannot be read."""
        return [(vote, index) for vote in range(len(self.votes)) for index in self._unreadable(vote)]

    def _unreadable(self, vote: int) -> list[int]:
        return sorted({each.question for each in self.read(vote) if isinstance(each, Unreadable)})

    def due(self, retries: int) -> list[tuple[int, int]]:
        """(vote, question) of all questions that are due: new ones, or else, for the remaining (at most `retries`)
        retries, unreadable ones: those of the earliest turn, because later ones follow from it."""
        return [(vote, index) for vote in range(len(self.votes)) for index in self._due(vote, retries)]

    def _due(self, number: int, retries: int) -> list[int]:
        vote = self.votes[number]
        if not vote:
            return []  # it asks no questions, and running it again may be expensive
        if waiting := self.follow(number):
            return waiting
        # One that was refused would be refused again.
        again = [i for i in self._unreadable(number) if vote[i].times <= retries and not vote[i].refused]
        return [index for index in again if vote[index].turn == vote[again[0]].turn]

    def asking(self, vote: int, index: int, temperature: float, seed: Seed) -> Question:
        """A question as it is asked now: greedy for a single first answer, else sampled each time with another seed."""
        question, times = self.votes[vote][index].question, self.votes[vote][index].times
        if not times and len(self.votes) == 1:
            return question
        own = seed(self.candidate.id, self.name, index, times, *([vote] if vote else []))
        return attrs.evolve(question, temperature=temperature, seed=own)

    def outcome(self, doubt: float = 0.0) -> Reading:
        """One score or failure per thing scored. With several votes the median of those that could be read, times
        1 - doubt * spread; a failure where fewer than half of them could."""
        readings = [self.read(vote) for vote in range(len(self.votes))]
        if len(readings) == 1:
            return readings[0]
        by_region: dict[tuple[str | None, str], Reading] = {}  # statements about the same thing
        for each in chain(*readings):
            by_region.setdefault((each.region, each.judge), []).append(each)
        return [_settle(statements, len(readings), doubt) for statements in by_region.values()]


# ---- answers ---------------------------------------------------------------------------------------------------------


def listed(method: str, results: Any, *kinds: type) -> list[Any]:
    """What a plugin's method returned, as a list. Raises PluginError if it is no list of these records."""
    needed = f"{method} must return a list of {' and '.join(kind.__name__ for kind in kinds)} records"
    if isinstance(results, str | Mapping) or not isinstance(results, Iterable):
        raise PluginError(f"{needed}, but it returned {type(results).__name__}.")
    records = list(results)
    for each in records:
        if not isinstance(each, kinds):
            raise PluginError(f"{needed}, but it returned one that holds {type(each).__name__}.")
    return records


def put(answerer: Answerer, questions: Sequence[Question]) -> list[str]:
    """The answers, in order. Raises PluginError if there are more or fewer than questions, or one is no text."""
    converses = getattr(answerer, "converses", False)
    answers = list(answerer.answer(questions if converses else [without_history(each) for each in questions]))
    refuse(len(answers) != len(questions), answerer, f"gave {len(answers)} answers to {len(questions)} questions.")
    odd = next((each for each in answers if not isinstance(each, str)), "")
    refuse(not isinstance(odd, str), answerer, f"gave a {type(odd).__name__} as an answer; it should be a str.")
    return answers


def without_history(question: Question) -> Question:
    """The question with its earlier turns in its text, for answerers without multi-turn support."""
    if not question.history:
        return question
    before = [
        f"Before, you were asked:\n{asked}\n\nYou answered:\n{answered}\n\n" for asked, answered in question.history
    ]
    return attrs.evolve(question, text="".join([*before, question.text]), history=())


def seen_by(answerer: Answerer, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates with the answerer's box format (its optional `box_format`)."""
    format_of = getattr(answerer, "box_format", None)
    if format_of is None:
        return list(candidates)
    return [attrs.evolve(candidate, boxes=format_of(candidate.size)) for candidate in candidates]


def conduct(interviews: Sequence[Interview], ask: Ask, retries: int, temperature: float, seed: Seed) -> None:
    """Ask all due questions of all interviews together, until none is due: unreadable ones at most `retries` times."""
    todo = [(interview, *place) for interview in interviews for place in interview.due(retries)]
    while todo:
        questions = [interview.asking(vote, index, temperature, seed) for interview, vote, index in todo]
        for (interview, vote, index), question, answer in zip(todo, questions, ask(questions), strict=True):
            interview.receive(vote, index, question, answer)
        received = {id(interview): interview for interview, _, _ in todo}.values()
        todo = [(interview, *place) for interview in received for place in interview.due(retries)]


def look(interviews: Sequence[Interview]) -> None:
    """Let each judge with `score_many` score all images at once. Raises PluginError for another number of results."""
    for name, judge in {interview.name: interview.judge for interview in interviews}.items():
        score_many = getattr(judge, "score_many", None)
        if score_many is None:
            continue
        own = [interview for interview in interviews if interview.name == name]
        asks = any(interview.questions for interview in own)
        refuse(asks, judge, "has `score_many` and asks questions: a judge that asks is given one image at a time.")
        try:
            readings = list(score_many([each.candidate for each in own], [each.regions for each in own]))
        except ValueError as error:  # a Score takes neither NaN nor anything outside of [-1, 1]
            names = ", ".join(each.candidate.id for each in own)
            raise PluginError(f'"{name}" cannot score the images {clean(names)}: {clean(error)}') from error
        refuse(len(readings) != len(own), judge, f"scored {len(readings)} of {len(own)} images in `score_many`.")
        for interview, reading in zip(own, readings, strict=True):
            interview.reading = listed(f'`score_many` of "{name}"', reading, Score, Unreadable)


def recall(interview: Interview, lookup: Lookup, retries: int, temperature: float, seed: Seed) -> list[Question]:
    """Replay earlier answers as far as they go; return the questions that would be asked next, if any."""
    while True:
        due = [(place, interview.asking(*place, temperature, seed)) for place in interview.due(retries)]
        answers = [(place, question, answer) for place, question in due if (answer := lookup(question)) is not None]
        for place, question, answer in answers:
            interview.receive(*place, question, answer)
        if not answers:
            return [question for _, question in due]


def legible(answer: str) -> str:
    """The answer; what follows its thoughts where they make it too long; "" if even that is too long to be read."""
    if len(answer) > LONGEST_ANSWER:
        answer = _THOUGHT.split(answer)[-1]
    return answer if len(answer) <= LONGEST_ANSWER else ""


def json_values(text: str, opening: str = "[{", strict: bool = False) -> tuple[list[Any], bool]:
    """Every complete JSON value that begins with one of `opening`, from left to right; of one that is broken or cut
    off, the complete parts, and True. `strict`: no control characters in strings.

    Values in broken values in broken values take quadratic time: the search stops there."""
    decoder, begin = json.JSONDecoder(strict=strict), re.compile(f"[{re.escape(opening)}]")
    values, broken, effort = [], False, 4 * LONGEST_ANSWER
    start = begin.search(text)
    while start and effort > 0:
        rest, end = text[start.start() :], 1
        try:
            value, end = decoder.raw_decode(rest)
            values.append(value)
            effort -= end
        except ValueError as error:  # words in brackets, or truncated JSON: search inside
            broken = True
            to_end = str(error).startswith("Unterminated") or not isinstance(error, json.JSONDecodeError)
            effort -= len(rest) if to_end else getattr(error, "pos", 0)
        effort -= 250  # for the start
        start = begin.search(text, start.start() + end)
    return values, broken or start is not None


def without_echo(answer: str, question: str) -> str:
    """The answer without a repeated question; "" if it is too long. A server with the wrong chat template, or a
    model that cannot answer, repeats the question, and the example in it would be read as the answer.

    Only long repetitions count: those of the whole question, and answers that are nothing but a piece of it."""
    answer, question = legible(answer), question.strip()
    if len(question) >= 200 and question in answer:
        return answer.rpartition(question)[2]
    if len(answer.strip()) >= 40 and answer.strip() in question:
        return ""
    return answer


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
