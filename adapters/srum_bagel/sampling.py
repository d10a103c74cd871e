"""Sampling. Latents: flow matching with up to two guidance branches, many images at once, all branches in one forward.
Text: many rows at once, each from its own seed; each row stops on its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from attrs import frozen
from einops import rearrange
from torch import Tensor

from srum_bagel.attention import Context
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.options import Sampling
from srum_bagel.prompting import Chat
from srum_core.models.generation import Reply, draw


@frozen
class Contexts:
    """The context of each branch, with the same rows in the same order."""

    full: Context
    textless: Context
    """As `full` but without the last text."""
    imageless: Context
    """Texts only."""


@frozen
class Branches:
    """Velocities (n, cells, channels) of one step, before and after guidance."""

    used: Tensor
    full: Tensor
    textless: Tensor | None = None
    imageless: Tensor | None = None


Watch = Callable[[float, Tensor, Branches], None]
"""Called at each step with the time, the state and the velocities."""


def time_grid(steps: int, shift: float) -> Tensor:
    """Float32 (steps,), from 1 (noise) to 0 (clean)."""
    t = torch.linspace(1, 0, steps)
    return shift * t / (1 + (shift - 1) * t)


@torch.no_grad()
def sample(
    denoiser: BagelDenoiser, contexts: Contexts, noise: Sequence[Tensor], sampling: Sampling, watch: Watch | None = None
) -> list[Tensor]:
    """Noise grids (h, w, c), all of one size, -> clean latent grids. Each image is guided and rescaled on its own."""
    rows, columns, _ = noise[0].shape
    count, cells = len(noise), rows * columns
    low, high = sampling.interval
    guided = sampling.guidance > 1
    branches = [contexts.full]
    if guided:
        branches.append(contexts.textless)
        if sampling.image_guidance > 1:
            branches.append(contexts.imageless)
    everything = Context.stack(branches, room=cells + 2)
    x = torch.stack([grid.to(denoiser.device, torch.float32) for grid in noise])
    together = denoiser.block(everything, list(x.repeat(len(branches), 1, 1, 1)))
    alone = denoiser.block(everything.select(slice(count)), list(x)) if guided else together
    times = time_grid(sampling.steps, sampling.shift)
    for time, following in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        wide = guided and low < time <= high
        state = x.repeat(len(branches) if wide else 1, 1, 1, 1)
        times_now = state.new_full((len(state),), time)
        flat = denoiser.velocity(together if wide else alone, list(state), times_now).float()
        velocities = Branches(flat, flat)
        if wide:
            velocities = guide(list(flat.chunk(len(branches))), sampling)
        if watch is not None:
            watch(time, rearrange(x, "n h w c -> n (h w) c"), velocities)
        x = x - rearrange(velocities.used, "n (h w) c -> n h w c", h=rows) * (time - following)
    return list(x)


def guide(velocities: list[Tensor], sampling: Sampling) -> Branches:
    """Combine branch velocities (n, cells, channels): push away from textless, then from imageless, then rescale."""
    full, textless = velocities[:2]
    imageless = velocities[2] if len(velocities) > 2 else None
    guided = textless + sampling.guidance * (full - textless)
    if sampling.renorm == "text_channel":
        guided = _rescale(guided, full, (-1,), sampling.renorm_min)
    if imageless is not None:
        guided = imageless + sampling.image_guidance * (guided - imageless)
    if sampling.renorm == "global":
        guided = _rescale(guided, full, (-2, -1), sampling.renorm_min)
    elif sampling.renorm == "channel":
        guided = _rescale(guided, full, (-1,), sampling.renorm_min)
    return Branches(guided, full, textless, imageless)


def _rescale(guided: Tensor, full: Tensor, dims: tuple[int, ...], smallest: float) -> Tensor:
    norm = torch.linalg.vector_norm(full, dim=dims, keepdim=True)
    other = torch.linalg.vector_norm(guided, dim=dims, keepdim=True)
    return guided * (norm / (other + 1e-8)).clamp(smallest, 1.0)


# ---- text ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def speak(
    denoiser: BagelDenoiser,
    chat: Chat,
    read: Callable[[list[int]], Context],
    replies: Sequence[Reply],
    most: int | None = None,
) -> list[list[int]]:
    """Ids generated after [bos], without the end token. `read` makes the context of these rows, given their numbers in
    `replies`; at most `most` rows generate at once, and waiting ones replace finished ones."""
    answers: list[list[int]] = [[] for _ in replies]
    rngs = [torch.Generator().manual_seed(reply.seed) for reply in replies]
    waiting = deque(row for row, reply in enumerate(replies) if reply.max_new_tokens > 0)
    most = most or len(replies)
    context, rows, tokens = denoiser.context(0), list[int](), list[int]()
    silent = set[int]()
    while True:
        live = [place for place, row in enumerate(rows) if row not in silent]
        # Another set of rows means to copy the caches, so a few silent ones are carried along until a quarter is done.
        if len(live) <= 0.75 * len(rows):
            entering = [waiting.popleft() for _ in range(min(len(waiting), most - len(live)))]
            rows = [rows[place] for place in live] + entering
            if not rows:
                return answers
            tokens = [tokens[place] for place in live] + [chat.bos] * len(entering)
            # In place of the old context, before more is allocated.
            context = context.select(live) if live else denoiser.context(0)
            parts = [context] if live else []
            parts += [read(entering)] if entering else []
            context = Context.stack(parts, max(replies[row].max_new_tokens - len(answers[row]) for row in rows) + 1)
            del parts  # they are copied
        logits = next_logits(denoiser, context, tokens)[:, : chat.size]
        likeliest = logits.argmax(dim=-1).tolist()  # of all at once: reading a value waits for the device
        for place, row in enumerate(rows):
            if row not in silent:
                tokens[place] = token = (
                    likeliest[place] if replies[row].temperature <= 0 else draw(logits[place], replies[row], rngs[row])
                )
                if token != chat.eos:
                    answers[row].append(token)
                if token == chat.eos or len(answers[row]) == replies[row].max_new_tokens:
                    silent.add(row)


def next_logits(denoiser: BagelDenoiser, context: Context, tokens: Sequence[int]) -> Tensor:
    """Feed one token a row; float32 logits (rows, vocabulary) of what follows."""
    ids = [torch.tensor([token], device=denoiser.device) for token in tokens]
    hidden = denoiser.read_text(context, ids, states=True)
    return denoiser.language_model.lm_head(hidden[:, -1]).float()
