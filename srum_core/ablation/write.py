"""ablation.json, .md and .csv in the folder of an ablation, and two figures after the paper's Figure 3."""

from __future__ import annotations

import csv
import io
import os
import platform
from datetime import date
from pathlib import Path

from attrs import asdict

from srum_core.ablation.plan import Plan
from srum_core.ablation.tables import BASE, Row, Tables
from srum_core.evaluation.formatting import Grid, all_shares, markdown, number, units
from srum_core.evaluation.statistics import RESAMPLES, Estimate
from srum_core.report import charts
from srum_core.runs.store import to_json, write_atomic

Cell = str | Estimate


def write(folder: Path, plan: Plan, tables: Tables, command: str) -> Grid:
    """All files; each is replaced at once. Returns the table."""
    figures = {"ablation-drop.svg": drops(tables), "ablation-curve.svg": curves(tables, plan.arms.axis)}
    generated = [{"title": name, "svg": file} for file, (name, svg) in figures.items() if svg]
    for file, (_, svg) in figures.items():
        if svg:
            write_atomic(folder / file, svg)
    names, rows = columns(tables), {row.arm.name: cells(row, tables, len(plan.seeds)) for row in tables.rows}
    plain = {
        arm: {name: asdict(each) if isinstance(each, Estimate) else each for name, each in row.items()}
        for arm, row in rows.items()
    }
    whole = {
        "title": title(plan),
        "command": command,
        "note": note(plan),
        "columns": names,
        "rows": [{"arm": arm, "cells": cells} for arm, cells in plain.items()],
        "figures": generated,
    }
    percent, lines = _percent(tables), []
    for arm, row in rows.items():
        texts = [
            cell if isinstance(cell, str) else number(cell, percent, name.startswith("change to"))
            for name, cell in row.items()
        ]
        lines.append([arm, *texts])
    table = Grid(["arm", *names], lines, units(percent), words=frozenset({len(names)}))
    images = [f"![{each['title']}]({each['svg']})" for each in generated]
    text = markdown([f"# {whole['title']}", f"```sh\n{command}\n```", str(whole["note"]), table, *images])
    write_atomic(folder / "ablation.json", to_json(whole))
    write_atomic(folder / "ablation.csv", long_form(tables))
    write_atomic(folder / "ablation.md", text)
    return table


def _percent(tables: Tables) -> bool:
    return all_shares(each.value for row in tables.rows for each in row.means.values())


def title(plan: Plan) -> str:
    settings = plan.units[plan.seeds[0]][0].run.settings
    benchmark = settings.benchmark.use if settings.benchmark else ""
    return f"Ablation: {settings.adapter.use} on {benchmark}, {settings.evaluate.split} split"


def note(plan: Plan) -> str:
    """Caption of the numbers: data and settings, without the name of a machine."""
    run = plan.units[plan.seeds[0]][0].run
    evaluate, count = run.settings.evaluate, len(run.planned_evaluation())
    packages = {"Python": platform.python_version(), **run.registry.versions()}
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    seeds = f"{len(plan.seeds)} training seed{'s' if len(plan.seeds) > 1 else ''}"
    return (
        f"{seeds}; {count // evaluate.images} prompts with {evaluate.images} image(s) each, the same prompts and "
        f"image seeds in every arm. Intervals: 95 %, paired two-level bootstrap over prompts and training "
        f"seeds, {RESAMPLES} resamples. {date.today().isoformat()}; {machine}; {versions}."
    )


def columns(tables: Tables) -> list[str]:
    changes = [f"change to {name}" for name in (BASE, *tables.against)] if tables.measures else []
    return [*tables.measures, *changes, "seeds", "what it is"]


def cells(row: Row, tables: Tables, seeds: int) -> dict[str, Cell]:
    """By column. An arm without a finished seed shows "failed", or nothing yet."""
    found: dict[str, Cell] = {**row.means, **{f"change to {name}": each for name, each in row.changes.items()}}
    failed = any(each.startswith("failed") for each in row.notes)
    if not row.seeds and tables.measures:
        found[tables.measures[0]] = "failed" if failed else "not finished"
    found["seeds"] = f"{len(row.seeds)} of {seeds}"
    found["what it is"] = "; ".join([row.arm.text or row.arm.name, *row.notes])
    return {name: found.get(name, "") for name in columns(tables)}


def drops(tables: Tables) -> tuple[str, str]:
    """The paper's Figure 3, left: (title, SVG) of every marked arm's change against the reference; "" without any."""
    rows = {row.arm.name: row.drop for row in tables.rows if row.arm.drop and row.drop is not None}
    if not rows:
        return "", ""
    percent = _percent(tables)
    name = f"Change in {tables.measures[0]} against {tables.reference} ({units(percent)})"
    return name, charts.dumbbells(name, {"change": rows}, percent, change=True)


def curves(tables: Tables, axis: str) -> tuple[str, str]:
    """Figure 3, right: the first measure against a setting, one line per arm; "" without any."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for row in tables.rows:
        if row.arm.curve and tables.measures and (found := row.means.get(tables.measures[0])):
            lines.setdefault(row.arm.curve.line, []).append((row.arm.curve.x, found))
    if not any(len(points) > 1 for points in lines.values()):
        return "", ""
    name = f"{tables.measures[0]} against {axis} ({units(False)})"
    return name, charts.line_chart(name, lines, height=300, axis=axis, alone=True)


def long_form(tables: Tables) -> str:
    """A line for every evaluation: arm, training seed, round (empty = before training), prompts, images, measures."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["arm", "seed", "round", "prompts", "images", *tables.measures])
    for line in tables.lines:
        found = line.measured
        values = [found.mean(name) if name in found.means else "" for name in tables.measures]
        round = "" if line.round is None else line.round
        rows.writerow([line.arm, line.seed, round, len(found.prompts), found.images, *values])
    return text.getvalue()
