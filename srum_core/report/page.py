"""The page: gathered data laid out by template.html, with page.css and page.js inside it, and nothing outside it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from srum_core.evaluation.formatting import all_shares, number
from srum_core.evaluation.statistics import Estimate
from srum_core.report import LIMIT, charts
from srum_core.report.charts import Line
from srum_core.report.gather import Data, gather
from srum_core.runs.store import write_atomic

NAME = "report.html"
_HERE = Path(__file__).parent
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def write_report(folder: Path, out: Path | None = None, limit: int = LIMIT) -> Path:
    """Write the report of a run's or an ablation's folder, into it unless `out` names a file, and return its path.

    Raises RecordError for a folder that holds neither, and for records or images that cannot be read."""
    path = out or Path(folder) / NAME
    # A lone surrogate in a model's words is no UTF-8.
    write_atomic(path, render(gather(folder, limit)).encode("utf-8", "replace"))
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
        key=charts.key([table["name"] for table in run["tables"]]) if run else "",
        dumbbells=charts.dumbbells("Every measure before and after", run["tables"], percent["results"]) if run else "",
    )


def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def embedded(data: Any) -> Markup:
    """JSON for a script element: nothing in it ends the element, and it is ASCII."""
    return Markup(json.dumps(_finite(data), separators=(",", ":")).translate(_UNSAFE))


def _finite(data: Any) -> Any:
    """JSON has no numbers that are not finite: null."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def shown(cell: Mapping[str, Any] | None, percent: bool, signed: bool = False) -> Markup:
    """A cell {"text"} or {"value", "low", "high"}: 57.8 [51.8, 63.9]; an en dash where there is no number."""
    if cell and "text" in cell:
        return escape(cell["text"])
    if cell is None or not isfinite(cell["value"]):
        return Markup("–")
    value, _, interval = number(Estimate(cell["value"], cell["low"], cell["high"]), percent, signed).partition(" ")
    return Markup("{} <small>{}</small>").format(value, interval) if interval else escape(value)


def _percent(data: Data) -> dict[str, bool]:
    """Which of the page's tables can be shown in per cent, as all of their numbers are shares."""
    run, ablation = data["run"], data["ablation"]
    cells = {
        "results": [row for table in (run["tables"] if run else ()) for row in table["rows"].values()],
        "ablation": [cell for row in (ablation["rows"] if ablation else ()) for cell in row["cells"].values()],
    }
    return {
        name: all_shares(cell["value"] for cell in found if "value" in cell and isfinite(cell["value"]))
        for name, found in cells.items()
    }


_COUNTS = ("step", "cells", "judged", "unjudged", "below_least", "filtered", "not_best", "objects", "objects_before")


def curves(rounds: Mapping[int, Sequence[Data]]) -> list[Data]:
    """Charts of everything in metrics.jsonl, the rounds one after the other: [{"title", "note", "svg"}]."""
    rows, breaks = list[Data](), dict[float, str]()
    for round, lines in rounds.items():
        breaks[float(len(rows) + 1)] = f"round {round}"
        rows += lines
    if not rows:
        return []
    names = [name for name in rows[-1] if name not in _COUNTS]
    losses = [name for name in names if name.startswith("loss")]
    errors = [name for name in names if name in ("error", "negative_error")]
    groups = [
        ("Loss and its parts", "", losses),
        (
            "Net-negative cells, share",
            "Cells whose weight + λ is below 0: the loss rewards error there.",
            ["negative_share"],
        ),
        ("Squared error", "Of all cells, and of the net-negative ones.", errors),
    ]
    taken = {name for _, _, group in groups for name in group}
    groups += [(_words(name).capitalize(), "", [name]) for name in names if name not in taken]
    found = [
        {
            "title": title,
            "note": note,
            "svg": charts.line_chart(title, [_line(name, rows) for name in group], breaks, smooth=group != ["lr"]),
        }
        for title, note, group in groups
    ]
    return [each for each in found if each["svg"]]


def _line(name: str, rows: Sequence[Data]) -> Line:
    label = {"loss": "total", "error": "all cells", "negative_error": "net-negative", "negative_share": "share"}
    words = label.get(name, _words(name.removeprefix("loss_")))
    return Line(words, tuple((float(index), row.get(name)) for index, row in enumerate(rows, 1)))


def _words(name: str) -> str:
    return "learning rate" if name == "lr" else name.replace("_", " ")
