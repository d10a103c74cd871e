"""Which images are trained on in which step: a pure function of their sizes, the seed and the number of processes.

A batch is what one process computes at once, at most `budget` latent cells. A step is up to `width` batches, `width`
being processes x accumulation. Steps never reach over the end of an epoch, so the last one of an epoch may be smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import torch

Batch = tuple[int, ...]
"""Indices of images."""


def pack(sizes: Sequence[int], order: Sequence[int], budget: int) -> list[Batch]:
    """Cut `order` into batches of at most `budget` cells, in order; an image beyond the budget is its own batch."""
    batches: list[list[int]] = []
    room = 0
    for index in order:
        if not batches or sizes[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= sizes[index]
    return [tuple(batch) for batch in batches]


def epoch(sizes: Sequence[int], budget: int, width: int, seed: int) -> list[list[Batch]]:
    """The steps of one epoch, every image once, in a random order given by `seed`."""
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
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
