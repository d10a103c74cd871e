"""Pictures as data URIs. PIL loads on first use."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from srum_core.models.images import open_rgb

SMALL = 128
"""Pixels of the longer side up to which a picture is kept as it is, to be scaled up crisp."""
LARGEST = 256
"""Pixels of the longer side of what a larger one is scaled down to."""


def data_uri(path: Path) -> tuple[str, bool]:
    """The picture for an `img`, and whether it is small pixel art. Raises RecordError where it cannot be read."""
    from PIL import Image

    image = open_rgb(path)
    small, file = max(image.size) <= SMALL, BytesIO()
    if small:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(file, "WEBP", quality=80)
    return f"data:image/{'png' if small else 'webp'};base64,{b64encode(file.getvalue()).decode()}", small
