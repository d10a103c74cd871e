"""A candidate's picture as the checker reads it: refused, with a sentence, where it can say nothing about it."""

from __future__ import annotations

import numpy as np

from srum_benchmarks.shapes.render import Picture
from srum_benchmarks.shapes.world import SIDE
from srum_core.errors import RecordError
from srum_core.models.images import open_image
from srum_core.records import Candidate


def read(candidate: Candidate, who: str) -> Picture:
    """(32, 32, 3) RGB. `who` wants to check it. Raises RecordError for prompts of another world and other sizes."""
    if not {"category", "objects", "relation", "count"} <= candidate.prompt.tags.keys():
        raise RecordError(
            f'{who} cannot check picture {candidate.id}: its prompt "{candidate.prompt.text}" does not say which '
            "objects it asks for. Use prompts of the shapes world."
        )
    picture = np.asarray(open_image(candidate.image).convert("RGB"))
    if picture.shape != (SIDE, SIDE, 3):
        raise RecordError(
            f"{who} reads pictures of {SIDE}×{SIDE} pixels, but {candidate.image} has "
            f"{picture.shape[1]}×{picture.shape[0]}. Use it with a model that draws that size."
        )
    return picture
