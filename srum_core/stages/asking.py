"""Shared by stages that ask questions: the answerer, and how it writes boxes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import attrs

from srum_core.errors import refuse
from srum_core.protocols import Answerer
from srum_core.records import Candidate, Question
from srum_core.runs.run import Run

log = logging.getLogger("srum")


def ask(run: Run, rounds: int, questions: Sequence[Question]) -> list[str]:
    """The answers, in order, of the run's answerer after so many rounds."""
    return put(run.answerer(rounds), questions) if questions else []


def put(answerer: Answerer, questions: Sequence[Question]) -> list[str]:
    """The answers, in order. Raises PluginError if there are more or fewer than questions, or one is no text."""
    message = questions if getattr(answerer, "converses", False) else [told_at_once(each) for each in questions]
    answers = list(answerer.answer(message))
    refuse(len(answers) != len(questions), answerer, f"gave {len(answers)} answers to {len(questions)} questions.")
    odd = next((each for each in answers if not isinstance(each, str)), "")
    refuse(not isinstance(odd, str), answerer, f"gave a {type(odd).__name__} as an answer; it should be a str.")
    return answers


def warn_of_models(models: Iterable[str], redo: str) -> None:
    """Warn where replies name several models, also from before a resume: their scores cannot be compared.

    `redo`: the option that judges again."""
    if len(names := sorted(set(models) - {""})) > 1:
        log.warning(
            "The judgements come from several models: %s. A server has changed its model behind one name. Every answer "
            "is recorded with its model; to judge all again with one, use %s.",
            ", ".join(names),
            redo,
        )


def told_at_once(question: Question) -> Question:
    """Write the earlier turns into the question's text, for answerers without multi-turn support."""
    if not question.history:
        return question
    before = [
        f"Before, you were asked:\n{asked}\n\nYou answered:\n{answered}\n\n" for asked, answered in question.history
    ]
    return attrs.evolve(question, text="".join([*before, question.text]), history=())


def seen_by_answerer(run: Run, rounds: int, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates, with the format in which the answerer after so many rounds writes boxes. Loads the answerer."""
    return seen_by(run.answerer(rounds), candidates)


def seen_by(answerer: Answerer, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates with the answerer's box format (its optional `box_format`)."""
    format_of = getattr(answerer, "box_format", None)
    if format_of is None:
        return list(candidates)
    return [attrs.evolve(candidate, boxes=format_of(candidate.size)) for candidate in candidates]
