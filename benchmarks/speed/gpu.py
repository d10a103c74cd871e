"""BAGEL of 7 billion active weights, random, on an accelerator: `python benchmarks/speed/gpu.py`. Not run on a GPU yet.

Training steps (LoRA, also beside NF4 weights, and generation experts; blocks compiled or not) at two images of
1024 x 1024; generating with guidance and answering by batch, also with NF4 weights; ways to compute attention. Measured
are seconds (median and range), the share of the device's peak rate, and the peak memory, beside the one that the
machinery of `srum doctor --plan` predicts. `--predict` prints only the predictions.
`--tiny` runs all of it with small sizes on whatever there is, which is how it is tested. One JSON line each.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import Qwen2Config

from srum_bagel.attention import Context, attend
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.model import EXPERTS
from srum_bagel.options import Options, Sampling
from srum_bagel.sampling import next_logits, sample, speak
from srum_core.doctor.memory_meter import Metered, metered
from srum_core.models import small_memory
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


META = torch.device("meta")
Quantize = Literal["none", "nf4"]


@frozen
class Work:
    """What is measured, and on the meta device predicted."""

    run: Callable[[Metered | None], object]
    """With a meter, on the meta device, one step of sampling is enough."""
    model: nn.Module = field(factory=nn.Module)
    products: float = 0
    """Multiplications and additions of the matrix products, if they are counted."""
    rates: Mapping[str, float] = field(factory=dict)
    """Name of a rate -> how many a run."""


Maker = Callable[[torch.device], Work]


def build(options: Any, device: torch.device, quantize: Quantize = "none") -> BagelDenoiser:
    """Random weights, made on the device one by one, and quantised; on the meta device without values."""
    with META:
        denoiser = BagelDenoiser(Qwen2Config(**(TINY if options.tiny else SEVEN)), middle.CELL, 64, (1, 2), 1e6)
    denoiser.to(options.dtype).requires_grad_(False)
    small_memory.quantize(denoiser, Options(quantize=quantize), EXPERTS, options.dtype, planned=device == META)
    if device != META:
        rng = torch.Generator(device).manual_seed(0)
        for name, weight in list(denoiser.named_parameters()):
            values = torch.empty(weight.shape, device=device, dtype=options.dtype).normal_(std=0.02, generator=rng)
            small_memory.put(denoiser, name, values)
    return denoiser


def training(
    options: Any, kind: Literal["lora", "full"], compiled: bool, quantize: Quantize, device: torch.device
) -> Work:
    """Forwards and backwards of two images."""
    denoiser = build(options, device, quantize)
    tuned = middle.prepared(denoiser, kind, "generation", compiled and device != META, options.recompute)
    grids, at, texts = middle.images(2, options.side)
    grids, at = [grid.to(device, options.dtype) for grid in grids], at.to(device)
    texts = [text % 90 + 3 for text in texts]

    def loss() -> Tensor:
        return torch.stack(tuned.module(grids, at, texts)).float().square().mean()

    def run(meter: Metered | None) -> None:
        if meter is not None:
            meter.backward(loss())
            return
        with torch.autocast(device.type, options.dtype, enabled=options.dtype is not torch.float32):
            value = loss()
        value.backward()
        tuned.module.zero_grad(set_to_none=True)

    backward = ("inputs",) if kind == "lora" else ("inputs", "weights")
    return Work(run, tuned.module, middle.products(denoiser, 2, backward, options.side))


def generating(options: Any, count: int, quantize: Quantize, device: torch.device) -> Work:
    """So many images at once, every step guided."""
    denoiser = build(options, device, quantize)
    grids, _, texts = middle.images(count, options.side)

    def run(meter: Metered | None) -> None:
        sampling = Sampling(steps=options.points if meter is None else 2, guidance=4.0, interval=(0.0, 1.0))
        sample(denoiser, middle.contexts(denoiser, [text % 90 + 3 for text in texts]), grids, sampling)

    passes = 2 * (options.points - 1) * middle.products(denoiser, count, (), options.side, 0)
    return Work(run, denoiser, passes, {"images_per_second": count})


def answering(options: Any, count: int, quantize: Quantize, device: torch.device) -> Work:
    """So many answers at once, four about each image: its tokens are read once, then each question's."""
    denoiser = build(options, device, quantize)
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

    def run(meter: Metered | None) -> None:
        if meter is None:
            speak(denoiser, chat, read, [Reply(options.tokens)] * count)
        else:
            next_logits(denoiser, Context.stack([read(list(range(count)))], options.tokens + 1), [1] * count)

    return Work(run, denoiser, rates={"tokens_per_second": count * options.tokens})


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


