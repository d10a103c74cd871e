"""What GenEval's colour classifier looks at: an object cut out along its mask, on grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from srum_benchmarks.detections import Box

    Mask = NDArray[np.bool_]

GREY = "#999"


def crop(image: Image, box: Box, mask: Mask | None = None, background: str = GREY, cut: bool = True) -> Image:
    """The picture inside a box, sides rounded half to even; outside `mask` (rows, columns) it is `background`, unless
    that is "original". `cut` = False keeps the whole picture."""
    from PIL import Image as pil

    shown = image
    if background != "original" and mask is not None:
        shown = pil.new("RGB", image.size, background)
        shown.paste(image, mask=pil.fromarray(mask.astype("uint8") * 255, mode=None))
    if not cut:
        return shown
    x0, y0, x1, y1 = (round(side) for side in box)
    return shown.crop((x0, y0, x1, y1))
