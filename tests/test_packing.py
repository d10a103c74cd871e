"""Which images make up a batch and a step."""

from __future__ import annotations

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


def test_a_number_of_steps_goes_on_over_epochs() -> None:
    every = list(batching.steps([1, 1, 1], 1, 2, lambda epoch: epoch, epochs=1, limit=5))
    assert [sum(map(len, step)) for step in every] == [2, 1, 2, 1, 2]
    assert list(batching.steps([1, 1, 1], 1, 2, lambda epoch: epoch, epochs=2, limit=0)) == every[:4]
