"""Predicted and measured memory of a mid-size BAGEL on this CPU, as a table: of training steps, or of generating and
judging (--stages).

  OMP_NUM_THREADS=1 python benchmarks/memory/measure.py [--stages] [--images 8] [--rounds 3]

Every row is a separate process, forked after all imports. Measured is the high-water mark of its resident memory in two
steps (the second with optimizer state), or in one batch, minus its memory before the model was loaded.
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
from typing import Any

import attrs
import psutil
import torch
from PIL import Image

from pretraining.bagel import Blueprint, create
from srum_bagel.memory_outline import CAPTION, QUESTION
from srum_bagel.model import Bagel
from srum_bagel.options import Options, Sampling
from srum_core import config, plugins
from srum_core.doctor.memory_meter import metered
from srum_core.doctor.plan import Device, Planner
from srum_core.flow import flow_step
from srum_core.models import small_memory
from srum_core.options import Use
from srum_core.records import Question
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


QUANTIZED = ("none", "int8", "nf4")
NEW = 256
"""Most tokens of an answer."""


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


def own_copies(model: Bagel) -> None:
    """Else the file stays mapped, and its pages that were read count."""
    for module in (model.denoiser, model.eye, model.autoencoder):
        for each in module.parameters():
            if not small_memory.is_quantised(each):
                each.data = each.data.clone()


def steps(own: config.Settings, images: int, grid: tuple[int, int]) -> None:
    model = Bagel(Options(**own.adapter.options))
    own_copies(model)
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


# ---- generating and judging ------------------------------------------------------------------------------------------


def text(model: Bagel, tokens: int) -> str:
    return next(words for count in range(tokens) if len(model.chat.frame(words := "red " * count)) >= tokens)


def batch(model: Bagel, stage: str, folder: Path, images: int, new: int) -> None:
    """Generate images, or answer a question about each; the first answer is short, as with other lengths."""
    if stage == "generate":
        model.generate([text(model, CAPTION)] * images, range(images))
        return
    ask, paths = text(model, QUESTION), [folder / f"{number}.png" for number in range(images)]
    for number, path in enumerate(paths):
        Image.new("RGB", (MID.side, MID.side), (number, 0, 0)).save(path)
    model.answer([Question(path, ask, max_new_tokens=new if path != paths[0] else new // 8) for path in paths])


def batch_peak(options: Options, stage: str, folder: Path, images: int, queue: multiprocessing.Queue[float]) -> None:
    """MiB of a batch at its height, likewise; one image of the bundled model comes first."""
    small = attrs.evolve(options, checkpoint="bundled:shapes")
    batch(Bagel(small), stage, folder, 1, 8)
    gc.collect()
    metrics.forget_peaks()
    before = psutil.Process().memory_info().rss / 2**20
    model = Bagel(options)
    own_copies(model)
    gc.collect()
    metrics.forget_peaks()
    batch(model, stage, folder, images, NEW)
    queue.put(metrics.peaks()["memory_peak"] - before)


def stages(checkpoint: Path, images: int, rounds: int) -> None:
    """The table of generating and judging."""
    print("| stage | quantize | predicted, MiB | measured, MiB (spread) | predicted / measured |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for stage in ("generate", "judge"):
        for kind in QUANTIZED:
            options = Options(checkpoint=str(checkpoint), quantize=kind, sampling=Sampling(steps=2))  # type: ignore[arg-type]
            made = Bagel.outline(options, "cpu")
            with metered() as found:
                made.generate(images) if stage == "generate" else made.judge(images, NEW)
            weights = small_memory.size(made.denoiser.parameters()) + made.parts[stage]
            planned = (weights + found.peak) / 2**20
            row(f"{stage} | {kind}", planned, batch_peak, (options, stage, checkpoint.parent, images), rounds)


def row(name: str, planned: float, measured: Any, arguments: tuple[Any, ...], rounds: int) -> None:
    """Run it in processes of its own, and print a line."""
    context, peaks = multiprocessing.get_context("fork"), []
    for _ in range(rounds):
        queue: multiprocessing.Queue[float] = context.Queue()
        child = context.Process(target=measured, args=(*arguments, queue))
        child.start()
        peaks.append(queue.get())
        child.join()
        time.sleep(0.1)
    mean, spread = statistics.mean(peaks), f"{min(peaks):.0f}–{max(peaks):.0f}"
    print(f"| {name} | {planned:.0f} | {mean:.0f} ({spread}) | {planned / mean:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    for parameter in (-3, -1):  # glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: what is freed goes back to the system
        ctypes.CDLL(None).mallopt(parameter, 65536)
    registry = plugins.discover()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "mid"
        checkpoint.mkdir()
        create(checkpoint, MID, ["a red cup left of two blue boxes"] * 50)
        if parsed.stages:
            stages(checkpoint, parsed.images, parsed.rounds)
            return
        print("| training | recompute | predicted, MiB | measured, MiB (spread) | predicted / measured |", flush=True)
        print("|---|---|---|---|---|", flush=True)
        for name, words in CASES.items():
            for again in ("false", "true"):
                own = settings(checkpoint, parsed.images, [*words, f"train.checkpointing={again}"], registry)
                run = Run(Path(folder) / "run", own, registry)
                planned = Planner(registry, Device("cpu", 8), run).train(own).total / 2**20
                row(f"{name} | {again}", planned, step_peak, (own, parsed.images), parsed.rounds)


if __name__ == "__main__":
    main()
