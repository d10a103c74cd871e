"""Predicted and measured memory of training steps of a mid-size BAGEL on this CPU, as a table.

  OMP_NUM_THREADS=1 python benchmarks/memory/measure.py [--images 8] [--rounds 3]

Every row is a separate process, forked after all imports. Measured is the high-water mark of its resident
memory in two steps (the second with optimizer state) minus its memory before the model was loaded.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import attrs
import psutil
import torch

from pretraining.bagel import Blueprint, create
from srum_bagel.model import Bagel
from srum_bagel.options import Options
from srum_core import config, plugins
from srum_core.doctor.plan import Device, Planner
from srum_core.flow import flow_step
from srum_core.models import small_memory
from srum_core.options import Use
from srum_core.runs.run import Run
from srum_core.training import lora, metrics

MID = Blueprint(side=128, hidden=512, mlp=1408, layers=6, heads=8, kv_heads=4)
CASES = {
    "LoRA": ["train.method=lora"],
    "LoRA, int8": ["train.method=lora", "adapter.quantize=int8"],
    "LoRA, nf4": ["train.method=lora", "adapter.quantize=nf4"],
    "generation experts": ["train.method=full", "adapter.experts=generation"],
    "full": ["train.method=full"],
}


def settings(checkpoint: Path, images: int, extra: list[str], registry: plugins.Registry) -> config.Settings:
    cells = images * (MID.side // 8) ** 2
    words = [f'adapter.checkpoint="{checkpoint}"', f"train.max_cells={cells}", *extra]
    plain = '"0123456789tf'
    quoted = [word if word.split("=")[1][0] in plain else '{}="{}"'.format(*word.split("=")) for word in words]
    return config.load_settings("bagel", [], None, quoted, registry)


def step_peak(own: config.Settings, images: int, queue: multiprocessing.Queue[float]) -> None:
    """MiB of two real training steps at their height, on top of what the process has before. A step of the bundled
    model comes first: what is imported or set up in a first step is no tensor."""
    steps(attrs.evolve(own, adapter=Use("bagel", {"checkpoint": "bundled:shapes"})), 1, (4, 4))
    gc.collect()
    metrics.forget_peaks()
    before = psutil.Process().memory_info().rss / 2**20
    steps(own, images, (MID.side // 8, MID.side // 8))
    queue.put(metrics.peaks()["memory_peak"] - before)


def steps(own: config.Settings, images: int, grid: tuple[int, int]) -> None:
    model = Bagel(Options(**own.adapter.options))
    for module in (model.denoiser, model.eye, model.autoencoder):
        for each in module.parameters():
            if not small_memory.is_quantised(each):
                each.data = each.data.clone()  # else the file stays mapped, and its pages that were read count
    tuned = lora.tune(model, own.train.method, own.lora, own.train.checkpointing)
    optimizer = lora.make_optimizer(tuned.parameters.values(), own.train)
    objective = plugins.discover().create("loss", own.loss)
    latents = [torch.randn(*grid, 64) for _ in range(images)]
    ids = [torch.randint(0, 10, (80,)) for _ in range(images)]  # as many tokens as the plan counts
    gc.collect()
    metrics.forget_peaks()  # reading a file shows in resident memory too
    for _ in range(2):
        flow = flow_step(tuned.module, latents, ids, torch.full((images,), 0.5), None, latents)
        loss, _ = objective(flow)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned.parameters.values(), own.train.clip)
        optimizer.step()
        optimizer.zero_grad()
        del flow, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    for parameter in (-3, -1):  # glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: what is freed goes back to the system
        ctypes.CDLL(None).mallopt(parameter, 65536)
    registry, context = plugins.discover(), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "mid"
        checkpoint.mkdir()
        create(checkpoint, MID, ["a red cup left of two blue boxes"] * 50)
        print("| training | recompute | predicted, MiB | measured, MiB (spread) | predicted / measured |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        for name, words in CASES.items():
            for again in ("false", "true"):
                own = settings(checkpoint, parsed.images, [*words, f"train.checkpointing={again}"], registry)
                run = Run(Path(folder) / "run", own, registry)
                planned = Planner(registry, Device("cpu", 8), run).train(own).total / 2**20
                peaks = []
                for _ in range(parsed.rounds):
                    queue = context.Queue()
                    child = context.Process(target=step_peak, args=(own, parsed.images, queue))
                    child.start()
                    peaks.append(queue.get())
                    child.join()
                    time.sleep(0.1)
                mean, spread = statistics.mean(peaks), f"{min(peaks):.0f}–{max(peaks):.0f}"
                print(
                    f"| {name} | {again} | {planned:.0f} | {mean:.0f} ({spread}) | {planned / mean:.2f} |", flush=True
                )


if __name__ == "__main__":
    main()
