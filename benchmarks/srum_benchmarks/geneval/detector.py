"""GenEval's detection with transformers: Mask2Former for objects, CLIP for their colours.

The original runs mmdet 2; pre- and post-processing follow its instance configuration, and not as
in transformers' own processor, which squeezes masks through 384 x 384. Whether published weights then give the very
same detections was not tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from attrs import frozen
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, CLIPModel, CLIPTokenizer, Mask2FormerForUniversalSegmentation

from srum_benchmarks.detections import Box
from srum_benchmarks.geneval.scoring import COLORS
from srum_core.errors import CheckpointError
from srum_core.models.hub import download

FILES = ["*.json", "*.safetensors", "*.txt"]
SHORT, LONG, MULTIPLE = 800, 1333, 32
"""Images are resized to have this short side, or this long one if that is less, and padded to whole multiples."""
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MOST = 100
"""Detections of an image, over all queries and classes."""
PADDING = 128
"""Grey level of the padding."""
RENAMED = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
"""COCO's name → the benchmark's. Published checkpoints of transformers write six of COCO's names in another way."""
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


Mask = NDArray[np.bool_]


@frozen
class Instance:
    """One object: its class, box in pixels (right and bottom ends outside it), confidence, and mask (rows, columns)."""

    label: str
    box: Box
    score: float
    mask: Mask


class Detector:
    """Objects in images. `where`: a directory or hub id of a Mask2Former that was trained for instances."""

    def __init__(self, where: str, device: torch.device) -> None:
        self.model = _load(Mask2FormerForUniversalSegmentation, "mask2former", where, device)
        known: dict[int, str] = {int(place): name for place, name in self.model.config.id2label.items()}
        self.names = [RENAMED.get(known[place], known[place]) for place in range(len(known))]

    @torch.no_grad()
    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """Of each image, the surest first. Only images of one size are processed together: padding for another one
        would be seen."""
        instances: dict[int, list[Instance]] = {}
        for size in dict.fromkeys(image.size for image in images):
            places = [place for place, image in enumerate(images) if image.size == size]
            instances |= zip(places, self._together([images[place] for place in places]), strict=True)
        return [instances[place] for place in range(len(images))]

    def _together(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        pixels, sizes = batch(images)
        output = self.model(pixels.to(self.model.device), pixel_mask=None)
        scores, masks = output.class_queries_logits.float(), output.masks_queries_logits.float()
        instances = []
        for image, (rows, columns), own, mask in zip(images, sizes, scores, masks, strict=True):
            full = F.interpolate(mask[None], pixels.shape[-2:], mode="bilinear", align_corners=False)
            full = full[..., :rows, :columns]
            full = F.interpolate(full, (image.height, image.width), mode="bilinear", align_corners=False)[0]
            instances.append(self._instances(own, full))
        return instances

    def _instances(self, logits: Tensor, masks: Tensor) -> list[Instance]:
        """Class logits (queries, classes + 1) and mask logits (queries, rows, columns), the last class being none."""
        shares = logits.softmax(-1)[:, :-1]
        top = shares.flatten().topk(min(MOST, shares.numel()))
        instances = []
        for share, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            query, label = divmod(place, shares.shape[1])
            inside = masks[query] > 0
            sure = (masks[query].sigmoid() * inside).sum() / (inside.sum() + 1e-6)
            instances.append(Instance(self.names[label], _box(inside), share * float(sure), inside.cpu().numpy()))
        return sorted(instances, key=lambda each: -each.score)


class Colors:
    """Colours of objects. `where`: a directory or hub id of a CLIP."""

    def __init__(self, where: str, device: torch.device) -> None:
        self.model = _load(CLIPModel, "clip", where, device)
        directory = _place(where)
        # PIL's resampling is the original's; the processor of that name needs torchvision in newer releases
        processor: Any = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(directory)
            self.processor = processor.from_pretrained(directory)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{where} lacks its tokenizer or preprocessor_config.json: {error}") from error
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def classify(self, views: Sequence[Image.Image], name: str) -> list[str]:
        """The colour of the object that each view shows, all of one class."""
        if not views:
            return []
        # stated, not guessed: a view one or three pixels high would pass for an image with its channels first
        inputs = self.processor(views, input_data_format="channels_last", return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device)
        embeddings = F.normalize(_embedding(self.model.get_image_features(pixel_values=pixels)), dim=-1)
        best = (embeddings @ self.texts(name).T).argmax(-1)
        return [COLORS[place] for place in best.tolist()]

    def texts(self, name: str) -> Tensor:
        """(colours, channels) of a class: each template's embedding has length 1, and so has their mean."""
        if name not in self._texts:
            texts = [form.format(color=color, name=name) for color in COLORS for form in TEMPLATES]
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.model.device)
            embeddings = F.normalize(_embedding(self.model.get_text_features(**tokens)), dim=-1)
            means = rearrange(embeddings, "(color form) c -> color form c", form=len(TEMPLATES)).mean(1)
            self._texts[name] = F.normalize(means, dim=-1)
        return self._texts[name]


def batch(images: Sequence[Image.Image]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Images side by side, (n, 3, H, W), grey to the right and below; and (rows, columns) of each."""
    tensors = [_resized(image) for image in images]
    rows, columns = (-(-max(each.shape[axis] for each in tensors) // MULTIPLE) * MULTIPLE for axis in (1, 2))
    padded = [F.pad(each, (0, columns - each.shape[2], 0, rows - each.shape[1]), value=PADDING) for each in tensors]
    pixels = (torch.stack(padded) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    return pixels, [(each.shape[1], each.shape[2]) for each in tensors]


def _resized(image: Image.Image) -> Tensor:
    """(3, rows, columns), whole levels from 0 to 255."""
    scale = min(SHORT / min(image.size), LONG / max(image.size))
    size = (int(image.height * scale + 0.5), int(image.width * scale + 0.5))
    pixels = rearrange(torch.from_numpy(np.array(image.convert("RGB"))), "h w c -> 1 c h w").float()
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0].round()


def _box(inside: Tensor) -> Box:
    """Around a mask; the far ends lie one pixel behind it. All zeros for an empty one."""
    rows, columns = inside.any(1).nonzero().flatten().tolist(), inside.any(0).nonzero().flatten().tolist()
    if not rows:
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _embedding(output: Any) -> Tensor:
    """Newer releases of transformers give an output object, older ones the tensor."""
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedding


def _place(where: str) -> Path:
    directory = Path(where).expanduser()
    return directory if directory.is_dir() else download(where, "the detector", FILES)


def _load(kind: Any, expected: str, where: str, device: torch.device) -> Any:
    """In float32. Raises CheckpointError for one of another kind, and for one that lacks weights."""
    directory = _place(where)
    try:
        known = AutoConfig.from_pretrained(directory).model_type
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{where} cannot be read as a checkpoint of transformers: {error}") from error
    if known != expected:
        raise CheckpointError(f"{where} is a checkpoint of the kind {known}; what is needed is {expected}.")
    try:
        model, info = kind.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The weights of {where} cannot be read: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{where} lacks {len(missing)} weights of {kind.__name__}, such as {missing[0]}. Take a checkpoint that "
            "holds the whole model."
        )
    return model.eval().requires_grad_(False).to(device)
