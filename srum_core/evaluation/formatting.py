"""The format of all printed numbers and tables: a value with its 95 % interval, a change with its sign.

No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from srum_core.evaluation.statistics import Estimate, Z
from srum_core.records import Row


def estimate(row: Row | Estimate) -> Estimate:
    """Return a row's value with its 95 % interval, from the standard error if the benchmark gives no interval."""
    if isinstance(row, Estimate):
        return row
    if row.low is not None and row.high is not None:
        return Estimate(row.value, row.low, row.high)
    if row.error is None:
        return Estimate(row.value)
    return Estimate(row.value, row.value - Z * row.error, row.value + Z * row.error)


def number(value: Row | Estimate | None, percent: bool = False, signed: bool = False, digits: int | None = None) -> str:
    """Format as 57.8 [51.8, 63.9]; None as "".

    percent     in per cent, with one decimal
    signed      with a sign, for changes
    digits      decimals; None: three figures of the largest number"""
    if value is None:
        return ""
    mean = estimate(value)
    numbers = [mean.value] if mean.low is None or mean.high is None else [mean.value, mean.low, mean.high]
    scale, largest = (100, 100.0) if percent else (1, max(map(abs, numbers)))
    if digits is None:
        digits = 3 if largest <= 1 else 2 if largest < 10 else 1
    sign = "+" if signed else ""
    first, *ends = (f"{scale * each:{sign}z.{digits}f}".replace("-", "−") for each in numbers)
    return f"{first} [{', '.join(ends)}]" if ends else first


def all_shares(values: Iterable[float]) -> bool:
    """Return whether no number exceeds 1, so that all can be shown in per cent."""
    return all(abs(value) <= 1 for value in values)


def units(percent: bool, more: str = "") -> str:
    """Return the units of a table's numbers, for its title."""
    return f"{more}95 % intervals{', in %' if percent else ''}"


@frozen
class Grid:
    """A table for a terminal or for Markdown. On a terminal only words wrap, never numbers.

    Columns that do not fit follow in a further table, which repeats the first column.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    words: frozenset[int] = frozenset()
    """Further columns of words, which are left-aligned and may wrap, as the first is."""

    def markdown(self) -> str:
        ruler = ["---" if not index or index in self.words else "---:" for index in range(len(self.head))]
        lines = [
            f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |"
            for row in (self.head, ruler, *self.rows)
        ]
        title = f"**{self.title}**" if self.title else ""
        return "\n\n".join(part for part in (title, "\n".join(lines), self.caption) if part)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = self._parts(options.max_width)
        for number, part in enumerate(parts):
            table = Table(title=Text(self.title) if self.title and not number else None)
            if self.caption and number == len(parts) - 1:
                table.caption = Text(self.caption)
            for index in part:
                words = not index or index in self.words
                side: JustifyMethod = "left" if words else "right"
                table.add_column(Text(self.head[index]), justify=side, no_wrap=not words, overflow="fold")
            for row in self.rows:
                table.add_row(*(Text(row[index]) for index in part))
            yield table

    def _parts(self, width: int) -> list[list[int]]:
        """Return the columns of each table."""
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


def measures(
    columns: Mapping[str, Mapping[str, Row]],
    title: str,
    changes: Mapping[str, Mapping[str, Estimate]] | None = None,
    caption: str = "",
) -> Grid:
    """Return a table with a line for each measure: number of images, value in every column, changes."""
    changes = changes or {}
    percent = all_shares(row.value for rows in columns.values() for row in rows.values())
    lines = []
    for name in dict.fromkeys(name for rows in columns.values() for name in rows):
        count = next(rows[name].count for rows in columns.values() if name in rows)
        values = [number(rows.get(name), percent) for rows in columns.values()]
        lines.append(
            [name, str(count), *values, *(number(c.get(name), percent, signed=True) for c in changes.values())]
        )
    return Grid(["measure", "n", *columns, *changes], lines, f"{title} ({units(percent, 'n images, ')})", caption)


def markdown(parts: Iterable[str | Grid]) -> str:
    """Return paragraphs and tables as Markdown, in order."""
    return "\n\n".join(part if isinstance(part, str) else part.markdown() for part in parts) + "\n"
