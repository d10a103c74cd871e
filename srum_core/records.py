"""The plain, frozen records that the stages read and write. No torch, no PIL: any of them can be made in a test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) as fractions of the picture's width and height, 0 <= x0 < x1 <= 1: no resize can break them."""


def _proper_box(_: Any, attribute: Any, box: Box) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"{attribute.name} {box} must be fractions with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")


@frozen
class Prompt:
    """What is to be drawn. `tags` is free, JSON-like data (category, the structure a checker needs, …)."""

    id: str
    text: str
    tags: dict[str, Any] = field(factory=dict, hash=False)


@frozen
class Candidate:
    """A picture that a model drew for a prompt.

    `reference` names another picture of the same size whose latent is the target of the constraint term (the release's
    good/bad pair); without one the candidate is its own reference.
    """

    id: str
    prompt: Prompt
    image: Path
    size: tuple[int, int]
    """(width, height) in pixels of the stored file."""
    seed: int
    thought: str = ""
    reference: Path | None = None


@frozen
class Sample:
    """What `UnifiedModel.generate` returns for one prompt; becomes a `Candidate` once the picture is stored."""

    image: Image
    thought: str = ""


@frozen
class Region:
    """A part of a picture, proposed by a grounder. Ids are unique within a picture and appear in questions."""

    id: str
    box: Box = field(validator=_proper_box)
    label: str = ""


@frozen
class Question:
    """One thing to ask about a picture. `temperature` 0 is greedy; a retry asks with sampling on and a new seed."""

    image: Path
    text: str
    crop: Box | None = None
    max_new_tokens: int = 512
    think: bool = False
    temperature: float = 0.0
    seed: int = 0


@frozen
class Exchange:
    """A question as it was asked, and the words that came back, verbatim."""

    asked_by: str
    question: Question
    answer: str


@frozen
class Score:
    """A judge's number in [-1, 1] for one region, or for the whole picture where `region` is None."""

    value: float = field(validator=[validators.ge(-1.0), validators.le(1.0)])
    region: str | None = None
    reason: str = ""
    judge: str = ""
    label: str = ""
    """What the judge says it sees there."""


@frozen
class Unreadable:
    """An answer (or the part of it about one region) out of which no score can be read. Never becomes a 0."""

    question: int
    """Index into the judge's own questions: the one to ask again."""
    why: str
    region: str | None = None
    judge: str = ""


@frozen
class Grounding:
    """The regions of one candidate, and what was said to find them."""

    candidate: str
    regions: tuple[Region, ...] = ()
    exchanges: tuple[Exchange, ...] = ()


@frozen
class Judgement:
    """Everything known about one candidate's worth. A judgement with failures is kept, counted, and not trained on."""

    candidate: str
    regions: tuple[Region, ...] = ()
    scores: tuple[Score, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    failures: tuple[Unreadable, ...] = ()


@frozen
class Row:
    """One line of a benchmark's table: `value` is a mean over `count` pictures, `error` its standard error."""

    name: str
    value: float
    count: int
    error: float | None = None
