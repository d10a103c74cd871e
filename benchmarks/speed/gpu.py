"""BAGEL of 7 billion active weights, random, on an accelerator: `python benchmarks/speed/gpu.py`. Not run on a GPU yet.

Training steps (LoRA, generation experts; blocks compiled or not) at two images of 1024 x 1024, generation with guidance
by batch, answers by batch, and ways to compute attention: seconds (median and range), share of the device's peak, peak
memory. `--tiny` runs all of it with small sizes on whatever there is, which is how it is tested. One JSON line each.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import Qwen2Config

from srum_bagel.attention import Context, attend
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.options import Sampling
from srum_bagel.sampling import sample, speak
from srum_core.models.generation import Reply

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


def timed(work: Callable[[], object], options: Any) -> dict[str, float]:
    wait = partial(torch.accelerator.synchronize, options.device) if options.device.type != "cpu" else lambda: None
    return middle.timed(work, options.rounds, wait)


def training(options: Any, kind: Literal["lora", "full"], compiled: bool) -> dict[str, float]:
    """Forwards and backwards of two images."""
    denoiser = build(options.tiny, options.device, options.dtype)
    tuned = middle.prepared(denoiser, kind, "generation", compiled, options.recompute)
    grids, at, texts = middle.images(2, options.side)
    grids, at = [grid.to(options.device, options.dtype) for grid in grids], at.to(options.device)
    texts = [text % 90 + 3 for text in texts]

    def step() -> None:
        with torch.autocast(options.device.type, options.dtype, enabled=options.dtype is not torch.float32):
            loss = torch.stack(tuned.module(grids, at, texts)).float().square().mean()
        loss.backward()
        tuned.module.zero_grad(set_to_none=True)

    backward = ("inputs",) if kind == "lora" else ("inputs", "weights")
    return {**timed(step, options), "products": middle.products(denoiser, 2, backward, options.side)}


@torch.no_grad()
def sampling(options: Any, count: int) -> dict[str, float]:
    """So many images at once, every step guided."""
    denoiser = build(options.tiny, options.device, options.dtype)
    grids, _, texts = middle.images(count, options.side)
    sampler = Sampling(steps=options.points, guidance=4.0, interval=(0.0, 1.0))
    contexts = middle.contexts(denoiser, [text % 90 + 3 for text in texts])
    times = timed(lambda: sample(denoiser, contexts, grids, sampler), options)
    passes = 2 * (options.points - 1) * middle.products(denoiser, count, (), options.side, 0)
    return {**times, "products": passes, "images_per_second": count / times["seconds"]}


@torch.no_grad()
def answering(options: Any, count: int) -> dict[str, float]:
    """So many answers at once, four about each image: its tokens are read once, then each question's."""
    denoiser = build(options.tiny, options.device, options.dtype)
    image, question = (6, 2) if options.tiny else (1100, 100)
    rng = torch.Generator().manual_seed(2)
    images = [torch.randint(3, 90, (image,), generator=rng) for _ in range(count)]
    questions = [torch.randint(3, 90, (question,), generator=rng) for _ in range(count)]
    chat: Any = SimpleNamespace(bos=1, eos=-1, size=90)  # no row ends early

    def read(rows: list[int]) -> Context:
        first = sorted({row // 4 for row in rows})
        context = denoiser.context(len(first))
        denoiser.read_text(context, [images[each] for each in first])
        context = context.select([first.index(row // 4) for row in rows])
        denoiser.read_text(context, [questions[row] for row in rows])
        return context

    replies = [Reply(options.tokens)] * count
    times = timed(lambda: speak(denoiser, chat, read, replies), options)
    return {**times, "tokens_per_second": count * options.tokens / times["seconds"]}


ATTENTIONS: dict[str, Sequence[SDPBackend]] = {
    "torch's choice": (),
    "flash": (SDPBackend.FLASH_ATTENTION,),
    "cudnn": (SDPBackend.CUDNN_ATTENTION,),
    "products": (SDPBackend.MATH,),
    "flex": (),
}


NO_KERNEL = ("No viable backend for scaled_dot_product_attention", "No available kernel")
"""torch's messages if none of the allowed kernels is available (on a CPU, on a GPU)."""


def attention(options: Any, name: str, length: int, text: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Training's: `text` tokens attend backwards, all later ones to everything."""
    if name == "flex":

        def may(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) | (query >= text)

        where = create_block_mask(may, None, None, length, length, options.device)
        flex: Any = torch.compile(flex_attention) if options.compile else flex_attention
        return partial(flex, block_mask=where, enable_gqa=True)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(list(ATTENTIONS[name])) if ATTENTIONS[name] else nullcontext():
            plain = attend(q[:, :, :text], k[:, :, :text], v[:, :, :text], causal=True)
            return torch.cat([plain, attend(q[:, :, text:], k, v)], dim=2)

    return fused


def attending(options: Any, name: str) -> dict[str, float]:
    """One layer's attention over two images, forwards and backwards (FlexAttention on a CPU: forwards only)."""
    config = Qwen2Config(**(TINY if options.tiny else SEVEN))
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    width, text, block = config.hidden_size // heads, middle.TEXT, options.side**2 + 2
    backwards = name != "flex" or options.device.type != "cpu"

    kind = {"device": options.device, "dtype": options.dtype, "requires_grad": backwards}
    q, k, v = (torch.randn(2, count, text + block, width, **kind) for count in (heads, kv, kv))
    look = attention(options, name, text + block, text)

    def step() -> None:
        loss = look(q, k, v).float().square().mean()
        if backwards:
            loss.backward()

    pairs = block * (block + text) + text * (text + 1) / 2
    return {**timed(step, options), "products": 2 * (12 if backwards else 4) * heads * width * pairs}


def measured(name: str, work: Callable[[], dict[str, float]], options: Any) -> dict[str, Any]:
    """One line. Missing memory or kernels are reported, and the others continue; other errors are raised."""
    if options.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    line: dict[str, Any] = {"work": name}
    try:
        line |= work()
    except torch.OutOfMemoryError as error:
        line["failed"] = f"no room: {str(error).splitlines()[0]}"
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_KERNEL):
            raise
        line["failed"] = f"no kernel: {str(error).splitlines()[0]}"
    if "products" in line:
        line["share_of_peak"] = line["products"] / line["seconds"] / options.peak
    if options.device.type == "cuda":
        line["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        gc.collect()
        torch.cuda.empty_cache()
    return line


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="too (default: not on a CPU)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only what has this in its name")
    parser.add_argument("--peak", type=float, default=989e12, help="of the device, a second (default: H100, H200)")
    options = parser.parse_args(arguments)
    options.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    options.dtype = torch.float32 if options.device.type == "cpu" else torch.bfloat16
    options.side = 4 if options.tiny else 64
    options.compile = options.device.type != "cpu" if options.compile is None else options.compile
    works: list[tuple[str, Callable[[], dict[str, float]]]] = []
    for method, kind in (("LoRA", "lora"), ("generation experts", "full")):
        for compiled in (False, True) if options.compile else (False,):
            name = f"training, {method}, 2 images" + ", compiled" * compiled
            works.append((name, partial(training, options, kind, compiled)))
    works += [(f"drawing {n}, guidance", partial(sampling, options, n)) for n in (1, 4, 8)]
    works += [(f"answering {n}", partial(answering, options, n)) for n in (1, 32)]
    works += [(f"attention, {name}", partial(attending, options, name)) for name in ATTENTIONS]
    lines = [line for line in works if options.only in line[0]]
    for name, work in lines:
        print(json.dumps(measured(name, work, options)), flush=True)


if __name__ == "__main__":
    main()
