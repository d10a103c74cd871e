"""A folder's records as plain data (what JSON can hold), for page.py to lay out. No model is loaded."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from attrs import asdict

from srum_core.config.toml import as_data
from srum_core.errors import RecordError
from srum_core.evaluation.formatting import estimate
from srum_core.evaluation.stage import change, evaluated
from srum_core.models.images import read_files
from srum_core.records import Candidate
from srum_core.report.gallery import gallery, pairs
from srum_core.runs.files import from_json, read_file, unreadable
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.order import count, steps

Data = dict[str, Any]
ABLATION = "ablation.json"
_SHOWN = (
    *("adapter.use", "adapter.checkpoint", "prompts", "rounds", "generate.candidates", "grounder.use", "verifier.use"),
    *("generator.use", "judges", "answerer.use", "map.use", "loss.use", "loss.constraint", "train.method", "train.lr"),
    *("train.steps", "train.epochs", "lora.rank", "benchmark.use", "evaluate.split", "evaluate.images", "seed"),
)
"""The settings that the overview names; all of them are in a section of their own."""


def gather(folder: Path, limit: int) -> Data:
    """All that the page shows about the run or the ablation in a folder; at most `limit` images per round.

    Raises RecordError for a folder that holds neither, and for records that cannot be read."""
    folder = Path(folder).absolute()
    is_run, is_ablation = (folder / "run.toml").is_file(), (folder / ABLATION).is_file()
    if not (is_run or is_ablation):
        raise RecordError(
            f"There is nothing to report in {folder}: it has neither a run.toml (a run of srum-train) nor an "
            f"{ABLATION} (of srum ablate)."
        )
    data: Data = {"name": folder.name, "run": None, "ablation": None}
    if is_ablation:
        data["ablation"] = read_ablation(folder)
    if is_run:
        data["run"] = gather_run(_opened(folder), limit)
    return data


def _opened(folder: Path) -> Run:
    """The run, to be read only: settings that its folders were not made with are a warning here."""
    run = Run.open(folder)
    try:
        run.check()
    except RecordError as error:
        logging.getLogger("srum").warning("The report shows what is there, although: %s", error)
        run.checked = False
    return run


def gather_run(run: Run, limit: int) -> Data:
    rounds = [k for k in run.settings.round_numbers if run.round_folder(k).is_dir()]  # where there is anything
    galleries = [gallery(run, k, limit) for k in rounds]
    return {
        "settings": _settings(run),
        "toml": (run.folder / "run.toml").read_text(encoding="utf-8"),  # with the versions of then
        "rounds": [{"round": k, "stages": _stages(run, k)} for k in rounds],
        "base": [_stage(run, None, "evaluate")] if run.stage_folder("evaluate", None).exists() else [],
        "metrics": {k: rows for k in rounds if (rows := metrics(run, k))},
        "tables": [
            {"name": name, "rows": {row.name: {**asdict(estimate(row)), "count": row.count} for row in rows.values()}}
            for name, rows in evaluated(run).items()
        ],
        "changes": {name: asdict(each) for name, each in change(run).items()},
        "benchmark": f"{run.settings.benchmark.use}, {run.settings.evaluate.split}" if run.settings.benchmark else "",
        "pairs": pairs(run, rounds, limit),
        "candidates": [each for shown, _ in galleries for each in shown],
        "left_out": sum(left for _, left in galleries),
    }


def _settings(run: Run) -> list[tuple[str, str]]:
    data, shown, steps_given = as_data(run.settings), [], run.settings.train.steps
    for key in _SHOWN:
        value: Any = data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if key == "judges":
            value = ", ".join(each["use"] for each in value)
        if (key == "lora.rank" and run.settings.train.method != "lora") or (key == "train.epochs" and steps_given):
            continue
        if key == "rounds":
            value = run.settings.round_count
        if value not in (None, ""):
            shown.append((key.removesuffix(".use"), str(value)))
    return shown + _changes(run)


def _changes(run: Run) -> list[tuple[str, str]]:
    """What rounds change in the settings, where they differ."""
    settings = run.settings
    if not any(map(settings.changes, settings.round_numbers)):
        return []
    count = settings.round_count
    return [(f"round {k} of {count}", " ".join(settings.changes(k)) or "as above") for k in settings.round_numbers]


# ---- results of the stages -------------------------------------------------------------------------------------------


def _stages(run: Run, round: int) -> list[Data]:
    makers = {"generate": _generated, "ground": _grounded, "judge": _judged, "train": _trained}
    names = [step.stage for step in steps(run) if step.round == round]
    return [makers[name](run, round) if name in makers else _stage(run, round, name) for name in names]


def _stage(run: Run, round: int | None, name: str, facts: Sequence[str] = (), failures: Sequence[str] = ()) -> Data:
    """`made` of `total` images; facts and failures are phrases."""
    made, total = count(run, Step(name, round))
    return {
        "stage": name,
        "made": made,
        "total": total,
        "unit": "images",
        "done": run.done(name, round),
        "facts": list(facts),
        "failures": list(failures),
    }


def _generated(run: Run, round: int) -> Data:
    prompts, candidates = run.prompts(round), list(run.candidates(round))
    thoughts = sum(bool(each.thought) for each in candidates)
    facts = [f"{len(prompts)} prompts"] + ([f"{thoughts} with a thought"] if thoughts else [])
    models = sorted({each.model for each in candidates} - {""})
    facts += [f"generated by {', '.join(models)}"] if models else []
    known = {prompt.id: prompt for prompt in prompts}
    changed = [known.get(each.prompt.id) != each.prompt for each in candidates]
    lost = [not _intact(each) for each in candidates]
    failures = _failed(lost, "images are missing or are not those that were recorded", images=True)
    failures += _failed(changed, "images are of other prompts than prompts.jsonl has now", images=True)
    notes = Counter(each.note for each in candidates if each.note)
    failures += [f"{number} images are noted: {note}" for note, number in notes.items()]
    return _stage(run, round, "generate", facts, failures)


def _intact(candidate: Candidate) -> bool:
    try:
        read_files(candidate)
    except RecordError:
        return False
    return True


def _grounded(run: Run, round: int) -> Data:
    found = list(run.groundings(round))
    regions, dropped = sum(len(each.regions) for each in found), sum(len(each.dropped) for each in found)
    facts = [f"{regions} regions, {regions / len(found):.1f} per image"] if found else []
    facts += [f"{dropped} dropped"] if dropped else []
    failures = _failed([each.failures for each in found], "answers about regions unreadable")
    return _stage(
        run, round, "ground", facts, failures + _failed([each.unverified for each in found], "verdicts unreadable")
    )


def _judged(run: Run, round: int) -> Data:
    found = list(run.judgements(round))
    whole = [score.value for each in found for score in each.scores if score.region is None]
    local = [score.value for each in found for score in each.scores if score.region is not None]
    changed = sum(bool(score.rules) for each in found for score in each.scores)
    facts = [
        f"{name} {fmean(values):+.2f} on average" for name, values in (("global", whole), ("local", local)) if values
    ]
    if local:
        facts.append(f"{sum(value < 0 for value in local) / len(local):.0%} of {len(local)} local scores negative")
    facts += [f"{changed} scores changed by rules"] if changed else []
    models = sorted({exchange.model for each in found for exchange in each.exchanges} - {""})
    facts += [f"answered by {', '.join(models)}"] if models else []
    failures = _failed([each.failures for each in found], "left out: an answer could not be read", images=True)
    return _stage(run, round, "judge", facts, failures)


def _failed(failures: Sequence[Any], words: str, images: bool = False) -> list[str]:
    number = sum(bool(each) if images else len(each) for each in failures)
    return [f"{number} {words}"] if number else []


def _trained(run: Run, round: int) -> Data:
    rows = metrics(run, round)
    seconds = sum(row.get("seconds") or 0 for row in _lines(run.round_folder(round) / "speed.jsonl"))
    facts = []
    if rows and "judged" in rows[-1]:
        out = sum(rows[-1].get(each, 0) for each in ("below_least", "filtered", "not_best"))
        facts = [f"on {rows[-1]['judged'] - out} images"] + ([f"{out} left out by select"] if out else [])
    facts += [f"{seconds:.0f} s"] if seconds else []
    return {**_stage(run, round, "train", facts), "made": len(rows), "total": None, "unit": "steps"}


# ---- numbers --------------------------------------------------------------------------------------------------------


def metrics(run: Run, round: int) -> list[Data]:
    """The lines of a round's metrics.jsonl."""
    return _lines(run.round_folder(round) / "metrics.jsonl")


