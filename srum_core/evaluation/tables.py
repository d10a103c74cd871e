"""A benchmark's table on disk, `table.json`: its rows, what they are of, and who answered. No torch.

A training run has one in `base/evaluation` and in every `round-k/evaluation`; an evaluation (`srum eval`) has one for
every judge, in `tables/JUDGE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from srum_core.errors import RecordError, clean, refuse
from srum_core.evaluation.statistics import Z
from srum_core.files import read_json, redo_option, way_out
from srum_core.options import Problems, Use, structure
from srum_core.records import Candidate, Row
from srum_core.runs.store import converter, to_json, write_atomic

if TYPE_CHECKING:
    from srum_core.protocols import Benchmark

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
    """The model judged its own pictures: no number to compare with other models'."""
    policy: str = ""
    """What unreadable answers count as; "" = the benchmark has no choice."""
    planned: int = 0
    """Pictures that the evaluation consists of."""
    limit: int = 0
    """Only the first so many prompts were meant; 0 = all."""
    pictures: int = 0
    """Pictures that were scored."""
    readable: float = 1.0
    """The share of what the scored pictures needed that could be read out of answers."""
    again: int = 0
    """Unreadable answers that have not been asked for again as often as they may be, as after a parser has changed."""
    reference: tuple[Row, ...] = ()
    """The rows with the policy "reference", where that is another and they differ."""
    reference_refused: str = ""
    """Why there are none of them."""
    borders: bool = True
    """Whether pictures are as they were drawn; False = black borders were cut off."""
    options: dict[str, Any] = field(factory=dict, hash=False)
    """The benchmark's options."""

    @property
    def coverage(self) -> float:
        """The share of what was planned that could be scored, in [0, 1]."""
        return self.readable * (self.pictures / self.planned if self.planned else 1.0)

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
    """The table of scored pictures. `readable` is what the benchmark's own row of that name says."""
    rows = tuple(benchmark.table(scored))
    odd = [row.name for row in rows if not isfinite(row.value)]
    refuse(bool(odd), benchmark, f"gave rows whose value is no finite number: {', '.join(odd)}.")
    readable = next((row.value for row in rows if row.name == "readable"), 1.0)
    policy = str(use.options.get("policy", ""))
    options = dict(use.options)
    return BenchmarkTable(
        use.use, rows=rows, pictures=len(scored), readable=readable, policy=policy, options=options, **about
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


@frozen
class Grid:
    """A table for a terminal, in which only words wrap, never numbers.

    Columns that do not fit beside the others follow in a further table, behind the first column again.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    words: frozenset[int] = frozenset()
    """Columns of words beside the first: left-aligned, and they may wrap."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = self._parts(options.max_width)
        for number, part in enumerate(parts):
            made = Table(title=Text(self.title) if self.title and not number else None)
            if self.caption and number == len(parts) - 1:
                made.caption = Text(self.caption)
            for index in part:
                words = not index or index in self.words
                side: JustifyMethod = "left" if words else "right"
                made.add_column(Text(self.head[index]), justify=side, no_wrap=not words, overflow="fold")
            for row in self.rows:
                made.add_row(*(Text(row[index]) for index in part))
            yield made

    def _parts(self, width: int) -> list[list[int]]:
        """The columns of each table."""
        most, edges = (width // 3, width // 2), 3  # a border and a space at each side
        needs = [max(map(cell_len, column)) for column in zip(self.head, *self.rows, strict=True)]
        needs = [min(n, most[bool(i)]) if not i or i in self.words else n for i, n in enumerate(needs)]
        parts, room = [[0]], width - 1 - needs[0] - edges
        for index, need in enumerate(needs[1:], 1):
            if len(parts[-1]) > 1 and need + edges > room:
                parts.append([0])
                room = width - 1 - needs[0] - edges
            parts[-1].append(index)
            room -= need + edges
        return parts


def ends(row: Row) -> tuple[float, float] | None:
    """The 95 % interval; from the standard error where the benchmark gives no other."""
    if row.low is not None and row.high is not None:
        return row.low, row.high
    return None if row.error is None else (row.value - Z * row.error, row.value + Z * row.error)


def all_shares(values: Iterable[float]) -> bool:
    """Whether no number exceeds 1, so that all can be shown in per cent."""
    return all(abs(value) <= 1 for value in values)


def number(value: float, interval: tuple[float, float] | None, percent: bool, signed: bool = False) -> str:
    """57.8 [51.8, 63.9]: in per cent with one decimal, or with three figures of the largest end."""
    every = (value, *(interval or ()))
    scale, largest = (100, 100.0) if percent else (1, max(map(abs, every)))
    form = f"{'+' if signed else ''}z.{3 if largest <= 1 else 2 if largest < 10 else 1}f"
    first, *others = (f"{scale * each:{form}}".replace("-", "−") for each in every)
    return f"{first} [{', '.join(others)}]" if others else first


def cell(row: Row | None, percent: bool) -> str:
    """A value with its interval."""
    return "" if row is None else number(row.value, ends(row), percent)


def units(percent: bool) -> str:
    """What a title says of its numbers."""
    return f"{'in %, ' if percent else ''}n images, 95 % intervals"


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
        more = [cell(other, percent) or "none"] if reference else []
        lines.append([name, count, cell(row, percent), *more])
    head = ["measure", "n", table.policy or "value", *(["reference"] if reference else [])]
    return Grid(head, lines, f"{table.benchmark}, {table.split}: {table.model} ({units(percent)})")


def remarks(table: BenchmarkTable) -> list[str]:
    """Who answered, what is missing, and what the rows themselves say, a line each."""
    said = [f"judge: {table.judge}"] if table.judge else []
    if table.self_judged:
        said.append("The model judged its own pictures: no number to set beside other models'.")
    said.append(f"coverage {table.coverage:.1%}: {table.pictures} of {table.planned} pictures" if table.planned else "")
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
