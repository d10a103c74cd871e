"""Tables of several runs side by side, below published results: Markdown, CSV or HTML. No torch."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from attrs import evolve, frozen

from srum_core.errors import RecordError
from srum_core.evaluation import formatting, tables
from srum_core.evaluation.formatting import Grid, estimate, number
from srum_core.evaluation.published import Published
from srum_core.evaluation.tables import BenchmarkTable
from srum_core.plugins import Registry
from srum_core.records import Row
from srum_core.runs.store import refuse_older


@frozen
class Line:
    """One model: its values by column, and the numbers of its notes."""

    name: str
    values: Mapping[str, Row]
    notes: tuple[int, ...] = ()


@frozen
class Comparison:
    """Published lines and ours, in the same columns."""

    title: str
    columns: tuple[tuple[str, tuple[int, ...]], ...]
    """Names, and the numbers of their notes."""
    published: tuple[Line, ...]
    ours: tuple[Line, ...]
    notes: tuple[str, ...]
    digits: int = 4


# ---- gathering -------------------------------------------------------------------------------------------------------


def read_tables(folder: Path) -> list[BenchmarkTable]:
    """Read the tables in a folder: of an evaluation (one per judge), or of a training run (base and rounds).

    Raises RecordError if there is none."""
    if folder.is_file():
        return [tables.read(folder)]
    if paths := sorted(folder.glob("tables/*/table.json")):
        return [tables.read(path) for path in paths]
    refuse_older(folder)
    rounds = sorted(folder.glob("round-*/evaluation/tables/*/table.json"), key=lambda path: int(path.parts[-5][6:]))
    if paths := [*folder.glob("base/evaluation/tables/*/table.json"), *rounds]:
        name = folder.resolve().name  # the tables themselves name the rounds
        return [evolve(table, model=f"{table.model}, {name}") for table in map(tables.read, paths)]
    if (folder / "run.toml").is_file():
        raise RecordError(
            f"{folder} has no table yet. Write one with srum eval score {folder}, or finish the training. Evaluate "
            "again what an older version has evaluated."
        )
    raise RecordError(f"{folder} is neither an evaluation nor a training run: there is no table.json and no run.toml.")


def compare(all_tables: Iterable[BenchmarkTable], registry: Registry) -> list[Comparison]:
    """Return a comparison for each benchmark and split, in order of appearance."""
    groups: dict[tuple[str, str], list[BenchmarkTable]] = {}
    for table in all_tables:
        groups.setdefault((table.benchmark, table.split), []).append(table)
    return [_comparison(name, split, group, published(name, registry)) for (name, split), group in groups.items()]


def published(name: str, registry: Registry) -> Published | None:
    """Return the benchmark's published results; None if it has none or is not installed."""
    if name not in {each.component.name for each in registry.listing() if each.kind == "benchmark"}:
        return None
    function = getattr(registry.load("benchmark", name), "published", None)
    return function() if function is not None else None


def _comparison(name: str, split: str, ours: Sequence[BenchmarkTable], theirs: Published | None) -> Comparison:
    notes: list[str] = []
    rows = dict.fromkeys(row.name for table in ours for row in table.rows if row.name != "readable")
    columns = dict(theirs.columns) if theirs else {row: row for row in rows}
    about = theirs.notes if theirs else {}
    heads = tuple((column, _noted(notes, about.get(column))) for column in columns)
    lines = []
    for model, numbers in theirs.rows.items() if theirs else ():
        values = {column: Row(column, number, 0) for column, number in zip(columns, numbers, strict=True)}
        lines.append(Line(model, values, _noted(notes, about.get(model))))
    our_lines = []
    for table in ours:
        by_name = table.by_name()
        values = {column: by_name[row] for column, row in columns.items() if row in by_name}
        our_lines.append(Line(table.model, values, _noted(notes, *tables.remarks(table))))
    title = f"{theirs.title}. Published: {theirs.source}" if theirs else f"{name}, {split}"
    return Comparison(title, heads, tuple(lines), tuple(our_lines), tuple(notes), theirs.digits if theirs else 4)


def _noted(notes: list[str], *texts: str | None) -> tuple[int, ...]:
    """Return the numbers of notes, from 1; add new ones."""
    present = [text for text in texts if text]
    notes.extend(text for text in dict.fromkeys(present) if text not in notes)
    return tuple(notes.index(text) + 1 for text in dict.fromkeys(present))


# ---- writing ---------------------------------------------------------------------------------------------------------


def grid(comparison: Comparison) -> Grid:
    """Return a table with a line for each model, ours last; numbers in brackets refer to the notes."""

    def mark(notes: tuple[int, ...]) -> str:
        return "".join(f" [{note}]" for note in notes)

    rows, ours = [], "ours: " if comparison.published else ""
    lines = [("", line) for line in comparison.published] + [(ours, line) for line in comparison.ours]
    for prefix, line in lines:
        cells = (number(line.values.get(column), digits=comparison.digits) for column, _ in comparison.columns)
        rows.append([f"{prefix}{line.name}{mark(line.notes)}", *cells])
    heads = [name + mark(notes) for name, notes in comparison.columns]
    notes = "\n".join(f"{place}. {note}" for place, note in enumerate(comparison.notes, 1))
    return Grid(["model", *heads], rows, comparison.title, notes)


def markdown(comparisons: Sequence[Comparison]) -> str:
    return formatting.markdown(map(grid, comparisons))


def page(comparisons: Sequence[Comparison]) -> str:
    """Return a self-contained HTML page."""
    out = ["<!doctype html><html lang=en><meta charset=utf-8><title>srum: tables</title>"]
    out += ["<style>body{font:15px system-ui;margin:2em auto;max-width:80em}table{border-collapse:collapse}"]
    out += ["td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #8884}td:first-child{text-align:left}"]
    out += ["tr.ours{font-weight:600}caption{text-align:left;margin:.5em 0}</style>"]
    for comparison in comparisons:
        table = grid(comparison)
        out += [f"<table><caption>{html.escape(comparison.title)}</caption><tr>"]
        out += [f"<th>{html.escape(name)}</th>" for name in table.head] + ["</tr>"]
        for place, line in enumerate(table.rows):
            out += ["<tr class=ours>" if place >= len(comparison.published) else "<tr>"]
            out += [f"<td>{html.escape(cell)}</td>" for cell in line] + ["</tr>"]
        out += ["</table><ol>", *(f"<li>{html.escape(note)}</li>" for note in comparison.notes), "</ol>"]
    return "\n".join([*out, "</html>", ""])


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """Return CSV, one number per line: table, model, published or ours, column, value, low, high, images, notes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "model", "whose", "column", "value", "low", "high", "images", "notes"])
    for each in comparisons:
        lines = [("published", line) for line in each.published] + [("ours", line) for line in each.ours]
        for (whose, line), (column, about) in product(lines, each.columns):
            if row := line.values.get(column):
                remarks = " ".join(each.notes[note - 1] for note in dict.fromkeys([*line.notes, *about]))
                ends = estimate(row)
                numbers = [row.value, *(("", "") if ends.low is None else (ends.low, ends.high)), row.count or ""]
                writer.writerow([each.title, line.name, whose, column, *numbers, remarks])
    return text.getvalue()


FORMATS: Mapping[str, Callable[[Sequence[Comparison]], str]] = {"markdown": markdown, "csv": as_csv, "html": page}
