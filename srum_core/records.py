"""The plain, frozen records that the stages read and write. No torch, no PIL: any of them can be made in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) as fractions of the image's width and height, 0 <= x0 < x1 <= 1: no resize can break them."""


def _proper_size(_: Any, attribute: Any, size: Any) -> None:
    if size is not None and min(size) < 1:
        raise ValueError(f"{attribute.name} {size} must be (width, height) in pixels, at least 1 each")


def _file_name(_: Any, attribute: Any, text: str) -> None:
    if text.startswith(".") or any(character in text for character in "/\\\0"):
        raise ValueError(f"{attribute.name} {text!r:.60} must be fit to be the name of a file")


def _plain_number(value: Any) -> float:
    """A number of numpy or torch becomes Python's; a text stays an error."""
    if isinstance(value, str | bytes):
        raise TypeError(f"a score is a number, not the text {value!r:.60}")
    return float(value)


def _proper_box(_: Any, attribute: Any, box: Box) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"{attribute.name} {box} must be fractions with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")


@frozen
class Prompt:
    """A prompt to generate images for. `tags` is free, JSON-like data (category, the structure a checker needs, …)."""

    id: str
    text: str
    tags: dict[str, Any] = field(factory=dict, hash=False)


@frozen
class BoxFormat:
    """How a model writes boxes: the result of an adapter's `box_format` for an image size."""

    unit: Literal["pixels", "thousand", "fraction"] = "pixels"
    """Pixels, thousandths of the sides, or fractions of them."""
    seen: tuple[int, int] | None = field(default=None, validator=_proper_size)
    """(width, height) of the image as the model sees it, the size that "pixels" count in; None = the stored size."""


@frozen
class Candidate:
    """An image that a model generated for a prompt.

    `reference` names another image of the same size whose latent is the target of the constraint term (the release's
    good/bad pair); without one the candidate is its own reference.
    """

    id: str = field(validator=_file_name)
    prompt: Prompt
    image: Path
    size: tuple[int, int] = field(validator=_proper_size)
    """(width, height) in pixels of the stored file."""
    seed: int
    thought: str = ""
    reference: Path | None = None
    boxes: BoxFormat | None = None
    """How the model that is asked about this image writes boxes; the stages fill it in. None = stored pixels."""
    latent: Path | None = None
    """The latent that the image was decoded from, if the model gave one: trained on instead of encoding the image."""
    failure: str = ""
    """Why there is no image to judge, "" = there is one: never asked about, scored or trained on, only counted."""
    sha256: str = ""
    """SHA-256 over the bytes of its `files`, one after the other; "" = not recorded, as in older runs."""
    model: str = ""
    """The model that generated it, as a server names it; "" = the run's own, or not known."""
    note: str = ""
    """What to know about how it was generated, such as that the server ignores seeds; "" = nothing."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The image, the reference and the latent, as far as there are any."""
        return tuple(path for path in (self.image, self.reference, self.latent) if path is not None)


@frozen
class Sample:
    """What `UnifiedModel.generate` returns for one prompt; becomes a `Candidate` once the image is stored."""

    image: Image
    thought: str = ""
    latent: Tensor | None = field(default=None, eq=False)
    """(rows, columns, channels), what the image was decoded from: if given, it is stored with the image and trained on
    in place of `encode`. None = images are encoded."""
    failure: str = ""
    """Why this is no image of the model, such as values that are not finite (`srum_core.models.weights.failure`)."""
    model: str = ""
    """The model that generated it, as a server names it."""
    note: str = ""
    """What to know about how it was generated."""


def _whole_mask(mask: Mask, attribute: Any, counts: tuple[int, ...]) -> None:
    width, height = mask.size
    if any(count < 0 for count in counts) or sum(counts) != width * height:
        raise ValueError(f"{attribute.name} of a {width}x{height} mask must be lengths that add up to its pixels")


@frozen
class Mask:
    """A region's exact shape as run lengths, as in COCO: down the columns from the top left, pixels outside first."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    counts: tuple[int, ...] = field(validator=_whole_mask)


def _own_ids(_: Any, attribute: Any, regions: tuple[Region, ...]) -> None:
    ids = [region.id for region in regions]
    if len(set(ids)) < len(ids):
        raise ValueError(f'two of the {attribute.name} have the id "{max(ids, key=ids.count)}"')


@frozen
class Region:
    """A part of an image, proposed by a grounder. Ids are unique within an image and appear in questions."""

    id: str
    box: Box = field(validator=_proper_box)
    label: str = ""
    mask: Mask | None = None
    """Its exact shape, where the grounder keeps it; reward maps then weigh the shape instead of the box."""


@frozen
class Question:
    """One thing to ask about an image. `temperature` 0 is greedy; a retry asks with sampling on and a new seed."""

    image: Path
    text: str
    crop: Box | None = None
    max_new_tokens: int = 512
    think: bool = False
    temperature: float = 0.0
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()
    """Earlier turns about the same image, (question, answer) in order; the image came with the first."""


class Answer(str):
    """An answer, and what else is known about it. Answerers may as well return plain texts."""

    model: str
    """The model that gave it, as a server's reply names it; "" = not known."""
    refused: str
    """Why there is none: this one question was refused, and the text is empty; "" = it was answered."""

    def __new__(cls, text: str = "", model: str = "", refused: str = "") -> Answer:
        answer = super().__new__(cls, text)
        answer.model, answer.refused = model, refused
        return answer

    @classmethod
    def of(cls, text: str) -> Answer:
        """Anything that was answered, also plain text."""
        return text if isinstance(text, Answer) else cls(text)


