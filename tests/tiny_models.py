"""A model that pretraining made from few steps, through one round of its preset `shapes`."""

from __future__ import annotations

from pathlib import Path

from srum_core.cli.main import train_main
from srum_core.runs.run import Run


def trained_by_its_preset(adapter: str, model: Path, folder: Path) -> Path:
    """The checkpoint of a round in `folder` that the bundled BAGEL judged.

    Images after so few steps show no shapes: `grid` has regions all the same."""
    few = ["prompts=shapes:train:4", "generate.candidates=1", "benchmark=", "train.steps=1", "adapter.sampling.steps=4"]
    options = ["--adapter", adapter, "--preset", "shapes", "--checkpoint", str(model), "--out", str(folder)]
    assert train_main([*options, *few, "map=paper", "grounder=grid"]) == 0
    run = Run.open(folder)
    assert all(judged.scores for judged in run.judgements(1))
    return run.stage_folder("train", 1)
