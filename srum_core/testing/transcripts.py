"""Transcripts: a judge's questions and answers about an image, as a fixture for its tests; and a model that
answers from them, to test judges and stages with. No torch."""

from __future__ import annotations

import difflib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from srum_core.errors import AnswerError
from srum_core.records import Candidate, Exchange, Question, Region, Score, Unreadable
from srum_core.runs.store import read_list, write_list


@frozen
class Transcript:
    """One interview, and the scores when it was recorded."""

    judge: str
    """The name under which the judge asked."""
    candidate: Candidate
    regions: tuple[Region, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    scores: tuple[Score, ...] = ()
    failures: tuple[Unreadable, ...] = ()


def read_transcripts(path: Path) -> list[Transcript]:
    """Read a JSON-lines file; image paths in it are relative to its folder. Raises RecordError for a bad line."""
    return read_list(path, Transcript)


def write_transcripts(path: Path, transcripts: Sequence[Transcript]) -> None:
    """Write transcripts as JSON lines, atomically."""
    write_list(path, transcripts)


class ScriptedModel:
    """Answers a question the k-th time with the k-th answer that the script has for it, then with the last.

    The script is transcripts (questions are distinguished by text, crop and image; an unknown image gets the answers
    of any with the same text and crop), or answers by question text: one, or several for the first time, the second, …
    An unknown question is an AnswerError, or gets `default`.
    """

    def __init__(
        self, script: Sequence[Transcript] | Mapping[str, str | Sequence[str]] = (), default: str | None = None
    ) -> None:
        self.default = default
        self.asked: list[Question] = []
        """Every question so far, in order."""
        self._known: dict[tuple[object, ...], list[str]] = {}
        self._times: Counter[tuple[object, ...]] = Counter()
        self._next: deque[str] = deque()
        if isinstance(script, Mapping):
            for text, answers in script.items():
                self._known[(text,)] = [answers] if isinstance(answers, str) else list(answers)
        else:
            for exchange in (exchange for transcript in script for exchange in transcript.exchanges):
                for key in _keys(exchange.question)[:2]:
                    self._known.setdefault(key, []).append(exchange.answer)

    def enqueue(self, *answers: str) -> None:
        """Answer the next questions with these, whatever they are; then continue with the script."""
        self._next.extend(answers)

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Answer the questions in order."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> str:
        self.asked.append(question)
        if self._next:
            return self._next.popleft()
        key = next((key for key in _keys(question) if self._known.get(key)), None)
        if key is not None:
            answers = self._known[key]
            self._times[key] += 1
            return answers[min(self._times[key], len(answers)) - 1]
        if self.default is None:
            raise AnswerError(self._unknown(question))
        return self.default

    def _unknown(self, question: Question) -> str:
        texts = list(dict.fromkeys(str(key[0]) for key in self._known))
        if question.text in texts:
            return (
                f"The script knows the question {question.text!r}, but not about the crop {question.crop} of a "
                "image. If the judge's questions have changed, record the transcript again."
            )
        nearest = difflib.get_close_matches(question.text, texts, 1, cutoff=0.0)
        hint = f"The nearest that it knows is {nearest[0]!r}" if nearest else "It knows none"
        return (
            f"The script has no answer to the question {question.text!r}. {hint}. If the judge has changed what it "
            "asks, record the transcript again; a test that does not care can pass default=…"
        )


def _keys(question: Question) -> list[tuple[object, ...]]:
    """Return the keys of a question, the most exact first."""
    exact = (question.text, question.crop)
    return [(*exact, question.image), exact, (question.text,)]
