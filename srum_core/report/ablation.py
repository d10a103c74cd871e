"""The table and figures that `srum ablate` leaves in a folder."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from srum_core.errors import RecordError
from srum_core.files import from_json, read_file

FILE = "ablation.json"
Data = dict[str, Any]


def read_ablation(folder: Path) -> Data:
    """{"title", "command", "note", "columns", "rows", "figures": [{"title", "src"}], "runs": [names]}.

    Raises RecordError for a file that is not of that form, or a figure that is not there."""
    path = folder / FILE
    try:
        found = from_json(read_file(path))
        rows = [
            {"arm": str(row["arm"]), "cells": {column: _cell(row["cells"].get(column)) for column in found["columns"]}}
            for row in found["rows"]
        ]
        figures = [{"title": str(each["title"]), "src": _figure(folder, each["svg"])} for each in found["figures"]]
        words = {key: str(found[key]) for key in ("title", "command", "note")}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise RecordError(f"{path} cannot be read ({told}). Run srum ablate again to write it.") from error
    runs = sorted(str(each.parent.relative_to(folder)) for each in folder.glob("seed-*/*/run.toml"))
    return {**words, "columns": found["columns"], "rows": rows, "figures": figures, "runs": runs}


def _cell(cell: Any) -> Data:
    """{"text"} or {"value", "low", "high"}."""
    if cell is None or isinstance(cell, str):
        return {"text": cell or ""}
    ends = {end: None if cell.get(end) is None else float(cell[end]) for end in ("low", "high")}
    return {"value": float(cell["value"]), **ends}


def _figure(folder: Path, name: str) -> str:
    """As an image: scripts and links in an SVG do nothing there."""
    path = folder / name
    if path.parent != folder or not path.is_file():
        raise RecordError(f'{folder / FILE} names the figure "{name}", which is not a file in {folder}.')
    return f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"
