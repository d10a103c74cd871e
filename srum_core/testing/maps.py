"""Requirements of every reward map, and of every loss."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import attrs
import pytest
import torch
from torch import Tensor

from srum_core.errors import SrumError
from srum_core.flow import FlowStep
from srum_core.plugins.registry import require_protocol
from srum_core.protocols import Loss, RewardMap
from srum_core.records import Judgement, Region, Score
from srum_core.testing.fixtures import called, sample_judgement, table8

GRIDS = ((1, 1), (3, 5), (5, 3), (1, 7), (8, 8), (16, 12))
SHAPES = ((4, 6, 3), (2, 3, 3))
"""Two images of different sizes."""


class RewardMapConformance:
    """Subclass it as `Test…` with a fixture `reward_map`."""

    local: bool = True
    """False: a map with one number for the whole image, so that every score acts everywhere."""

    @pytest.fixture(autouse=True)
    def _round(self, reward_map: RewardMap) -> None:
        """Fit a map that compares with a round."""
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
        for repeated, words in ((maps(forwards), "the same round once more"), (maps(forwards[::-1]), "another order")):
            assert all(map(torch.equal, first, repeated)), (
                f"{name}: after a fit to {words} the maps are others. A fit replaces the one before, and its sums must "
                "not depend on the order (math.fsum): otherwise a resumed training is another one."
            )

    def test_a_missing_score_is_a_map_or_a_sentence(self, reward_map: RewardMap) -> None:
        complete = sample_judgement()
        without_global = attrs.evolve(complete, scores=tuple(score for score in complete.scores if score.region))
        for judgement in (
            attrs.evolve(complete, scores=()),
            without_global,
            attrs.evolve(complete, regions=(), scores=()),
        ):
            try:
                if hasattr(reward_map, "fit"):
                    reward_map.fit([complete, judgement], [(3, 3)] * 2)
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
            change = effect(reward_map, region, grid)
            outside = change * ~touched(region, grid)
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
        inside, outside = (first, second) if side in ("left", "top") else (second, first)
        if not self.local or float(inside.sum() + outside.sum()) == 0:
            return  # a map that ignores regions
        assert float(inside.sum()) > float(outside.sum()), (
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
    """Return ordinary and extreme judgements: without regions, ten overlapping ones, all best, all worst."""
    usual = sample_judgement()
    best = attrs.evolve(usual, scores=tuple(attrs.evolve(score, value=1.0) for score in usual.scores))
    worst = attrs.evolve(usual, scores=tuple(attrs.evolve(score, value=-1.0) for score in usual.scores))
    bare = Judgement("bare", (), (Score(-0.3),))
    return usual, best, worst, bare, table8()[1]


def effect(reward_map: RewardMap, region: Region, grid: tuple[int, int]) -> Tensor:
    """Return the change of each cell when this region's score rises from -0.4 to 0.9, beside the sample regions."""
    other_regions = [each for each in sample_judgement().regions if each.id != region.id]
    fixed = (Score(1.0), *(Score(0.2, each.id) for each in other_regions))
    low, high = (
        reward_map(Judgement("sample", (region, *other_regions), (*fixed, Score(value, region.id))), grid)
        for value in (-0.4, 0.9)
    )
    return high - low


def touched(region: Region, grid: tuple[int, int]) -> Tensor:
    """Return which cells the region's box covers, at least in part."""
    x0, y0, x1, y1 = region.box
    rows, columns = torch.arange(grid[0]), torch.arange(grid[1])
    down = (rows < y1 * grid[0]) & (rows + 1 > y0 * grid[0])
    across = (columns < x1 * grid[1]) & (columns + 1 > x0 * grid[1])
    return down[:, None] & across


# ---- losses ----------------------------------------------------------------------------------------------------------


