"""ablation.json, .md and .csv in the folder of an ablation, and its figures."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from srum_core.ablation import figures
from srum_core.ablation.plan import Plan
from srum_core.ablation.tables import BASE, Row, Tables
from srum_core.evaluation.statistics import LEVEL, RESAMPLES, Estimate
from srum_core.evaluation.tables import number
from srum_core.runs.store import to_json, write_atomic

Cell = str | dict[str, float | None]


def write(folder: Path, plan: Plan, tables: Tables, command: str) -> None:
    """All files; each is replaced at once."""
    drawn = [each for each in (figures.drops(tables), figures.curves(tables, plan.arms.axis)) if each]
    for figure in drawn:
        write_atomic(folder / figure.file, figure.svg)
    names = columns(tables)
    whole = {
        "title": title(plan),
        "command": command,
        "note": note(plan),
        "columns": names,
        "rows": [{"arm": row.arm.name, "cells": cells(row, tables, len(plan.seeds))} for row in tables.rows],
        "figures": [{"title": figure.title, "svg": figure.file} for figure in drawn],
    }
    write_atomic(folder / "ablation.json", to_json(whole))
    write_atomic(folder / "ablation.csv", long_form(tables))
    write_atomic(folder / "ablation.md", markdown(whole))


def title(plan: Plan) -> str:
    settings = plan.units[plan.seeds[0]][0].run.settings
    benchmark = settings.benchmark.use if settings.benchmark else ""
    return f"Ablation: {settings.adapter.use} on {benchmark}, {settings.evaluate.split} split"


def note(plan: Plan) -> str:
    """What the numbers are of, and what they were made with; no name of a machine."""
    run = plan.units[plan.seeds[0]][0].run
    evaluate, count = run.settings.evaluate, len(run.planned_evaluation())
    packages = {"Python": platform.python_version(), **run.registry.versions()}
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    seeds = f"{len(plan.seeds)} training seed{'s' if len(plan.seeds) > 1 else ''}"
    return (
        f"{seeds}; {count // evaluate.pictures} prompts with {evaluate.pictures} picture(s) each, the same prompts and "
        f"picture seeds in every arm. Intervals: {LEVEL:.0%}, paired two-level bootstrap over prompts and training "
        f"seeds, {RESAMPLES} resamples. {date.today().isoformat()}; {machine}; {versions}."
    )


def columns(tables: Tables) -> list[str]:
    changes = [f"change to {name}" for name in (BASE, *tables.against)] if tables.measures else []
    return [*tables.measures, *changes, "seeds", "what it is"]


def cells(row: Row, tables: Tables, seeds: int) -> dict[str, Cell]:
    """By column. An arm of which no seed was finished says "failed", or nothing yet."""
    found: dict[str, Cell] = {name: _numbers(each) for name, each in row.means.items()}
    found |= {f"change to {name}": _numbers(each) for name, each in row.changes.items()}
    failed = any(each.startswith("failed") for each in row.notes)
    if not row.seeds and tables.measures:
        found[tables.measures[0]] = "failed" if failed else "not finished"
    found["seeds"] = f"{len(row.seeds)} of {seeds}"
    found["what it is"] = "; ".join([row.arm.text or row.arm.name, *row.notes])
    return {name: found.get(name, "") for name in columns(tables)}


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def markdown(whole: dict[str, Any]) -> str:
    """The table as Markdown, with what it was made by."""
    names = whole["columns"]
    lines = [f"# {whole['title']}", "", "```sh", whole["command"], "```", "", whole["note"], ""]
    lines += [_line(["arm", *names]), _line(["---"] * (len(names) + 1))]
    lines += [
        _line([row["arm"], *(shown(row["cells"][name], name.startswith("change")) for name in names)])
        for row in whole["rows"]
    ]
    lines += [""] + [f"![{figure['title']}]({figure['svg']})" for figure in whole["figures"]]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def shown(cell: Cell, signed: bool = False, percent: bool = False) -> str:
    """A number with its interval."""
    if isinstance(cell, str):
        return cell
    value, low, high = cell["value"], cell["low"], cell["high"]
    assert value is not None
    return number(value, None if low is None or high is None else (low, high), percent, signed)


def long_form(tables: Tables) -> str:
    """A line for every evaluation: arm, training seed, round (empty = before training), prompts, pictures, measures."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["arm", "seed", "round", "prompts", "pictures", *tables.measures])
    for line in tables.lines:
        found = line.measured
        values = [found.mean(name) if name in found.means else "" for name in tables.measures]
        round = "" if line.round is None else line.round
        rows.writerow([line.arm, line.seed, round, len(found.prompts), found.pictures, *values])
    return text.getvalue()
