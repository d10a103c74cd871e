"""Folders for the tests of the report: a run's records written by hand, without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from toy import COMPONENTS

from srum_core.config import load_settings
from srum_core.evaluation import tables
from srum_core.evaluation.run import Evaluation
from srum_core.evaluation.scoring import Measures
from srum_core.plugins import discover
from srum_core.records import (
    Candidate,
    Exchange,
    Grounding,
    Judgement,
    Prompt,
    Question,
    Region,
    Row,
    Score,
    Unreadable,
)
from srum_core.runs.run import Run
from srum_core.runs.store import to_json, write_list

ODD = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'&amp;&\u2028\u2029{{ 8**9 }}]]><!-- 😀"
"""What must be shown as it is, wherever it comes from."""
SIDE = 8


class Odd:
    """A benchmark with hostile prompts."""

    def prompts(self, split: str) -> Sequence[Prompt]:
        return [Prompt(f"e{index}", f"{ODD} number {index}") for index in range(4)]

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return []

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        raise AssertionError

    def table(self, scored: object) -> Sequence[Row]:
        raise AssertionError

    def explain(self, candidate: Candidate, answers: Sequence[str]) -> str:
        return f"{ODD} why {candidate.prompt.id}"


class Mean(Odd):
    """One whose table is of means, with standard errors."""

    def table(self, scored: object) -> Sequence[Row]:
        assert isinstance(scored, Sequence)
        names = dict.fromkeys(name for _, values in scored for name in values)
        columns = {name: [values[name] for _, values in scored if name in values] for name in names}
        return [Row(name, fmean(each), len(each), stdev(each) / len(each) ** 0.5) for name, each in columns.items()]


def make_run(folder: Path, count: int = 6, rounds: int = 1, *settings: str) -> Run:
    """A finished run with `count` candidates a round. The second cannot be read, the third has no latent; the scores of
    candidate i (of more than three) are worse the larger i is."""
    options = [each.lstrip("-") for each in COMPONENTS if "benchmark" not in each]
    options += [
        "benchmark=reporting:Odd",
        f"rounds={rounds}",
        f"adapter.checkpoint={json.dumps(ODD, ensure_ascii=False)}",
    ]
    registry = discover()
    run = Run.create(folder, load_settings(None, (), None, [*options, *settings], registry), registry)
    for k in range(1, rounds + 1):
        _write_round(run, k, count)
    for k in (None, *range(1, rounds + 1)):
        _write_evaluation(run, k)
    return run


def _write_round(run: Run, k: int, count: int) -> None:
    home = run.round_folder(k)
    write_list(home / "prompts.jsonl", [Prompt(f"p{index}", f"{ODD} picture {index}") for index in range(count)])
    candidates, latents = [], home / "latents"
    latents.mkdir(parents=True)
    for index, item in enumerate(run.planned(k)):
        path = draw(home / "candidates" / "images" / f"{item.id}.png", index)
        candidates.append(Candidate(item.id, item.prompt, path, (SIDE, SIDE), item.seed, thought=ODD))
        if index != 2:
            save_file({"clean": torch.zeros(4, 4, 3)}, latents / f"{item.id}.safetensors")
    judgements = [_judgement(candidate, index, count) for index, candidate in enumerate(candidates)]
    groundings = [Grounding(each.candidate, each.regions) for each in judgements]
    for records, items in (
        (run.candidates(k), candidates),
        (run.groundings(k), groundings),
        (run.judgements(k), judgements),
    ):
        records.extend(items)
        records.mark_done()
    rows = [
        {
            "step": step,
            "loss": 1 / step,
            "loss_reward": 0.5 / step,
            "loss_reference": 1.0,
            "error": 0.9,
            "mean_weight": 0.1,
            "negative_share": 0.25,
            "negative_error": None if step % 2 else 2.0,
            "cells": 16,
            "judged": count - 1,
            "unjudged": 1,
            "lr": 1e-5 * step,
            "gradient_norm": 1.0,
        }
        for step in range(1, 9)
    ]
    (home / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "lo')
    checkpoint = run.stage_folder("train", k)
    checkpoint.mkdir()
    (checkpoint / "settings.json").write_text(to_json(run.stage_settings("train", k)))
    (checkpoint / "DONE").write_text("8\n")


def _judgement(candidate: Candidate, index: int, count: int) -> Judgement:
    left, right = Region("1", (0.0, 0.0, 0.5, 1.0), ODD), Region("2", (0.5, 0.25, 1.0, 0.75))
    value = 1 - 2 * index / max(count - 1, 1)
    scores = (
        Score(value, reason=f"{ODD} whole", judge=ODD),
        Score(value, "1", f"{ODD} left", "local", label=ODD, stated=0.5, rules=(ODD,)),
        Score(-0.5, "2", "needle" if index == 4 else "hay", "local"),
    )
    exchange = Exchange(ODD, Question(candidate.image, ODD), f"{ODD} and \ud800 half a character")
    failures = (Unreadable(0, f"{ODD} unreadable", None, "local"),) if index == 1 else ()
    return Judgement(candidate.id, (left, right), scores, (exchange,), failures)


def _write_evaluation(run: Run, k: int | None) -> None:
    evaluation = Evaluation.after(run, k)
    evaluation.keep()
    records, measures = evaluation.images(), []
    candidates = []
    for index, item in enumerate(run.planned_evaluation()):
        path = draw(records.folder / "images" / f"{item.id}.png", index + 7 * (k is not None))
        right = index % 2 if k is None else index // 2 % 2  # one stays right, one wrong, one is won, one is lost
        values = {"green": 0.25 + 0.1 * index * (k is not None), "correct": float(right)}
        candidates.append(Candidate(item.id, item.prompt, path, (SIDE, SIDE), item.seed))
        measures.append(Measures(item.id, item.prompt.id, 0, values))
    records.extend(candidates)
    tabulate(evaluation, measures)
    (evaluation.folder / "DONE").write_text("4\n")


def tabulate(evaluation: Evaluation, measures: Sequence[Measures], **about: Any) -> None:
    """Write an evaluation's measures and its table."""
    folder, benchmark = evaluation.folder / "tables" / "rules", evaluation.benchmark()
    write_list(folder / "images.jsonl", measures)
    rows = [Row(ODD, 0.6 if evaluation.source and evaluation.source[1] else 0.5, 4, 0.05)]
    if isinstance(benchmark, Mean):
        rows = list(benchmark.table([(each.id, each.values) for each in measures]))
    tables.write(folder / "table.json", tables.BenchmarkTable("toy", "test", "a model", tuple(rows), **about))


