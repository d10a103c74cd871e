"""Check that the model answers questions, and that the run's judges can read the answers."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from srum_core.doctor.findings import Finding, Verdict
from srum_core.doctor.subject import Subject
from srum_core.records import Question, Region
from srum_core.stages.interview import Interview, conduct, put

ANSWERS, JUDGES = "answers", "judges"
HALVES = (Region("1", (0.0, 0.0, 0.5, 1.0)), Region("2", (0.5, 0.0, 1.0, 1.0)))
"""Regions in place of the grounder's."""


def check(subject: Subject) -> list[Finding]:
    return [_plain(subject), *_judged(subject)]


def interviews(subject: Subject) -> list[Interview]:
    """Return the interviews of the run's judges about two images; before `check`, only their first questions."""
    return subject.received or _opened(subject)


def _opened(subject: Subject) -> list[Interview]:
    judges, candidates = subject.run.judges(), subject.candidates[:2]
    if (box_format := getattr(subject.model, "box_format", None)) is not None:
        candidates = [attrs.evolve(each, boxes=box_format(each.size)) for each in candidates]
    return [Interview.open(name, judge, candidate, HALVES) for candidate in candidates for name, judge in judges]


def _plain(subject: Subject) -> Finding:
    question = Question(subject.candidates[0].image, "What does this picture show?", max_new_tokens=32)
    (answer,) = put(subject.model, [question])
    if answer.strip():
        return Finding(ANSWERS, "fine", f'"{question.text}" is answered by "{_short(answer)}"')
    if subject.trained:
        fix = "does answer return what was generated after the question, without the question and special tokens?"
        return Finding(ANSWERS, "wrong", f'"{question.text}" gets an empty answer: {fix}')
    return Finding(ANSWERS, "undecided", f'"{question.text}" gets an empty answer, as untrained weights may give.')


def _judged(subject: Subject) -> list[Finding]:
    """Check the share of readable answers, judge by judge."""
    interviews = _opened(subject)
    for interview in interviews:
        conduct(
            [interview],
            lambda questions: put(subject.model, questions) if questions else [],
            retries=0,
            temperature=0.0,
            seed=lambda *_: 0,
        )
    subject.received = interviews
    return [_readable(subject, name, interviews) for name in dict.fromkeys(interview.name for interview in interviews)]


def _readable(subject: Subject, name: str, interviews: Sequence[Interview]) -> Finding:
    own_interviews = [interview for interview in interviews if interview.name == name]
    asked = sum(len(answers) for interview in own_interviews for answers in interview.answers)
    if not asked:
        return Finding(JUDGES, "fine", f"{name} asks nothing.")
    unread = sum(len(interview.unreadable()) for interview in own_interviews)
    observation = f"{asked - unread} of {asked} answers can be read by {name}"
    if 2 * unread < asked:
        return Finding(JUDGES, "fine", f"{observation}.")
    first = next(interview for interview in own_interviews if interview.unreadable())
    answer = first.answers[0][first.unreadable()[0][1]]
    message = f'{observation}; an unreadable one was "{_short(answer)}"'
    if subject.run.settings.answerer:
        return Finding(JUDGES, "undecided", f"{message} (another answerer is set, so that this need not matter).")
    fix = 'Try another template, more max_new_tokens, or another answerer (a stand-in: answerer="scripted").'
    verdict: Verdict = "wrong" if subject.trained and unread == asked else "undecided"
    return Finding(JUDGES, verdict, f"{message}. {fix}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:60]}…"