def attending(options: Any, name: str, device: torch.device) -> Work:
    """One layer's attention over two images, forwards and backwards (FlexAttention on a CPU: forwards only)."""
    config = Qwen2Config(**(TINY if options.tiny else SEVEN))
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    width, text, block = config.hidden_size // heads, middle.TEXT, options.side**2 + 2
    backwards = name != "flex" or device.type != "cpu"

    kind = {"device": device, "dtype": options.dtype, "requires_grad": backwards}
    q, k, v = (torch.randn(2, count, text + block, width, **kind) for count in (heads, kv, kv))
    attend = attention(options, name, text + block, text)

    def run(_: Metered | None) -> None:
        loss = attend(q, k, v).float().square().mean()
        if backwards:
            loss.backward()

    pairs = block * (block + text) + text * (text + 1) / 2
    return Work(run, products=2 * (12 if backwards else 4) * heads * width * pairs)


def measured(name: str, make: Maker, options: Any) -> dict[str, Any]:
    """One line. Missing memory or kernels are reported, and the others continue; other errors are raised."""
    device, line = options.device, {"work": name}
    wait = partial(torch.accelerator.synchronize, device) if device.type != "cpu" else lambda: None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        work = make(device)
        line |= middle.timed(partial(work.run, None), options.rounds, wait)
        line |= {rate: count / line["seconds"] for rate, count in work.rates.items()}
        if work.products:
            line |= {"products": work.products, "share_of_peak": work.products / line["seconds"] / options.peak}
        del work
    except torch.OutOfMemoryError as error:
        line["failed"] = f"no room: {str(error).splitlines()[0]}"
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_KERNEL):
            raise
        line["failed"] = f"no kernel: {str(error).splitlines()[0]}"
    if device.type == "cuda":
        line["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        gc.collect()
        torch.cuda.empty_cache()
    return line


def predicted(make: Maker, options: Any) -> dict[str, float]:
    """The peak memory as `srum doctor --plan` predicts it: weights, and what is allocated and freed beside them."""
    work = make(META)
    with metered(autocast=options.dtype is not torch.float32) as meter:
        work.run(meter)
    return {"predicted_gib": (small_memory.size(work.model.parameters()) + meter.peak) / 2**30}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--recompute", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--predict", action="store_true", help="only predict an accelerator's memory; needs none")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="also compiled (default: not on a CPU)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only what has this in its name")
    parser.add_argument("--peak", type=float, default=989e12, help="of the device, a second (default: H100, H200)")
    options = parser.parse_args(arguments)
    options.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    on_cpu = options.device.type == "cpu" and not options.predict
    options.dtype = torch.float32 if on_cpu else torch.bfloat16
    options.side = 4 if options.tiny else 64
    options.compile = not on_cpu if options.compile is None else options.compile
    models: dict[str, Maker] = {}
    for ending in ("", ", compiled") if options.compile else ("",):
        for method, kind in (("LoRA", "lora"), ("generation experts", "full")):
            models[f"training, {method}, 2 images{ending}"] = partial(training, options, kind, bool(ending), "none")
    models["training, LoRA, 2 images, nf4"] = partial(training, options, "lora", False, "nf4")
    for quantize, ending in (("none", ""), ("nf4", ", nf4")):
        models |= {f"generating {n}, guidance{ending}": partial(generating, options, n, quantize) for n in (1, 4, 8)}
        models |= {f"answering {n}{ending}": partial(answering, options, n, quantize) for n in (1, 32)}
    layers: dict[str, Maker] = {f"attention, {name}": partial(attending, options, name) for name in ATTENTIONS}
    for name, make in (models if options.predict else models | layers).items():
        if options.only in name:
            line = {"work": name} if options.predict else measured(name, make, options)
            print(json.dumps(line | (predicted(make, options) if name in models else {})), flush=True)


if __name__ == "__main__":
    main()
