"""Which images are trained on in which step: a pure function of their sizes, the seed and the number of processes.

A batch is what one process computes at once, at most `budget` latent cells. Images of different sizes are batched by
size, because models pad a batch to its largest image: what is padded counts, and is computed for nothing. A step is up
to `width` batches, `width` being processes x accumulation. Steps never reach over the end of an epoch, so the last one
of an epoch may be smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import torch

Batch = tuple[int, ...]
"""Indices of images."""
WINDOW = 32
"""Batches' images that are sorted by size together: more would waste less padding and mix the epochs less."""


def pack(sizes: Sequence[int], order: Sequence[int], budget: int) -> list[Batch]:
    """Cut `order` into batches of at most `budget` cells, padding included, in order; an image beyond the budget is
    its own batch."""
    batches: list[list[int]] = []
    largest = 0
    for index in order:
        largest = max(largest, sizes[index])
        if not batches or largest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            largest = sizes[index]
        batches[-1].append(index)
    return [tuple(batch) for batch in batches]


def epoch(sizes: Sequence[int], budget: int, width: int, seed: int) -> list[list[Batch]]:
    """The steps of one epoch, every image once, in a random order given by `seed`.

    Where sizes differ, some `WINDOW` batches' images at a time are sorted by size, and the batches are shuffled."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sizes), generator=rng).tolist()
    if len(set(sizes)) > 1:
        windows = (sorted(window, key=sizes.__getitem__) for window in pack(sizes, order, WINDOW * budget))
        sorted_by_size = [batch for window in windows for batch in pack(sizes, window, budget)]
        batches = [sorted_by_size[place] for place in torch.randperm(len(sorted_by_size), generator=rng).tolist()]
    else:
        batches = pack(sizes, order, budget)
    return [batches[start : start + width] for start in range(0, len(batches), width)]


def steps(
    sizes: Sequence[int], budget: int, width: int, seed: Callable[[int], int], epochs: int, limit: int
) -> Iterator[list[Batch]]:
    """`limit` steps, or those of `epochs` epochs where it is 0. `seed` gives the seed of an epoch by its number."""
    numbers = count() if limit else range(epochs)
    every = (step for number in numbers for step in epoch(sizes, budget, width, seed(number)))
    return islice(every, limit or None)


def share(step: Sequence[Batch], rank: int, world: int) -> list[tuple[Batch, bool]]:
    """One process's batches of a step, and whether each counts. Every process gets as many: one that has none left
    repeats the step's shortest batch, which must weigh nothing."""
    short = min(step, key=len)
    rounds = range(0, len(step), world)
    return [(step[start + rank], True) if start + rank < len(step) else (short, False) for start in rounds]
