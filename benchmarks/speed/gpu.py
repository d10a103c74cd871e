"""BAGEL of 7 billion active weights, random, on an accelerator: `python benchmarks/speed/gpu.py`. Not run on a GPU yet.

Training steps (LoRA, generation experts) at two pictures of 1024 x 1024, drawing with guidance by batch, and decoding
of answers by batch: seconds (median and range), share of the device's peak, peak memory. `--tiny` runs all of it with
small sizes on whatever there is, which is how it is tested. One JSON line a measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Qwen2Config

from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.model import make_recipe
from srum_bagel.options import Drawing, Options
from srum_bagel.sampling import Contexts, sample
from srum_core.settings import Lora
from srum_core.tuning import tune

sys.path.insert(0, str(Path(__file__).parent))
import middle

SEVEN = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
TINY = {
    **SEVEN,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
}


def build(tiny: bool, device: torch.device, dtype: torch.dtype) -> BagelDenoiser:
    """Random weights, made on the device."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return BagelDenoiser(Qwen2Config(**(TINY if tiny else SEVEN)), middle.CELL, 64, (1, 2), 1e6)
    finally:
        torch.set_default_dtype(before)


def timed(work: Callable[[], object], device: torch.device, rounds: int) -> dict[str, float]:
    """After one round that does not count."""
    work()
    seconds = []
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds), "low": min(seconds), "high": max(seconds)}


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def training(given: Any, method: str) -> dict[str, float]:
    """Forwards and backwards of two pictures."""
    kind = "lora" if method == "lora" else "full"
    recipe = make_recipe(2 if given.tiny else 28, Options(experts="generation"))
    model: Any = SimpleNamespace(denoiser=build(given.tiny, given.device, given.dtype), recipe=recipe)
    compiled = given.compile and given.device.type != "cpu"
    tuned = tune(model, kind, Lora(rank=16, dropout=0.0), checkpointing=given.recompute, compiled=compiled)
    grids, at, texts = middle.pictures(2, given.side)
    grids, at = [grid.to(given.device, given.dtype) for grid in grids], at.to(given.device)
    texts = [text % 90 + 3 for text in texts]

    def step() -> None:
        with torch.autocast(given.device.type, given.dtype, enabled=given.dtype is not torch.float32):
            loss = torch.stack(tuned.module(grids, at, texts)).float().square().mean()
        loss.backward()
        tuned.module.zero_grad(set_to_none=True)

    found = timed(step, given.device, given.rounds)
    backward = ("inputs",) if kind == "lora" else ("inputs", "weights")
    return {**found, "products": middle.products(model.denoiser, 2, backward, given.side)}


@torch.no_grad()
def drawing(given: Any, count: int) -> dict[str, float]:
    """So many pictures at once, every step guided."""
    denoiser = build(given.tiny, given.device, given.dtype)
    grids, _, texts = middle.pictures(count, given.side)
    full = denoiser.context(count)
    denoiser.read_text(full, [text % 90 + 3 for text in texts])
    wanted = Drawing(steps=given.points, guidance=4.0, interval=(0.0, 1.0))
    contexts = Contexts(full, denoiser.context(count), full)
    found = timed(lambda: sample(denoiser, contexts, grids, wanted), given.device, given.rounds)
    passes = 2 * (given.points - 1) * middle.products(denoiser, count, (), given.side, 0)
    return {**found, "products": passes, "pictures_per_second": count / found["seconds"]}


@torch.no_grad()
def answering(given: Any, count: int) -> dict[str, float]:
    """So many answers at once, token by token behind a prompt."""
    denoiser = build(given.tiny, given.device, given.dtype)
    length = 8 if given.tiny else 1200
    asked = [torch.randint(3, 90, (length,)) for _ in range(count)]

    def answer() -> None:
        context = denoiser.context(count).reserve(length + given.tokens)
        said = denoiser.read_states(context, asked)[:, -1:]
        for _ in range(given.tokens):
            ids = denoiser.language_model.lm_head(said[:, -1]).argmax(-1)
            said = denoiser.read_states(context, list(ids[:, None]))

    found = timed(answer, given.device, given.rounds)
    return {**found, "tokens_per_second": count * given.tokens / found["seconds"]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", type=float, default=989e12, help="of the device, a second (default: H100, H200)")
    given = parser.parse_args(arguments)
    given.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    given.dtype = torch.float32 if given.device.type == "cpu" else torch.bfloat16
    given.side = 4 if given.tiny else 64
    works: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("training, LoRA, 2 pictures", lambda: training(given, "lora")),
        ("training, generation experts, 2 pictures", lambda: training(given, "full")),
        *((f"drawing {n}, guidance", lambda n=n: drawing(given, n)) for n in (1, 4, 8)),  # type: ignore[misc]
        *((f"answering {n}", lambda n=n: answering(given, n)) for n in (1, 32)),  # type: ignore[misc]
    ]
    for name, work in works:
        if given.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found: dict[str, Any] = {"work": name, **work()}
        if "products" in found:
            found["share_of_peak"] = found["products"] / found["seconds"] / given.peak
        if given.device.type == "cuda":
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.empty_cache()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
