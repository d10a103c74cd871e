"""Requirements of every reward map."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import attrs
import pytest
import torch
from torch import Tensor

from srum_core.errors import SrumError
from srum_core.plugins.registry import require_protocol
from srum_core.protocols import RewardMap
from srum_core.records import Judgement, Region, Score
from srum_core.testing.checks import called
from srum_core.testing.fixtures import sample_judgement, table8

GRIDS = ((1, 1), (3, 5), (5, 3), (1, 7), (8, 8), (16, 12))


class RewardMapConformance:
    """Subclass it as `Test…` with a fixture `reward_map`."""

    local: bool = True
    """False: a map that gives the whole image one number, so that every score matters everywhere."""

    @pytest.fixture(autouse=True)
    def _round(self, reward_map: RewardMap) -> None:
        """A map that compares with a round has seen one."""
        if hasattr(reward_map, "fit"):
            called(
                f"{type(reward_map).__name__} cannot be fitted to a round",
                lambda: reward_map.fit(judgements(), [(4, 6)] * len(judgements())),
            )

    def test_it_is_a_reward_map(self, reward_map: RewardMap) -> None:
        require_protocol(reward_map, RewardMap, type(reward_map).__name__)

    @pytest.mark.parametrize("grid", GRIDS, ids=str)
    def test_it_has_the_grid_it_was_asked_for(self, reward_map: RewardMap, grid: tuple[int, int]) -> None:
        for judgement in judgements():
            cells = called(
                f"{type(reward_map).__name__} cannot map a judgement of {len(judgement.regions)} regions to {grid}",
                lambda judgement=judgement: reward_map(judgement, grid),  # type: ignore[misc]
            )
            assert cells.shape == grid, (
                f"{type(reward_map).__name__} gave the shape {tuple(cells.shape)} for a grid of {grid[0]} rows and "
                f"{grid[1]} columns (rows come first)."
            )
            assert cells.dtype is torch.float32, f"{type(reward_map).__name__} gave {cells.dtype}; float32 is needed."

    @pytest.mark.parametrize("grid", GRIDS, ids=str)
    def test_weights_are_finite_and_between_minus_one_and_one(
        self, reward_map: RewardMap, grid: tuple[int, int]
    ) -> None:
        for judgement in judgements():
            cells = reward_map(judgement, grid)
            assert cells.isfinite().all(), f"{type(reward_map).__name__} gave a weight that is not finite: {cells}."
            assert float(cells.abs().max()) <= 1, (
                f"{type(reward_map).__name__} gave weights from {float(cells.min())} to {float(cells.max())}; they lie "
                "in [-1, 1]. Scores that overlap must be combined, not added."
            )

    def test_the_same_judgement_gives_the_same_map(self, reward_map: RewardMap) -> None:
        first = reward_map(sample_judgement(), (6, 9)).clone()
        reward_map(table8()[1], (6, 9))
        assert torch.equal(reward_map(sample_judgement(), (6, 9)), first), (
            f"{type(reward_map).__name__} gave another map for the same judgement: it must depend on that alone."
        )

    def test_the_judgement_is_left_as_it_is(self, reward_map: RewardMap) -> None:
        judgement = sample_judgement()
        before = deepcopy(judgement)
        reward_map(judgement, (4, 4)).mul_(0)
        assert judgement == before, f"{type(reward_map).__name__} changed the judgement."

    def test_a_fit_depends_on_the_judgements_and_grids_alone(self, reward_map: RewardMap) -> None:
        if not hasattr(reward_map, "fit"):
            return
        name, every = type(reward_map).__name__, list(judgements())
        grids = [(4 + number, 6) for number in range(len(every))]

        def maps(indices: Sequence[int]) -> list[Tensor]:
            reward_map.fit([every[i] for i in indices], [grids[i] for i in indices])
            return [reward_map(each, (4, 6)).clone() for each in every]

        before, forwards = deepcopy(every), range(len(every))
        first = maps(forwards)
        assert every == before, f"{name}.fit changed the judgements."
        maps([0])
        for again, what in ((maps(forwards), "the same round once more"), (maps(forwards[::-1]), "another order")):
            assert all(map(torch.equal, first, again)), (
                f"{name}: after a fit to {what} the maps are others. A fit replaces the one before, and its sums must "
                "not depend on the order (math.fsum): otherwise a resumed training is another one."
            )

    def test_a_missing_score_is_a_map_or_a_sentence(self, reward_map: RewardMap) -> None:
        whole = sample_judgement()
        without_global = attrs.evolve(whole, scores=tuple(score for score in whole.scores if score.region))
        for judgement in (attrs.evolve(whole, scores=()), without_global, attrs.evolve(whole, regions=(), scores=())):
            try:
                if hasattr(reward_map, "fit"):
                    reward_map.fit([whole, judgement], [(3, 3)] * 2)
                cells = reward_map(judgement, (3, 3))
            except SrumError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"{type(reward_map).__name__} raised {type(error).__name__}: {error} for a judgement in which "
                    "scores are missing. Give a map, or raise RecordError with a message that names what is missing."
                ) from error
            assert cells.isfinite().all(), f"{type(reward_map).__name__} gave a weight that is not finite: {cells}."

    @pytest.mark.parametrize("grid", [(8, 8), (5, 9), (11, 4)], ids=str)
    def test_a_score_acts_inside_its_box_only(self, reward_map: RewardMap, grid: tuple[int, int]) -> None:
        if not self.local:
            return
        for region in sample_judgement().regions:
            moved = effect(reward_map, region, grid)
            outside = moved * ~touched(region, grid)
            assert float(outside.abs().max()) < 1e-5, (
                f"{type(reward_map).__name__}: the score of region {region.id} with the box {region.box} bleeds out of "
                f"it, by up to {float(outside.abs().max()):.3g} in a grid of {grid}. Check rounding at the box's "
                "edges, resizing, and anything normalised over the whole image."
            )

    @pytest.mark.parametrize(
        ("box", "axis", "side"),
        [
            ((0.0, 0.0, 0.5, 1.0), 1, "left"),
            ((0.5, 0.0, 1.0, 1.0), 1, "right"),
            ((0.0, 0.0, 1.0, 0.5), 0, "top"),
            ((0.0, 0.5, 1.0, 1.0), 0, "bottom"),
        ],
        ids=["left", "right", "top", "bottom"],
    )
    def test_a_box_acts_on_its_own_side(
        self, reward_map: RewardMap, box: tuple[float, float, float, float], axis: int, side: str
    ) -> None:
        first, second = effect(reward_map, Region("1", box), (8, 8)).abs().chunk(2, axis)
        own, other = (first, second) if side in ("left", "top") else (second, first)
        if not self.local or float(own.sum() + other.sum()) == 0:
            return  # a map that pays no heed to regions
        assert float(own.sum()) > float(other.sum()), (
            f"{type(reward_map).__name__}: a box on the {side} of the image acts on the other side. Boxes are "
            "(x0, y0, x1, y1) from the top left, maps are (rows, columns): check for a transposed or flipped grid."
        )

    @pytest.mark.parametrize("grid", [(8, 8), (8, 16)], ids=str)
    def test_a_finer_grid_shows_the_same_image(self, reward_map: RewardMap, grid: tuple[int, int]) -> None:
        judgement = sample_judgement()  # its boxes end at the edges of cells
        coarse = reward_map(judgement, grid)
        fine = reward_map(judgement, (2 * grid[0], 2 * grid[1])).reshape(grid[0], 2, grid[1], 2).mean((1, 3))
        assert torch.allclose(coarse, fine, atol=1e-5), (
            f"{type(reward_map).__name__}: a map with twice as many rows and columns is another image (largest "
            f"difference {float((coarse - fine).abs().max()):.3g}). Boxes are fractions, so the number of cells must "
            "not matter."
        )


def judgements() -> Sequence[Judgement]:
    """Ordinary and extreme ones: no regions, ten overlapping ones, only the best, only the worst."""
    usual = sample_judgement()
    best = attrs.evolve(usual, scores=tuple(attrs.evolve(score, value=1.0) for score in usual.scores))
    worst = attrs.evolve(usual, scores=tuple(attrs.evolve(score, value=-1.0) for score in usual.scores))
    bare = Judgement("bare", (), (Score(-0.3),))
    return usual, best, worst, bare, table8()[1]


def effect(reward_map: RewardMap, region: Region, grid: tuple[int, int]) -> Tensor:
    """How the map changes, cell by cell, when this region's score rises from -0.4 to 0.9 among the sample ones."""
    others = [each for each in sample_judgement().regions if each.id != region.id]
    fixed = (Score(1.0), *(Score(0.2, each.id) for each in others))
    low, high = (
        reward_map(Judgement("sample", (region, *others), (*fixed, Score(value, region.id))), grid)
        for value in (-0.4, 0.9)
    )
    return high - low


def touched(region: Region, grid: tuple[int, int]) -> Tensor:
    """Which cells the region's box covers, wholly or in part."""
    x0, y0, x1, y1 = region.box
    rows, columns = torch.arange(grid[0]), torch.arange(grid[1])
    down = (rows < y1 * grid[0]) & (rows + 1 > y0 * grid[0])
    across = (columns < x1 * grid[1]) & (columns + 1 > x0 * grid[1])
    return down[:, None] & across
