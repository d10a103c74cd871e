"""From pictures to rows: what happens to answers that could not be read, and 95 % intervals over prompts. No torch.

Pictures of one prompt are not independent, so prompts are resampled (`srum_core.statistics`), within each group on
their own; a mean of groups is the same combination of their resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import TYPE_CHECKING

from attrs import frozen

from srum_core.records import Row
from srum_core.statistics import LEVEL, resampled_means

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Draws = NDArray[np.float64]

COMPLETE = 0.99
"""A table over a smaller share of the answers says that it is incomplete."""


@frozen
class Cell:
    """What one picture adds to one group; `value` None = the answer could not be read."""

    prompt: str
    value: float | None


@frozen
class Part:
    """A group: per prompt, the sum over its pictures and how many count."""

    sums: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Over pictures. A group without any is a mistake of the caller."""
        return sum(self.sums) / self.count


def part(cells: Iterable[Cell], failed: float | None = None) -> Part:
    """Gather cells by prompt. `failed` is what an unreadable answer counts as, None = nothing."""
    values: dict[str, list[float]] = {}
    for cell in cells:
        value = failed if cell.value is None else cell.value
        if value is not None:
            values.setdefault(cell.prompt, []).append(value)
    own = [values[prompt] for prompt in sorted(values)]  # whatever order pictures come in, the same numbers follow
    return Part(tuple(fsum(each) for each in own), tuple(len(each) for each in own))


def coverage(cells: Iterable[Cell]) -> float:
    """The share of answers that could be read; 1 of none."""
    values = [cell.value is not None for cell in cells]
    return sum(values) / len(values) if values else 1.0


def failed_as(policy: str) -> float | None:
    """What an unreadable answer counts as; None = nothing. A scorer that counts it as something of its own, or has no
    result then, is the benchmark's own business."""
    return 0.0 if policy == "zero" else None


def row(name: str, parts: Sequence[tuple[float, Part]], note: str = "") -> Row:
    """The sum of weight x mean over groups (weights that add up to 1: a weighted mean), with its interval."""
    import numpy as np

    value = sum(weight * each.mean for weight, each in parts)
    count = sum(each.count for _, each in parts)
    if all(len(each.counts) < 2 for _, each in parts):
        return Row(name, value, count, note=note)
    draws = sum(weight * resampled(each, seed) for seed, (weight, each) in enumerate(parts))
    tail = (1 - LEVEL) / 2
    low, high = (float(end) for end in np.quantile(draws, (tail, 1 - tail)))
    return Row(name, value, count, float(np.std(draws)), low, high, note)


def equal(parts: Iterable[Part], scale: float = 1.0) -> list[tuple[float, Part]]:
    """Weights for the unweighted mean of groups, times a constant."""
    found = list(parts)
    return [(scale / len(found), each) for each in found]


def resampled(part: Part, seed: int) -> Draws:
    """Means over pictures of resampled prompts: the same prompts are drawn for the sums and for the counts."""
    import numpy as np

    sums, counts = (np.array([numbers], dtype=np.float64) for numbers in (part.sums, part.counts))
    drawn: Draws = resampled_means(sums, seed=seed) / resampled_means(counts, seed=seed)
    return drawn


def note(readable: float, prompts: int, expected: int, more: Sequence[str] = ()) -> str:
    """What every row of a table must say, as one line; "" if there is nothing to say."""
    said = list(more)
    if readable < COMPLETE:
        said.append(f"incomplete: {readable:.1%} of the answers could be read")
    if prompts < expected:
        said.append(f"incomplete: {prompts} of {expected} prompts")
    return "; ".join(said)


def by_group(cells: Iterable[tuple[str, Cell]], order: Iterable[str]) -> Mapping[str, list[Cell]]:
    """Groups in a fixed order, those without cells left out."""
    found: dict[str, list[Cell]] = {name: [] for name in order}
    for name, cell in cells:
        found.setdefault(name, []).append(cell)
    return {name: each for name, each in found.items() if each}
