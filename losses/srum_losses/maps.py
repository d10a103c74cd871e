"""Reward maps: a judgement spread over the latent grid, float32 (rows, columns) in [-1, 1].

With g the global score and alpha = (g + 1) / 2 in [0, 1] (paper §3.2), the map of the paper is alpha * R (equation 1).
Scores of several judges for the same thing are averaged first. The paper leaves two things open; here

* R outside every scored box is an option, by default 0: no regional evidence, so only the reference term acts there;
* where boxes overlap, R at a point combines the scores of the boxes that hold the point (`overlap`, default: mean).

A cell's value is the exact area integral of R over the cell: a box that covers a third of a cell counts for a third.
A region whose grounder kept its exact shape (`Region.mask`) counts by that shape instead of its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import attrs
import torch
from attrs import frozen
from torch import Tensor

from srum_core.errors import RecordError
from srum_core.records import Box, Judgement, Mask
from srum_losses import GlobalOnlyOptions, PaperOptions, RegionOptions, ReleasedOptions, SparseOptions, shapes

Grid = tuple[int, int]


@frozen
class Patch:
    """A scored box, or a scored shape within it."""

    box: Box
    score: float
    mask: Mask | None = None


class Paper:
    """alpha * R (paper §3.3). Raises RecordError for a judgement without a global score: there is no alpha then."""

    def __init__(self, options: PaperOptions | None = None) -> None:
        self.options = options or PaperOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        score = global_score(judgement)
        options = self.options
        outside = score if options.outside == "global" else options.outside_value
        return (score + 1) / 2 * spread(patches(judgement), grid, options.overlap, outside)


class NoGlobal:
    """R alone: the paper's ablation without the global reward (alpha = 1)."""

    def __init__(self, options: RegionOptions | None = None) -> None:
        self.options = options or RegionOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        return spread(patches(judgement), grid, self.options.overlap, self.options.outside_value)


class GlobalOnly:
    """The global score alone, in every cell (the paper's "sample reward", Figure 4). RecordError without one."""

    def __init__(self, options: GlobalOnlyOptions | None = None) -> None:
        self.options = options or GlobalOnlyOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        score = global_score(judgement)
        return torch.full(grid, score if self.options.signed else (score + 1) / 2)


class Sparse:
    """Rewards of 0 or 1 only (the paper's ablation), for every score on its own or for the picture as a whole."""

    def __init__(self, options: SparseOptions | None = None) -> None:
        self.options = options or SparseOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        found = patches(judgement)
        if self.options.scope == "picture":
            means = [fmean(scores) for scores in (_globals(judgement), [patch.score for patch in found]) if scores]
            if not means:
                raise RecordError(f'The judgement of candidate "{judgement.candidate}" holds no score at all.')
            return torch.full(grid, min(self._bit(mean) for mean in means))
        bits = [attrs.evolve(patch, score=self._bit(patch.score)) for patch in found]
        outside = 1.0 if self.options.outside == "global" else 0.0
        return self._bit(global_score(judgement)) * spread(bits, grid, self.options.overlap, outside)

    def _bit(self, score: float) -> float:
        return float(score > self.options.threshold)


class Uniform:
    """1 everywhere, whatever the judgement says."""

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        return torch.ones(grid)


class Released:
    """What the released code computes, in [0, 1]: a canvas of 0.5, raised to (s + 1) / 2 by every box that is higher,
    times (g + 1) / 2. So a negative regional score has no effect at all.

    As there, g is the first global score, and 0 if there is none; boxes are cut down to whole pixels; the pixel map is
    brought to the grid by bilinear sampling. Only the pixels sampled (four a cell) are ever computed. Boxes count even
    where exact shapes are known, as in the release.
    """

    def __init__(self, options: ReleasedOptions | None = None) -> None:
        self.options = options or ReleasedOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        height, width = (cells * self.options.pixels_per_cell for cells in grid)
        row_pixels, row_shares = sample_points(height, grid[0])
        column_pixels, column_shares = sample_points(width, grid[1])
        canvas = torch.full((*row_pixels.shape, *column_pixels.shape), 0.5, dtype=torch.float64)
        for patch in patches(judgement):
            x0, y0, x1, y1 = patch.box
            rows = _within(row_pixels, y0 * height, y1 * height)
            columns = _within(column_pixels, x0 * width, x1 * width)
            raised = canvas.clamp(min=(patch.score + 1) / 2)
            canvas = torch.where(rows[:, :, None, None] & columns, raised, canvas)
        alpha = (next(iter(_globals(judgement)), 0.0) + 1) / 2
        return (alpha * torch.einsum("ikjl,ik,jl->ij", canvas, row_shares, column_shares)).float()


def sample_points(pixels: int, cells: int) -> tuple[Tensor, Tensor]:
    """Which pixels along one axis a bilinear resize (corners not aligned, no anti-aliasing) reads for each cell.

    Returns indices and shares, both (cells, 2). With an even number of pixels a cell: the middle two, half each.
    """
    position = ((torch.arange(cells, dtype=torch.float64) + 0.5) * (pixels / cells) - 0.5).clamp(min=0)
    low = position.floor()
    share = position - low
    index = torch.stack([low, (low + 1).clamp(max=pixels - 1)], dim=1).long()
    return index, torch.stack([1 - share, share], dim=1)