class LossConformance:
    """Subclass it as `Test…` with a fixture `loss`."""

    ignores_weights: bool = False
    """True: a loss that ignores the reward map, such as plain fine-tuning; then weights must change nothing."""

    def test_it_is_a_loss(self, loss: Loss) -> None:
        require_protocol(loss, Loss, type(loss).__name__)

    def test_it_is_a_finite_scalar(self, loss: Loss) -> None:
        for weights in (1.0, 0.0, -1.0):
            value, _ = called(f"{type(loss).__name__} failed", lambda w=weights: loss(step(loss, w)))  # type: ignore[misc]
            assert value.shape == (), f"{type(loss).__name__} gave the shape {tuple(value.shape)}; a scalar is needed."
            assert value.is_floating_point() and value.isfinite(), (  # noqa: PT018
                f"{type(loss).__name__} gave {value} where every weight is {weights}."
            )

    def test_parts_are_scalars_without_gradient(self, loss: Loss) -> None:
        _, parts = loss(step(loss))
        for name, part in parts.items():
            assert isinstance(part, Tensor) and part.shape == () and part.isfinite(), (  # noqa: PT018
                f'{type(loss).__name__}: the part "{name}" is {part!r}; parts to log are finite scalar tensors.'
            )
            assert not part.requires_grad, (
                f'{type(loss).__name__}: the part "{name}" still carries its graph, which keeps all activations in '
                "memory for as long as it is kept: give `part.detach()`."
            )

    def test_the_gradient_reaches_every_image(self, loss: Loss) -> None:
        for index, gradient in enumerate(gradients(loss, step(loss))):
            assert float(gradient.abs().max()) > 0, (
                f"{type(loss).__name__}: no gradient reaches the velocity of image {index}. Look for a detach(), a "
                "no_grad() or an item() on the way."
            )
            assert gradient.isfinite().all(), f"{type(loss).__name__}: the gradient of image {index} is not finite."

    def test_weights_matter(self, loss: Loss) -> None:
        plain, raised = step(loss), step(loss)
        raised.weight[0][1, 4] += 0.5
        change = (gradients(loss, raised)[0] - gradients(loss, plain)[0]).abs().sum(-1)
        if self.ignores_weights:
            assert float(change.max()) == 0, (
                f"{type(loss).__name__} has `ignores_weights = True`, but its gradient changes with them."
            )
            return
        assert float(change.max()) > 0, (
            f"{type(loss).__name__} ignores the weights: the gradient stays the same when a cell's weight is raised. "
            "Use `step.weight`, or set `ignores_weights = True` if that is meant."
        )
        assert divmod(int(change.argmax()), change.shape[1]) == (1, 4), (
            f"{type(loss).__name__}: raising the weight of the cell in row 1, column 4 acts most on another cell. "
            "Weights are (rows, columns), velocities (rows, columns, channels): check for a transposed grid."
        )

    def test_larger_images_weigh_more(self, loss: Loss) -> None:
        both = step(loss)
        cells = [rows * columns for rows, columns, _ in SHAPES]
        alone = [float(loss(part(both, index))[0].detach()) for index in range(len(SHAPES))]
        expected = sum(n * value for n, value in zip(cells, alone, strict=True)) / sum(cells)
        value = float(loss(both)[0].detach())
        assert abs(value - expected) <= 1e-5 * max(1.0, abs(expected)), (
            f"{type(loss).__name__} gives {value:.6g} for two images of {cells} cells that give {alone} alone; the "
            f"mean over all cells is {expected:.6g}. Take the mean over cells, not over images, or the result "
            "depends on how images are batched."
        )

    def test_a_perfect_velocity_costs_no_more(self, loss: Loss) -> None:
        usual = step(loss, 1.0)
        perfect = attrs.evolve(usual, velocity=[goal.clone().requires_grad_() for goal in usual.target])
        right, wrong = (float(loss(each)[0].detach()) for each in (perfect, usual))
        assert right <= wrong, (
            f"{type(loss).__name__} is larger where the velocity is the target ({right:.6g}) than elsewhere "
            f"({wrong:.6g}), though every weight is 1: check its sign."
        )

    def test_the_step_is_left_as_it_is(self, loss: Loss) -> None:
        after, before = step(loss), step(loss)
        loss(after)
        for name in ("velocity", "target", "weight", "start"):
            one, other = (getattr(each, name) or () for each in (after, before))
            pairs: Sequence[tuple[Tensor, Tensor]] = list(zip(one, other, strict=True))
            assert all(torch.equal(one, other) for one, other in pairs), (
                f"{type(loss).__name__} changed `step.{name}` in place."
            )


def step(loss: Loss, weights: float | None = None) -> FlowStep:
    """Return a step of two images, always with the same numbers; weights in [0.1, 1], or all `weights`. The prediction
    before training is set only for a loss with `needs_start`."""
    rng = torch.Generator().manual_seed(0)
    target = [torch.randn(shape, generator=rng) for shape in SHAPES]
    velocity = [goal + torch.randn(goal.shape, generator=rng) for goal in target]
    random = [0.1 + 0.9 * torch.rand(shape[:2], generator=rng) for shape in SHAPES]
    weight = random if weights is None else [torch.full(shape[:2], weights) for shape in SHAPES]
    start = [goal + torch.randn(goal.shape, generator=rng) for goal in target]
    return FlowStep(
        [v.requires_grad_() for v in velocity],
        target,
        target,
        weight,
        torch.tensor([0.3, 0.7]),
        start if getattr(loss, "needs_start", False) else None,
    )


def part(batch: FlowStep, index: int) -> FlowStep:
    """Return one image of a step."""
    selection = slice(index, index + 1)
    target = batch.target[selection]
    start = None if batch.start is None else batch.start[selection]
    return FlowStep(batch.velocity[selection], target, target, batch.weight[selection], batch.time[selection], start)


def gradients(loss: Loss, step: FlowStep) -> list[Tensor]:
    """Return the gradient of the loss for every velocity; zeros where there is none."""
    value, _ = loss(step)
    assert value.requires_grad, (
        f"{type(loss).__name__} gave a value without gradient: nothing could be trained with it. Look for a detach(), "
        "a no_grad() or an item()."
    )
    grads = torch.autograd.grad(value, step.velocity, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(step.velocity, grads, strict=True)]
