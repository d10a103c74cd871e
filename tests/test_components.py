"""Grounders that need no weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from srum_core.records import Candidate, Prompt, Region
from srum_judges.grounders.components import Components, Grid, component_boxes, label_colours, reading_order
from srum_judges.options import ComponentsOptions, GridOptions

RED, BLUE, WHITE = (230, 30, 30), (30, 30, 230), (255, 255, 255)


def candidate(image: Image.Image, folder: Path) -> Candidate:
    image.save(folder / "x.png")
    return Candidate("x", Prompt("p", ""), folder / "x.png", image.size, 0)


def pixel_boxes(image: Image.Image, folder: Path, **options: object) -> list[tuple[int, ...]]:
    regions = Components(ComponentsOptions(**options)).regions(candidate(image, folder), ())  # type: ignore[arg-type]
    assert [region.id for region in regions] == [str(i + 1) for i in range(len(regions))]
    return [_pixels(region, image.size) for region in regions]


def _pixels(region: Region, size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(round(edge * side) for edge, side in zip(region.box, size * 2, strict=True))


def scene(
    *shapes: tuple[tuple[int, int, int, int], tuple[int, int, int]], size: tuple[int, int] = (40, 24)
) -> Image.Image:
    """Boxes x1, y1 exclusive."""
    image = Image.new("RGB", size, WHITE)
    for (x0, y0, x1, y1), colour in shapes:
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
    return image


def test_shapes_are_found_in_reading_order(tmp_path: Path) -> None:
    image = scene(((25, 3, 35, 10), RED), ((4, 5, 12, 12), RED), ((10, 15, 30, 22), BLUE))
    assert pixel_boxes(image, tmp_path) == [(4, 5, 12, 12), (25, 3, 35, 10), (10, 15, 30, 22)]


def test_touching_colours_are_split(tmp_path: Path) -> None:
    image = scene(((4, 4, 12, 12), RED), ((12, 4, 20, 12), BLUE))
    assert pixel_boxes(image, tmp_path) == [(4, 4, 12, 12), (12, 4, 20, 12)]
    assert pixel_boxes(image, tmp_path, split_colours=False) == [(4, 4, 20, 12)]


def test_an_empty_image_has_no_region(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-6, 7, (24, 40, 3)) + 128
    for image in (scene(), Image.fromarray(noise.astype(np.uint8)), Image.new("RGB", (1, 1))):
        assert pixel_boxes(image, tmp_path) == []


def test_the_background_is_the_colour_of_the_border_not_of_most_pixels(tmp_path: Path) -> None:
    assert pixel_boxes(scene(((1, 1, 39, 23), RED)), tmp_path) == [(1, 1, 39, 23)]
    assert pixel_boxes(scene(((0, 0, 8, 8), RED)), tmp_path) == [(0, 0, 8, 8)]


def test_small_patches_are_left_out(tmp_path: Path) -> None:
    image = scene(((4, 4, 12, 12), RED), ((20, 4, 23, 7), BLUE))  # 64 and 9 of 960 pixels
    assert pixel_boxes(image, tmp_path) == [(4, 4, 12, 12)]
    assert pixel_boxes(image, tmp_path, min_area=0.009) == [(4, 4, 12, 12), (20, 4, 23, 7)]
    assert pixel_boxes(image, tmp_path, min_area=9) == [(4, 4, 12, 12), (20, 4, 23, 7)]
    assert pixel_boxes(image, tmp_path, min_area=10) == [(4, 4, 12, 12)]


def test_the_largest_are_kept(tmp_path: Path) -> None:
    image = scene(((2, 4, 7, 9), RED), ((12, 4, 20, 12), RED), ((25, 4, 32, 11), BLUE))
    assert pixel_boxes(image, tmp_path, max_regions=2) == [(12, 4, 20, 12), (25, 4, 32, 11)]


def test_corners_join_only_with_eight_neighbours(tmp_path: Path) -> None:
    image = scene(((4, 4, 10, 10), RED), ((10, 10, 16, 16), RED))
    assert pixel_boxes(image, tmp_path) == [(4, 4, 16, 16)]
    assert pixel_boxes(image, tmp_path, connectivity=4) == [(4, 4, 10, 10), (10, 10, 16, 16)]
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert pixel_boxes(mirrored, tmp_path) == [(24, 4, 36, 16)]


def test_margin_widens_and_stays_inside(tmp_path: Path) -> None:
    image = scene(((0, 6, 10, 12), RED), size=(40, 40))
    assert pixel_boxes(image, tmp_path, margin=0.1) == [(0, 2, 14, 16)]


def test_the_whole_image_can_be_a_region_too(tmp_path: Path) -> None:
    assert pixel_boxes(scene(((4, 4, 12, 12), RED)), tmp_path, whole=True) == [(4, 4, 12, 12), (0, 0, 40, 24)]
    assert pixel_boxes(scene(), tmp_path, whole=True) == [(0, 0, 40, 24)]


def test_noise_and_soft_edges_do_not_break_shapes(tmp_path: Path) -> None:
    image = scene(((6, 6, 26, 26), RED), ((34, 30, 54, 50), BLUE), size=(64, 64)).filter(ImageFilter.GaussianBlur(0.8))
    noisy = np.asarray(image).astype(int) + np.random.default_rng(0).integers(-12, 13, (64, 64, 3))
    pixels = noisy.clip(0, 255).astype(np.uint8)
    assert label_colours(pixels, tolerance=48, split=True).max() == 2  # soft edges are no colours of their own
    found = pixel_boxes(Image.fromarray(pixels), tmp_path)
    assert len(found) == 2
    assert np.abs(np.array(found) - [(6, 6, 26, 26), (34, 30, 54, 50)]).max() <= 2


def test_transparent_images_lie_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 24), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((4, 4, 11, 11), fill=(*RED, 255))
    assert pixel_boxes(image, tmp_path) == [(4, 4, 12, 12)]


def flood(labels: np.ndarray, connectivity: int) -> list[tuple[tuple[int, ...], int]]:
    """Components the slow way."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + [(1, 1), (1, -1), (-1, 1), (-1, -1)] * (connectivity == 8)
    seen: set[tuple[int, int]] = set()
    found = []
    for start in zip(*np.nonzero(labels), strict=True):
        if start in seen:
            continue
        group, todo = {start}, [start]
        while todo:
            y, x = todo.pop()
            for dy, dx in steps:
                near = (y + dy, x + dx)
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and near not in group and labels[near] == labels[start]:
                    group.add(near)
                    todo.append(near)
        seen |= group
        ys, xs = zip(*group, strict=True)
        found.append(((int(min(xs)), int(min(ys)), int(max(xs)) + 1, int(max(ys)) + 1), len(group)))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([4, 8]))
