"""From images to rows: what happens to answers that could not be read, and 95 % intervals over prompts. No torch.

Images of one prompt are not independent, so prompts are resampled (`srum_core.evaluation.statistics`), within each
group on their own; a mean of groups is the same combination of their resamples. A group whose prompts are all equal
does not vary when it is resampled: what its own interval (`if_all_are_equal`) reaches is added as
something independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, hypot
from typing import TYPE_CHECKING, Any

from attrs import frozen

from srum_benchmarks.options import PublishedOptions
from srum_core.evaluation.statistics import SHARE, if_all_are_equal, interval, resampled_means
from srum_core.records import Candidate, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Means = NDArray[np.float64]

COMPLETE = 0.99
"""A table over a smaller share of the answers is marked incomplete."""


Scored = Sequence[tuple[Candidate, Mapping[str, float]]]
"""Images and their measures."""


@frozen
class Cell:
    """What one image adds to one group; `value` None = the answer could not be read."""

    prompt: str
    value: float | None


@frozen
class Part:
    """A group: per prompt, the sum over its images and how many count."""

    sums: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Over images. A group without any is a mistake of the caller."""
        return sum(self.sums) / self.count

    @property
    def equal(self) -> bool:
        """Whether all prompts have the same mean."""
        means = [each / count for each, count in zip(self.sums, self.counts, strict=True)]
        return max(means) - min(means) < 1e-12


def part(cells: Iterable[Cell], failed: float | None = None) -> Part:
    """Gather cells by prompt. `failed` is what an unreadable answer counts as, None = nothing."""
    values: dict[str, list[float]] = {}
    for cell in cells:
        value = failed if cell.value is None else cell.value
        if value is not None:
            values.setdefault(cell.prompt, []).append(value)
    own = [values[prompt] for prompt in sorted(values)]  # whatever order images come in, the same numbers follow
    return Part(tuple(fsum(each) for each in own), tuple(len(each) for each in own))


def cells(scored: Scored, measure: str) -> list[Cell]:
    """One for each image."""
    return [Cell(candidate.prompt.id, values.get(measure)) for candidate, values in scored]


def coverage(cells: Iterable[Cell]) -> float:
    """The share of answers that could be read; 1 of none."""
    values = [cell.value is not None for cell in cells]
    return sum(values) / len(values) if values else 1.0


def row(
    name: str,
    parts: Sequence[tuple[float, Part]],
    note: str = "",
    bounds: tuple[float, float] = SHARE,
) -> Row:
    """The sum of weight x mean over groups (weights that add up to 1: a weighted mean), with its interval.

    bounds  between what the value of an image can lie"""
    import numpy as np

    value = sum(weight * each.mean for weight, each in parts)
    count = sum(each.count for _, each in parts)
    if all(len(each.counts) < 2 for _, each in parts):
        return Row(name, value, count, note=note)
    means: Any = sum(weight * resampled(each, seed) for seed, (weight, each) in enumerate(parts))
    low, high = interval(means)
    below, above = [value - low], [high - value]  # and how much farther a group of equal prompts may reach
    for weight, each in parts:
        if each.equal and (ends := if_all_are_equal(each.mean, len(each.counts), bounds)):
            below.append(weight * (each.mean - ends[0]))
            above.append(weight * (ends[1] - each.mean))
    # Distances to the ends of independent intervals add up in quadrature (Zou & Donner 2008).
    low -= hypot(*below) - abs(below[0])
    high += hypot(*above) - abs(above[0])
    return Row(name, value, count, float(np.std(means)) or None, low, high, note)


def equal(parts: Iterable[Part], scale: float = 1.0) -> list[tuple[float, Part]]:
    """Weights for the unweighted mean of groups, times a constant."""
    every = list(parts)
    return [(scale / len(every), each) for each in every]


def resampled(part: Part, seed: int) -> Means:
    """Means over images of resampled prompts: the same resamples serve the sums and the counts."""
    import numpy as np

    sums, counts = (np.array([numbers], dtype=np.float64) for numbers in (part.sums, part.counts))
    means: Means = resampled_means(sums, seed=seed) / resampled_means(counts, seed=seed)
    return means


def note(options: PublishedOptions, readable: float, scored: Scored, expected: int, *more: str) -> str:
    """The note of every row of a table, as one line; "" if there is none. `expected`: prompts."""
    prompts = len({candidate.prompt.id for candidate, _ in scored})
    policy = getattr(options, "policy", "exclude")
    parts = [
        f"policy {policy}" if policy != "exclude" else "",
        *more,
        "" if options.verify else "prompts not verified",
        f"incomplete: {readable:.1%} of the answers could be read" if readable < COMPLETE else "",
        f"incomplete: {prompts} of {expected} prompts" if prompts < expected else "",
    ]
    return "; ".join(filter(None, parts))


def by_group(scored: Scored, measure: str, tag: str, order: Iterable[str], policy: str = "exclude") -> dict[str, Part]:
    """Groups, which a prompt's tag names, in a fixed order; those where nothing counts are left out. `policy` "zero"
    counts unreadable answers as 0; a scorer that counts them as something of its own, or has no result then, is the
    benchmark's own business."""
    groups: dict[str, list[Cell]] = {name: [] for name in order}
    for (candidate, _), cell in zip(scored, cells(scored, measure), strict=True):
        groups[candidate.prompt.tags[tag]].append(cell)
    parts = {name: part(own, 0.0 if policy == "zero" else None) for name, own in groups.items()}
    return {name: each for name, each in parts.items() if each.count}
