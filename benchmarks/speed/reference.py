"""The reference's algorithm in our own words, on our own modules, to compare with: not the reference's code.

One packed sequence. In every layer the tokens of both experts are picked out and put back for the norm, each
projection, the head norms, the output and the MLP; attention runs sample by sample with a dense mask of floats and with
keys and values repeated for every head. Guidance runs branch by branch, and each branch copies its context's keys and
values into fresh buffers in every layer of every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, apply_rotary_pos_emb

from srum_bagel.attention import rope
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.sampling import time_grid

GEN = "_moe_gen"


def scattered(x: Tensor, und: Tensor, gen: Tensor, plain: Any, generated: Any) -> Tensor:
    """Both experts' results in one tensor."""
    first, second = plain(x[und]), generated(x[gen])
    out = x.new_zeros((len(x), *first.shape[1:]))
    out[und] = first
    out[gen] = second
    return out


def both(module: Any, name: str, x: Tensor, und: Tensor, gen: Tensor) -> Tensor:
    return scattered(x, und, gen, stock(module.get_submodule(name)), stock(module.get_submodule(name + GEN)))


def stock(module: Any) -> Any:
    """The layer as transformers computes it."""
    return partial(Qwen2RMSNorm.forward, module) if isinstance(module, Qwen2RMSNorm) else module


def project(attention: Any, x: Tensor, und: Tensor, gen: Tensor, angles: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Queries, keys, values (tokens, heads, width) of a packed sequence."""
    q, k, v = (both(attention, f"{name}_proj", x, und, gen).unflatten(-1, (-1, attention.head)) for name in "qkv")
    q, k = both(attention, "q_norm", q, und, gen), both(attention, "k_norm", k, und, gen)
    cos, sin = angles
    q, k = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])
    return [q[0].transpose(0, 1), k[0].transpose(0, 1), v]


def looked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One sample's attention; `mask` is added."""
    times = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def velocities(denoiser: BagelDenoiser, grids: Sequence[Tensor], time: Tensor, texts: Sequence[Tensor]) -> Tensor:
    """Training's forward pass over one packed sequence, (images * cells, channels)."""
    parts, und, gen, places, lengths = [], [], [], [], []
    cells, _ = denoiser.embed_cells(grids, time)
    start = 0
    for row, text in zip(cells, texts, strict=True):
        words = denoiser.embed_text(torch.cat([text, torch.tensor(denoiser.markers)]))
        size = len(text) + 2 + len(row)
        parts.append(torch.cat([words[: len(text) + 1], row, words[-1:]]))
        und += [*range(start, start + len(text) + 1), start + size - 1]
        gen += range(start + len(text) + 1, start + size - 1)
        places += [*range(len(text)), *[len(text)] * (size - len(text))]
        lengths.append((len(text), size))
        start += size
    x, plain, generated = torch.cat(parts), torch.tensor(und), torch.tensor(gen)
    angles = rope(torch.tensor(places), denoiser.language_model.head, denoiser.theta)
    masks = [dense(*each) for each in lengths]
    for layer in denoiser.language_model.model.layers:
        x = block(layer, x, plain, generated, angles, masks)
    x = both(denoiser.language_model.model, "norm", x, plain, generated)
    return denoiser.llm2vae(x[generated])


def dense(text: int, size: int) -> Tensor:
    """Text is causal and does not see the image, the rest sees everything: 0 where a query may attend."""
    mask = torch.zeros(size, size)
    mask[:text] = torch.full((text, size), float("-inf")).triu(1)
    return mask


def block(layer: Any, x: Tensor, und: Tensor, gen: Tensor, angles: Any, masks: Sequence[Tensor]) -> Tensor:
    q, k, v = project(layer.self_attn, both(layer, "input_layernorm", x, und, gen), und, gen, angles)
    sizes = [len(mask) for mask in masks]
    parts = zip(q.split(sizes), k.split(sizes), v.split(sizes), masks, strict=True)
    seen = torch.cat([looked(*each) for each in parts]).flatten(1)
    x = x + both(layer.self_attn, "o_proj", seen, und, gen)
    return x + both(layer, "mlp", both(layer, "post_attention_layernorm", x, und, gen), und, gen)


@torch.no_grad()
def sampled(denoiser: BagelDenoiser, noise: Tensor, text: Tensor, steps: int, guidance: float) -> Tensor:
    """One image (h, w, c), branch by branch over the whole interval."""
    full, nothing = denoiser.context(1), denoiser.context(1)
    denoiser.read_text(full, [text])
    x, times = noise, time_grid(steps, 3.0)
    for now, then in pairwise(times):
        captioned, free = (branch(denoiser, each, x, now) for each in (full, nothing))
        guided = free + guidance * (captioned - free)
        guided = guided * (captioned.norm() / (guided.norm() + 1e-8)).clamp(0, 1)
        x = x - guided.unflatten(0, x.shape[:2]) * (now - then)
    return x


def branch(denoiser: BagelDenoiser, context: Any, x: Tensor, time: Tensor) -> Tensor:
    """Velocities of one branch; its keys and values are copied anew in every layer."""
    cells, _ = denoiser.embed_cells([x], time[None])
    words = denoiser.embed_text(torch.tensor(denoiser.markers))
    h = torch.cat([words[:1], cells[0], words[1:]])
    und, gen = torch.tensor([0, len(h) - 1]), torch.arange(1, len(h) - 1)
    angles = rope(context.position.expand(len(h)), denoiser.language_model.head, denoiser.theta)
    for number, layer in enumerate(denoiser.language_model.model.layers):
        q, k, v = project(layer.self_attn, both(layer, "input_layernorm", h, und, gen), und, gen, angles)
        before = (each[number][0, :, : context.used].transpose(0, 1) for each in (context.keys, context.values))
        keys, values = (torch.cat([past, new]) for past, new in zip(before, (k, v), strict=True))
        seen = looked(q, keys, values, None).flatten(1)
        h = h + both(layer.self_attn, "o_proj", seen, und, gen)
        h = h + both(layer, "mlp", both(layer, "post_attention_layernorm", h, und, gen), und, gen)
    h = both(denoiser.language_model.model, "norm", h, und, gen)
    return denoiser.llm2vae(h)[1:-1]
