"""Means over training seeds and prompts, with intervals by a two-level bootstrap. numpy is imported when it is used.

A table of numbers is (seeds, prompts): every training seed has the same prompts, and the images of a prompt are
averaged, because they are not independent. A resample draws seeds and prompts, independently and with replacement, and
takes the mean of the selected cells. Differences between two arms are paired: one table of differences is resampled, so
that effects of a prompt or a seed on both arms cancel.

Of n items n - 1 are drawn: the variance of the resampled means is then unbiased for independent items, which matters
with few seeds (with n = 5, drawing all n would make it a fifth too small). Drawing both seeds and prompts counts the
variance of single cells up to three times, so that intervals are rather too wide. With few seeds that differ more than
prompts do, intervals are too narrow, because a few samples do not show the full spread.

If all numbers are equal, all resamples are too, although four successes of four do not guarantee a fifth. Then the
interval is that of `if_all_are_equal`, which for shares is Wilson's with a prompt as the unit.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard errors on each side of the mean in an interval of this level."""
SHARE = (0.0, 1.0)
"""The range of a share."""
_AT_ONCE = 1000
_EQUAL = 1e-12
"""Numbers that differ by less count as equal."""


@frozen
class Estimate:
    """A mean and its interval; no interval if there is nothing to resample."""

    value: float
    low: float | None = None
    high: float | None = None


def if_all_are_equal(value: float, count: int, bounds: tuple[float, float]) -> tuple[float, float] | None:
    """Return the interval of a mean of `count` independent, equal numbers; None for one out of bounds.

    A share of up to z² / (count + z²) of other numbers may be missing from the sample (the end of Wilson's interval at
    0 of `count`); the interval reaches to where these are all the least or all the greatest possible.
    """
    least, most = bounds
    if not least <= value <= most:
        return None
    unseen = Z**2 / (count + Z**2)
    return value - unseen * (value - least), value + unseen * (most - value)


def interval(means: Table) -> tuple[float, float]:
    """Return the ends of the central interval that holds a share LEVEL of the resampled means."""
    import numpy as np

    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def estimate(table: Table, resamples: int = RESAMPLES, bounds: tuple[float, float] | None = SHARE) -> Estimate:
    """Return the mean of a (seeds, prompts) table, with an interval over the seeds and prompts if there are several.

    bounds      the range of a number (None: unknown), for the interval if all numbers are equal"""
    import numpy as np

    if table.ndim != 2 or not table.size:
        raise ValueError(f"a table of (seeds, prompts) is needed, not one of shape {table.shape}")
    value = float(table.mean())
    if table.size == 1:
        return Estimate(value)
    if np.ptp(table) <= _EQUAL * max(1.0, abs(value)):
        count = table.shape[1] if table.shape[1] > 1 else table.shape[0]
        ends = if_all_are_equal(float(table.flat[0]), count, bounds) if bounds else None
        return Estimate(value, *(ends or (None, None)))
    return Estimate(value, *interval(resampled_means(table, resamples)))


def difference(ours: Table, theirs: Table) -> Estimate:
    """Return the mean of ours - theirs, paired: both are (seeds, prompts) with the same seeds and prompts in order."""
    if ours.shape != theirs.shape:
        raise ValueError(f"tables of {ours.shape} and {theirs.shape} cannot be paired")
    shares = min(ours.min(), theirs.min()) >= 0 and max(ours.max(), theirs.max()) <= 1
    return estimate(ours - theirs, bounds=(-1.0, 1.0) if shares else None)


def resampled_means(table: Table, resamples: int = RESAMPLES, seed: int = 0) -> Table:
    """Return the means of `resamples` resampled tables; the same samples for tables of the same shape."""
    import numpy as np

    seeds, prompts = table.shape
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        rows = table[_indices(rng, seeds, count)].mean(axis=1)  # (count, prompts)
        parts.append(np.take_along_axis(rows, _indices(rng, prompts, count), axis=1).mean(axis=1))
    return np.concatenate(parts)


def _indices(rng: Any, size: int, count: int) -> NDArray[np.int64]:
    """Draw indices of `size` items for `count` resamples: (count, size - 1), or (count, 1) for a single item."""
    indices: NDArray[np.int64] = rng.integers(size, size=(count, max(size - 1, 1)))
    return indices
