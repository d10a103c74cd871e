"""A folder's records as plain data (what JSON can hold), for page.py to lay out. No model is loaded."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from srum_core.config.toml import as_data
from srum_core.errors import RecordError
from srum_core.evaluation.stage import change, evaluated
from srum_core.evaluation.statistics import Estimate
from srum_core.models.images import read_files
from srum_core.options import flatten
from srum_core.report.gallery import Data, gallery, numbered, pairs
from srum_core.runs.files import from_json, read_file, unreadable
from srum_core.runs.run import Run
from srum_core.stages.order import count, steps

ABLATION = "ablation.json"
_SHOWN = (
    *("adapter.use", "adapter.checkpoint", "prompts", "rounds", "generate.candidates", "grounder.use", "verifier.use"),
    *("generator.use", "judges", "answerer.use", "map.use", "loss.use", "loss.constraint", "train.method", "train.lr"),
    *("train.steps", "train.epochs", "lora.rank", "benchmark.use", "evaluate.split", "evaluate.images", "seed"),
)
"""The settings that the overview names; all of them are in a section of their own."""


def gather(folder: Path, limit: int) -> Data:
    """Collect all that the page shows about the run or the ablation in a folder; at most `limit` images per round.

    Raises RecordError for a folder that holds neither, and for records that cannot be read."""
    folder = Path(folder).absolute()
    is_run, is_ablation = (folder / "run.toml").is_file(), (folder / ABLATION).is_file()
    if not (is_run or is_ablation):
        raise RecordError(
            f"There is nothing to report in {folder}: it has neither a run.toml (a run of srum-train) nor an "
            f"{ABLATION} (of srum ablate)."
        )
    ablation = read_ablation(folder) if is_ablation else None
    return {"name": folder.name, "run": gather_run(open_run(folder), limit) if is_run else None, "ablation": ablation}


def open_run(folder: Path) -> Run:
    """Open a run to read it: where its folders were made with other settings, only warn."""
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
    tables = evaluated(run)
    ends = [k for k in (None, *rounds) if run.done("evaluate", k)] if run.settings.benchmark else []
    names = ["base" if k is None else f"round {k}" for k in ends]
    models = {names[end]: numbered(run, ends[end]) for end in (0, -1)} if len(ends) > 1 else {}
    return {
        "settings": _settings(run),
        "toml": (run.folder / "run.toml").read_text(encoding="utf-8"),  # with the versions of then
        "rounds": [{"round": k, "stages": _stages(run, k)} for k in rounds],
        "base": _stages(run, None) if run.stage_folder("evaluate", None).exists() else [],
        "metrics": {"": training(run)},
        "tables": tables,
        "changes": {"change": change(run)} if len(tables) > 1 else {},
        "benchmark": f"{run.settings.benchmark.use}, {run.settings.evaluate.split}" if run.settings.benchmark else "",
        "pairs": pairs(run, models, limit) if models else None,
        "candidates": [each for images, _ in galleries for each in images],
        "left_out": sum(left for _, left in galleries),
    }


def _settings(run: Run) -> list[tuple[str, str]]:
    """The most important settings, and what rounds change in them."""
    settings, data = run.settings, as_data(run.settings)
    judges = ", ".join(each.use for each in settings.judges)
    data = flatten(data) | {"judges": judges, "prompts": data["prompts"], "rounds": settings.round_count}
    unused = {"lora.rank": settings.train.method != "lora", "train.epochs": settings.train.steps}
    keys = [key for key in _SHOWN if data.get(key) not in (None, "") and not unused.get(key)]
    rounds = settings.round_numbers if any(map(settings.changes, settings.round_numbers)) else ()
    changes = [(f"round {k} of {settings.round_count}", " ".join(settings.changes(k)) or "as above") for k in rounds]
    return [(key.removesuffix(".use"), str(data[key])) for key in keys] + changes


# ---- results of the stages -------------------------------------------------------------------------------------------


def _stages(run: Run, round: int | None) -> list[Data]:
    """`made` of `total` images by every stage, with facts and failures."""
    about = {"generate": _generated, "ground": _grounded, "judge": _judged, "train": _trained}
    stages = []
    for step in [each for each in steps(run) if each.round == round]:
        facts, failures = about[step.stage](run, round) if round and step.stage in about else ([], [])
        number, total = count(run, step)
        data: Data = {"made": number, "total": total, "unit": "images", "facts": facts, "failures": failures}
        if round and step.stage == "train":
            data |= {"made": len(log_lines(run, round)), "total": None, "unit": "steps"}
        stages.append({**data, "stage": step.stage, "done": run.done(step.stage, round)})
    return stages


def _fact(number: int, words: str) -> list[str]:
    return [f"{number} {words}"] if number else []


def _generated(run: Run, round: int) -> tuple[list[str], list[str]]:
    prompts, candidates = run.prompts(round), list(run.candidates(round))
    by_id = {prompt.id: prompt for prompt in prompts}
    intact = 0
    for each in candidates:
        with suppress(RecordError):
            intact += bool(read_files(each))
    changed = sum(by_id.get(each.prompt.id) != each.prompt for each in candidates)
    notes = Counter(each.note for each in candidates if each.note)
    models = sorted({each.model for each in candidates} - {""})
    return [
        f"{len(prompts)} prompts",
        *_fact(sum(bool(each.thought) for each in candidates), "with a thought"),
        *([f"generated by {', '.join(models)}"] if models else []),
    ], [
        *_fact(len(candidates) - intact, "images are missing or are not those that were recorded"),
        *_fact(changed, "images are of other prompts than prompts.jsonl has now"),
        *(f"{number} images are noted: {note}" for note, number in notes.items()),
    ]


def _grounded(run: Run, round: int) -> tuple[list[str], list[str]]:
    groundings = list(run.groundings(round))
    regions = sum(len(each.regions) for each in groundings)
    facts = [f"{regions} regions, {regions / len(groundings):.1f} per image"] if groundings else []
    return facts + _fact(sum(len(each.dropped) for each in groundings), "dropped"), [
        *_fact(sum(len(each.failures) for each in groundings), "answers about regions unreadable"),
        *_fact(sum(len(each.unverified) for each in groundings), "verdicts unreadable"),
    ]


def _judged(run: Run, round: int) -> tuple[list[str], list[str]]:
    judgements = list(run.judgements(round))
    scores = [score for each in judgements for score in each.scores]
    global_scores = [score.value for score in scores if score.region is None]
    local_scores = [score.value for score in scores if score.region is not None]
    facts = [
        f"{name} {fmean(values):+.2f} on average"
        for name, values in (("global", global_scores), ("local", local_scores))
        if values
    ]
    if local_scores:
        negative = sum(value < 0 for value in local_scores) / len(local_scores)
        facts.append(f"{negative:.0%} of {len(local_scores)} local scores negative")
    facts += _fact(sum(bool(score.rules) for score in scores), "scores changed by rules")
    models = sorted({exchange.model for each in judgements for exchange in each.exchanges} - {""})
    facts += [f"answered by {', '.join(models)}"] if models else []
    return facts, _fact(sum(bool(each.failures) for each in judgements), "left out: an answer could not be read")


def _trained(run: Run, round: int) -> tuple[list[str], list[str]]:
    rows = log_lines(run, round)
    seconds = sum(row.get("seconds") or 0 for row in log_lines(run, round, "speed.jsonl"))
    facts = []
    if (used := trained_on(rows)) is not None:
        facts = [f"on {used} images", *_fact(rows[-1]["judged"] - used, "left out by select")]
    return facts + ([f"{seconds:.0f} s"] if seconds else []), []


def trained_on(rows: list[Data]) -> int | None:
    """How many images a round trains on, as its lines of metrics.jsonl say; None where none says so."""
    if not rows or "judged" not in rows[-1]:
        return None
    out: int = sum(rows[-1].get(each, 0) for each in ("below_least", "filtered", "not_best"))
    return int(rows[-1]["judged"]) - out


def training(run: Run) -> dict[int, list[Data]]:
    """The lines of metrics.jsonl by round, where there are any."""
    return {k: rows for k in run.settings.round_numbers if (rows := log_lines(run, k))}


def log_lines(run: Run, round: int, name: str = "metrics.jsonl") -> list[Data]:
    """Read the complete lines of a log; a last line without a line break is still being written."""
    path = run.round_folder(round) / name
    if not path.is_file():
        return []
    try:
        rows = [from_json(line) for line in read_file(path).split(b"\n")[:-1]]
        for row in rows:
            if not isinstance(row, dict) or not all(isinstance(each, int | float | None) for each in row.values()):
                raise ValueError("a line is no table of numbers")
    except ValueError as error:
        raise unreadable(path, error) from error
    return rows


# ---- an ablation ----------------------------------------------------------------------------------------------------


def read_ablation(folder: Path) -> Data:
    """{"title", "command", "note", "columns", "rows", "figures": [{"title", "src"}], "runs": [names]}.

    Raises RecordError for a file that is not of that form, or a figure that is not there."""
    path = folder / ABLATION
    try:
        data = from_json(read_file(path))
        rows = [
            {"arm": str(row["arm"]), "cells": {column: _cell(row["cells"].get(column)) for column in data["columns"]}}
            for row in data["rows"]
        ]
        figures = [{"title": str(each["title"]), "src": _figure(folder, each["svg"])} for each in data["figures"]]
        words = {key: str(data[key]) for key in ("title", "command", "note")}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{type(error).__name__}: {error}"
        raise RecordError(f"{path} cannot be read ({message}). Run srum ablate again to write it.") from error
    runs = sorted(str(each.parent.relative_to(folder)) for each in folder.glob("seed-*/*/run.toml"))
    return {**words, "columns": data["columns"], "rows": rows, "figures": figures, "runs": runs}


def _cell(cell: Any) -> str | Estimate:
    if cell is None or isinstance(cell, str):
        return cell or ""
    ends = (None if cell.get(end) is None else float(cell[end]) for end in ("low", "high"))
    return Estimate(float(cell["value"]), *ends)


def _figure(folder: Path, name: str) -> str:
    """Return the figure as a data URI: in an `img`, scripts and links of an SVG do nothing."""
    path = folder / name
    if path.parent != folder or not path.is_file():
        raise RecordError(f'{folder / ABLATION} names the figure "{name}", which is not a file in {folder}.')
    return f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"
