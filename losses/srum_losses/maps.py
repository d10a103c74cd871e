"""Reward maps: a judgement spread over the latent grid, float32 (rows, columns) in [-1, 1].

With g the global score and alpha = (g + 1) / 2 in [0, 1] (paper §3.2), the map of the paper is alpha * R (equation 1).
Scores of several judges for the same thing are averaged first. The paper leaves two things open; here

* R outside every scored box is an option, by default 0: no regional evidence, so only the reference term acts there;
* where boxes overlap, R at a point combines the scores of the boxes that hold the point (`overlap`, default: mean).

A cell's value is the exact area integral of R over the cell: a box that covers a third of a cell counts for a third.
A region whose grounder kept its exact shape (`Region.mask`) counts by that shape instead of its box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from math import fsum
from statistics import fmean
from typing import Any

import attrs
import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

from srum_core.errors import RecordError, TrainingError
from srum_core.records import Box, Judgement, Mask, area
from srum_losses import (
    AdvantageOptions,
    GlobalOnlyOptions,
    PaperOptions,
    RegionOptions,
    ReleasedOptions,
    SparseOptions,
)

Grid = tuple[int, int]
Array = NDArray[Any]
AGAIN = "Judge the image again (--redo judge, or judge:ROUND for a later round)."


@frozen(eq=False)
class Patch:
    """A scored box, or a scored shape within it."""

    box: Box
    score: float
    mask: Mask | None = None

    @cached_property
    def pixels(self) -> Array | None:
        """The shape: bool (rows, columns) of the whole image."""
        if self.mask is None:
            return None
        inside = np.arange(len(self.mask.counts)) % 2 == 1  # down the columns
        pixels: Array = inside.repeat(self.mask.counts).reshape(self.mask.size)
        return pixels.T

    @property
    def area(self) -> float:
        """Share of the image."""
        if self.mask is None:
            return area(self.box)
        return sum(self.mask.counts[1::2]) / max(self.mask.size[0] * self.mask.size[1], 1)

    def outline(self) -> tuple[Sequence[float], Sequence[float]]:
        """The heights and the distances from the left at which it may begin or end."""
        if self.pixels is not None:
            return _changes(self.pixels), _changes(self.pixels.T)
        x0, y0, x1, y1 = self.box
        return (y0, y1), (x0, x1)

    def tiles(self, ys: Sequence[float], xs: Sequence[float]) -> Any:
        """Which tiles it covers, as an index: a rectangle of them, or for a shape a bool for each."""
        if self.pixels is None:
            x0, y0, x1, y1 = self.box
            return slice(ys.index(y0), ys.index(y1)), slice(xs.index(x0), xs.index(x1))
        if not self.pixels.size:
            return np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
        middles = ((np.array(edges[1:]) + edges[:-1]) / 2 for edges in (ys, xs))
        places = [(m * side).astype(int).clip(max=side - 1) for m, side in zip(middles, self.pixels.shape, strict=True)]
        return self.pixels[np.ix_(*places)]


ORDERS: dict[str, Callable[[Patch], Any]] = {
    "min": lambda patch: -patch.score,
    "max": lambda patch: patch.score,
    "smallest": lambda patch: (-patch.area, -patch.score),  # of equal sizes the lower score prevails
}
"""Where patches overlap, the last one prevails."""


def _changes(lines: Array) -> list[float]:
    """Where, as fractions, a line differs from the one before."""
    differs = (lines[1:] != lines[:-1]).any(axis=1)
    return [(line + 1) / len(lines) for line in differs.nonzero()[0].tolist()]


class Paper:
    """alpha * R (paper §3.3). Raises RecordError for a judgement without a global score: there is no alpha then."""

    def __init__(self, options: PaperOptions | None = None) -> None:
        self.options = options or PaperOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        score = global_score(judgement)
        options = self.options
        outside = score if options.outside == "global" else options.outside_value
        return (score + 1) / 2 * spread(scored(judgement), grid, options.overlap, outside)


class NoGlobal:
    """R alone: the paper's ablation without the global reward (alpha = 1)."""

    def __init__(self, options: RegionOptions | None = None) -> None:
        self.options = options or RegionOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        return spread(scored(judgement), grid, self.options.overlap, self.options.outside_value)


class GlobalOnly:
    """The global score alone, in every cell (the paper's "sample reward", Figure 4). RecordError without one."""

    def __init__(self, options: GlobalOnlyOptions | None = None) -> None:
        self.options = options or GlobalOnlyOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        score = global_score(judgement)
        return torch.full(grid, score if self.options.signed else (score + 1) / 2)


