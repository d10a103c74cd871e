"""The page: gathered data laid out by template.html, with page.css and page.js inside it, and nothing outside it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from srum_core.evaluation.formatting import all_shares, number
from srum_core.evaluation.statistics import Estimate
from srum_core.records import Row
from srum_core.report import LIMIT, charts
from srum_core.report.gallery import Data
from srum_core.report.gather import gather
from srum_core.runs.store import write_atomic

_HERE = Path(__file__).parent
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def write_report(folder: Path, out: Path | None = None, limit: int = LIMIT) -> Path:
    """Write the report of a run's or an ablation's folder, into it unless `out` names a file, and return its path.

    Raises RecordError for a folder that holds neither, and for records or images that cannot be read."""
    return write(out or Path(folder) / "report.html", gather(folder, limit))


def write(path: Path, data: Data) -> Path:
    write_atomic(path, render(data).encode("utf-8", "replace"))  # a lone surrogate in a model's words is no UTF-8
    return path


def render(data: Data) -> str:
    """Return the page as HTML, from the data of `gather`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=shown)
    run, script = data["run"], _read_text("page.js")
    tables, ablation = run["tables"] if run else {}, data["ablation"]["rows"] if data["ablation"] else ()
    cells = [cell for row in ablation for cell in row["cells"].values() if isinstance(cell, Estimate)]
    shares = all_shares(row.value for rows in tables.values() for row in rows.values())
    return environment.get_template("template.html").render(
        **data,
        percent={"results": shares, "ablation": all_shares(cell.value for cell in cells)},
        style=Markup(_read_text("charts.css") + _read_text("page.css")),
        script=Markup(script),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        lazy=embedded({"pairs": run["pairs"], "candidates": run["candidates"]} if run else {}),
        curves=curves(run["metrics"]) if run else [],
        key=charts.key(list(tables)),
        dumbbells=charts.dumbbells("Every measure", tables, shares),
    )


def _read_text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def embedded(data: Any) -> Markup:
    """Return JSON for a script element: ASCII, and nothing in it ends the element."""
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_UNSAFE))


def shown(cell: Row | Estimate | str | None, percent: bool, signed: bool = False) -> Markup:
    """Format a cell: 57.8 [51.8, 63.9]; an en dash if there is no number."""
    if isinstance(cell, str):
        return escape(cell)
    value, _, interval = number(cell, percent, signed).partition(" ")
    return Markup("{} <small>{}</small>").format(value, interval) if interval else escape(value or "–")


_COUNTS = ("step", "cells", "judged", "unjudged", "below_least", "filtered", "not_best", "objects", "objects_before")
_TITLES = {
    "loss": ("Loss and its parts", ""),
    "error": ("Squared error", "Of all cells, and of the net-negative ones."),
    "negative_share": ("Net-negative cells, share", "Cells whose weight + λ is below 0: the loss rewards error there."),
}
_LABELS = {"loss": "total", "error": "all cells", "negative_error": "net-negative", "negative_share": "share"}


def curves(runs: Mapping[str, Mapping[int, Sequence[Data]]]) -> list[Data]:
    """Draw everything in metrics.jsonl, round after round: [{"title", "note", "svg"}]. Of several runs, each metric has
    a chart with a line for each run; of one run, related metrics share a chart."""
    rows = {run: [row for lines in rounds.values() for row in lines] for run, rounds in runs.items()}
    starts = [
        dict(zip(accumulate(map(len, rounds.values()), initial=1.0), map("round {}".format, rounds), strict=False))
        for rounds in runs.values()
    ]
    breaks = starts[0] if all(each == starts[0] for each in starts) else {}
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for each in rows.values() if each for name in each[-1] if name not in _COUNTS):
        part = "loss" if name.startswith("loss") else "error" if name == "negative_error" else name
        groups.setdefault(part if len(runs) == 1 else name, []).append(name)
    charted = []
    for part, group in groups.items():
        title, note = _words(part).capitalize(), ""
        if len(runs) == 1:
            title, note = _TITLES.get(part, (title, note))
        lines = {
            run or _LABELS.get(name, _words(name.removeprefix("loss_"))): [
                (float(step), row.get(name)) for step, row in enumerate(each, 1)
            ]
            for name in group
            for run, each in rows.items()
        }
        svg = charts.line_chart(title, lines, breaks, smooth=part != "lr")
        charted.append({"title": title, "note": note, "svg": svg})
    return [each for each in charted if each["svg"]]


def _words(name: str) -> str:
    return "learning rate" if name == "lr" else name.replace("_", " ")
