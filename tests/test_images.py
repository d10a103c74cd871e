"""Opening images as models see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rows import each_row

from srum_core.errors import RecordError
from srum_core.models.images import open_rgb
from srum_core.records import Box


@each_row("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
def test_every_kind_of_image_opens_in_rgb_with_transparency_on_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    clear = mode in ("RGBA", "LA", "P")
    if mode == "P":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.putpixel((1, 0), 1)
        image.save(tmp_path / "x.png", transparency=1)
    else:
        image.convert(mode).save(tmp_path / "x.png")
    opened = open_rgb(tmp_path / "x.png")
    assert opened.mode == "RGB"
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255) if clear else (0, 0, 0)]


@each_row("suffix", ["png", "tif"])
def test_grey_in_sixteen_bits_keeps_its_levels(suffix: str, tmp_path: Path) -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"x.{suffix}")
    opened = open_rgb(tmp_path / f"x.{suffix}")
    assert [opened.getpixel((x, 0)) for x in range(4)] == [(level,) * 3 for level in (0, 1, 128, 255)]


PARTS = [
    # size of the image, part of it, pixels of the part, size of what is shown
    ((300, 200), (0.5, 0.0, 1.0, 0.5), (150, 100), (150, 100)),
    ((300, 200), (0.1, 0.1, 0.12, 0.12), (6, 4), (28, 28)),
    ((300, 200), (0.0, 0.5, 1.0, 0.51), (300, 2), (300, 30)),
    ((2000, 2000), (0.4, 0.0, 0.41, 1.0), (20, 2000), (200, 2000)),
    ((10, 300), (0.0, 0.0, 1.0, 0.5), (10, 150), (28, 150)),
    ((8, 8), (0.99, 0.99, 1.0, 1.0), (1, 1), (28, 28)),
]


@each_row("size, box, pixels, shown", PARTS)
def test_a_part_is_padded_and_not_distorted_where_models_could_not_take_it(
    size: tuple[int, int],
    box: Box,
    pixels: tuple[int, int],
    shown: tuple[int, int],
    tmp_path: Path,
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "x.png")
    opened = open_rgb(tmp_path / "x.png", box)
    assert opened.size == shown
    red, white = pixels[0] * pixels[1], shown[0] * shown[1] - pixels[0] * pixels[1]
    counts = {colour: count for count, colour in opened.getcolors() or ()}
    assert counts == {(255, 0, 0): red, **({(255, 255, 255): white} if white else {})}
    assert open_rgb(tmp_path / "x.png").size == size  # a whole image stays as it is


@each_row("kind", ["cut", "text", "bomb", "folder", "gone", "empty"])
def test_a_file_that_is_no_image_is_a_sentence(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        Image.effect_noise((64, 64), 50).save(path)
        data = {"cut": path.read_bytes()[:500], "text": b"root:x:0:0", "empty": b""}
        path.write_bytes(data.get(kind, path.read_bytes()))
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for open_it in (open_rgb, lambda path: open_rgb(path, (0, 0, 0.5, 0.5))):
        with pytest.raises(RecordError, match=r"x.png cannot be read \(.+\)\. Restore it\.$"):
            open_it(path)
