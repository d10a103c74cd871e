"""The answerer `mask2former`: detects the objects of GenEval's questions, and their colours where requested."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from srum_benchmarks.detections import Detection
from srum_benchmarks.geneval.questions import Wanted, as_json, understood
from srum_benchmarks.geneval.scoring import Thresholds
from srum_benchmarks.options import Mask2FormerOptions
from srum_core.errors import CheckpointError, PluginError, extra
from srum_core.models.images import open_rgb
from srum_core.records import Question

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from srum_benchmarks.detections import Box
    from srum_benchmarks.geneval.detector import Colors, Detector, Found, Mask

GREY = "#999"
"""The image region for colour classification."""

LEAST, MOST = Thresholds().score, Thresholds().most
"""Below this confidence nothing counts, and of a class no more than so many: no colour is asked for beyond."""


class Mask2Former:
    """Both networks are loaded for the first image.

    Raises PluginError without scipy and for questions that are not GenEval's, CheckpointError for checkpoints of
    another kind and for a detector without a class that a prompt needs."""

    def __init__(self, options: Mask2FormerOptions | None = None) -> None:
        self.options = options or Mask2FormerOptions()
        if importlib.util.find_spec("scipy") is None:
            raise PluginError(
                f"Mask2Former needs scipy, which this environment does not have. Install it: {extra('detectors')}."
            )

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Images of one size are processed together."""
        wanted = [self._understood(each) for each in questions]
        images = [open_rgb(each.image) for each in questions]
        return [
            as_json(self._told(image, found, what))
            for image, found, what in zip(images, self._eyes.detect(images), wanted, strict=True)
        ]

    @cached_property
    def _place(self) -> torch.device:
        from srum_core.models.hub import choose_device

        return choose_device(self.options.device)

    @cached_property
    def _eyes(self) -> Detector:
        from srum_benchmarks.geneval.detector import Detector  # torch, transformers

        return Detector(self.options.checkpoint, self._place)

    @cached_property
    def _colors(self) -> Colors:
        from srum_benchmarks.geneval.detector import Colors

        return Colors(self.options.clip, self._place)

    def _understood(self, question: Question) -> Wanted:
        wanted = understood(question.text)
        if wanted is None:
            raise PluginError("mask2former detects objects that a question names, as those of GenEval do.")
        if strange := sorted({*wanted.objects, *wanted.colors}.difference(self._eyes.names)):
            raise CheckpointError(  # an object without a class would count as missing
                f"{self.options.checkpoint} has no class for {', '.join(strange)}, which the prompts ask for. Take a "
                "Mask2Former that was trained on COCO's 80 classes."
            )
        return wanted

    def _told(self, image: Image, found: Sequence[Found], wanted: Wanted) -> list[Detection]:
        """Detections with the colours of those that can count."""
        known: dict[int, str] = {}
        for name in wanted.colors:
            own = [place for place, each in enumerate(found) if each.label == name and each.score > LEAST][:MOST]
            crops = [crop(image, found[place].box, found[place].mask) for place in own]
            known |= zip(own, self._colors.classify(crops, name), strict=True)
        return [Detection(each.label, each.box, each.score, known.get(i, "")) for i, each in enumerate(found)]


def crop(image: Image, box: Box, mask: Mask | None = None, background: str = GREY, cut: bool = True) -> Image:
    """The image inside a box, sides rounded half to even; outside `mask` (rows, columns) it is `background`, unless
    that is "original". `cut` = False keeps the whole image."""
    from PIL import Image as pil

    shown = image
    if background != "original" and mask is not None:
        shown = pil.new("RGB", image.size, background)
        shown.paste(image, mask=pil.fromarray(mask.astype("uint8") * 255, mode=None))
    if not cut:
        return shown
    x0, y0, x1, y1 = (round(side) for side in box)
    return shown.crop((x0, y0, x1, y1))
