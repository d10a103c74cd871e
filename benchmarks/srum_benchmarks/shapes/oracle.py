"""The exact checker as a judge: a ceiling for what judging can give, and no self-reward. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from srum_core.errors import RecordError
from srum_core.records import Box, Candidate, Question, Region, Score

if TYPE_CHECKING:
    from srum_benchmarks.shapes.render import Picture

NAME = "shapes-oracle"


class ShapesOracle:
    """Asks nothing: looks at the picture with the benchmark's own checker. It says what `lessons.appraise` says, the
    truth that the bundled model's own judgement was taught: a global score, and one for each region given.

    Raises RecordError for a prompt of another world, and for pictures that are not 32×32."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return ()

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Score]:
        from srum_benchmarks.shapes.lessons import appraise

        told = appraise(_picture(candidate), candidate.prompt, boxes=[_pixels(region.box) for region in regions])
        whole = Score(told.score, None, told.reason, NAME)
        parts = zip(regions, told.parts, strict=True)
        return [whole, *(Score(part.score, region.id, part.reason, NAME, part.label) for region, part in parts)]


def _picture(candidate: Candidate) -> Picture:
    import numpy as np
    from PIL import Image

    from srum_benchmarks.shapes.world import SIDE

    if not {"category", "objects", "relation", "count"} <= candidate.prompt.tags.keys():
        raise RecordError(
            f'The judge "{NAME}" cannot check picture {candidate.id}: its prompt "{candidate.prompt.text}" does not '
            "say which objects it asks for. Use prompts=shapes:train, or another judge."
        )
    with Image.open(candidate.image) as image:
        picture = np.asarray(image.convert("RGB"))
    if picture.shape != (SIDE, SIDE, 3):
        raise RecordError(
            f'The judge "{NAME}" reads pictures of {SIDE}×{SIDE} pixels, but {candidate.image} has '
            f"{picture.shape[1]}×{picture.shape[0]}. Use another judge, or a model that draws that size."
        )
    return picture


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """The nearest whole pixels, at least one."""
    from srum_benchmarks.shapes.world import SIDE

    x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
    x0, y0 = min(x0, SIDE - 1), min(y0, SIDE - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
