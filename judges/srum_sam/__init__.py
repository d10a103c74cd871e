"""The Segment Anything grounder (arXiv 2304.02643), through the package segment-anything. Options and hook only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import field, frozen, validators

from srum_core import Component, hookimpl
from srum_core.options import SPEED

_positive = validators.gt(0)
_unit: Any = [validators.ge(0), validators.le(1)]


@frozen
class SamOptions:
    """Grounder `sam`: the largest masks of segment-anything's automatic mask generator (release: top 10 by area)."""

    checkpoint: str = "vit_h"
    """A checkpoint file (.pth or .safetensors, of any size of SAM), or vit_b, vit_l or vit_h: the published file of
    that size, searched for in the folder where torch.hub keeps checkpoints."""
    device: str = field(default="auto", metadata=SPEED)
    """`auto` takes the accelerator if there is one."""
    top: int = field(default=10, validator=_positive)
    """At most so many regions per image, the largest ones."""
    min_area: float = field(default=0.0, validator=validators.ge(0))
    """Smallest region: below 1 a fraction of the image's area, from 1 on a number of pixels."""
    duplicates: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    """Of two boxes whose intersection over union is above it, the smaller is dropped before `top` counts; 1 = keep all,
    as the release does."""
    masks: bool = False
    """Keep the exact shapes (run lengths): reward maps then weigh shapes instead of boxes."""
    points_per_side: int = field(default=32, validator=_positive)
    """The generator is asked at so many points along each side."""
    points_per_batch: int = field(default=64, validator=_positive, metadata=SPEED)
    """Points at once; more is faster on a GPU and takes more memory."""
    pred_iou_thresh: float = field(default=0.88, validator=_unit)
    """Masks that the model itself rates below it are dropped."""
    stability_score_thresh: float = field(default=0.95, validator=_unit)
    """Masks that change more than this with the cut-off are dropped."""


@hookimpl
def srum_grounders() -> Iterable[Component]:
    summary = "the largest masks of Segment Anything (paper §3.1)"
    return [Component("sam", "srum_sam.grounder:Sam", SamOptions, summary=summary)]
