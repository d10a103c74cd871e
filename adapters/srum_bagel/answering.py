"""Text generation for many rows at once: each row samples from its own seed and stops on its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from srum_bagel.chat import Chat
from srum_bagel.context import Context
from srum_bagel.denoiser import BagelDenoiser


@frozen
class Reply:
    """How one row speaks: at temperature 0 the likeliest token, else a draw from softmax(logits / temperature)."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


@torch.no_grad()
def speak(denoiser: BagelDenoiser, chat: Chat, context: Context, replies: Sequence[Reply]) -> list[list[int]]:
    """Ids said after [bos], without the end token. A finished row costs no more once a quarter is done."""
    context = context.select(range(context.rows)).reserve(max(reply.max_new_tokens for reply in replies) + 1)
    said: list[list[int]] = [[] for _ in replies]
    draws = [torch.Generator().manual_seed(reply.seed) for reply in replies]
    speaking = [reply.max_new_tokens > 0 for reply in replies]
    rows, tokens = list(range(len(replies))), [chat.bos] * len(replies)
    while active := sum(speaking[row] for row in rows):
        # Shrinking copies the caches, so a few silent rows are carried along until a quarter is done.
        if active <= 0.75 * len(rows):
            places = [place for place, row in enumerate(rows) if speaking[row]]
            context, rows, tokens = context.select(places), [rows[p] for p in places], [tokens[p] for p in places]
        logits = next_logits(denoiser, context, tokens)[:, : chat.size]
        for place, row in enumerate(rows):
            if speaking[row]:
                tokens[place] = token = choose(logits[place], replies[row], draws[row])
                if token != chat.eos:
                    said[row].append(token)
                speaking[row] = token != chat.eos and len(said[row]) < replies[row].max_new_tokens
    return said


def next_logits(denoiser: BagelDenoiser, context: Context, tokens: Sequence[int]) -> Tensor:
    """Feed one token a row; float32 logits (rows, vocabulary) of what follows."""
    ids = [torch.tensor([token], device=denoiser.device) for token in tokens]
    hidden = denoiser.read_states(context, ids)
    return denoiser.language_model.lm_head(hidden[:, -1]).float()


def choose(logits: Tensor, reply: Reply, draw: torch.Generator) -> int:
    if reply.temperature <= 0:
        return int(logits.argmax())
    odds = torch.softmax(logits.cpu() / reply.temperature, dim=-1)
    return int(torch.multinomial(odds, 1, generator=draw))