def _lines(path: Path) -> list[Data]:
    """The whole lines of a log; a last one without an end is still being written."""
    if not path.is_file():
        return []
    try:
        rows = [from_json(line) for line in read_file(path).split(b"\n")[:-1]]
        if not all(
            isinstance(row, dict) and all(isinstance(v, int | float | None) for v in row.values()) for row in rows
        ):
            raise ValueError("a line is no table of numbers")
        return rows
    except ValueError as error:
        raise unreadable(path, error) from error


# ---- an ablation ----------------------------------------------------------------------------------------------------


def read_ablation(folder: Path) -> Data:
    """{"title", "command", "note", "columns", "rows", "figures": [{"title", "src"}], "runs": [names]}.

    Raises RecordError for a file that is not of that form, or a figure that is not there."""
    path = folder / ABLATION
    try:
        found = from_json(read_file(path))
        rows = [
            {"arm": str(row["arm"]), "cells": {column: _cell(row["cells"].get(column)) for column in found["columns"]}}
            for row in found["rows"]
        ]
        figures = [{"title": str(each["title"]), "src": _figure(folder, each["svg"])} for each in found["figures"]]
        words = {key: str(found[key]) for key in ("title", "command", "note")}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{type(error).__name__}: {error}"
        raise RecordError(f"{path} cannot be read ({message}). Run srum ablate again to write it.") from error
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
        raise RecordError(f'{folder / ABLATION} names the figure "{name}", which is not a file in {folder}.')
    return f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"
