"""Which images make up a batch and a step."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from srum_core.training import batching


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    budget=st.integers(1, 40),
    world=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_every_image_is_in_one_batch_that_counts(
    sizes: list[int], budget: int, world: int, accumulation: int, seed: int
) -> None:
    steps = batching.epoch(sizes, budget, world * accumulation, seed)
    assert steps == batching.epoch(sizes, budget, world * accumulation, seed)
    seen: list[int] = []
    for step in steps:
        shares = [batching.share(step, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1  # or the processes would wait for each other for ever
        assert len(shares[0]) <= accumulation
        for batch, counts in (each for share in shares for each in share):
            assert len(batch) == 1 or sum(sizes[index] for index in batch) <= budget
            seen += batch if counts else ()
    assert sorted(seen) == list(range(len(sizes)))


def padded(batches: list[batching.Batch], sizes: list[int]) -> int:
    """Cells that a model computes which pads every batch to its largest image."""
    return sum(max(sizes[index] for index in batch) * len(batch) for batch in batches)


def test_images_of_several_sizes_are_batched_by_size() -> None:
    rng = random.Random(0)
    sizes = [rng.choice([32, 40, 48, 56, 64]) * rng.choice([32, 40, 48, 56, 64]) for _ in range(400)]
    orders = []
    for seed in range(3):
        batches = [batch for step in batching.epoch(sizes, 16_384, 1, seed) for batch in step]
        assert all(padded([batch], sizes) <= 16_384 for batch in batches)
        wasted = padded(batches, sizes) / sum(sizes) - 1
        in_order = [tuple(range(start, min(start + 5, 400))) for start in range(0, 400, 5)]
        assert wasted < 0.1 * (padded(in_order, sizes) / sum(sizes) - 1)
        means = [sum(sizes[index] for index in batch) / len(batch) for batch in batches]
        third = len(means) // 3
        assert sum(means[:third]) < 1.2 * sum(means[-third:]) < 1.44 * sum(means[:third])  # large ones are not last
        orders.append(batches)
    assert set(orders[0]) != set(orders[1])  # who is trained on with whom changes from epoch to epoch


def test_images_of_one_size_are_batched_in_the_order_of_the_seed() -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3)).tolist()
    batches = [batch for step in batching.epoch([4] * 10, 15, 1, 3) for batch in step]
    assert batches == [tuple(order[start : start + 3]) for start in range(0, 10, 3)]


def test_a_number_of_steps_goes_on_over_epochs() -> None:
    every = list(batching.steps([1, 1, 1], 1, 2, lambda epoch: epoch, epochs=1, limit=5))
    assert [sum(map(len, step)) for step in every] == [2, 1, 2, 1, 2]
    assert list(batching.steps([1, 1, 1], 1, 2, lambda epoch: epoch, epochs=2, limit=0)) == every[:4]


def test_a_batch_is_as_full_as_the_budget_lets_it_be() -> None:
    assert batching.pack([16, 8, 12, 13, 30, 1], range(6), 24) == [(0,), (1, 2), (3,), (4,), (5,)]
