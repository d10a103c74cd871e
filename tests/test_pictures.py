"""Pictures as models see them: in RGB, on white, and in part."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from srum_core.pictures import open_rgb
from srum_core.records import Box


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """10 x 8 pixels, each of its own colour (25 x column, 30 x row, 0)."""
    image = Image.new("RGB", (10, 8))
    image.putdata([(25 * x, 30 * y, 0) for y in range(8) for x in range(10)])
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    ("crop", "size", "first"),
    [
        (None, (10, 8), (0, 0, 0)),
        ((0.5, 0.25, 1.0, 1.0), (5, 6), (125, 60, 0)),
        ((0.2, 0.5, 0.21, 0.51), (1, 1), (50, 120, 0)),
        ((0.99, 0.99, 1.0, 1.0), (1, 1), (225, 210, 0)),
    ],
)
def test_a_crop_is_that_part_of_the_picture_and_at_least_a_pixel(
    picture: Path, crop: Box | None, size: tuple[int, int], first: tuple[int, int, int]
) -> None:
    seen = open_rgb(picture, crop)
    assert (seen.size, seen.getpixel((0, 0))) == (size, first)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "glass.png")
    seen = open_rgb(tmp_path / "glass.png")
    assert (seen.mode, seen.getpixel((0, 0))) == ("RGB", (255, 255, 255))
