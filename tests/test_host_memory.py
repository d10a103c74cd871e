"""Two processes that share a model's weights: neither ever holds all of them in memory of its own."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pair
import pytest
import torch
from safetensors.torch import load_file, save_file

from pretraining.bagel import Blueprint, create
from srum_bagel.model import Bagel
from srum_bagel.options import Options
from srum_core.cli.launching import take_preset
from srum_core.training import fsdp, lora

MID = Blueprint(side=128, hidden=512, mlp=1408, layers=6, heads=8, kv_heads=4)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pair.Pair]:
    with pair.started(tmp_path_factory.mktemp("pair")) as processes:
        yield processes


def own_memory() -> int:
    """Bytes of this process alone: pages of a mapped file belong to all that map it, and are dropped when short."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def prepare(checkpoint: str, method: str) -> tuple[int, int, int]:
    """Load a model and shard it as training does. Returns by how many bytes memory grew at most, the bytes of its
    trained parameters in float32, and those of all weights of the denoiser as they are stored."""
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    take_preset("fsdp2")
    with torch.random.fork_rng():
        torch.zeros(8).add(1)  # what torch sets up at its first use
    before, found, done = own_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            found[0] = max(found[0], own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    model = Bagel(Options(checkpoint=checkpoint, device="cpu", dtype="bfloat16"))
    stored = sum(each.numel() * each.element_size() for each in model.denoiser.parameters())
    settings: Any = SimpleNamespace(rank=4, alpha=8.0, dropout=0.0)
    tuned = lora.tune(model, method, settings, checkpointing=False, sharded=True)
    trained = 4 * sum(each.numel() for each in tuned.module.parameters() if each.requires_grad)
    shards = fsdp.shard(tuned.module, lora.find_blocks(tuned.module, model.recipe.blocks), mixed=True)
    assert all(each.dtype is torch.float32 for each in shards.values())
    done.set()
    thread.join()
    return max(found[0], own_memory()) - before, trained, stored


@pytest.mark.parametrize("method", ["lora", "full"])
def test_no_process_holds_the_whole_model(tmp_path: Path, two: pair.Pair, method: str) -> None:
    checkpoint = tmp_path / "mid"
    checkpoint.mkdir()
    create(checkpoint, MID, ["a red cup left of two blue boxes"] * 50)
    tensors = load_file(checkpoint / "ema.safetensors")
    save_file({name: each.bfloat16() for name, each in tensors.items()}, checkpoint / "ema.safetensors")
    for peak, trained, stored in two.do(prepare, str(checkpoint), method):
        whole = trained if method == "full" else stored
        assert stored > 60 * 2**20
        # Its half, and the block that is divided at the moment (a sixth), of which both halves are there for a while.
        assert peak < 0.8 * whole, f"{peak / 2**20:.0f} MiB of {whole / 2**20:.0f}"
