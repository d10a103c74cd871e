"""Small images, records and answers to test with, and what several suites share. No torch; PIL loads when an image is
made."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from srum_core.errors import clean
from srum_core.records import Candidate, Judgement, Prompt, Question, Region, Score

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b7950b", "#6c3483")

THREE_REGIONS = """\
Region ID: 1
Identified Object: a red cup
Score: 0.8
Reason: The cup that was asked for, with a slightly crooked handle.
---
Region ID: 2
Identified Object: a wooden table
Score: 0.4
Reason: The table is there, but its edge is blurred.
---
Region ID: 3
Identified Object: a grey smear
Score: -0.6
Reason: Nobody asked for it and it has no form."""
"""An answer about regions 1, 2 and 3, separated by rules without blank lines. The official parser splits at blank
lines and so keeps only the first region; a judge should read all three."""


def sample_image(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image:
    """Draw a few coloured shapes on a light, grainy ground: RGB, the same for the same arguments."""
    from PIL import Image, ImageChops, ImageDraw

    width, height = size
    rng = random.Random(f"{width} {height} {seed}")
    image = Image.new("RGB", size, (226, 222, 214))
    draw = ImageDraw.Draw(image)
    for colour in rng.sample(COLOURS, 3):
        x, y = rng.uniform(0.0, 0.7) * width, rng.uniform(0.0, 0.7) * height
        box = (x, y, x + rng.uniform(0.2, 0.4) * width, y + rng.uniform(0.2, 0.4) * height)
        (draw.rectangle if rng.random() < 0.5 else draw.ellipse)(box, fill=colour)
    grain = Image.frombytes("RGB", size, bytes(byte % 16 for byte in rng.randbytes(3 * width * height)))
    return ImageChops.add(image, grain)


def sample_candidate(
    folder: Path,
    *,
    id: str = "sample",
    prompt: str = "a red cup on a wooden table",
    size: tuple[int, int] = (64, 48),
    seed: int = 0,
) -> Candidate:
    """Return a candidate; its image, `sample_image(size, seed)`, is written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{id}.png"
    sample_image(size, seed).save(path)
    return Candidate(id, Prompt(f"prompt-{id}", prompt), path, size, seed)


def sample_regions() -> tuple[Region, ...]:
    """Return regions "1", "2" and "3": top left, bottom right, and one that overlaps both. Edges are at eighths."""
    return (
        Region("1", (0.0, 0.0, 0.5, 0.5), "a red cup"),
        Region("2", (0.5, 0.25, 1.0, 1.0), "a wooden table"),
        Region("3", (0.25, 0.375, 0.75, 0.875)),
    )


def sample_judgement() -> Judgement:
    """Return a global score and one for each of `sample_regions()`."""
    values = (("1", 0.8), ("2", 0.4), ("3", -0.6))
    regional = tuple(Score(value, region, "for the sake of the test", "sample") for region, value in values)
    return Judgement("sample", sample_regions(), (Score(0.6, None, "for the sake of the test", "sample"), *regional))


def table8() -> tuple[Candidate, Judgement]:
    """Return the record of the paper's Table 8: "a microwave hidden by a horse", 1024x1024, ten regions, global score.

    The image itself is not part of it; the reason is in our words, as the table has none."""
    horse, microwave, floor = "A brown horse with a white blaze and white socks.", "A microwave.", "The floor."
    rows = [
        (horse, (164, 97, 957, 990), 0.95),
        (horse, (0, 0, 1023, 831), 0.95),
        (horse, (349, 28, 920, 880), 0.95),
        (microwave, (349, 28, 920, 389), 0.50),
        (floor, (0, 681, 1023, 1023), 0.00),
        (floor, (0, 838, 1023, 1023), 0.00),
        (horse, (422, 94, 748, 292), 0.95),
        (horse, (429, 589, 856, 795), 0.95),
        (horse, (430, 121, 848, 793), 0.95),
        (horse, (430, 607, 755, 780), 0.95),
    ]
    candidate = Candidate(
        "table-8", Prompt("table-8", "a microwave hidden by a horse"), Path("table-8.png"), (1024, 1024), 0
    )
    regions, scores = [], []
    for i, (label, (x0, y0, x1, y1), value) in enumerate(rows, 1):
        regions.append(Region(str(i), (x0 / 1024, y0 / 1024, x1 / 1024, y1 / 1024), label))
        scores.append(Score(value, str(i), judge="local-regions", label=label))
    global_score = Score(1.0, None, "The horse stands before the microwave and covers it, as asked.", "global-layout")
    return candidate, Judgement(candidate.id, tuple(regions), (global_score, *scores))


# ---- what suites share -----------------------------------------------------------------------------------------------


def called(sentence: str, function: Callable[[], T]) -> T:
    """Return the function's result. If it raises, fail the test with a message that begins with `sentence`."""
    try:
        return function()
    except Exception as error:
        raise AssertionError(f"{sentence}: it raised {type(error).__name__}: {error}") from error


def after(*earlier: str, **fixed: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip a test of a suite if one of the `earlier` tests fails, so that one fault gives one message.

    The earlier tests get the same fixtures, and the parameters in `fixed`."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def run(self: Any, **fixtures: Any) -> None:
            import pytest

            values = {"adapter": fixtures.get("generator"), "generator": fixtures.get("adapter"), **fixtures, **fixed}
            for name in earlier:
                if check := getattr(self, name, None):  # not every suite has all of them
                    try:
                        check(**{key: values[key] for key in signature(check).parameters})
                    except Exception as error:
                        pytest.skip(f"{name} fails and gives the reason ({type(error).__name__}: {clean(error, 100)})")
            test(self, **fixtures)

        return run

    return decorate


def shown(text: str) -> str:
    """Format an answer for a message."""
    return repr(text) if len(text) <= 200 else f"{text[:160]!r}… ({len(text)} characters)"


def check_questions(
    questions: Sequence[object], repeated: Sequence[object], candidate: Candidate, who: str, method: str = "questions"
) -> None:
    """Check that questions are about the candidate's image, and are the same when asked twice."""
    for question in questions:
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
    assert list(questions) == list(repeated), (
        f"{who}.{method} gave other questions for the same image the second time. Asking must be pure: no counters, "
        "no random numbers, nothing remembered; otherwise a run can be neither resumed nor read again."
    )


def check_asking(ask: Callable[[Candidate], Sequence[Question]], candidates: list[Candidate], who: str) -> None:
    """Check that asking twice about each candidate gives the same questions and changes no candidate."""
    before = deepcopy(candidates)
    for candidate, questions in [(candidate, list(ask(candidate))) for candidate in candidates]:
        check_questions(questions, list(ask(candidate)), candidate, who)
    assert candidates == before, f"{who}.questions changed the candidate."
