"""What several suites share. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from srum_core.errors import clean
from srum_core.records import Candidate, Question

T = TypeVar("T")


def called(what: str, function: Callable[[], T]) -> T:
    """The function's result. Whatever it raises fails the test with a sentence that begins with `what`."""
    try:
        return function()
    except Exception as error:
        raise AssertionError(f"{what}: it raised {type(error).__name__}: {error}") from error


def after(*earlier: str, **fixed: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip a test of a suite where one of the `earlier` ones fails, so that one fault gives one message.

    The earlier ones get the same fixtures, and of their own parameters those in `fixed`."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def run(self: Any, **given: Any) -> None:
            import pytest

            there = {"adapter": given.get("generator"), "generator": given.get("adapter"), **given, **fixed}
            for name in earlier:
                check = getattr(self, name, None)  # not every suite has all of them
                wanted = signature(check).parameters if check else ()
                try:
                    if check:
                        check(**{key: there[key] for key in wanted})
                except Exception as error:
                    pytest.skip(f"{name} fails and gives the reason ({type(error).__name__}: {clean(error, 100)})")
            test(self, **given)

        return run

    return decorate


def shown(text: str) -> str:
    """Format an answer for a message."""
    return repr(text) if len(text) <= 200 else f"{text[:160]!r}… ({len(text)} characters)"


def check_questions(
    asked: Sequence[object], again: Sequence[object], candidate: Candidate, who: str, method: str = "questions"
) -> None:
    """Questions about the candidate's own image, the same when asked twice."""
    for question in asked:
        assert isinstance(question, Question), f"{who}.{method} must give Question records, not {question!r}."
        assert question.image == candidate.image, (
            f"{who} asks about {question.image}, but the candidate's image is {candidate.image}: "
            "give `candidate.image`, and `crop` for a part of it."
        )
        assert question.text.strip(), f"{who} asks an empty question."
        assert question.max_new_tokens > 0, f"{who} asks for an answer of {question.max_new_tokens} tokens."
        if question.crop is not None:
            x0, y0, x1, y1 = question.crop
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, (  # noqa: PT018
                f"{who} asks about the crop {question.crop}, which is no box: fractions with 0 <= x0 < x1 <= 1 and "
                "0 <= y0 < y1 <= 1 are needed."
            )
    assert list(asked) == list(again), (
        f"{who}.{method} gave other questions for the same image the second time. Asking must be pure: no counters, "
        "no random numbers, nothing remembered; otherwise a run can be neither resumed nor read again."
    )
