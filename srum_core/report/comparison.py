"""Several runs against the first one: the same benchmark, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srum_core.config.toml import as_data
from srum_core.errors import RecordError
from srum_core.evaluation.formatting import Grid, estimate
from srum_core.evaluation.stage import difference, evaluated, grid, table_of
from srum_core.evaluation.tables import BenchmarkTable, remarks
from srum_core.options import flatten
from srum_core.report import charts
from srum_core.report.gallery import Data, named, numbered, pairs
from srum_core.report.gather import opened, training
from srum_core.runs.progress import shown
from srum_core.runs.run import Run

_SAME = ("benchmark", "split", "options", "policy", "judge", "borders")
"""What the tables of compared runs have in common."""


def gather_comparison(folders: Sequence[Path], limit: int, round: int | None = None) -> tuple[Data, Grid]:
    """What the page shows about runs after a round (None: each after its last), and the table to print.

    Raises RecordError for runs that have not finished it, or that were evaluated on other prompts or in other ways."""
    runs = dict(zip(_names(folders), map(opened, folders), strict=True))
    rounds = {name: round or run.settings.round_count for name, run in runs.items()}
    tables = {name: _table(name, run, rounds[name]) for name, run in runs.items()}
    first, *others = runs
    for name in others:
        _check(first, name, runs, tables)
    models = {name: numbered(run, rounds[name]) for name, run in runs.items()}
    both = {
        name: [(old, models[name][at]) for at, old in models[first].items() if at in models[name]] for name in others
    }
    rows = {name: table.by_name() for name, table in tables.items()}
    changes = {f"{name} − {first}": difference(runs[first], rows[first], rows[name], both[name]) for name in others}
    same = all(old.id == new.id for name in others for old, new in both[name])
    after = ", ".join(f"{name} after {named(k)}" for name, k in rounds.items())
    notes = [f"{after}; paired by prompt, {'the same' if same else 'other'} image seeds."]
    said = {name: remarks(table) for name, table in tables.items()}
    for remark in dict.fromkeys(each for found in said.values() for each in found):
        whose = [name for name, found in said.items() if remark in found]
        notes.append(remark if len(whose) == len(runs) else f"{', '.join(whose)}: {remark}")
    title = f"{tables[first].benchmark}, {tables[first].split}"
    run = {
        **dict.fromkeys(("settings", "rounds", "base", "candidates"), ()),
        **{"toml": "", "left_out": 0},
        "metrics": {name: training(each) for name, each in runs.items()},
        "tables": rows,
        "changes": changes,
        "benchmark": title,
        "notes": notes,
        "progress": _progress(runs),
        "pairs": pairs(runs[first], models, limit),
        "differing": _differing(runs),
    }
    return {"name": f"{' and '.join(others)} against {first}", "run": run, "ablation": None}, grid(
        title, rows, changes, notes
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; their paths where names are the same."""
    whole = [Path(folder).absolute() for folder in folders]
    for place, folder in enumerate(whole):
        if folder in whole[:place]:
            raise RecordError(f"{shown(folder)} is named twice: a run is compared with other runs.")
    names = [folder.name for folder in whole]
    return names if len(set(names)) == len(names) else [shown(folder) for folder in whole]


def _table(name: str, run: Run, round: int) -> BenchmarkTable:
    table = table_of(run, round)
    if run.settings.benchmark is None:
        raise RecordError(f"{name} has no benchmark, so there is nothing to compare.")
    if table is None or not run.done("evaluate", round):
        there = ", ".join(evaluated(run)) or "nothing"
        raise RecordError(
            f"{name} has not finished the evaluation after round {round}; evaluated is {there}. Finish it with "
            "srum-train, or compare after a round that all runs have finished (--round K)."
        )
    return table


def _check(first: str, name: str, runs: Mapping[str, Run], tables: Mapping[str, BenchmarkTable]) -> None:
    """Raise RecordError for a run that cannot be paired with the first."""
    ways = [
        {**{key: getattr(tables[each], key) for key in _SAME}, "images": runs[each].settings.evaluate.images}
        for each in (first, name)
    ]
    prompts = [
        {(item.prompt.id, item.prompt.text) for item in runs[each].planned_evaluation()} for each in (first, name)
    ]
    for key, value in ways[0].items():
        if ways[1][key] != value:
            raise RecordError(
                f"{first} and {name} were not evaluated in the same way, so they cannot be compared: {key} is "
                f"{value or 'none'} of {first}, {ways[1][key] or 'none'} of {name}."
            )
    if prompts[0] != prompts[1]:
        raise RecordError(
            f"{first} and {name} do not share their prompts: {len(prompts[0] & prompts[1])} are the same, of "
            f"{len(prompts[0])} and {len(prompts[1])}. Evaluate both with the same evaluate.limit and prompts."
        )


def _progress(runs: Mapping[str, Run]) -> list[Data]:
    """A chart of each measure over the rounds, a line for each run."""
    lines: dict[str, dict[str, list[tuple[float, Any]]]] = {}
    for name, run in runs.items():
        for which, rows in evaluated(run).items():
            x = float(which.removeprefix("round ").replace("base", "0"))
            for row in rows.values():
                lines.setdefault(row.name, {}).setdefault(name, []).append((x, estimate(row)))
    axis = "round (0: before training)"
    return [
        {"title": measure, "note": "", "svg": charts.curves(measure, axis, points, alone=False)}
        for measure, points in lines.items()
        if max(map(len, points.values())) > 1
    ]


def _differing(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """The settings in which the runs differ, with the value of each."""
    settings = [flatten(as_data(run.settings)) for run in runs.values()]
    keys = dict.fromkeys(key for each in settings for key in each)
    values = {key: [str(each.get(key, "–")) for each in settings] for key in keys}
    return {key: each for key, each in values.items() if len(set(each)) > 1}
