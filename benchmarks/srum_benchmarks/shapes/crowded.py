"""The crowded world: four to six different things in the cells of a 4 × 4 grid, for which today's tiny model is rarely
right as a whole.

Prompts are lists of kinds, half of them with a place (a row or a column) for each. They hold out the same pairs of
kinds as the world of shapes (`world.pair_split`): a dev or test prompt has at least one pair that no train prompt of
either world ever puts together, and none of the other's. Hashes choose and order everything, so it never depends on a
library's random numbers. Colours, shapes, images, tags and checker are those of the world of shapes; what is
different follows from the tag `places` (`world.crowded`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count as count_up
from itertools import islice

from srum_benchmarks.shapes.world import (
    KINDS,
    SIDE,
    Kind,
    a,
    digest,
    known,
    pair,
    pair_split,
    prefix,
    set_split,
    tags,
    those,
)
from srum_core.errors import ConfigError
from srum_core.records import Prompt

GRID = 4
"""Cells of an image's side, one thing each at most: the cells of the tiny model's latent."""
SLOT = SIDE // GRID
"""Pixels of a cell's side."""
COUNTS = (4, 5, 6)
CATEGORIES = ("list", "list with places")
PLACES = tuple(f"{line} {i}" for line in ("row", "column") for i in range(1, GRID + 1))

LENGTH = {"train": 4096, "dev": 512, "test": 512}
"""Prompts in the list of each split."""


def cell_of(centre: tuple[float, float]) -> tuple[int, int]:
    """(row, column), from 1, of the cell that a point (x, y) in pixels lies in."""
    x, y = (min(GRID - 1, max(0, int(at // SLOT))) + 1 for at in centre)
    return y, x


def stands(place: str | None, cell: tuple[int, int]) -> bool:
    """Whether a cell (row, column) is in a place such as "row 2" or "column 4"; None is everywhere."""
    return place is None or place in (f"row {cell[0]}", f"column {cell[1]}")


def listed(kinds: Sequence[Kind], places: Sequence[str | None] | None = None) -> Prompt:
    """The prompt that lists these kinds, each in its place if there are places."""
    places = places or [None] * len(kinds)
    words = [a(kind) + (f" in {place}" if place else "") for kind, place in zip(kinds, places, strict=True)]
    category = CATEGORIES[any(places)]
    return Prompt("", f"{', '.join(words[:-1])} and {words[-1]}", tags(category, kinds) | {"places": list(places)})


def together(order: Iterable[Kind], count: int, split: str) -> list[Kind] | None:
    """The first `count` of an order that are valid in a prompt of the split; None where they belong to train alone."""
    chosen: list[Kind] = []
    for kind in order:
        if all(pair_split()[pair(kind, other)] in ("train", split) for other in chosen):
            chosen.append(kind)
        if len(chosen) == count:
            return chosen if set_split(chosen) == split else None
    return None


def in_places(cells: Sequence[int], by_row: Sequence[bool]) -> list[str]:
    """For each of these cells (0 to 15) its row or its column."""
    return [
        f"row {cell // GRID + 1}" if row else f"column {cell % GRID + 1}"
        for cell, row in zip(cells, by_row, strict=True)
    ]


def _every(split: str, category: str, seed: int) -> Iterator[Prompt]:
    """Distinct prompts without end, counts taking turns. Places are those of things in different cells: every prompt
    can be rendered."""
    seen: set[str] = set()
    for i in count_up():
        of, count = (split, category, seed, i), COUNTS[len(seen) % len(COUNTS)]
        kinds = together(sorted(KINDS, key=lambda kind: digest("kinds", *of, *kind)), count, split)
        if kinds is None:
            continue
        cells = sorted(range(GRID * GRID), key=lambda cell: digest("cells", *of, cell))[:count]
        rows = [digest("row", *of, cell)[0] % 2 == 0 for cell in cells]
        prompt = listed(kinds, in_places(cells, rows) if category == CATEGORIES[1] else None)
        if prompt.text not in seen:
            seen.add(prompt.text)
            yield prompt


def prompts(split: str, count: int | None = None, seed: int = 0, category: str = "") -> list[Prompt]:
    """The first `count` prompts, categories taking turns; None = LENGTH of the split.

    Deterministic, all different, ids like "crowded-test-0007", or of one category like "crowded-list-test-0007"; more
    than LENGTH is an error."""
    known(split)
    categories = those(category, CATEGORIES)
    count = LENGTH[split] if count is None else count
    if not 0 <= count <= LENGTH[split]:
        raise ConfigError(f"The crowded split {split!r} has {LENGTH[split]} prompts, not {count}.")
    lists = [islice(_every(split, each, seed), -(-count // len(categories))) for each in categories]
    turns = [prompt for both in zip(*lists, strict=True) for prompt in both][:count]
    name = prefix("crowded", split, seed, category)
    return [Prompt(f"{name}{i:04d}", prompt.text, prompt.tags) for i, prompt in enumerate(turns)]
