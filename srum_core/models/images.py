"""Opening images as models see them, and checking that they are those of their record. PIL loads on first use."""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from srum_core.errors import ConfigError, RecordError, clean
from srum_core.runs.files import check_file, read_file, unreadable, way_out

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from srum_core.records import Box, Candidate

LEAST_SIDE, GREATEST_RATIO = 28, 10
"""Of a part of an image that is shown to a model: 28 px is a patch of Qwen2.5-VL, which refuses ratios
above 200; at 10 the short side still spans several patches once the long one is shrunk."""


def open_rgb(path: Path, crop: Box | None = None) -> Image:
    """The image in RGB, or the part of it that `crop` names, in a shape that every model takes (`padded`);
    transparency is shown on white.

    Raises RecordError for a file that cannot be read as an image."""
    whole = flatten(open_image(path))
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


def open_image(path: Path) -> Image:
    """The image as it is stored, decoded. Raises RecordError for a file that cannot be read as one."""
    from PIL import Image

    check_file(path)
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # decoders raise almost anything for a file that is cut off, huge or of another kind
        raise unreadable(path, error) from error


def read_files(candidate: Candidate) -> dict[Path, bytes]:
    """The files of a candidate. Raises RecordError for one that cannot be read or is not what was recorded."""
    contents = {path: read_file(path) for path in candidate.files}
    if candidate.sha256 and sha256(b"".join(contents.values())).hexdigest() != candidate.sha256:
        raise RecordError(
            f"{' or '.join(map(clean, contents))} is not the file that candidate {clean(candidate.id)} was made with: "
            f"the SHA-256 is another one. {way_out(candidate.image)}"
        )
    return contents


def with_digest(candidate: Candidate) -> Candidate:
    """The candidate with the hash of its files as they are now."""
    return attrs.evolve(candidate, sha256=sha256(b"".join(read_files(candidate).values())).hexdigest())


def flatten(image: Image) -> Image:
    """In RGB, transparency on white."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):  # grey in 16 bits, which PIL would clip to 255
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def to_image(image: Tensor) -> Image:
    """(3, H, W) in [0, 1] -> RGB, rounded to whole levels."""
    from PIL import Image

    levels = (image * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def check_size(size: tuple[int, int], step: int) -> None:
    """Raise ConfigError for a (width, height) of generated images that is not made of whole steps of so many pixels."""
    width, height = size
    if width % step or height % step:
        raise ConfigError(f"adapter.size {width}x{height} cannot be generated: both sides must be multiples of {step}.")