class Sparse:
    """Rewards of 0 or 1 only (the paper's ablation), for every score on its own or for the image as a whole."""

    def __init__(self, options: SparseOptions | None = None) -> None:
        self.options = options or SparseOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        patches = scored(judgement)
        if self.options.scope == "image":
            means = [fmean(scores) for scores in (_globals(judgement), [patch.score for patch in patches]) if scores]
            if not means:
                raise RecordError(f'The judgement of candidate "{judgement.candidate}" holds no score at all. {AGAIN}')
            return torch.full(grid, min(self._bit(mean) for mean in means))
        bits = [attrs.evolve(patch, score=self._bit(patch.score)) for patch in patches]
        alpha = self._bit(global_score(judgement)) if self.options.gated or self.options.outside == "global" else 1.0
        outside = alpha if self.options.outside == "global" else 0.0
        return (alpha if self.options.gated else 1.0) * spread(bits, grid, self.options.overlap, outside)

    def _bit(self, score: float) -> float:
        return float(score > self.options.threshold)


class Advantage:
    """scale * (R + global_weight * g - mean), cut to [-1, 1]. Not in the paper; docs/method.md derives it.

    R is 1 or -1 by the sign of a region's score, and 1 less the blame for missing objects in the background. The mean
    is that of R + global_weight * g over the round, one inside scored regions and one over the background, by area.
    """

    def __init__(self, options: AdvantageOptions | None = None) -> None:
        self.options = options or AdvantageOptions()
        self._inside = self._outside = self._object = 0.0
        """The two means, and the mean area of a region."""
        self._fitted = not (self.options.centre or self.options.blame)

    def fit(self, judgements: Sequence[Judgement], grids: Sequence[Grid]) -> None:
        """Take the means of a round. Sums are exactly rounded, so no order or number of processes changes them."""
        areas = [patch.area for judgement in judgements for patch in scored(judgement)]
        self._object = fsum(areas) / max(len(areas), 1)
        self._fitted = True
        if not self.options.centre:
            return
        inside, outside = list[tuple[float, float]](), list[tuple[float, float]]()
        for judgement, (rows, columns) in zip(judgements, grids, strict=True):
            cells, whole = rows * columns, self._whole(judgement)
            regional, covered = _sums(self._regions(judgement), self.options.overlap)
            inside.append((cells * (regional + covered * whole), cells * covered))
            bare = 1 - covered
            outside.append((cells * bare * (self._background(judgement) + whole), cells * bare))
        self._inside, self._outside = _mean(inside), _mean(outside)

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        if not self._fitted:
            raise TrainingError(
                "The map `advantage` compares with the whole round, and it has not seen one: call "
                "fit(judgements, grids) first, or set centre=false and blame=false."
            )
        whole, scale, patches = self._whole(judgement), self.options.scale, self._regions(judgement)
        patches = [attrs.evolve(patch, score=scale * (patch.score + whole - self._inside)) for patch in patches]
        outside = scale * (self._background(judgement) + whole - self._outside)
        return spread(patches, grid, self.options.overlap, outside)

    def _whole(self, judgement: Judgement) -> float:
        weight = self.options.global_weight
        return weight * global_score(judgement) if weight else 0.0

    def _regions(self, judgement: Judgement) -> list[Patch]:
        patches = scored(judgement)
        if not self.options.signs:
            return patches
        return [attrs.evolve(patch, score=1.0 if patch.score > self.options.threshold else -1.0) for patch in patches]

    def _background(self, judgement: Judgement) -> float:
        """R outside every scored region."""
        missing = max((score.missing or 0 for score in judgement.scores), default=0) if self.options.blame else 0
        if not missing:
            return 1.0
        bare = 1 - _sums(scored(judgement), self.options.overlap)[1]
        return max(1 - 2 * missing * self._object / bare, -1.0) if bare > 0 else 1.0


class Uniform:
    """1 everywhere, whatever the judgement."""

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        return torch.ones(grid)


class Released:
    """The map of the released code, in [0, 1]: a canvas of 0.5, raised to (s + 1) / 2 by every box that is higher,
    times (g + 1) / 2. So a negative regional score has no effect at all.

    As there, g is the first global score, and 0 if there is none; boxes are cut down to whole pixels; the pixel map is
    brought to the grid by bilinear sampling. Nothing is painted: only tiles between the boxes' edges are computed.
    Boxes count even where exact shapes are known, as in the release.
    """

    def __init__(self, options: ReleasedOptions | None = None) -> None:
        self.options = options or ReleasedOptions()

    def __call__(self, judgement: Judgement, grid: Grid) -> Tensor:
        height, width = (cells * self.options.pixels_per_cell for cells in grid)
        higher = []
        for patch in (each for each in scored(judgement) if each.score > 0):
            ends = np.array(patch.box) * (width, height, width, height) + 1e-6  # 15 / 22 * 22 is 14.99…
            higher.append(Patch(ends.astype(int).tolist(), (patch.score + 1) / 2))
        ys, xs, tiles = _tiles(higher, "max", 0.5, (width, height))
        down, across = sampled(ys, height, grid[0]), sampled(xs, width, grid[1])
        alpha = (next(iter(_globals(judgement)), 0.0) + 1) / 2
        return torch.from_numpy(alpha * (down @ tiles @ across.T)).float()


