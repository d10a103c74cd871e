"""Opening pictures as models see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from srum_core.pictures import open_rgb


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
def test_every_kind_of_picture_opens_in_rgb_with_transparency_on_white(mode: str, tmp_path: Path) -> None:
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
