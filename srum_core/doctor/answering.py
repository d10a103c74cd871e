"""Answers: are there any, and can the run's judges read them?"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from srum_core.doctor.findings import Finding, Verdict
from srum_core.doctor.subject import Patient
from srum_core.errors import refuse
from srum_core.records import Candidate, Question, Region
from srum_core.stages.interview import Hearing, conduct

ANSWERS, JUDGES = "answers", "judges"
HALVES = (Region("1", (0.0, 0.0, 0.5, 1.0)), Region("2", (0.5, 0.0, 1.0, 1.0)))
"""Stand in for what the grounder would find."""


def check(patient: Patient) -> list[Finding]:
    return [_plain(patient), *_judged(patient)]


def hearings(patient: Patient) -> list[Hearing]:
    """Two pictures before each of the run's judges: as they were heard, or else with the first questions only."""
    return patient.heard or _opened(patient)


def _opened(patient: Patient) -> list[Hearing]:
    judges = patient.run.judges()
    return [Hearing.open(name, each, candidate, HALVES) for candidate in _seen(patient) for name, each in judges]


def ask(patient: Patient, questions: Sequence[Question]) -> list[str]:
    """The model's answers. Raises PluginError if there are more or fewer than questions, or one is no text."""
    answers = list(patient.model.answer(list(questions))) if questions else []
    wrong = f"gave {len(answers)} answers to {len(questions)} questions."
    refuse(len(answers) != len(questions), patient.model, wrong)
    odd = next((each for each in answers if not isinstance(each, str)), "")
    refuse(not isinstance(odd, str), patient.model, f"gave a {type(odd).__name__} as an answer; it should be a str.")
    return answers


def _plain(patient: Patient) -> Finding:
    question = Question(patient.candidates[0].image, "What does this picture show?", max_new_tokens=32)
    (answer,) = ask(patient, [question])
    if answer.strip():
        return Finding(ANSWERS, "fine", f'"{question.text}" is answered by "{_short(answer)}"')
    if patient.trained:
        mend = "does answer return what was generated after the question, without the question and special tokens?"
        return Finding(ANSWERS, "wrong", f'"{question.text}" gets an empty answer: {mend}')
    return Finding(ANSWERS, "undecided", f'"{question.text}" gets an empty answer, as untrained weights may give.')


def _judged(patient: Patient) -> list[Finding]:
    """The share of questions with readable answers, judge by judge."""
    opened = _opened(patient)
    for hearing in opened:
        conduct([hearing], lambda questions: ask(patient, questions), retries=0, temperature=0.0, seed=lambda *_: 0)
    patient.heard = opened
    return [_readable(patient, name, opened) for name in dict.fromkeys(hearing.name for hearing in opened)]


def _readable(patient: Patient, name: str, opened: Sequence[Hearing]) -> Finding:
    mine = [hearing for hearing in opened if hearing.name == name]
    asked = sum(len(answers) for hearing in mine for answers in hearing.answers)
    if not asked:
        return Finding(JUDGES, "fine", f"{name} asks nothing.")
    unread = sum(len(hearing.unreadable()) for hearing in mine)
    seen = f"{asked - unread} of {asked} answers can be read by {name}"
    if 2 * unread < asked:
        return Finding(JUDGES, "fine", f"{seen}.")
    first = next(hearing for hearing in mine if hearing.unreadable())
    said = first.answers[0][first.unreadable()[0][1]]
    told = f'{seen}; an unreadable one was "{_short(said)}"'
    if patient.run.settings.answerer:
        return Finding(JUDGES, "undecided", f"{told} (another answerer is set, so that this need not matter).")
    mend = 'Try another template, more max_new_tokens, or another answerer (a stand-in: answerer="scripted").'
    verdict: Verdict = "wrong" if patient.trained and unread == asked else "undecided"
    return Finding(JUDGES, verdict, f"{told}. {mend}")


def _seen(patient: Patient) -> list[Candidate]:
    """Two pictures, told how the model writes boxes."""
    box_format = getattr(patient.model, "box_format", None)
    chosen = patient.candidates[:2]
    return chosen if box_format is None else [attrs.evolve(each, boxes=box_format(each.size)) for each in chosen]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:60]}…"
