"""Assign images to training steps: a pure function of their sizes, the seed and the number of processes.

A batch is what one process computes at once, at most `budget` latent cells. Images of different sizes are batched by
size, because models pad a batch to its largest image, and padding costs memory and time. A step is up to `width`
batches, where `width` is processes x accumulation. A step never crosses the end of an epoch, so the last step of an
epoch may be smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import torch

Batch = tuple[int, ...]
"""Indices of images."""
WINDOW = 32
"""Batches whose images are sorted by size together. A larger window needs less padding and shuffles less."""


def pack(sizes: Sequence[int], order: Sequence[int], budget: int) -> list[Batch]:
    """Cut `order` into batches of at most `budget` cells with padding; an image above the budget is a batch alone."""
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
    """Return the steps of one epoch, with every image once, in a random order from `seed`.

    If sizes differ, images are sorted by size in windows of `WINDOW` batches, and then the batches are shuffled."""
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
    """Yield `limit` steps, or `epochs` epochs if it is 0. `seed` returns the seed of an epoch by its number."""
    numbers = count() if limit else range(epochs)
    every = (step for number in numbers for step in epoch(sizes, budget, width, seed(number)))
    return islice(every, limit or None)


def share(step: Sequence[Batch], rank: int, world: int) -> list[tuple[Batch, bool]]:
    """Return one process's batches of a step, and whether each counts. All processes get equally many: one without a
    batch repeats the step's shortest, which must have the weight 0."""
    short = min(step, key=len)
    rounds = range(0, len(step), world)
    return [(step[start + rank], True) if start + rank < len(step) else (short, False) for start in rounds]
