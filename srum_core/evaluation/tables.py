"""A benchmark's table on disk, `table.json`: its rows, the model, and the judge. No torch.

An evaluation has one table for every judge, in `tables/JUDGE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from srum_core.errors import RecordError, clean, refuse
from srum_core.evaluation.formatting import Grid, measures
from srum_core.options import Problems, Use, structure
from srum_core.records import Candidate, Row
from srum_core.runs.files import read_json, redo_option, way_out
from srum_core.runs.store import converter, to_json, write_atomic

if TYPE_CHECKING:
    from srum_core.protocols import Benchmark

EXTRA_OBJECTS = "extra objects"
"""The row of a benchmark that counts objects: superfluous ones as a share of the requested ones."""
COMPLETE = 0.99
"""A table with a smaller coverage is marked as incomplete."""


@frozen
class BenchmarkTable:
    """`rows` follow the failure policy `policy`; `coverage` is the share of the planned images that they cover."""

    benchmark: str
    split: str
    model: str
    """The adapter or generator with its checkpoint, and its training if any."""
    rows: tuple[Row, ...]
    judge: str = ""
    """The judge; "" = none."""
    self_judged: bool = False
    """The model judged its own images: not comparable with other models' numbers."""
    policy: str = ""
    """How unreadable answers count; "" = the benchmark has no policy."""
    planned: int = 0
    """Images of the whole evaluation."""
    limit: int = 0
    """The evaluation has only this many first prompts; 0 = all."""
    images: int = 0
    """Images that were scored."""
    readable: float = 1.0
    """The share of the answers about scored images that could be read."""
    again: int = 0
    """Unreadable answers with retries left, for example after a parser has changed."""
    reference: tuple[Row, ...] = ()
    """The rows with the policy "reference", where they differ from `rows`."""
    reference_refused: str = ""
    """Why `reference` is empty."""
    borders: bool = True
    """Whether images are as generated; False = black borders were cropped."""
    options: dict[str, Any] = field(factory=dict, hash=False)
    """The benchmark's options."""

    @property
    def coverage(self) -> float:
        """The share of the planned images that could be scored, in [0, 1]."""
        return self.readable * (self.images / self.planned if self.planned else 1.0)

    @property
    def complete(self) -> bool:
        return self.coverage >= COMPLETE

    def by_name(self) -> dict[str, Row]:
        return {row.name: row for row in self.rows}


def component_name(use: Use) -> str:
    """Return a component's name, with its model, checkpoint or hub id if any."""
    detail = next((str(use.options[key]) for key in ("checkpoint", "model", "id") if use.options.get(key)), "")
    return f"{use.use} ({detail})" if detail else use.use


def make(
    benchmark: Benchmark, use: Use, scored: Sequence[tuple[Candidate, Mapping[str, float]]], **about: Any
) -> BenchmarkTable:
    """Create the table of scored images. `readable` is the benchmark's own row of that name."""
    rows = tuple(benchmark.table(scored))
    odd = [row.name for row in rows if not isfinite(row.value)]
    refuse(bool(odd), benchmark, f"gave rows whose value is not a finite number: {', '.join(odd)}.")
    readable = next((row.value for row in rows if row.name == "readable"), 1.0)
    options, policy = dict(use.options), str(use.options.get("policy", ""))
    return BenchmarkTable(
        use.use, rows=rows, images=len(scored), readable=readable, policy=policy, options=options, **about
    )


def write(path: Path, table: BenchmarkTable) -> None:
    write_atomic(path, to_json(attrs.asdict(table)))


def read(path: Path) -> BenchmarkTable:
    """Read a table. Raises RecordError for a file that is not a table."""
    data = read_json(path)
    try:
        return structure(converter(path.parent), data, BenchmarkTable)
    except Problems as problems:
        ways = way_out(path) if redo_option(path) else "Write it again with srum eval score."
        raise RecordError(f"{path} is not a table of a benchmark ({clean(problems)}). {ways}") from problems


def show(table: BenchmarkTable) -> Grid:
    """Return the table to print. Print `remarks` below it: they matter when numbers are compared."""
    columns, title = {table.policy or "value": table.by_name()}, f"{table.benchmark}, {table.split}: {table.model}"
    if not table.reference:
        return measures(columns, title)
    grid = measures({**columns, "reference": {row.name: row for row in table.reference}}, title)
    return attrs.evolve(grid, rows=[[*line[:-1], line[-1] or "none"] for line in grid.rows])


def remarks(table: BenchmarkTable) -> list[str]:
    """Return the judge, what is missing, and the rows' notes, one per line."""
    notes = [f"judge: {table.judge}"] if table.judge else []
    if table.self_judged:
        notes.append("The model judged its own images: do not compare its numbers with other models'.")
    notes.append(f"coverage {table.coverage:.1%}: {table.images} of {table.planned} images" if table.planned else "")
    if table.limit:
        notes.append(f"Only the first {table.limit} prompts: a trial, not a result.")
    if not table.complete:
        notes.append(f"Incomplete: less than {COMPLETE:.0%} of the planned images could be scored.")
    if not table.borders:
        notes.append("Black borders were cropped from the images, as BAGEL's and SRUM's scripts do.")
    if table.again:
        notes.append(f"{table.again} unreadable answers have retries left: run srum eval judge.")
    if table.reference_refused:
        notes.append(f'No result with policy "reference": {table.reference_refused}')
    return [each for each in [*notes, *dict.fromkeys(row.note for row in table.rows)] if each]
