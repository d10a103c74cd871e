"""A run whose images are drawn and judged, ready to be trained on; for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import toy
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from srum_core import plugins
from srum_core.config import load_settings
from srum_core.records import Candidate, Judgement, Prompt, Region, Score, Unreadable
from srum_core.runs.run import Run
from srum_core.training.trainer import train

SIZES = [(8, 8), (8, 4), (6, 8), (8, 8), (4, 4)]  # pixels; 16, 8, 12, 16 and 4 latent cells
LEFT = (1.0, -1.0, 1.0, -0.5)  # scores of the left halves, in turn
TRAIN: dict[str, Any] = {
    "lr": 1e-2, "warmup": 2, "steps": 5, "max_cells": 24, "accumulation": 2, "save_every": 2, "mixed_precision": "no",
}  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate remembers its precision for the whole process; and collecting garbage takes longer than a training."""
    monkeypatch.setattr("srum_core.runs.run.gc.collect", lambda *_: 0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(
    folder: Path,
    map: str = "srum_losses.maps:Paper",
    seed: int = 0,
    lora_dropout: float = 0.2,
    loss: str = "srum_losses.objectives:SrumLoss",
    select: dict[str, Any] | None = None,
    rounds: int | list[list[str]] = 1,
    adapter: str | dict[str, Any] = "toy:ToyModel",
    **settings: Any,
) -> Run:
    """A run whose images are drawn and judged; one more has an unreadable answer."""
    file = folder.with_suffix(".toml")
    data = {
        "seed": seed,
        "rounds": rounds,
        "adapter": adapter,
        "grounder": "toy:ToyGrounder",
        "judges": ["toy:ToyJudge"],
        "map": map,
        "loss": loss,
        "select": select or {},
        "train": {**TRAIN, "method": "full", **settings},
        "lora": {"rank": 2, "dropout": lora_dropout},
    }
    file.write_text(tomli_w.dumps(data))
    registry = plugins.discover()
    run = Run.create(folder, load_settings(None, (), file, (), registry), registry)
    candidates, judgements = run.candidates(1), run.judgements(1)
    (candidates.folder / "images").mkdir(parents=True)
    for number, size in enumerate([*SIZES, (8, 8)]):
        noise = torch.Generator().manual_seed(number)
        path = candidates.folder / "images" / f"{number}.png"
        pixels = torch.randint(256, (size[0] * size[1] * 3,), generator=noise).tolist()
        Image.frombytes("RGB", size, bytes(pixels)).save(path)
        candidates.append(Candidate(f"c{number}", Prompt(f"p{number}", f"text {number}"), path, size, number))
        regions = (Region("1", (0.0, 0.0, 0.5, 1.0)),)
        scores = (Score(0.8), Score(LEFT[number % 4], "1"))
        failures = (Unreadable(0, "there is no score"),) if number == len(SIZES) else ()
        judgements.append(Judgement(f"c{number}", regions, scores, (), failures))
    candidates.mark_done()
    judgements.mark_done()
    return run


class Hostile:
    """Every cell is to be drawn otherwise: with lambda 0.5 the loss has no lower bound."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> torch.Tensor:
        return torch.full(grid, -1.0)


def metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.round_folder(1) / "metrics.jsonl").read_text().splitlines()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    (path,) = run.stage_folder("train", 1).glob("*.safetensors")
    return load_file(path)


def interrupt(monkeypatch: pytest.MonkeyPatch, run: Run, after: int) -> None:
    """Train until the denoiser has run `after` times."""
    calls = count()

    def called(what: str) -> None:
        if what == "train" and next(calls) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy, "called", called)
        with pytest.raises(KeyboardInterrupt):
            train(run, 1)
