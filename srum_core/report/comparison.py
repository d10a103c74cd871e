"""Several runs against the first one: the same benchmark, prompt by prompt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from srum_core.config.toml import as_data
from srum_core.errors import RecordError
from srum_core.evaluation.formatting import Grid, estimate, measures
from srum_core.evaluation.stage import difference, evaluated, read_table, table_of
from srum_core.evaluation.statistics import Estimate
from srum_core.evaluation.tables import BenchmarkTable, remarks
from srum_core.options import flatten
from srum_core.report import charts
from srum_core.report.gallery import Data, numbered, pairs
from srum_core.report.gather import open_run, training
from srum_core.runs.run import Run

_SAME = ("benchmark", "split", "options", "policy", "judge", "borders")
"""What the tables of compared runs have in common."""


def gather_comparison(folders: Sequence[Path], limit: int, round: int | None = None) -> tuple[Data, Grid]:
    """Return what the page shows about runs after a round (None: each after its last), and the table to print.

    Raises RecordError for runs that have not finished it, or that were evaluated on other prompts or in other ways."""
    paths = [Path(os.path.normpath(Path(folder).absolute())) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise RecordError("A run is named twice: a run is compared with other runs.")
    try:
        home = os.path.commonpath([path.parent for path in paths])
    except ValueError:  # on several drives, on Windows
        home = ""
    runs = {str(path.relative_to(home) if home else path): open_run(path) for path in paths}
    rounds = {name: run.settings.round_count if round is None else round for name, run in runs.items()}
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
    seeds = "the same" if all(old.id == new.id for each in both.values() for old, new in each) else "other"
    after = ", ".join(f"{name} after round {k}" for name, k in rounds.items())
    notes = [f"{after}; paired by prompt, {seeds} image seeds."]
    for remark in dict.fromkeys(each for table in tables.values() for each in remarks(table)):
        whose = [name for name, table in tables.items() if remark in remarks(table)]
        notes.append(remark if len(whose) == len(runs) else f"{', '.join(whose)}: {remark}")
    title = f"{tables[first].benchmark}, {tables[first].split}"
    settings = {name: flatten(as_data(run.settings)) for name, run in runs.items()}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    values = {key: [str(each.get(key, "–")) for each in settings.values()] for key in keys}
    page = {
        **dict.fromkeys(("toml", "candidates"), ()),
        "metrics": {name: training(run) for name, run in runs.items()},
        "tables": rows,
        "changes": changes,
        "benchmark": title,
        "notes": notes,
        "progress": _progress(runs),
        "pairs": pairs(runs[first], models, limit),
        "differing": {key: each for key, each in values.items() if len(set(each)) > 1},
    }
    data = {"name": f"{' and '.join(others)} against {first}", "run": page, "ablation": None}
    return data, measures(rows, title, changes, "\n".join(notes))


def _table(name: str, run: Run, round: int) -> BenchmarkTable:
    table = table_of(run, round)
    if run.settings.benchmark is None:
        raise RecordError(f"{name} has no benchmark, so there is nothing to compare.")
    if table is None or not run.done("evaluate", round):
        raise RecordError(
            f"{name} has not finished the evaluation after round {round}; evaluated is "
            f"{', '.join(evaluated(run)) or 'nothing'}. "
            "Finish it with srum-train, or compare after a round that all runs have finished (--round K)."
        )
    return table


def _check(first: str, name: str, runs: Mapping[str, Run], tables: Mapping[str, BenchmarkTable]) -> None:
    """Raise RecordError for a run that cannot be paired with the first."""
    for key in _SAME:
        ours, theirs = (getattr(tables[each], key) for each in (first, name))
        if ours != theirs:
            raise RecordError(
                f"{first} and {name} were not evaluated in the same way, so they cannot be compared: {key} is "
                f"{ours or 'none'} of {first}, {theirs or 'none'} of {name}."
            )
    plans = [runs[each].planned_evaluation() for each in (first, name)]
    ours, theirs = (Counter((item.prompt.id, item.prompt.text) for item in plan) for plan in plans)
    if ours != theirs:
        raise RecordError(
            f"{first} and {name} do not share their prompts: {(ours & theirs).total()} images have the same ones, of "
            f"{ours.total()} and {theirs.total()}. Evaluate both with the same evaluate.limit and evaluate.images."
        )


def _progress(runs: Mapping[str, Run]) -> dict[str, Markup]:
    """A chart of each measure over the rounds, a line for each run."""
    lines: dict[str, dict[str, list[tuple[float, Estimate]]]] = {}
    for name, run in runs.items():
        for k in (None, *run.settings.round_numbers):
            for row in (read_table(run, k) or {}).values():
                lines.setdefault(row.name, {}).setdefault(name, []).append((k or 0, estimate(row)))
    return {
        measure: charts.line_chart(measure, points, height=300, axis="round (0: before training)")
        for measure, points in lines.items()
        if max(map(len, points.values())) > 1
    }
