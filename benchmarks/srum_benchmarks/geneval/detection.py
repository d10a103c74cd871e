"""Detections as an answer: the question about a GenEval image, parsing of answers, and the answerer `mask2former`.

The detector is an answerer like any other: `mask2former` here, a detector of your own, or a vision-language model
(which is no substitute: the table names it). The last line of a question repeats its content for programs. No torch
before the first image.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from srum_benchmarks.detections import Detection, detection
from srum_benchmarks.geneval.scoring import COLORS, MOST, SCORE, keep
from srum_benchmarks.options import Mask2FormerOptions
from srum_core.errors import CheckpointError, ConfigError, PluginError, extra
from srum_core.models.images import open_rgb
from srum_core.records import Question

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from srum_benchmarks.detections import Box
    from srum_benchmarks.geneval.detector import Colors, Detector, Instance, Mask

TOKENS = 4096
"""Longest answer of a model that writes: some forty objects."""
GREY = "#999"
"""The image region for colour classification."""
_FORM = '{"detections": [{"label": "…", "box": [x0, y0, x1, y1], "score": 0.9, "color": "…"}]}'


@frozen
class Request:
    """The classes of a prompt, and those whose colour it also needs."""

    objects: tuple[str, ...]
    colors: tuple[str, ...]


def request_of(metadata: Mapping[str, Any]) -> Request:
    """Of a line of the prompt file."""
    clauses = [clause for part in ("include", "exclude") for clause in metadata.get(part, [])]
    names = dict.fromkeys(clause["class"] for clause in clauses)
    return Request(tuple(names), tuple(dict.fromkeys(each["class"] for each in clauses if "color" in each)))


def question(what: Request) -> str:
    colored = f" Of every {' and every '.join(what.colors)} also say its colour: {', '.join(COLORS)}."
    return (
        f"Find every {' and every '.join(what.objects)} in the picture, each by itself: its box in pixels (left, top, "
        f"right, bottom) and how sure you are, from 0 to 1.{colored if what.colors else ''} Other objects may be "
        f'listed too. Answer with JSON alone, "detections" being empty if there is nothing:\n{_FORM}\n'
        + json.dumps({"objects": what.objects, "colors": what.colors}, ensure_ascii=False)
    )


def understood(text: str) -> Request | None:
    """What such a question wants; None for any other text."""
    try:
        data = json.loads(text.rstrip().rpartition("\n")[2])
        return Request(tuple(data["objects"]), tuple(data["colors"]))
    except (ValueError, TypeError, KeyError):
        return None


def as_json(detections: Sequence[Detection]) -> str:
    return json.dumps({"detections": [asdict(each) for each in detections]}, ensure_ascii=False)


def read(text: str, metadata: Mapping[str, Any]) -> tuple[tuple[Detection, ...] | None, str]:
    """The detections, or None and the reason. Text around the JSON is ignored."""
    try:
        data, _ = json.JSONDecoder().raw_decode(text[max(text.find("{"), 0) :])
        detections = tuple(detection(each, "The answer") for each in data["detections"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, 'The answer holds no JSON with a list "detections".'
    except ConfigError as error:
        return None, str(error)
    counted = keep(detections, SCORE)
    for clause in metadata.get("include", []):  # no colour is not the wrong colour
        if "color" in clause and not all(each.color for each in counted.get(clause["class"], [])[: clause["count"]]):
            return None, f"The answer does not name the colour of the {clause['class']}."
    return detections, ""


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
        requests = [self._request(each) for each in questions]
        images = [open_rgb(each.image) for each in questions]
        instances = self._detector.detect(images)
        return [as_json(self._colored(*each)) for each in zip(images, instances, requests, strict=True)]

    @cached_property
    def _device(self) -> torch.device:
        from srum_core.models.hub import choose_device

        return choose_device(self.options.device)

    @cached_property
    def _detector(self) -> Detector:
        from srum_benchmarks.geneval.detector import Detector  # torch, transformers

        return Detector(self.options.checkpoint, self._device)

    @cached_property
    def _colors(self) -> Colors:
        from srum_benchmarks.geneval.detector import Colors

        return Colors(self.options.clip, self._device)

    def _request(self, question: Question) -> Request:
        request = understood(question.text)
        if request is None:
            raise PluginError("mask2former detects objects that a question names, as those of GenEval do.")
        if strange := sorted({*request.objects, *request.colors}.difference(self._detector.names)):
            raise CheckpointError(  # an object without a class would count as missing
                f"{self.options.checkpoint} has no class for {', '.join(strange)}, which the prompts ask for. Take a "
                "Mask2Former that was trained on COCO's 80 classes."
            )
        return request

    def _colored(self, image: Image, instances: Sequence[Instance], request: Request) -> list[Detection]:
        """Detections with the colours of those that can count."""
        colors: dict[int, str] = {}
        for name in request.colors:
            own = [i for i, each in enumerate(instances) if each.label == name and each.score > SCORE][:MOST]
            crops = [crop(image, instances[i].box, instances[i].mask) for i in own]
            colors |= zip(own, self._colors.classify(crops, name), strict=True)
        return [Detection(each.label, each.box, each.score, colors.get(i, "")) for i, each in enumerate(instances)]


def crop(image: Image, box: Box, mask: Mask | None = None) -> Image:
    """The image inside a box, sides rounded half to even; outside `mask` (rows, columns) it is grey."""
    from PIL import Image as pil

    view = image
    if mask is not None:
        view = pil.new("RGB", image.size, GREY)
        view.paste(image, mask=pil.fromarray(mask.astype("uint8") * 255, mode=None))
    x0, y0, x1, y1 = (round(side) for side in box)
    return view.crop((x0, y0, x1, y1))