def test_labelling_equals_a_flood_fill(seed: int, height: int, width: int, colours: int, connectivity: int) -> None:
    labels = np.random.default_rng(seed).integers(0, colours + 1, (height, width))
    boxes, areas = component_boxes(labels, connectivity)
    assert sorted(zip(boxes, areas, strict=True)) == flood(labels, connectivity)


def test_a_long_spiral_is_one_component() -> None:
    labels = np.zeros((61, 61), dtype=np.int64)
    for ring in range(0, 30, 2):
        labels[ring, max(0, ring - 2) : 61 - ring] = labels[ring : 61 - ring, 60 - ring] = 1
        labels[60 - ring, ring : 61 - ring] = labels[ring + 2 : 61 - ring, ring] = 1
    assert len(component_boxes(labels, 4)[0]) == len(flood(labels, 4)) == 1


def test_reading_order_is_a_total_order() -> None:
    boxes = [(0, 10, 5, 20), (8, 1, 9, 4), (0, 0, 5, 6), (6, 12, 9, 14)]
    expected = [(0, 0, 5, 6), (8, 1, 9, 4), (0, 10, 5, 20), (6, 12, 9, 14)]
    assert reading_order(boxes) == reading_order(boxes[::-1]) == expected


def test_grid(tmp_path: Path) -> None:
    grid = Grid(GridOptions(rows=2, columns=3))
    image = candidate(scene(), tmp_path)
    regions = grid.regions(image, grid.questions(image) and ())
    assert [region.id for region in regions] == ["1", "2", "3", "4", "5", "6"]
    assert regions[4].box == pytest.approx((1 / 3, 1 / 2, 2 / 3, 1))
    assert regions[4].label == "row 2, column 2"


def test_grounders_ask_nothing(tmp_path: Path) -> None:
    image = candidate(scene(), tmp_path)
    assert len(Components().questions(image)) == len(Grid().questions(image)) == 0