def _within(index: Tensor, start: float, end: float) -> Tensor:
    """Which pixels lie in [start, end), both ends cut down to whole pixels (with slack: 15 / 22 * 22 is 14.99…)."""
    return (index >= int(start + 1e-6)) & (index < int(end + 1e-6))


def spread(found: Sequence[Patch], grid: Grid, overlap: str, outside: float) -> Tensor:
    """Mean of R over every cell, R being `outside` where no box is: float32 (rows, columns).

    Exact: the edges of boxes and shapes cut the picture into tiles on which R is constant, and each cell adds up its
    tiles by area.
    """
    pixels = [None if patch.mask is None else shapes.decode(patch.mask) for patch in found]
    outlines = [_outline(*each) for each in zip(found, pixels, strict=True)]
    ys, xs = (_edges([edge for outline in outlines for edge in outline[axis]]) for axis in (0, 1))
    tiles = _combine(found, pixels, (ys[:-1] + ys[1:]) / 2, (xs[:-1] + xs[1:]) / 2, overlap, outside)
    cells = _shares(ys, grid[0]) @ tiles @ _shares(xs, grid[1]).T
    return cells.clamp(-1, 1).float()  # only rounding can leave the interval


def _outline(patch: Patch, pixels: Tensor | None) -> tuple[Sequence[float], Sequence[float]]:
    """The heights and the distances from the left at which the patch may begin or end."""
    if pixels is not None:
        return shapes.outline(pixels)
    x0, y0, x1, y1 = patch.box
    return (y0, y1), (x0, x1)


def _edges(inner: Sequence[float]) -> Tensor:
    return torch.tensor(sorted({0.0, 1.0, *inner}), dtype=torch.float64)


def _shares(edges: Tensor, cells: int) -> Tensor:
    """The share of each cell's length that lies in each stretch between edges: (cells, stretches), rows add up to 1."""
    start = torch.arange(cells, dtype=torch.float64)[:, None]
    clipped = (edges * cells - start).clamp(0, 1)
    return clipped.diff(dim=1)


def _combine(
    found: Sequence[Patch], pixels: Sequence[Tensor | None], ys: Tensor, xs: Tensor, overlap: str, outside: float
) -> Tensor:
    """R at the points ys x xs."""
    held = [_holds(patch, shape, ys, xs) for patch, shape in zip(found, pixels, strict=True)]
    value = torch.full((len(ys), len(xs)), outside, dtype=torch.float64)
    if overlap == "mean":
        count = sum((inside.double() for inside in held), torch.zeros_like(value))
        total = sum((inside * patch.score for inside, patch in zip(held, found, strict=True)), torch.zeros_like(value))
        return torch.where(count > 0, total / count.clamp(min=1), value)
    for index in sorted(range(len(found)), key=lambda index: _rank(found[index], overlap)):
        value[held[index]] = found[index].score  # later ones win
    return value


def _holds(patch: Patch, pixels: Tensor | None, ys: Tensor, xs: Tensor) -> Tensor:
    if pixels is not None:
        return shapes.holds(pixels, ys, xs)
    x0, y0, x1, y1 = patch.box
    return ((ys > y0) & (ys < y1))[:, None] & ((xs > x0) & (xs < x1))


def _rank(patch: Patch, overlap: str) -> tuple[float, ...]:
    """Sorts the patches so that the one that prevails comes last."""
    if overlap == "smallest":
        x0, y0, x1, y1 = patch.box
        size = (x1 - x0) * (y1 - y0) if patch.mask is None else shapes.share(patch.mask)
        return -size, -patch.score  # of equal sizes the lower score prevails
    return (patch.score if overlap == "max" else -patch.score,)


def patches(judgement: Judgement) -> list[Patch]:
    """One patch for every region with a score. Raises RecordError for a score of a region that is not listed."""
    regions = {region.id: region for region in judgement.regions}
    values: dict[str, list[float]] = {}
    for score in judgement.scores:
        if score.region is None:
            continue
        if score.region not in regions:
            raise RecordError(
                f'The judgement of candidate "{judgement.candidate}" scores region "{score.region}", which it does not '
                "list. Judge the picture again (--redo judge)."
            )
        values.setdefault(score.region, []).append(score.value)
    return [Patch(regions[name].box, fmean(given), regions[name].mask) for name, given in values.items()]


def global_score(judgement: Judgement) -> float:
    """The mean of the global scores in [-1, 1]. Raises RecordError if there is none."""
    scores = _globals(judgement)
    if not scores:
        raise RecordError(
            f'The judgement of candidate "{judgement.candidate}" has no score for the whole picture, and this reward '
            'map multiplies with one. Add a judge that gives one ("global-layout"), or use the map "no-global".'
        )
    return fmean(scores)


def _globals(judgement: Judgement) -> list[float]:
    return [score.value for score in judgement.scores if score.region is None]
