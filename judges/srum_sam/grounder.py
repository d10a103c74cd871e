"""The grounder `sam`: the masks of segment-anything's automatic mask generator. torch loads on first use."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from srum_core.errors import PluginError, extra
from srum_core.models.images import open_rgb
from srum_core.records import Box, Candidate, Mask, Question, Region, near_duplicate
from srum_sam import SamOptions, checkpoint

if TYPE_CHECKING:
    import torch
    from segment_anything import SamAutomaticMaskGenerator


class Sam:
    """Asks nothing; regions are numbered by the area of their masks, the largest first.

    Made at once, without torch; the model is loaded for the first image. Raises PluginError if segment-anything is
    not installed, CheckpointError for a checkpoint that is not there or cannot be used, ConfigError for a device that
    is not there.
    """

    def __init__(self, options: SamOptions | None = None) -> None:
        self.options = options or SamOptions()
        absent = [name for name in ("segment_anything", "torchvision") if importlib.util.find_spec(name) is None]
        if absent:
            raise PluginError(
                f'The grounder "sam" needs {" and ".join(absent)}, which this environment does not have. '
                f"Install them: {extra('sam')}."
            )
        self.path = checkpoint.find(self.options.checkpoint)

    @cached_property
    def generator(self) -> SamAutomaticMaskGenerator:
        from segment_anything import SamAutomaticMaskGenerator

        options = self.options
        return SamAutomaticMaskGenerator(
            checkpoint.load(self.path).to(_device(options.device)),
            points_per_side=options.points_per_side,
            points_per_batch=options.points_per_batch,
            pred_iou_thresh=options.pred_iou_thresh,
            stability_score_thresh=options.stability_score_thresh,
            output_mode="uncompressed_rle",
        )

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return ()

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        import numpy as np

        pixels = np.asarray(open_rgb(candidate.image))
        height, width = pixels.shape[:2]
        return choose(self.generator.generate(pixels), (width, height), self.options)


def choose(records: Iterable[Mapping[str, Any]], size: tuple[int, int], options: SamOptions) -> list[Region]:
    """Regions out of the generator's records, for an image of `size` (width, height).

    Masks below `min_area` are dropped, then boxes too much like a larger mask's, then all but the `top` largest. Equal
    areas are ordered by box, so that the order of points does not matter. A mask without a single pixel is none.
    """
    pixels = size[0] * size[1]
    smallest = max(options.min_area * (pixels if options.min_area < 1 else 1), 1)
    regions: list[Region] = []
    large = [(-record["area"], _fraction(record["bbox"], size), record) for record in records]
    for area, box, record in sorted(large, key=lambda item: item[:2]):
        if len(regions) == options.top or -area < smallest:
            break
        if near_duplicate(box, regions, options.duplicates) is None:
            mask = Mask(size, tuple(record["segmentation"]["counts"])) if options.masks else None
            regions.append(Region(str(len(regions) + 1), box, mask=mask))
    return regions


def _fraction(bbox: Sequence[float], size: tuple[int, int]) -> Box:
    """The generator counts from the first to the last pixel of a mask, so its boxes are a pixel short on the right and
    at the bottom; a line of one pixel has no width at all."""
    x, y, width, height = bbox
    return x / size[0], y / size[1], min(1.0, (x + width + 1) / size[0]), min(1.0, (y + height + 1) / size[1])


def _device(name: str) -> torch.device:
    """`auto`: this process's accelerator if there is one, else the CPU. Raises ConfigError for a device not there."""
    from srum_core.models.hub import choose_device

    device = choose_device(name)
    # segment-anything hands over points in float64, which MPS lacks.
    return choose_device("cpu") if name == "auto" and device.type == "mps" else device
