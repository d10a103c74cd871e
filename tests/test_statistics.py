"""Estimates over seeds and prompts: exact where the resamples can be counted, and right as often as they say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from rows import each_row

from srum_core.evaluation import statistics
from srum_core.evaluation.statistics import Estimate, difference, estimate, resampled_means


def test_the_resamples_of_a_tiny_table_are_all_that_there_can_be() -> None:
    """2 seeds, 3 prompts: a resample draws 1 seed and 2 prompts, all 2 * 9 ways equally often."""
    table = np.array([[0.0, 1.0, 5.0], [2.0, 8.0, 20.0]])
    expected = sorted((row[i] + row[j]) / 2 for row in table for i, j in product(range(3), repeat=2))
    found = resampled_means(table, 90_000)
    values, counts = np.unique(found, return_counts=True)
    there, times = np.unique(expected, return_counts=True)
    np.testing.assert_array_equal(values, there)
    np.testing.assert_allclose(counts / len(found), times / 18, atol=0.005)


def test_the_interval_holds_the_middle_of_the_resamples() -> None:
    table = np.array([[0.0, 1.0, 5.0, 2.0], [2.0, 8.0, 20.0, 1.0]])
    means = np.sort(resampled_means(table, 10_000))
    found = estimate(table)
    assert found.value == table.mean()
    assert (found.low, found.high) == (np.quantile(means, 0.025), np.quantile(means, 0.975))


def test_all_resamples_are_different_draws() -> None:
    """Also beyond the number that is drawn at once."""
    means = resampled_means(np.random.default_rng(0).normal(size=(3, 50)), 3 * statistics._AT_ONCE + 7)
    assert len(means) == 3 * statistics._AT_ONCE + 7
    assert len(np.unique(means)) == len(means)


def test_the_same_table_gives_the_same_interval() -> None:
    table = np.random.default_rng(0).normal(size=(2, 9))
    assert estimate(table) == estimate(table.copy())


def test_one_number_has_no_interval() -> None:
    assert estimate(np.array([[0.25]])) == Estimate(0.25)


@each_row(
    "value, shape, low, high",
    [
        (1.0, (1, 4), 0.5101, 1.0),  # Wilson's, 4 of 4
        (0.0, (1, 4), 0.0, 0.4899),
        (1.0, (4, 1), 0.5101, 1.0),
        (1.0, (3, 60), 0.9398, 1.0),  # prompts count, not images
        (0.5, (1, 4), 0.2551, 0.7449),
        (0.1 + 0.2, (1, 4), 0.1530, 0.6429),
    ],
)
def test_equal_numbers_do_not_promise_the_next(value: float, shape: tuple[int, int], low: float, high: float) -> None:
    found = estimate(np.full(shape, value))
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_equal_differences_do_not_promise_the_next() -> None:
    right, wrong = np.ones((1, 4)), np.zeros((1, 4))
    same, all_better = difference(right, right), difference(right, wrong)
    assert (same.value, same.low, same.high) == pytest.approx((0, -0.4899, 0.4899), abs=1e-4)
    assert (all_better.value, all_better.low, all_better.high) == pytest.approx((1, 0.0202, 1), abs=1e-4)


def test_equal_numbers_of_unknown_scale_have_no_interval() -> None:
    assert estimate(np.full((1, 4), 70.0)) == Estimate(70.0)
    assert estimate(np.full((1, 4), 0.0), bounds=None) == Estimate(0.0)
    assert difference(np.full((1, 4), 70.0), np.full((1, 4), 70.0)) == Estimate(0.0)


@each_row("truth", [0.9, 0.97, 0.995])
def test_intervals_of_rare_failures_hold_the_truth(truth: float) -> None:
    """Where most samples are all right, an interval without width would never hold it."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        found = estimate((rng.random((1, 20)) < truth).astype(float), resamples=300)
        held += found.low <= truth <= found.high  # type: ignore[operator]
    assert held / 400 >= 0.85


def test_with_one_seed_or_one_prompt_only_the_other_is_resampled() -> None:
    row = np.array([[0.0, 1.0, 2.0]])
    assert set(np.unique(resampled_means(row))) == {0.0, 0.5, 1.0, 1.5, 2.0}
    assert set(np.unique(resampled_means(row.T))) == {0.0, 0.5, 1.0, 1.5, 2.0}


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds, prompts"):
        estimate(np.zeros(3))
    with pytest.raises(ValueError, match="seeds, prompts"):
        estimate(np.zeros((2, 0)))
    with pytest.raises(ValueError, match="cannot be paired"):
        difference(np.zeros((2, 3)), np.zeros((3, 2)))


def test_pairing_takes_out_what_makes_prompts_hard_for_both() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(size=(1, 200)) * 3
    ours, theirs = (hard + rng.normal(size=(4, 200)) * 0.1 + shift for shift in (0.05, 0.0))
    paired = difference(ours, theirs)
    apart = resampled_means(ours, seed=1) - resampled_means(theirs, seed=2)
    low, high = np.quantile(apart, (0.025, 0.975))
    assert paired.value == pytest.approx(float(ours.mean() - theirs.mean()))
    assert 0 < paired.low < 0.05 < paired.high  # type: ignore[operator]
    assert low < 0 < high
    assert high - low > 10 * (paired.high - paired.low)  # type: ignore[operator]


def test_the_variance_of_the_resamples_is_that_of_the_mean() -> None:
    """Of seed effects, of prompt effects, and three times that of what is particular to a cell, on average."""
    rng = np.random.default_rng(2)
    for seed_spread, prompt_spread, cell_spread in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        found = []
        for _ in range(300):
            table = (
                seed_spread * rng.normal(size=(5, 1))
                + prompt_spread * rng.normal(size=(1, 40))
                + cell_spread * rng.normal(size=(5, 40))
            )
            found.append(resampled_means(table, 400, int(rng.integers(1 << 30))).var())
        truth = seed_spread**2 / 5 + prompt_spread**2 / 40 + 3 * cell_spread**2 / 200
        assert np.mean(found) == pytest.approx(truth, rel=0.15)


@each_row(
    "seed_spread, prompt_spread, cell_spread, least, most",
    [
        (0.0, 1.0, 0.0, 0.92, 0.975),  # prompts differ: as it says
        (0.1, 0.5, 1.0, 0.95, 1.0),  # as correct or not does in an image: too wide rather than too narrow
        (1.0, 0.2, 0.2, 0.82, 0.93),  # five seeds that differ much: too narrow, as the module says
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    seed_spread: float, prompt_spread: float, cell_spread: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        table = (
            0.3
            + seed_spread * rng.normal(size=(5, 1))
            + prompt_spread * rng.normal(size=(1, 60))
            + cell_spread * rng.normal(size=(5, 60))
        )
        found = estimate(table, resamples=600)
        held += found.low <= 0.3 <= found.high  # type: ignore[operator]
    assert least <= held / 300 <= most
