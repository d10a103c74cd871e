"""Imported records before they are a run, and code shared by exports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from srum_core.errors import RecordError, clean, naming
from srum_core.records import BoxFormat, Candidate, Exchange, Judgement, Prompt, Region, Score, Unreadable
from srum_core.runs.files import abandoned, aside, delete, inside, settle
from srum_core.runs.run import Run

OWN, REFERENCE = Path("image"), Path("reference")
"""In an `Incoming`, the image of a question: the judged one, or its reference."""


@frozen
class File:
    """An image as it is stored."""

    name: str
    data: bytes = field(repr=False)
    size: tuple[int, int]
    """(width, height) in pixels."""


@frozen
class Incoming:
    """An image on its way into a run, judged or only captioned."""

    where: str
    """The file and its line or row, for people."""
    prompt: Prompt
    """Its id is a proposal: a second image of the same prompt gets another one."""
    image: File
    reference: File | None = None
    regions: tuple[Region, ...] = ()
    scores: tuple[Score, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    failures: tuple[Unreadable, ...] = ()
    boxes: BoxFormat | None = None
    thought: str = ""
    model: str = ""
    note: str = ""
    seed: int | None = None
    """None = the seed of the image is not known."""
    notes: tuple[str, ...] = ()
    """Omissions and changes, one sentence each."""


@frozen
class Bad:
    """A line or row that cannot be used."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{clean(self.where)}: {clean(self.why, 1000)}"


class Unusable(Exception):
    """Why a line or row cannot be used."""


def check_image(name: str, data: bytes) -> File:
    """Return bytes that were checked to be an image. Raises Unusable."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            if image.mode in ("I", "F"):
                raise ValueError("its pixels have 32 bits, whose range is not known: save it with 8 or 16 bits")
            return File(name, data, image.size)
    except Exception as error:  # a decoder of PIL may raise anything for bytes that are no image
        why = "it is in no known format" if isinstance(error, UnidentifiedImageError) else error
        raise Unusable(f"{name} is not a readable image ({why})") from error


def find(name: str, folders: Sequence[Path]) -> Path:
    """Return the file in the first folder that has it. Raises Unusable, also for a name outside of the folder."""
    problems = []
    for folder in folders:
        try:
            return inside(folder, name)
        except RecordError as error:
            problems.append(str(error))
    raise Unusable(f"its image {'; '.join(problems)} (say where with --images)")


def load_image(path: Path) -> File:
    """Read an image file. Raises Unusable."""
    try:
        return check_image(path.name, path.read_bytes())
    except OSError as error:
        raise Unusable(f"its image {path} cannot be read ({error.strerror})") from error


def in_words(value: object) -> str:
    return clean(repr(value), 80)


def text_of(record: Mapping[str, Any], key: str) -> str:
    """Return the text under the key. Raises Unusable if it is empty or no text."""
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f'its "{key}" is {in_words(value)}, and should be a text')
    return value


def id_in(*values: object) -> str:
    """Return the first id that is set. Raises Unusable if it is neither a text nor a whole number."""
    value = next(each for each in values if each not in (None, ""))
    if not isinstance(value, str | int):
        raise Unusable(f"its id is {in_words(value)}, and should be a text")
    return str(value)


def score_in_range(value: object, what: str) -> float:
    """Return a score. Raises Unusable for anything but a number in [-1, 1]: nothing is clipped or guessed."""
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise Unusable(f"{what} has the score {value!r}, which is not a number in [-1, 1]")


def judged(run: Run, round: int) -> Iterator[tuple[Candidate, Judgement]]:
    """Yield the judged images of a round, in the order of judging. Raises RecordError if one is lost."""
    candidates, judgements = run.candidates(round), run.judgements(round)
    if judgements.done:
        judgements.require(candidates.ids())
    for judgement in judgements:
        (candidate,) = candidates.select([judgement.candidate])
        yield candidate, judgement


def renamed(exchanges: Sequence[Exchange], names: Mapping[Path, Path]) -> tuple[Exchange, ...]:
    """Rename the images that questions are about."""
    return tuple(
        attrs.evolve(
            each, question=attrs.evolve(each.question, image=names.get(each.question.image, each.question.image))
        )
        for each in exchanges
    )


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill; rename it to `folder` once it is complete, delete it on any error.

    Raises RecordError if `folder` exists and is not empty."""
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecordError(f"{folder} is there already. Choose another folder, or remove that one first.")
    new = aside(folder)
    for leftover in folder.parent.glob(f".{escape(folder.name)}.*.tmp"):
        if leftover == new or abandoned(leftover.name):
            delete(leftover)
    new.mkdir(parents=True)
    try:
        with naming(new):
            yield new
            settle(new)
        if folder.exists():
            folder.rmdir()  # Windows renames over no folder, not even an empty one
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
