"""Opening pictures as models see them. PIL loads on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from srum_core.records import Box


def open_rgb(path: Path, crop: Box | None = None) -> Image:
    """The picture in RGB, or the part of it that `crop` names, at least a pixel; transparency is shown on white."""
    from PIL import Image

    with Image.open(path) as image:
        whole = flatten(image)
    if crop is None:
        return whole
    left, top = int(crop[0] * whole.width), int(crop[1] * whole.height)
    right, bottom = round(crop[2] * whole.width), round(crop[3] * whole.height)
    return whole.crop((left, top, max(left + 1, right), max(top + 1, bottom)))


def flatten(image: Image) -> Image:
    """In RGB, transparency on white."""
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
