"""A judge that uses CLIP and asks no questions. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from srum_core import Component, hookimpl


@frozen
class ClipOptions:
    """Judge `clip`: how close CLIP finds an image, and each of its regions, to the prompt."""

    checkpoint: str = "openai/clip-vit-base-patch32"
    """A directory or a hub id of a CLIP model with its processor."""
    low: float = 0.15
    """Cosine similarity of image and prompt that is worth -1."""
    high: float = 0.35
    """The one that is worth 1; between the two the score is a straight line."""
    device: str = "auto"
    """"auto" = a GPU if there is one, else the CPU; or a device of torch's, such as "cuda:1"."""


@hookimpl
def srum_judges() -> Sequence[Component]:
    return [Component("clip", "srum_clip.judge:Clip", ClipOptions, summary="CLIP's similarity of image and prompt")]
