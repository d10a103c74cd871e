"""An interruption changes nothing, and neither does the number of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from training import clean, interrupt, make, metrics, weights  # noqa: F401  (clean is used by being here)

from srum_core.cli import launch_command
from srum_core.errors import RecordError
from srum_core.run import Run
from srum_core.stages import Step
from srum_core.stages.train import train


@pytest.mark.parametrize("method", ["lora", "full"])
def test_interrupted_anywhere_and_resumed_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Byte for byte, with dropout, momentum and a moving average at work, saved every second step."""
    whole = make(tmp_path / "whole", method=method, ema=0.9, text_dropout=0.3)
    calls = count()
    with monkeypatch.context() as patch:
        patch.setattr(toy, "called", lambda what: next(calls) if what == "train" else None)
        train(whole, 0)
    log = (whole.round_folder(0) / "metrics.jsonl").read_bytes()
    total = next(calls)
    assert total > 5
    for after in range(total):
        run = make(tmp_path / str(after), method=method, ema=0.9, text_dropout=0.3)
        interrupt(monkeypatch, run, after)
        torch.manual_seed(after)  # whatever the generators are at
        train(run, 0)
        assert (run.round_folder(0) / "metrics.jsonl").read_bytes() == log, after
        assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())


def test_logs_that_were_tampered_with_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run")
    interrupt(monkeypatch, run, after=6)
    (run.round_folder(0) / "metrics.jsonl").write_text("")
    with pytest.raises(RecordError, match=r"metrics.jsonl has 0 bytes.*--redo train"):
        train(run, 0)


def process(run: Run, processes: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """The stage as a process of its own, or as several as `--launch ddp` starts them."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), *sys.path])
    command = [sys.executable, "-m", "srum_core.stages", "train", str(run.folder), "0"]
    if processes > 1:
        command = launch_command("ddp", processes, run.folder, Step("train", 0))
        command[3:3] = ["--main_process_port", str(20000 + os.getpid() % 20000)]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return subprocess.run(command, cwd=here.parent, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_killed_for_real_and_resumed_is_the_same_run(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", method="lora")
    train(whole, 0)
    run = make(tmp_path / "run", method="lora")
    assert process(run, SRUM_TOY_KILL="train:7").returncode == -signal.SIGKILL
    assert (run.round_folder(0) / "training" / "state.pt").exists()
    assert metrics(run)
    train(run, 0)
    names = ("metrics.jsonl", "checkpoint/adapter_model.safetensors")
    for name in names:
        assert (run.round_folder(0) / name).read_bytes() == (whole.round_folder(0) / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_make_the_same_steps_as_one(tmp_path: Path, method: str) -> None:
    """One batch each is one process's two; at the end of the epoch one of them has nothing left and weighs nothing."""
    settings: dict[str, Any] = {"method": method, "steps": 0, "epochs": 2, "max_cells": 12, "clip": 0.5}
    settings["eps"] = 1e-3  # with the paper's 1e-15 a gradient of rounding errors alone makes a whole step
    one = make(tmp_path / "one", lora_dropout=0.0, accumulation=2, **settings)
    two = make(tmp_path / "two", lora_dropout=0.0, accumulation=1, **settings)
    train(one, 0)
    assert any(row["cells"] < 20 for row in metrics(one))
    done = process(two, processes=2)
    assert done.returncode == 0, done.stderr
    assert len(metrics(one)) == len(metrics(two))
    for mine, theirs in zip(metrics(one), metrics(two), strict=True):
        for key, value in mine.items():
            assert theirs[key] == (value if value is None else pytest.approx(value, rel=1e-4)), key
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-5)
