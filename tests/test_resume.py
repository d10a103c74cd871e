"""An interruption changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from torch import Tensor
from training import clean, interrupt, make, metrics, weights  # noqa: F401  (clean is used by being here)

from srum_core.cli.launching import Launch
from srum_core.cli.main import launch_command
from srum_core.errors import RecordError
from srum_core.flow import FlowStep
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.training import fsdp
from srum_core.training.trainer import train
from srum_losses.objectives import SrumLoss


@pytest.mark.slow
@pytest.mark.parametrize(("method", "map"), [("lora", "Paper"), ("full", "Advantage")])
def test_interrupted_anywhere_and_resumed_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, map: str
) -> None:
    """Byte for byte, with dropout, momentum and a moving average at work, saved every second step; also with a map that
    is fitted to the round."""
    settings: dict[str, Any] = {"method": method, "map": f"srum_losses.maps:{map}", "ema": 0.9, "text_dropout": 0.3}
    whole = make(tmp_path / "whole", **settings)
    calls = count()
    with monkeypatch.context() as patch:
        patch.setattr(toy, "called", lambda what: next(calls) if what == "train" else None)
        train(whole, 1)
    log = (whole.round_folder(1) / "metrics.jsonl").read_bytes()
    total = next(calls)
    assert total > 5
    for after in range(total):
        run = make(tmp_path / str(after), **settings)
        interrupt(monkeypatch, run, after)
        torch.manual_seed(after)  # whatever the generators are at
        train(run, 1)
        assert (run.round_folder(1) / "metrics.jsonl").read_bytes() == log, after
        assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())


def test_logs_that_were_tampered_with_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run")
    interrupt(monkeypatch, run, after=6)
    (run.round_folder(1) / "metrics.jsonl").write_text("")
    with pytest.raises(RecordError, match=r"metrics.jsonl has 0 bytes.*--redo train"):
        train(run, 1)


class Launched(SrumLoss):
    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert fsdp.is_requested()
        assert (os.environ["WORLD_SIZE"], os.environ["FSDP_STATE_DICT_TYPE"]) == ("2", "FULL_STATE_DICT")
        return super().__call__(step)


def process(run: Run, launch: str = "none", **environment: str) -> subprocess.CompletedProcess[str]:
    """The stage as a process of its own, or as two as `--launch` starts them."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), *sys.path])
    command = [sys.executable, "-m", "srum_core.cli.stage", "train", str(run.folder), "1"]
    if launch != "none":
        command = launch_command(Launch(launch, 2), run.folder, Step("train", 1))
        command[3:3] = ["--main_process_port", str(20000 + os.getpid() % 20000)]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return subprocess.run(command, cwd=here.parent, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_killed_for_real_and_resumed_is_the_same_run(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", method="lora")
    train(whole, 1)
    run = make(tmp_path / "run", method="lora")
    assert process(run, SRUM_TOY_KILL="train:7").returncode == -signal.SIGKILL
    assert (run.round_folder(1) / "training" / "state.pt").exists()
    assert metrics(run)
    train(run, 1)
    names = ("metrics.jsonl", "checkpoint/adapter_model.safetensors")
    for name in names:
        assert (run.round_folder(1) / name).read_bytes() == (whole.round_folder(1) / name).read_bytes()


@pytest.mark.slow
def test_launched_by_accelerate_two_processes_share_the_weights(tmp_path: Path) -> None:
    """As far as the preset and `sharding` agree on how to say so; what they compute is looked at in test_scaling.py."""
    run = make(tmp_path / "run", steps=2, loss="test_resume:Launched")
    done = process(run, launch="fsdp2")
    assert done.returncode == 0, done.stderr
    assert len(metrics(run)) == 2
    assert run.done("train", 1)
