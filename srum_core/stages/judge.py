"""regions -> judgements: the judges ask, the model answers, the judges read; what cannot be read is asked again."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from srum_core.protocols import Judge
from srum_core.records import Candidate, Exchange, Grounding, Judgement, Question, Score, Unreadable
from srum_core.run import Run, refuse
from srum_core.stages import Step, chunks
from srum_core.stages.ground import ask


@attrs.define
class _Hearing:
    """What one judge asks about one picture, and the last answers so far."""

    name: str
    judge: Judge
    candidate: Candidate
    grounding: Grounding
    questions: list[Question]
    answers: list[str]
    exchanges: list[Exchange]

    def read(self) -> list[Score | Unreadable]:
        if not self.questions:
            return []
        found = list(self.judge.scores(self.candidate, self.grounding.regions, self.answers))
        unknown = any(isinstance(each, Unreadable) and not 0 <= each.question < len(self.questions) for each in found)
        refuse(unknown, self.judge, f"calls the answer to a question unreadable that it did not ask ({found}).")
        return found

    def unreadable(self) -> list[int]:
        return sorted({each.question for each in self.read() if isinstance(each, Unreadable)})


def judge(run: Run, round: int) -> None:
    """Judge every candidate. Judgements with failures are recorded; nothing unreadable becomes a number."""
    judges = [(use.use, run.registry.create("judge", use)) for use in run.settings.judges]
    candidates, groundings, records = run.candidates(round), run.groundings(round), run.judgements(round)
    order = [item.id for item in run.planned(round)]
    batch, step = run.settings.judge.batch, Step("judge", round)
    for chunk in chunks(run, order, batch, records, step, load=lambda: run.answerer(round)):
        pairs = list(zip(candidates.select(chunk), groundings.select(chunk), strict=True))
        hearings = [[_open(name, each, *pair) for name, each in judges] for pair in pairs]
        _hear(run, round, [hearing for each in hearings for hearing in each])
        records.extend(_judgement(pair[1], each) for pair, each in zip(pairs, hearings, strict=True))


def _open(name: str, judge: Judge, candidate: Candidate, grounding: Grounding) -> _Hearing:
    questions = list(judge.questions(candidate, grounding.regions))
    return _Hearing(name, judge, candidate, grounding, questions, [""] * len(questions), [])


def _hear(run: Run, round: int, hearings: Sequence[_Hearing]) -> None:
    """Ask everything once, then the unreadable again, at most `retries` times, with sampling on and a new seed."""
    settings = run.settings.judge
    open_questions = [(hearing, index) for hearing in hearings for index in range(len(hearing.questions))]
    for attempt in range(settings.retries + 1):
        asked = []
        for hearing, index in open_questions:
            question = hearing.questions[index]
            if attempt:
                seed = run.derive_seed("ask", round, hearing.candidate.id, hearing.name, index, attempt)
                question = attrs.evolve(question, temperature=settings.temperature, seed=seed)
            asked.append(question)
        for (hearing, index), question, answer in zip(open_questions, asked, ask(run, round, asked), strict=True):
            hearing.answers[index] = answer
            hearing.exchanges.append(Exchange(hearing.name, question, answer))
        open_questions = [(hearing, index) for hearing in _distinct(open_questions) for index in hearing.unreadable()]
        if not open_questions:
            return


def _distinct(open_questions: Sequence[tuple[_Hearing, int]]) -> list[_Hearing]:
    return list({id(hearing): hearing for hearing, _ in open_questions}.values())


def _judgement(grounding: Grounding, hearings: Sequence[_Hearing]) -> Judgement:
    found = [each for hearing in hearings for each in hearing.read()]
    return Judgement(
        grounding.candidate,
        grounding.regions,
        scores=tuple(each for each in found if isinstance(each, Score)),
        exchanges=tuple(exchange for hearing in hearings for exchange in hearing.exchanges),
        failures=tuple(each for each in found if isinstance(each, Unreadable)),
    )
