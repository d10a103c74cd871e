"""A benchmark's table on disk, `table.json`: its rows, what they are of, and who answered. No torch.

An evaluation has one for every judge, in `tables/JUDGE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from srum_core.errors import RecordError, clean, refuse
from srum_core.evaluation.formatting import Grid, all_shares, number, units
from srum_core.files import read_json, redo_option, way_out
from srum_core.options import Problems, Use, structure
from srum_core.records import Candidate, Row
from srum_core.runs.store import converter, to_json, write_atomic

if TYPE_CHECKING:
    from srum_core.protocols import Benchmark

EXTRA_OBJECTS = "extra objects"
"""The row of a benchmark that counts objects: how many more there are than were asked for, as a share of those."""
COMPLETE = 0.99
"""A table of a smaller share of what was planned says that it is incomplete."""


@frozen
class BenchmarkTable:
    """`rows` follow the failure policy that is named; `coverage` says how much of what was planned they are of."""

    benchmark: str
    split: str
    model: str
    """The adapter or generator with its checkpoint, and which training if any."""
    rows: tuple[Row, ...]
    judge: str = ""
    """Who answered; "" = nobody was asked."""
    self_judged: bool = False
    """The model judged its own images: no number to compare with other models'."""
    policy: str = ""
    """What unreadable answers count as; "" = the benchmark has no choice."""
    planned: int = 0
    """Images that the evaluation consists of."""
    limit: int = 0
    """Only the first so many prompts were meant; 0 = all."""
    images: int = 0
    """Images that were scored."""
    readable: float = 1.0
    """The share of what the scored images needed that could be read out of answers."""
    again: int = 0
    """Unreadable answers that have not been asked for again as often as they may be, as after a parser has changed."""
    reference: tuple[Row, ...] = ()
    """The rows with the policy "reference", where that is another and they differ."""
    reference_refused: str = ""
    """Why there are none of them."""
    borders: bool = True
    """Whether images are as they were drawn; False = black borders were cut off."""
    options: dict[str, Any] = field(factory=dict, hash=False)
    """The benchmark's options."""

    @property
    def coverage(self) -> float:
        """The share of what was planned that could be scored, in [0, 1]."""
        return self.readable * (self.images / self.planned if self.planned else 1.0)

    @property
    def complete(self) -> bool:
        return self.coverage >= COMPLETE

    def by_name(self) -> dict[str, Row]:
        return {row.name: row for row in self.rows}


def named(use: Use) -> str:
    """A component as people say it: with the model, checkpoint or hub id that it is set to, if any."""
    which = next((str(use.options[key]) for key in ("checkpoint", "model", "id") if use.options.get(key)), "")
    return f"{use.use} ({which})" if which else use.use


def answered_by(use: Use, models: Iterable[str]) -> str:
    """Who was asked and, where replies name other models than the one that was asked for, all that answered."""
    names = sorted(set(models) - {""})
    asked = [str(use.options.get("model", ""))]
    return named(use) if names in ([], asked) else f"{named(use)}, answered by {', '.join(names)}"


def make(
    benchmark: Benchmark, use: Use, scored: Sequence[tuple[Candidate, Mapping[str, float]]], **about: Any
) -> BenchmarkTable:
    """The table of scored images. `readable` is what the benchmark's own row of that name says."""
    rows = tuple(benchmark.table(scored))
    odd = [row.name for row in rows if not isfinite(row.value)]
    refuse(bool(odd), benchmark, f"gave rows whose value is no finite number: {', '.join(odd)}.")
    readable = next((row.value for row in rows if row.name == "readable"), 1.0)
    policy = str(use.options.get("policy", ""))
    options = dict(use.options)
    return BenchmarkTable(
        use.use, rows=rows, images=len(scored), readable=readable, policy=policy, options=options, **about
    )


def write(path: Path, table: BenchmarkTable) -> None:
    write_atomic(path, to_json(attrs.asdict(table)))


def read(path: Path) -> BenchmarkTable:
    """Raises RecordError for what is no table."""
    data = read_json(path)
    try:
        return structure(converter(path.parent), data, BenchmarkTable)
    except Problems as problems:
        ways = way_out(path) if redo_option(path) else "Make it again with srum eval score."
        raise RecordError(f"{path} is no table of a benchmark ({clean(problems)}). {ways}") from problems


def differing(rows: Sequence[Row], others: Sequence[Row]) -> list[str]:
    """The names of the rows whose value is another in the other table, or that only one of both has."""
    one, other = ({row.name: row.value for row in each} for each in (rows, others))
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]


def show(table: BenchmarkTable) -> Grid:
    """For people. What they must know before they compare a number (`remarks`) belongs below it."""
    reference = {row.name: row for row in table.reference}
    rows, lines = table.by_name(), []
    percent = all_shares(row.value for row in [*table.rows, *table.reference])
    for name in dict.fromkeys([*rows, *reference]):
        row, other = rows.get(name), reference.get(name)
        count = str((row or other).count)  # type: ignore[union-attr]
        more = [number(other, percent) or "none"] if reference else []
        lines.append([name, count, number(row, percent), *more])
    head = ["measure", "n", table.policy or "value", *(["reference"] if reference else [])]
    return Grid(head, lines, f"{table.benchmark}, {table.split}: {table.model} ({units(percent, 'n images, ')})")


def remarks(table: BenchmarkTable) -> list[str]:
    """Who answered, what is missing, and what the rows themselves say, a line each."""
    said = [f"judge: {table.judge}"] if table.judge else []
    if table.self_judged:
        said.append("The model judged its own pictures: no number to set beside other models'.")
    said.append(f"coverage {table.coverage:.1%}: {table.images} of {table.planned} pictures" if table.planned else "")
    if table.limit:
        said.append(f"Only the first {table.limit} prompts: a trial, not a result.")
    if not table.complete:
        said.append(f"Incomplete: below {COMPLETE:.0%} of what was planned could be scored.")
    if not table.borders:
        said.append("Black borders were cut off the pictures, as BAGEL's and SRUM's scripts do.")
    if table.again:
        said.append(f"{table.again} unreadable answers may be asked for again: run srum eval judge.")
    if table.reference_refused:
        said.append(f'No result with policy "reference": {table.reference_refused}')
    return [each for each in [*said, *dict.fromkeys(row.note for row in table.rows)] if each]