def sampled(edges: Array, pixels: int, cells: int) -> Array:
    """The share of each cell's samples that lies in each stretch between whole pixels, (cells, stretches), in a
    bilinear resize (corners not aligned, no anti-aliasing)."""
    position = (np.arange(cells)[:, None] + 0.5) * (pixels / cells) - 0.5  # p reads pixel floor(p), by its fraction
    return np.diff((edges - position.clip(0, pixels - 1)).clip(0, 1))  # the next one too


def spread(patches: Sequence[Patch], grid: Grid, overlap: str, outside: float) -> Tensor:
    """Mean of R over every cell, R being `outside` where no box is: float32 (rows, columns).

    Exact: the edges of boxes and shapes cut the image into tiles on which R is constant, and each cell adds up its
    tiles by area.
    """
    ys, xs, tiles = _tiles(patches, overlap, outside)
    cells = _shares(ys, grid[0]) @ tiles @ _shares(xs, grid[1]).T
    return torch.from_numpy(cells.clip(-1, 1)).float()  # only rounding can leave the interval


def _shares(edges: Array, cells: int) -> Array:
    """The share of each cell's length that lies in each stretch between edges: (cells, stretches), rows add up to 1."""
    return np.diff((edges * cells - np.arange(cells)[:, None]).clip(0, 1))


def _tiles(
    patches: Sequence[Patch], overlap: str, outside: float, size: tuple[float, float] = (1, 1)
) -> tuple[Array, Array, Array]:
    """The edges down and across of an image of `size` (width, height), and R on the tiles between them."""
    outlines = [patch.outline() for patch in patches]
    ys, xs = (sorted({0, size[1 - axis], *chain(*(outline[axis] for outline in outlines))}) for axis in (0, 1))
    tiles = np.full((len(ys) - 1, len(xs) - 1), outside, dtype=float)
    if overlap == "mean":
        count, total = np.zeros_like(tiles), np.zeros_like(tiles)
        for patch in patches:
            place = patch.tiles(ys, xs)
            count[place] += 1
            total[place] += patch.score
        np.divide(total, count, out=tiles, where=count > 0)
    else:
        for patch in sorted(patches, key=ORDERS[overlap]):
            tiles[patch.tiles(ys, xs)] = patch.score
    return np.array(ys, dtype=float), np.array(xs, dtype=float), tiles


def _sums(patches: Sequence[Patch], overlap: str) -> tuple[float, float]:
    """The integral of R over the scored regions of an image of area 1, and their area."""
    ys, xs, scores = _tiles(patches, overlap, np.nan)
    areas, inside = np.outer(np.diff(ys), np.diff(xs)), ~np.isnan(scores)
    return fsum((areas * scores)[inside]), fsum(areas[inside])


def _mean(parts: Sequence[tuple[float, float]]) -> float:
    """Total by weight of (total, weight)s; 0 of no weight."""
    weight = fsum(weight for _, weight in parts)
    return fsum(total for total, _ in parts) / weight if weight > 0 else 0.0


def scored(judgement: Judgement) -> list[Patch]:
    """One patch for every region with a score. Raises RecordError for a score of a region that is not listed."""
    regions = {region.id: region for region in judgement.regions}
    values: dict[str, list[float]] = {}
    for score in judgement.scores:
        if score.region is None:
            continue
        if score.region not in regions:
            raise RecordError(
                f'The judgement of candidate "{judgement.candidate}" scores region "{score.region}", which it does not '
                f"list. {AGAIN}"
            )
        values.setdefault(score.region, []).append(score.value)
    return [Patch(regions[name].box, fmean(scores), regions[name].mask) for name, scores in values.items()]


def global_score(judgement: Judgement) -> float:
    """The mean of the global scores in [-1, 1]. Raises RecordError if there is none."""
    scores = _globals(judgement)
    if not scores:
        raise RecordError(
            f'The judgement of candidate "{judgement.candidate}" has no score for the whole image, which this reward '
            'map needs. Add a judge that gives one ("global-layout"), or use the map "no-global".'
        )
    return fmean(scores)


def _globals(judgement: Judgement) -> list[float]:
    return [score.value for score in judgement.scores if score.region is None]
