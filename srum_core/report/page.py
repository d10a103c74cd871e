"""The page: gathered data laid out by template.html, with page.css and page.js inside it, and nothing outside it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from srum_core.evaluation.formatting import Grid, all_shares, number
from srum_core.evaluation.statistics import Estimate
from srum_core.records import Row
from srum_core.report import LIMIT, charts
from srum_core.report.charts import Line
from srum_core.report.comparison import gather_comparison
from srum_core.report.gallery import Data
from srum_core.report.gather import gather
from srum_core.runs.store import write_atomic

NAME, COMPARISON = "report.html", "comparison.html"
_HERE = Path(__file__).parent
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def write_report(folder: Path, out: Path | None = None, limit: int = LIMIT) -> Path:
    """Write the report of a run's or an ablation's folder, into it unless `out` names a file, and return its path.

    Raises RecordError for a folder that holds neither, and for records or images that cannot be read."""
    return _write(out or Path(folder) / NAME, gather(folder, limit))


def write_comparison(
    folders: Sequence[Path], out: Path | None = None, limit: int = LIMIT, round: int | None = None
) -> tuple[Path, Grid]:
    """Write the comparison of runs with the first, into its folder unless `out` names a file. Returns its path, and the
    table to print. Raises RecordError where they cannot be compared."""
    data, table = gather_comparison(folders, limit, round)
    return _write(out or Path(folders[0]) / COMPARISON, data), table


def _write(path: Path, data: Data) -> Path:
    write_atomic(path, render(data).encode("utf-8", "replace"))  # a lone surrogate in a model's words is no UTF-8
    return path


def render(data: Data) -> str:
    """The page for what `gather` has found."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=shown)
    run, script, percent = data["run"], _own("page.js"), _percent(data)
    lazy = {"pairs": run["pairs"], "candidates": run["candidates"]} if run else {}
    return environment.get_template("template.html").render(
        **data,
        percent=percent,
        style=Markup(_own("charts.css") + _own("page.css")),
        script=Markup(script),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        lazy=embedded(lazy),
        curves=curves(run["metrics"]) if run else [],
        key=charts.key(list(run["tables"])) if run else "",
        dumbbells=charts.dumbbells("Every measure", run["tables"], percent["results"]) if run else "",
    )


def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def embedded(data: Any) -> Markup:
    """JSON for a script element: nothing in it ends the element, and it is ASCII."""
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_UNSAFE))


def shown(cell: Row | Estimate | str | None, percent: bool, signed: bool = False) -> Markup:
    """57.8 [51.8, 63.9]; an en dash where there is no number."""
    if isinstance(cell, str):
        return escape(cell)
    value, _, interval = number(cell, percent, signed).partition(" ")
    return Markup("{} <small>{}</small>").format(value, interval) if interval else escape(value or "–")


def _percent(data: Data) -> dict[str, bool]:
    """Which of the page's tables can be shown in per cent, as all of their numbers are shares."""
    tables = data["run"]["tables"].values() if data["run"] else ()
    cells = [cell for row in (data["ablation"] or {"rows": ()})["rows"] for cell in row["cells"].values()]
    return {
        "results": all_shares(row.value for rows in tables for row in rows.values()),
        "ablation": all_shares(cell.value for cell in cells if isinstance(cell, Estimate)),
    }


_COUNTS = ("step", "cells", "judged", "unjudged", "below_least", "filtered", "not_best", "objects", "objects_before")
_GROUPS = (
    ("Loss and its parts", "", ("loss",)),
    (
        "Net-negative cells, share",
        "Cells whose weight + λ is below 0: the loss rewards error there.",
        ("negative_share",),
    ),
    ("Squared error", "Of all cells, and of the net-negative ones.", ("error", "negative_error")),
)
"""Title, note and metrics of charts of one run; parts of the loss go with it."""


def curves(runs: Mapping[str, Mapping[int, Sequence[Data]]]) -> list[Data]:
    """Charts of everything in metrics.jsonl, the rounds one after the other: [{"title", "note", "svg"}]. Several runs
    have a chart for each metric, with a line for each run."""
    all_rows: dict[str, list[Data]] = {}
    all_breaks: list[dict[float, str]] = []
    for run, rounds in runs.items():
        rows, breaks = all_rows.setdefault(run, []), dict[float, str]()
        for round, lines in rounds.items():
            breaks[len(rows) + 1.0] = f"round {round}"
            rows += lines
        all_breaks.append(breaks)
    breaks = all_breaks[0] if all(each == all_breaks[0] for each in all_breaks) else {}
    names = list(dict.fromkeys(n for rows in all_rows.values() for n in (rows or [{}])[-1] if n not in _COUNTS))
    groups = []
    if len(runs) == 1:
        for title, note, first in _GROUPS:
            groups.append((title, note, [n for n in names if n in first or ("loss" in first and n.startswith("loss"))]))
    taken = {name for *_, group in groups for name in group}
    groups += [(_words(name).capitalize(), "", [name]) for name in names if name not in taken]
    found = []
    for title, note, group in groups:
        lines = [_line(name, rows, run) for name in group for run, rows in all_rows.items()]
        svg = charts.line_chart(title, lines, breaks, smooth=group != ["lr"])
        found.append({"title": title, "note": note, "svg": svg})
    return [each for each in found if each["svg"]]


def _line(name: str, rows: Sequence[Data], run: str) -> Line:
    label = {"loss": "total", "error": "all cells", "negative_error": "net-negative", "negative_share": "share"}
    words = run or label.get(name, _words(name.removeprefix("loss_")))
    return Line(words, [(float(index), row.get(name)) for index, row in enumerate(rows, 1)])


def _words(name: str) -> str:
    return "learning rate" if name == "lr" else name.replace("_", " ")
