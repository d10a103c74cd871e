"""Opening pictures as models see them. PIL loads on first use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from srum_core.records import Box

LEAST_SIDE, GREATEST_RATIO = 28, 10
"""Of a part of an image that is shown to a model: 28 px is a patch of Qwen2.5-VL, which refuses ratios
above 200; at 10 the short side still spans several patches once the long one is shrunk."""


def open_rgb(path: Path, crop: Box | None = None) -> Image:
    """The picture in RGB, or the part of it that `crop` names, in a shape that every model takes (`padded`);
    transparency is shown on white."""
    from PIL import Image

    with Image.open(path) as image:
        whole = flatten(image)
    if crop is None:
        return whole
    left, top = int(crop[0] * whole.width), int(crop[1] * whole.height)
    right, bottom = round(crop[2] * whole.width), round(crop[3] * whole.height)
    return padded(whole.crop((left, top, max(left + 1, right), max(top + 1, bottom))))


def padded(image: Image) -> Image:
    """With white around it, in the middle, where a side is below LEAST_SIDE pixels or the long side is more than
    GREATEST_RATIO times the short one: models refuse such images, or distort them."""
    from PIL import Image

    least = max(LEAST_SIDE, math.ceil(max(image.size) / GREATEST_RATIO))
    width, height = (max(side, least) for side in image.size)
    if (width, height) == image.size:
        return image
    whole = Image.new("RGB", (width, height), "white")
    whole.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return whole


def flatten(image: Image) -> Image:
    """In RGB, transparency on white."""
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