def score(run: Run, round: int, *right: int, **about: Any) -> None:
    """Score the images of a round again: which of its four are right."""
    evaluation = Evaluation.after(run, round)
    plan = run.planned_evaluation()
    measures = [
        Measures(item.id, item.prompt.id, 0, {"correct": float(value)}) for item, value in zip(plan, right, strict=True)
    ]
    tabulate(evaluation, measures, **about)


def draw(path: Path, number: int, side: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (number * 37 % 256, number * 91 % 256, 90)).save(path)
    return path


def make_ablation(folder: Path) -> None:
    """What `srum ablate` leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "left.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><script>hacked = 1</script>'
        '<rect width="5" height="9"/></svg>'
    )
    cells = {
        "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75},
        "seconds": {"value": 9.0, "low": None, "high": None},
    }
    table = {
        "title": f"{ODD} ablation",
        "command": "srum ablate --adapter toy",
        "note": ODD,
        "columns": ["accuracy", "seconds", ODD],
        "rows": [
            {"arm": ODD, "cells": {**cells, ODD: "failed"}},
            {"arm": "sft", "cells": {"accuracy": {"value": -0.125, "low": None, "high": None}}},
        ],
        "figures": [{"title": ODD, "svg": "left.svg"}],
    }
    (folder / "ablation.json").write_text(json.dumps(table))
    (folder / "seed-0" / "sft").mkdir(parents=True)
    (folder / "seed-0" / "sft" / "run.toml").write_text("")
