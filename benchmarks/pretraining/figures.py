"""Figures with 95 % intervals, as plain data: {"value": …, "low": …, "high": …, "count": …}.

Images of one prompt are not independent, so prompts are resampled, never images. Every figure is a function of means
over prompts (hits and cases for a share, moments for a correlation, histograms for an area under the curve); it is
computed for the same resamples of these means. `prompts` (n,) is the prompt of each case. An undefined figure (a mean
over nothing, an accuracy on wrong images where all are right) is None, and resamples in which it is undefined do not
count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srum_core.evaluation.statistics import LEVEL, SHARE, if_all_are_equal, resampled_means

Figure = dict[str, Any]
Numbers = NDArray[np.float64]
RESAMPLES = 2000


def interval(
    of: Callable[..., Numbers],
    prompts: NDArray[Any],
    *columns: NDArray[Any],
    bounds: tuple[float, float] = SHARE,
) -> Figure:
    """Return a figure. `of` takes equally long arrays, the means of each column (n,), and returns as many values, which
    lie within the bounds."""
    count = len(prompts)
    if not count:
        return {"value": None, "count": 0}
    names, index = np.unique(prompts, return_inverse=True)
    tables = [np.bincount(index, column.astype(float), len(names))[None].astype(np.float64) for column in columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = of(*(table.mean(1) for table in tables))[0]
        if np.isnan(value):
            return {"value": None, "count": count}
        if len(names) == 1:
            return {"value": round(float(value), 4), "count": count}
        resampled = of(*(resampled_means(table, RESAMPLES) for table in tables))
    low, high = np.nanquantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    if high - low < 1e-12:  # all resamples are alike
        value = float(np.clip(value, *bounds))
        low, high = if_all_are_equal(value, len(names), bounds) or (low, high)
    return {
        "value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4), "count": count,
    }  # fmt: skip


def share(hits: NDArray[Any], prompts: NDArray[Any], cases: NDArray[Any] | None = None) -> Figure:
    """Return the hits over the cases (None: one each); "count" is the number of cases."""
    cases = np.ones(len(prompts)) if cases is None else cases
    return {**interval(np.divide, prompts, hits, cases), "count": int(cases.sum())}


def balanced(truth: NDArray[np.bool_], guess: NDArray[np.bool_], prompts: NDArray[Any]) -> Figure:
    """Return the mean of the accuracies on true and on false cases."""

    def of(hits: Numbers, true: Numbers, rejections: Numbers, false: Numbers) -> Numbers:
        both: Numbers = (hits / true + rejections / false) / 2
        return both

    return interval(of, prompts, truth & guess, truth, ~truth & ~guess, ~truth)


def auc(truth: NDArray[np.bool_], score: Numbers, prompts: NDArray[Any]) -> Figure:
    """Return the area under the ROC curve: the chance that a true case scores above a false one, ties half."""
    levels = np.unique(score)

    def of(*means: Numbers) -> Numbers:
        positives, negatives = np.array(means[: len(levels)]), np.array(means[len(levels) :])
        below = negatives.cumsum(0) - negatives
        area: Numbers = (positives * (below + negatives / 2)).sum(0) / (positives.sum(0) * negatives.sum(0))
        return area

    columns = [kind & (score == level) for kind in (truth, ~truth) for level in levels]
    return interval(of, prompts, *columns)


def correlation(a: Numbers, b: Numbers, prompts: NDArray[Any]) -> Figure:
    """Return Pearson's correlation."""

    def of(x: Numbers, y: Numbers, xx: Numbers, yy: Numbers, xy: Numbers, n: Numbers) -> Numbers:
        across, down = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        varied = (across > 1e-9) & (down > 1e-9)  # constant up to rounding has no correlation
        value: Numbers = np.where(varied, (xy / n - x * y / n**2) / np.sqrt(np.where(varied, across * down, 1)), np.nan)
        return value

    return interval(of, prompts, a, b, a * a, b * b, a * b, np.ones(len(a)), bounds=(-1.0, 1.0))
