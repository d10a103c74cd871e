"""Two real processes train as one does, sharded or not; a training changes their number; a killed one comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pair
import pytest
import toy
from accelerate.state import AcceleratorState
from near import off
from training import clean, interrupt, make, metrics, weights  # noqa: F401  (clean is used by being here)

from srum_core import config, plugins
from srum_core.cli.launching import take_preset
from srum_core.options import Use
from srum_core.runs.run import Run
from srum_core.stages.order import perform
from srum_core.training import fsdp
from srum_core.training.trainer import train

SRUM, BOUNDED = "srum_losses.objectives:SrumLoss", "srum_losses.objectives:BoundedLoss"
RAGGED: dict[str, Any] = {"steps": 0, "epochs": 4, "max_cells": 12, "clip": 0.5, "text_dropout": 0.3}
"""Batches of one or two images, 4 to 16 cells; at the end of an epoch there are fewer than a step takes."""
RAGGED["eps"] = 1e-3  # with the paper's 1e-15 a gradient of rounding errors alone makes a whole step


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pair.Pair]:
    with pair.started(tmp_path_factory.mktemp("pair")) as processes:
        yield processes


def train_here(folder: Path, launch: str, after: int | None = None) -> tuple[str, bool]:
    """What each process of a pair does: train, or be interrupted when the denoiser runs for the `after`th time. Returns
    how it ended, and whether weights were sharded."""
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    take_preset(launch)
    AcceleratorState._reset_state(reset_partial_state=True)
    calls = count()

    def called(what: str) -> None:
        if what == "train" and next(calls) == after:
            raise KeyboardInterrupt

    ended = "trained"
    with (
        patch.object(toy, "called", called),
        patch("srum_core.runs.run.gc.collect", lambda *_: 0),
        patch.object(fsdp, "shard", wraps=fsdp.shard) as shard,
    ):
        try:
            train(Run.open(folder), 1)
        except KeyboardInterrupt:
            ended = "interrupted"
    return ended, shard.called


def same(run: Run, other: Run, tolerance: float = 1e-4) -> None:
    """The same numbers and weights up to rounding, relative to the largest of a training."""
    assert len(metrics(run)) == len(metrics(other)) > 3
    most = {key: max(abs(row[key] or 0) for row in metrics(run)) for key in metrics(run)[0]}
    for mine, theirs in zip(metrics(run), metrics(other), strict=True):
        for key, value in mine.items():
            expected = value if value is None else pytest.approx(value, abs=tolerance * most[key])
            assert theirs[key] == expected, (mine["step"], key)
    for name, tensor in weights(run).items():
        assert off(weights(other)[name], tensor) <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "loss", "settings"),
    [
        ("ddp", SRUM, {"method": "lora"}),
        ("ddp", BOUNDED, {"method": "full", "map": "srum_losses.maps:Advantage"}),  # a map with `fit`
        ("fsdp2-offload", BOUNDED, {"method": "lora", "ema": 0.9}),
        ("fsdp2", SRUM, {"method": "full", "checkpointing": True}),
        ("fsdp2", BOUNDED, {"method": "full", "ema": 0.9}),
        ("fsdp2", SRUM, {"method": "lora", "mixed_precision": "bf16"}),
    ],
)
def test_two_processes_train_as_one(
    tmp_path: Path, two: pair.Pair, launch: str, loss: str, settings: dict[str, Any]
) -> None:
    """Batch by batch what one does in turn; every cell counts once, whichever process and batch it is in."""
    settings = {**RAGGED, "loss": loss, **settings}
    one = make(tmp_path / "one", accumulation=4, **settings)
    both = make(tmp_path / "both", accumulation=2, **settings)
    train(one, 1)
    assert len({row["cells"] for row in metrics(one)}) > 2
    assert two.do(train_here, both.folder, launch) == [("trained", launch != "ddp")] * 2
    same(one, both, 5e-2 if "mixed_precision" in settings else 1e-4)  # there biases are bfloat16 too


@pytest.mark.slow
def test_two_processes_train_a_round_with_its_own_settings(tmp_path: Path, two: pair.Pair) -> None:
    changes = ["train.accumulation=2", "train.lr=0.02", f"loss={BOUNDED}", "select.least=0"]
    one = make(tmp_path / "one", **{**RAGGED, "accumulation": 4, "lr": 0.02}, loss=BOUNDED, select={"least": 0})
    both = make(tmp_path / "both", rounds=[changes], **RAGGED)
    train(one, 1)
    assert two.do(train_here, both.folder, "ddp") == [("trained", False)] * 2
    same(one, both)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "method"),
    [("none", "fsdp2", "full"), ("fsdp2", "ddp", "lora"), ("fsdp2", "none", "full"), ("ddp", "none", "lora")],
)
def test_a_training_goes_on_with_another_number_of_processes(
    tmp_path: Path, two: pair.Pair, monkeypatch: pytest.MonkeyPatch, before: str, after: str, method: str
) -> None:
    """Weights, their average, the optimiser and the place in the data; a step stays as large as it was."""
    settings = {**RAGGED, "max_cells": 8, "method": method, "ema": 0.9, "save_every": 1}
    whole = make(tmp_path / "whole", accumulation=2, **settings)
    train(whole, 1)
    run = make(tmp_path / "run", accumulation=2 if before == "none" else 1, **settings)
    if before == "none":
        interrupt(monkeypatch, run, after=16)
    else:
        assert two.do(train_here, run.folder, before, 9) == [("interrupted", before == "fsdp2")] * 2
    assert 7 < len(metrics(run)) < len(metrics(whole))
    if after == "none":
        train(run, 1)
    else:
        assert two.do(train_here, run.folder, after) == [("trained", after == "fsdp2")] * 2
    same(whole, run)


def many(folder: Path) -> Run:
    """A run of seven images, to be drawn and judged. Greedy answers are unreadable, so some are asked more often."""
    words = folder.with_name("words.txt")
    words.write_text("".join(f"picture {number}\n" for number in range(7)))
    settings = config.Settings(
        prompts=str(words),
        adapter=Use("toy:ToyModel", {"mumbles": True}),
        grounder=Use("toy:ToyGrounder"),
        judges=(Use("toy:ToyJudge"),),
        generate=config.Generate(batch=1),
        ground=config.Ground(batch=2),
        judge=config.Judge(batch=1, retries=3),
    )
    return Run.create(folder, settings, plugins.discover())


def perform_here(folder: Path, stage: str) -> None:
    perform(Run.open(folder), stage, 1)


@pytest.mark.slow
def test_a_killed_worker_comes_back_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Drawing and judging: the other goes on, the killed one makes what is missing, and whoever is last says so."""
    one, two = many(tmp_path / "one"), many(tmp_path / "two")
    for stage, name, kill in (
        ("generate", "candidates", "draw:2"),
        ("ground", "regions", "look:1"),
        ("judge", "judgements", "answer:3"),
    ):
        perform(one, stage, 1)
        folder = two.stage_folder(stage, 1)
        workers = [pair.alone(0, perform_here, two.folder, stage)]
        workers.append(pair.alone(1, perform_here, two.folder, stage, SRUM_TOY_KILL=kill))
        for worker in workers:
            worker.join(pair.WAIT)
        assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL]
        assert not (folder / "DONE").exists()
        assert 4 <= len(records(folder)) < 7
        again = pair.alone(1, perform_here, two.folder, stage)
        again.join(pair.WAIT)
        assert again.exitcode == 0
        assert (folder / "DONE").exists()
        assert records(folder) == records(one.folder / "round-1" / name)
        assert len(records(folder)) == 7


def records(folder: Path) -> list[bytes]:
    return sorted(line for path in folder.glob("part-*.jsonl") for line in path.read_bytes().splitlines())
