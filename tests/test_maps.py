"""Reward maps on hand-made judgements."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near import off
from rows import each_row
from torch.nn.functional import interpolate

from srum_core.errors import RecordError, TrainingError
from srum_core.records import Box, Judgement, Mask, Region, Score
from srum_losses import (
    AdvantageOptions,
    GlobalOnlyOptions,
    PaperOptions,
    RegionOptions,
    ReleasedOptions,
    SparseOptions,
)
from srum_losses.maps import Advantage, GlobalOnly, NoGlobal, Paper, Patch, Released, Sparse, Uniform, sampled

LEFT: Box = (0.0, 0.0, 0.5, 1.0)
MIDDLE: Box = (0.25, 0.0, 0.75, 1.0)


def judged(*scored: tuple[Box, float], total: float | None = 1.0) -> Judgement:
    regions = tuple(Region(str(i), box) for i, (box, _) in enumerate(scored))
    scores = [Score(value, str(i)) for i, (_, value) in enumerate(scored)]
    if total is not None:
        scores.append(Score(total))
    return Judgement("c", regions, tuple(scores))


def test_paper_is_alpha_times_r() -> None:
    for total, alpha in ((1.0, 1.0), (0.0, 0.5), (-0.5, 0.25), (-1.0, 0.0)):
        cells = Paper()(judged((LEFT, -0.8), total=total), (2, 4))
        assert cells.dtype == torch.float32
        assert off(cells, torch.tensor([[-0.8, -0.8, 0.0, 0.0]] * 2) * alpha) <= 1e-5


def test_a_box_stays_in_its_place_on_an_oblong_grid() -> None:
    cells = Paper()(judged(((0.25, 0.5, 0.5, 1.0), 1.0)), (2, 8))
    expected = torch.zeros(2, 8)
    expected[1, 2:4] = 1
    assert off(cells, expected) == 0
    cells = Paper()(judged(((0.0, 0.25, 0.5, 0.5), 1.0)), (8, 2))
    expected = torch.zeros(8, 2)
    expected[2:4, 0] = 1
    assert off(cells, expected) == 0


def test_cells_count_by_area() -> None:
    cells = NoGlobal()(judged(((0.125, 0.25, 0.75, 1.0), 0.8), total=None), (2, 4))
    assert off(cells, 0.8 * torch.tensor([[0.25, 0.5, 0.5, 0.0], [0.5, 1.0, 1.0, 0.0]])) <= 1e-5


@each_row("overlap, shared", [("mean", 0.2), ("min", -0.4), ("max", 0.8), ("smallest", -0.4)])
def test_overlaps(overlap: str, shared: float) -> None:
    options = RegionOptions(overlap=overlap)  # type: ignore[arg-type]
    small: Box = (0.25, 0.0, 0.5, 1.0)
    scored = [(LEFT, 0.8), (small, -0.4)]
    for order in (scored, scored[::-1]):
        cells = NoGlobal(options)(judged(*order, total=None), (1, 4))
        assert off(cells, torch.tensor([[0.8, shared, 0.0, 0.0]])) <= 1e-5


def test_overlap_inside_a_cell_is_exact() -> None:
    cells = NoGlobal()(judged((LEFT, 1.0), (MIDDLE, -1.0), total=None), (1, 1))
    assert off(cells, torch.tensor([[0.25 * 1 + 0.25 * 0 + 0.25 * -1]])) <= 1e-5


def test_outside_is_no_evidence_a_value_or_the_global_score() -> None:
    judgement = judged((LEFT, 0.5), total=-0.5)
    for options, outside in (
        (PaperOptions(), 0.0),
        (PaperOptions(outside_value=0.4), 0.4),
        (PaperOptions(outside="global"), -0.5),
    ):
        assert off(Paper(options)(judgement, (1, 2)), torch.tensor([[0.5, outside]]) * 0.25) <= 1e-5
    cells = NoGlobal(RegionOptions(outside_value=-0.3))(judged((LEFT, 0.5), total=None), (1, 2))
    assert off(cells, torch.tensor([[0.5, -0.3]])) <= 1e-5


def test_paper_needs_a_global_score_and_no_global_does_not() -> None:
    judgement = judged((LEFT, 0.5), total=None)
    for reward_map in (Paper(), Sparse()):
        with pytest.raises(RecordError, match='candidate "c" has no score for the whole image'):
            reward_map(judgement, (2, 2))
    assert NoGlobal()(judgement, (1, 2)).tolist() == [[0.5, 0.0]]


def test_several_judges_are_averaged() -> None:
    judgement = Judgement("c", (Region("a", LEFT),), (Score(0.8, "a"), Score(0.2, "a"), Score(1.0), Score(0.0)))
    assert off(Paper()(judgement, (1, 2)), torch.tensor([[0.5 * 0.75, 0.0]])) <= 1e-5


def test_a_score_of_an_unknown_region_is_refused() -> None:
    judgement = Judgement("c", (), (Score(0.8, "a"), Score(0.2)))
    for reward_map in (Paper(), NoGlobal(), Sparse(), Released()):
        with pytest.raises(RecordError, match='scores region "a"'):
            reward_map(judgement, (2, 2))


def test_unscored_regions_count_as_outside() -> None:
    judgement = Judgement("c", (Region("a", LEFT),), (Score(1.0),))
    assert Paper()(judgement, (1, 2)).tolist() == [[0.0, 0.0]]


def test_sparse_knows_only_nought_and_one() -> None:
    judgement = judged((LEFT, 0.1), ((0.5, 0.0, 1.0, 1.0), -0.1), total=0.2)
    assert Sparse()(judgement, (1, 2)).tolist() == [[1.0, 0.0]]
    assert Sparse(SparseOptions(threshold=0.2))(judgement, (1, 2)).tolist() == [[0.0, 0.0]]
    assert Sparse()(judged((LEFT, 0.0), total=0.2), (1, 2)).tolist() == [[0.0, 0.0]]
    held = Sparse(SparseOptions(outside="global"))
    assert held(judged((LEFT, -0.4), total=0.2), (1, 2)).tolist() == [[0.0, 1.0]], "the rest is as right as the whole"
    assert held(judged((LEFT, 0.4), total=-0.2), (1, 2)).tolist() == [[0.0, 0.0]]
    image = Sparse(SparseOptions(scope="image"))
    assert image(judged((LEFT, 0.4), (MIDDLE, -0.1), total=0.2), (1, 2)).tolist() == [[1.0, 1.0]]
    assert image(judged((LEFT, 0.1), (MIDDLE, -0.4), total=0.2), (1, 2)).tolist() == [[0.0, 0.0]]
    assert image(judged((LEFT, 0.4), total=-0.2), (1, 2)).tolist() == [[0.0, 0.0]]
    assert image(judged((LEFT, 0.4), total=None), (1, 2)).tolist() == [[1.0, 1.0]]
    with pytest.raises(RecordError, match="no score at all"):
        image(Judgement("c"), (1, 2))


def test_global_only_is_alpha_everywhere_whatever_the_regions_say() -> None:
    for total, alpha in ((1.0, 1.0), (0.0, 0.5), (-0.5, 0.25), (-1.0, 0.0)):
        cells = GlobalOnly()(judged((LEFT, -0.8), total=total), (2, 3))
        assert cells.dtype == torch.float32
        assert off(cells, torch.full((2, 3), alpha)) <= 1e-5
    with pytest.raises(RecordError, match="no score for the whole image"):
        GlobalOnly()(judged((LEFT, -0.8), total=None), (2, 3))


@each_row("total", [-0.6, 0.0, 0.4])
def test_global_only_can_keep_the_sign(total: float) -> None:
    cells = GlobalOnly(GlobalOnlyOptions(signed=True))(judged((LEFT, -0.8), total=total), (2, 3))
    assert off(cells, torch.full((2, 3), total)) <= 1e-5


def test_uniform() -> None:
    assert Uniform()(judged((LEFT, -1.0), total=-1.0), (2, 3)).tolist() == [[1.0] * 3] * 2


def test_released_never_goes_below_its_canvas() -> None:
    half = torch.full((2, 4), 0.5)
    for score, left in ((-1.0, 0.5), (-0.1, 0.5), (0.0, 0.5), (0.6, 0.8), (1.0, 1.0)):
        expected = half.clone()
        expected[:, :2] = left
        assert off(Released()(judged((LEFT, score)), (2, 4)), expected) <= 1e-5
        assert off(Released()(judged((LEFT, score), total=-0.5), (2, 4)), expected * 0.25) <= 1e-5
        assert off(Released()(judged((LEFT, score), total=None), (2, 4)), expected * 0.5) <= 1e-5


def test_a_map_takes_no_more_memory_for_a_larger_image() -> None:
    judgement = judged((LEFT, 0.5), (MIDDLE, 0.7))
    for side in (16, 4096):  # 4096: an image of 262,144 pixels a side
        reward_map = Released(ReleasedOptions(pixels_per_cell=side))
        tracemalloc.start()
        reward_map(judgement, (64, 64))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 500_000  # a single float64 for every cell takes 32,768 bytes


boxes = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3])
scored = st.lists(st.tuples(boxes, st.floats(-1, 1, width=32)), max_size=4)


@settings(max_examples=60, deadline=None)
@given(scored, st.floats(-1, 1, width=32), st.integers(1, 5), st.integers(1, 5), st.integers(1, 17))
def test_released_equals_a_pixel_map_brought_to_the_grid(
    found: list[tuple[tuple[int, ...], float]], total: float, rows: int, columns: int, side: int
) -> None:
    height, width = rows * side, columns * side
    canvas = torch.full((height, width), 0.5, dtype=torch.float64)
    fractions = []
    for (x0, y0, x1, y1), score in found:
        box = (x0 / 61, y0 / 61, x1 / 61, y1 / 61)
        fractions.append((box, score))
        part = (slice(int(box[1] * height + 1e-6), int(box[3] * height + 1e-6)),)
        part += (slice(int(box[0] * width + 1e-6), int(box[2] * width + 1e-6)),)
        canvas[part] = canvas[part].clamp(min=(score + 1) / 2)
    canvas *= (total + 1) / 2
    expected = interpolate(canvas[None, None], size=(rows, columns), mode="bilinear", align_corners=False)[0, 0]
    cells = Released(ReleasedOptions(pixels_per_cell=side))(judged(*fractions, total=total), (rows, columns))
    assert off(cells, expected.float()) <= 1e-5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_samples_are_those_of_a_bilinear_resize(pixels: int, cells: int) -> None:
    line = torch.randn(pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares = torch.from_numpy(sampled(np.arange(pixels + 1.0), pixels, cells))
    expected = interpolate(line[None, None, None], size=(1, cells), mode="bilinear", align_corners=False)[0, 0, 0]
    assert off(shares @ line, expected) <= 1e-9  # float64


@settings(max_examples=60, deadline=None)
@given(
    scored,
    st.floats(-1, 1),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from(["mean", "min", "max", "smallest"]),
    st.sampled_from(["value", "global"]),
)
def test_maps_have_the_grids_shape_stay_in_range_and_keep_the_mean(
    found: list[tuple[tuple[int, ...], float]], total: float, grid: tuple[int, int], overlap: str, outside: str
) -> None:
    judgement = judged(*[((a / 60, b / 60, c / 60, d / 60), score) for (a, b, c, d), score in found], total=total)
    paper = Paper(PaperOptions(overlap=overlap, outside=outside))  # type: ignore[arg-type]
    for reward_map in (paper, Released(), Sparse(), Uniform(), NoGlobal()):
        cells = reward_map(judgement, grid)
        assert cells.shape == grid
        assert cells.dtype == torch.float32
        assert cells.abs().max() <= 1
    assert abs(float(paper(judgement, grid).mean() - paper(judgement, (1, 1)).mean())) <= 1e-5  # of weights up to 1


# Exact shapes


def mask(pixels: torch.Tensor) -> Mask:
    """Run lengths the slow way: pixel by pixel, down the columns."""
    counts, inside = [0], False
    for pixel in pixels.T.flatten().tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return Mask((pixels.shape[1], pixels.shape[0]), tuple(counts))


def shaped(*scored: tuple[torch.Tensor | None, Box, float], total: float = 1.0) -> Judgement:
    regions = tuple(
        Region(str(i), box, mask=None if pixels is None else mask(pixels)) for i, (pixels, box, _) in enumerate(scored)
    )
    return Judgement("c", regions, (*(Score(each[2], str(i)) for i, each in enumerate(scored)), Score(total)))


WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def test_run_lengths_are_decoded_down_the_columns() -> None:
    pixels = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    assert mask(pixels) == Mask((3, 2), (2, 1, 1, 2))
    for one in (pixels, ~pixels, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)):
        patch = Patch(WHOLE, 0.0, mask(one))
        assert np.array_equal(patch.pixels, one)
        assert patch.area == pytest.approx(one.double().mean().item())
    pixels_of = lambda *mask: Patch(WHOLE, 0.0, Mask(*mask)).pixels  # noqa: E731
    assert pixels_of((3, 2), (0, 1, 0, 1, 4)).tolist() == [[True, False, False], [True, False, False]]
    assert pixels_of((0, 0), ()).shape == (0, 0)


def test_a_shape_counts_instead_of_its_box() -> None:
    pixels = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    for reward_map in (Paper(), NoGlobal()):
        cells = reward_map(shaped((pixels, (0.0, 0.0, 0.5, 1.0), -0.8)), (2, 4))
        assert off(cells, torch.tensor([[-0.8, 0, 0, 0], [-0.8, -0.8, 0, 0]])) <= 1e-5
    cells = NoGlobal()(shaped((pixels, (0.0, 0.0, 0.5, 1.0), 0.8)), (1, 2))
    assert off(cells, torch.tensor([[0.8 * 3 / 4, 0.0]])) <= 1e-5
    cells = Sparse()(shaped((pixels, (0.0, 0.0, 0.5, 1.0), 0.8)), (2, 2))
    assert off(cells, torch.tensor([[0.5, 0.0], [1.0, 0.0]])) <= 1e-5


def test_the_release_knows_boxes_only() -> None:
    pixels = torch.tensor([[1, 0], [0, 0]], dtype=torch.bool)
    with_shape, without = (shaped((each, LEFT, 0.8)) for each in (pixels, None))
    assert torch.equal(Released()(with_shape, (4, 4)), Released()(without, (4, 4)))


def test_the_smallest_shape_prevails_by_its_pixels_not_its_box() -> None:
    thin = torch.eye(4, dtype=torch.bool)  # 4 pixels in the box of the whole image
    judgement = shaped((thin, WHOLE, 0.9), (None, (0.0, 0.0, 0.5, 1.0), -0.4))
    cells = NoGlobal(RegionOptions(overlap="smallest"))(judgement, (4, 4))
    expected = torch.tensor([[-0.4, -0.4, 0.0, 0.0]] * 4)
    expected[thin] = 0.9
    assert off(cells, expected) <= 1e-5


def test_an_empty_shape_covers_nothing() -> None:
    for empty in (Mask((3, 2), (6,)), Mask((0, 0), ())):
        judgement = Judgement("c", (Region("a", WHOLE, mask=empty),), (Score(1.0, "a"),))
        assert NoGlobal()(judgement, (2, 2)).tolist() == [[0.0, 0.0]] * 2


def test_a_shape_that_fills_its_box_gives_the_same_bits_as_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    for overlap in ("mean", "min", "max", "smallest"):
        filled, plain = [], []
        for _ in range(5):
            (x0, x1), (y0, y1) = (torch.randperm(31, generator=generator)[:2].sort().values.tolist() for _ in "xy")
            pixels = torch.zeros(30, 30, dtype=torch.bool)
            pixels[y0:y1, x0:x1] = True
            score, box = torch.rand(1, generator=generator).item(), (x0 / 30, y0 / 30, x1 / 30, y1 / 30)
            filled.append((pixels, box, score))
            plain.append((None, box, score))
        reward_map = NoGlobal(RegionOptions(overlap=overlap))  # type: ignore[arg-type]
        assert torch.equal(reward_map(shaped(*filled), (7, 9)), reward_map(shaped(*plain), (7, 9)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from(["mean", "min", "max", "smallest"]),
)
def test_shapes_and_boxes_together_equal_the_slow_way(
    seed: int, count: int, grid: tuple[int, int], overlap: str
) -> None:
    """Every mask and box has corners on a 12 x 12 lattice; R is added up over a raster fine enough for lattice and
    grid alike."""
    generator = torch.Generator().manual_seed(seed)
    side = 12
    scored, held = [], []
    for index in range(count):
        score = (torch.rand(1, generator=generator).item() - 0.5) * 2
        if index % 2:
            (x0, x1), (y0, y1) = (torch.randperm(13, generator=generator)[:2].sort().values.tolist() for _ in "xy")
            pixels = torch.zeros(side, side, dtype=torch.bool)
            pixels[y0:y1, x0:x1] = True
            scored.append((None, (x0 / side, y0 / side, x1 / side, y1 / side), score))
        else:
            height, width = ([1, 2, 3, 4, 6, 12][int(torch.randint(6, (1,), generator=generator))] for _ in "hw")
            small = torch.rand(height, width, generator=generator) < 0.5
            pixels = small.repeat_interleave(side // height, 0).repeat_interleave(side // width, 1)
            scored.append((small, WHOLE, score))
        held.append(pixels)
    raster = torch.zeros(side, side, dtype=torch.float64)
    for y in range(side):
        for x in range(side):
            here = [(pixels.sum().item(), each[2]) for pixels, each in zip(held, scored, strict=True) if pixels[y, x]]
            scores = [score for _, score in here]
            if here:
                raster[y, x] = {
                    "mean": sum(scores) / len(scores),
                    "min": min(scores),
                    "max": max(scores),
                    "smallest": min(here)[1],
                }[overlap]
    fine = raster.repeat_interleave(grid[0], 0).repeat_interleave(grid[1], 1)
    expected = fine.view(grid[0], side, grid[1], side).mean(dim=(1, 3)).float()
    reward_map = NoGlobal(RegionOptions(overlap=overlap))  # type: ignore[arg-type]
    assert off(reward_map(shaped(*scored), grid), expected) <= 1e-5


def test_ten_shapes_of_a_large_image_are_no_trouble() -> None:
    """Wobbly discs of 1024 x 1024 pixels on a grid of 64 x 64: a cell is the mean of its 16 x 16 pixels."""
    lines = torch.arange(1024, dtype=torch.float64)
    regions, scores, total = [], [], torch.zeros(1024, 1024, dtype=torch.float64)
    count = torch.zeros_like(total)
    for number in range(10):
        away = (lines[:, None] - 100 - 80 * number) ** 2 + (lines - 900 + 70 * number) ** 2
        pixels = away + 4000 * torch.sin(lines[:, None] / 9) * torch.cos(lines / 7) < (60 + 30 * number) ** 2
        flat = pixels.T.flatten()
        ends = torch.cat([torch.tensor([0]), (flat[1:] != flat[:-1]).nonzero().flatten() + 1, torch.tensor([2**20])])
        counts = tuple(([0] if flat[0] else []) + ends.diff().tolist())
        regions.append(Region(str(number), WHOLE, mask=Mask((1024, 1024), counts)))
        scores.append(Score(number / 10 - 0.5, str(number)))
        total += pixels * scores[-1].value
        count += pixels
    expected = (total / count.clamp(min=1)).view(64, 16, 64, 16).mean(dim=(1, 3)).float()
    cells = NoGlobal()(Judgement("c", tuple(regions), tuple(scores)), (64, 64))
    assert off(cells, expected) <= 1e-5


# ---- advantage: a round of two images, a right one and a wrong one --------------------------------------------------

GOOD, BAD = judged((LEFT, 0.8), total=1.0), judged((LEFT, -0.6), total=-0.2)
ROUND = [GOOD, BAD]


def advantage(round: list[Judgement] = ROUND, grid: tuple[int, int] = (1, 2), **options: object) -> Advantage:
    made = Advantage(AdvantageOptions(**options))  # type: ignore[arg-type]
    made.fit(round, [grid] * len(round))
    return made


@each_row(
    "options, good, bad",
    [
        # inside: 1 + 2 g = 3 and -1 - 0.4 = -1.4, mean 0.8; outside: 3 and 0.6, mean 1.8; times 0.3
        ({}, [0.66, 0.36], [-0.66, -0.36]),
        ({"scale": 0.1}, [0.22, 0.12], [-0.22, -0.12]),
        ({"global_weight": 0.0}, [0.3, 0.0], [-0.3, 0.0]),
        ({"global_weight": 1.0}, [0.48, 0.18], [-0.48, -0.18]),
        ({"signs": False}, [0.57, 0.36], [-0.57, -0.36]),  # 2.8 and -1
        ({"threshold": 0.8}, [0.36, 0.36], [-0.36, -0.36]),  # 0.8 is not above 0.8
        ({"centre": False}, [0.9, 0.9], [-0.42, 0.18]),
        ({"centre": False, "scale": 1.0}, [1.0, 1.0], [-1.0, 0.6]),  # cut to [-1, 1]
    ],
)
def test_advantage_adds_the_global_score_and_centres_by_class(
    options: dict[str, object], good: list[float], bad: list[float]
) -> None:
    made = advantage(**options)
    assert off(made(GOOD, (1, 2)), torch.tensor([good])) <= 1e-5
    assert off(made(BAD, (1, 2)), torch.tensor([bad])) <= 1e-5


def test_advantage_credits_a_right_region_of_a_wrong_image_above_a_wrong_one() -> None:
    mixed = judged((LEFT, 1.0), ((0.5, 0.0, 1.0, 1.0), -1.0), total=-0.2)
    right, wrong = advantage([mixed, GOOD])(mixed, (1, 2))[0]
    assert right - wrong == pytest.approx(0.6, rel=1e-5)
    assert off(Paper()(judged((LEFT, 1.0), total=-1.0), (1, 2)), torch.zeros(1, 2)) == 0  # alpha * R silences it


@each_row("grid", [(4, 4), (3, 5), (7, 2)])
def test_advantage_has_no_mean_inside_regions_and_none_outside(grid: tuple[int, int]) -> None:
    """By area: a cell that a box covers by a third counts for a third of a region, and for two thirds of background."""
    boxes: list[Box] = [(0.1, 0.2, 0.45, 0.6), (0.3, 0.3, 0.9, 0.7), (0.0, 0.0, 1.0, 0.15)]
    scores = zip(boxes, (1.0, -0.4, 0.2), (0.6, -0.4, 0.0), strict=True)
    round = [judged((box, score), total=g) for box, score, g in scores]
    made = advantage(round, grid, scale=0.1)
    assert abs(sum(float(made(each, grid).double().sum()) for each in round)) <= 1e-5
    assert float(made(judged(total=1.0), grid).std()) <= 1e-5  # an image without regions is background
    halves = judged((LEFT, 1.0), ((0.5, 0.0, 1.0, 1.0), -1.0), total=0.0)
    assert off(advantage([halves], (1, 2))(halves, (1, 2)), torch.tensor([[0.3, -0.3]])) <= 1e-5


def test_advantage_counts_larger_images_by_their_cells() -> None:
    made = Advantage()
    made.fit([GOOD, BAD], [(2, 2), (2, 6)])  # inside: (3 - 1.4 * 3) / 4; outside: (3 + 0.6 * 3) / 4
    assert off(made(GOOD, (1, 2)), 0.3 * torch.tensor([[3 + 0.3, 3 - 1.2]])) <= 1e-5


def test_advantage_blames_the_background_for_what_is_missing() -> None:
    lacking = judged((LEFT, 0.8), total=-0.2)
    lacking = Judgement("c", lacking.regions, (Score(0.8, "0"), Score(-0.2, missing=1)))
    plain, blamed = advantage([GOOD, lacking]), advantage([GOOD, lacking], blame=True)
    assert off(plain(lacking, (1, 2)), torch.tensor([[-0.36, -0.36]])) <= 1e-5
    # one object's worth is half an image here, and so is the background: R is 1 - 2 there, and the mean 0.8
    assert off(blamed(lacking, (1, 2)), torch.tensor([[-0.36, -0.66]])) <= 1e-5
    assert off(blamed(GOOD, (1, 2)), torch.tensor([[0.36, 0.66]])) <= 1e-5
    full = Judgement("c", (Region("0", (0.0, 0.0, 1.0, 1.0)),), (Score(0.8, "0"), Score(-0.2, missing=3)))
    assert advantage([GOOD, full], blame=True)(full, (1, 2)).isfinite().all()  # nothing to blame


def test_advantage_says_that_it_has_seen_no_round() -> None:
    for options in (AdvantageOptions(), AdvantageOptions(centre=False, blame=True)):
        with pytest.raises(TrainingError, match=r"call fit\(judgements, grids\) first"):
            Advantage(options)(GOOD, (1, 2))
    uncentred = Advantage(AdvantageOptions(centre=False))
    assert off(uncentred(GOOD, (1, 2)), torch.tensor([[0.9, 0.9]])) <= 1e-5


def test_advantage_without_a_global_score_says_what_to_do() -> None:
    bare = judged((LEFT, 0.5), total=None)
    with pytest.raises(RecordError, match="no score for the whole image"):
        Advantage().fit([GOOD, bare], [(1, 2)] * 2)
    assert off(advantage([bare], global_weight=0.0)(bare, (1, 2)), torch.zeros(1, 2)) <= 1e-5


def test_sparse_may_credit_right_regions_of_wrong_images() -> None:
    mixed = judged((LEFT, 1.0), total=-1.0)
    for options, cells in (
        (SparseOptions(), [0.0, 0.0]),
        (SparseOptions(gated=False), [1.0, 0.0]),
        (SparseOptions(gated=False, outside="global"), [1.0, 0.0]),
    ):
        assert off(Sparse(options)(mixed, (1, 2)), torch.tensor([cells])) == 0
    right = judged((LEFT, -1.0), total=1.0)
    assert off(Sparse(SparseOptions(gated=False, outside="global"))(right, (1, 2)), torch.tensor([[0.0, 1.0]])) == 0
    bare = judged((LEFT, 1.0), total=None)
    assert off(Sparse(SparseOptions(gated=False))(bare, (1, 2)), torch.tensor([[1.0, 0.0]])) == 0