@frozen
class Exchange:
    """A question as it was asked, and the words that came back, verbatim."""

    asked_by: str
    question: Question
    answer: str
    index: int = field(default=0, validator=validators.ge(0))
    """Which of the asker's questions about this image it was; a retry has the same index."""
    vote: int = field(default=0, validator=validators.ge(0))
    """Which of several answers to the same question, with `judge.votes`."""
    model: str = ""
    """The model that answered, where that is known."""
    refused: str = ""
    """Why the question was refused, where it was."""


@frozen
class Score:
    """A judge's number in [-1, 1] for one region, or for the whole image where `region` is None."""

    value: float = field(converter=_plain_number, validator=[validators.ge(-1.0), validators.le(1.0)])
    region: str | None = None
    reason: str = ""
    judge: str = ""
    label: str = ""
    """The object that the judge identifies in the region."""
    stated: float | None = None
    """The number in the answer, where a rule of the judge has changed it."""
    rules: tuple[str, ...] = ()
    """Which rules changed it and why, a sentence each."""
    votes: tuple[float, ...] = ()
    """The values of several answers, with `judge.votes`; `value` is their median."""
    spread: float | None = None
    """Mean distance of the votes from their median, in [0, 1]."""
    missing: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """For the whole image: the number of requested objects that the judge reports as missing, if it does."""


@frozen
class Unreadable:
    """An answer (or the part of it about one region) out of which no score can be read. Never becomes a 0."""

    question: int
    """Index into the judge's own questions: the one to ask again."""
    why: str
    region: str | None = None
    judge: str = ""


@frozen
class Dropped:
    """A proposed region that is not used, and why."""

    region: Region
    why: str


@frozen
class Grounding:
    """The regions of one candidate, the exchanges that proposed and verified them, and what was dropped."""

    candidate: str
    regions: tuple[Region, ...] = field(default=(), validator=_own_ids)
    exchanges: tuple[Exchange, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    """Near-duplicates, and regions that the verifier rejected."""
    failures: tuple[Unreadable, ...] = ()
    """The grounder's unreadable answers: the regions are not known, and the image is not judged."""
    unverified: tuple[Unreadable, ...] = ()
    """Verdicts that could not be read; their regions are kept."""


@frozen
class Judgement:
    """Everything known about one candidate's worth. A judgement with failures is kept, counted, and not trained on."""

    candidate: str
    regions: tuple[Region, ...] = field(default=(), validator=_own_ids)
    scores: tuple[Score, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    failures: tuple[Unreadable, ...] = ()
    boxes: BoxFormat | None = None
    """How the answerer writes boxes for this image: the same questions can be made again without the answerer."""


@frozen
class Row:
    """One line of a benchmark's table: `value` is a mean over `count` images, `error` its standard error."""

    name: str
    value: float
    count: int
    error: float | None = None
    low: float | None = None
    """Ends of the 95 % interval over prompts, where the benchmark resamples."""
    high: float | None = None
    note: str = ""
    """Notes for readers who compare the number: incomplete, other prompts, another rubric, …"""


@frozen
class Layout:
    """A folder as an original scorer expects it; paths are relative to that folder."""

    images: Mapping[Path, Path] = field(hash=False)
    """Where an image is to lie → where it lies now."""
    texts: Mapping[Path, str] = field(factory=dict, hash=False)
    """Files in addition to the images."""
    found: Callable[[Path], Iterable[Path]] = field(default=lambda folder: (), eq=False)
    """The files that the scorer would read in an existing folder."""


@frozen
class PromptFile:
    """A file of prompts that a benchmark needs, and its state."""

    name: str
    """Its path in the repository that it is part of."""
    source: str
    """That repository, and which state of it."""
    expected: int
    """How many prompts it should hold."""
    path: Path | None = None
    """Where it is; None = it is missing."""
    count: int = 0
    """How many prompts it holds."""
    sha256: str = ""
    problems: tuple[str, ...] = ()
    """Differences from the expected file, one sentence each."""


# ---- boxes -----------------------------------------------------------------------------------------------------------


def area(box: Box) -> float:
    """Share of the image, in [0, 1]."""
    x0, y0, x1, y1 = box
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    common = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return common / (area(one) + area(other) - common)


def near_duplicate(box: Box, earlier: Sequence[Region], threshold: float) -> Region | None:
    """The first of the earlier regions that `box` overlaps by more than `threshold` (IoU); None if there is none."""
    return next((region for region in earlier if iou(box, region.box) > threshold), None)


def sides(unit: str, candidate: Candidate) -> tuple[float, float]:
    """(width, height) that a whole image has in a unit: "pixels" of the stored file, "thousand", "fraction", or
    "model": what the answering model writes boxes in (`Candidate.boxes`; without it, stored pixels)."""
    width, height = candidate.size
    if unit == "model":
        boxes = candidate.boxes or BoxFormat()
        unit, (width, height) = boxes.unit, boxes.seen or candidate.size
    if unit == "pixels":
        return float(width), float(height)
    return (1000.0, 1000.0) if unit == "thousand" else (1.0, 1.0)
