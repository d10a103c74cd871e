"""Where the time of a middle-sized BAGEL goes, one thread: `python benchmarks/speed/parts.py WORK`.

training, lora, drawing: torch's profile of one step or image. norms, attention, products: alone, medians
of 15 rounds in turns. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from srum_bagel.layers import RMSNorm

sys.path.insert(0, str(Path(__file__).parent))
import middle
import test_middle as whole

Line = dict[str, Any]


def profiled(name: str) -> Iterator[Line]:
    """The operations that took the most time, and how often they were called."""
    if name == "drawing":
        denoiser = middle.build().requires_grad_(False)
        (noise,), _, (text,) = middle.images(1)
        work: Callable[[], object] = lambda: whole.generated(denoiser, [noise], [text], whole.STEPS)  # noqa: E731
    else:
        method = "LoRA" if name == "lora" else "all weights"
        work = middle.step(whole.tuned(method, compiled=False), middle.images(whole.COUNT))
    work()
    yield {"work": name, "seconds": _medians({"": work}, 5)[""]}
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as report:
        work()
    operations = sorted(report.key_averages(), key=lambda each: -each.self_cpu_time_total)[:15]
    for each in operations:
        milliseconds = each.self_cpu_time_total / 1e3
        rate = {"gflops": each.flops / milliseconds / 1e6} if each.key in ("aten::mm", "aten::addmm") else {}
        yield {"operation": each.key, "milliseconds": milliseconds, "calls": each.count, **rate}


def norms() -> Iterator[Line]:
    """transformers' norm, torch's function and ours, of 1,024 tokens."""
    x, g = (torch.randn(4, 256, 512) for _ in range(2))
    x.requires_grad_()
    weight = torch.ones(512, requires_grad=True)
    stock, ours = Qwen2RMSNorm(512), RMSNorm(512)
    stock.weight = ours.weight = torch.nn.Parameter(weight.detach())
    ways = {"transformers": stock, "torch": lambda x: F.rms_norm(x, (512,), stock.weight, 1e-6), "ours": ours}
    yield from _both({name: (lambda way=way: way(x)) for name, way in ways.items()}, g)


def attention() -> Iterator[Line]:
    """In products, and fused; short rows and long ones."""

    def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v

    for rows, heads, kv, queries, keys, width in ((64, 4, 2, 66, 82, 32), (1, 8, 4, 1026, 1058, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            shapes = ((rows, heads, queries, width), (rows, kv, keys, width), (rows, kv, keys, width))
            q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
            ways = {
                "products": lambda q=q, k=k, v=v: products(q, k, v),
                "fused": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
            }
            for line in _both(ways, torch.ones(shapes[0], dtype=dtype)):
                yield {"rows": rows, "queries": queries, "type": str(dtype), **line}


@torch.no_grad()
def products() -> Iterator[Line]:
    """The MLP's first product by rows, with weights from the cache and from memory."""
    weights = [torch.randn(1408, 512) for _ in range(24)]
    for rows in (2, 4, 258, 512, 1024):
        x, turn = torch.randn(rows, 512), iter(range(10**6))
        ways = {
            "cache": lambda x=x: F.linear(x, weights[0]),
            "memory": lambda x=x, turn=turn: F.linear(x, weights[next(turn) % 24]),
        }
        for name, seconds in _medians(ways, 60, together=False).items():
            rate = 2 * rows * 512 * 1408 / seconds / 1e9
            yield {"rows": rows, "weights": name, "milliseconds": 1e3 * seconds, "gflops": rate}


def _both(ways: dict[str, Callable[[], Tensor]], gradient: Tensor) -> Iterator[Line]:
    """Forwards alone with a graph, and forwards and backwards."""
    forwards = _medians(ways, 15)
    through = _medians({name: (lambda way=way: way().backward(gradient)) for name, way in ways.items()}, 15)
    for name in ways:
        yield {"way": name, "forwards_ms": 1e3 * forwards[name], "both_ms": 1e3 * through[name]}


def _medians(ways: dict[str, Callable[[], object]], rounds: int, together: bool = True) -> dict[str, float]:
    """Seconds; the ways take turns, or one goes after the other. The first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways) * (rounds + 1) if together else [name for name in ways for _ in range(rounds + 1)]
    for name in order:
        start = time.perf_counter()
        ways[name]()
        seconds[name].append(time.perf_counter() - start)
    return {name: median(each[1:]) for name, each in seconds.items()}


def main(arguments: list[str] | None = None) -> None:
    alone = {"norms": norms, "attention": attention, "products": products}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", choices=["training", "lora", "drawing", *alone])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for line in alone[options.work]() if options.work in alone else profiled(options.work):
        print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in line.items()}), flush=True)


if __name__ == "__main__":
    main()
