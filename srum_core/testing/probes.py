"""Change corners of an image and compare corners of a grid, for the conformance suites and srum doctor."""

from __future__ import annotations

from PIL import Image, ImageOps
from torch import Tensor

CORNERS = ("top left", "top right", "bottom left", "bottom right")


def with_inverted_corner(image: Image.Image, corner: str, part: int) -> Image.Image:
    """Copy an image and invert a corner, 1/`part` of each side."""
    width, height = image.size
    w, h = max(1, width // part), max(1, height // part)
    left, top = (0 if "left" in corner else width - w), (0 if "top" in corner else height - h)
    changed = image.copy()
    changed.paste(ImageOps.invert(image.crop((left, top, left + w, top + h))), (left, top))
    return changed


def quarter(grid: Tensor, corner: str) -> Tensor:
    """Return a view of one quarter of (rows, columns, …), without a middle row or column; it needs two of each."""
    rows, columns = grid.shape[0] // 2, grid.shape[1] // 2
    assert min(rows, columns) > 0, (
        f"A grid of {grid.shape[0]} rows and {grid.shape[1]} columns has no corners: set larger `sizes`."
    )
    part = grid[:rows] if "top" in corner else grid[-rows:]
    return part[:, :columns] if "left" in corner else part[:, -columns:]


def by_corner(changes: Tensor) -> dict[str, float]:
    """Return the mean absolute change (rows, columns, …) in each quarter of a grid."""
    return {corner: float(quarter(changes, corner).float().abs().mean()) for corner in CORNERS}
