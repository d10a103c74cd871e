"""Text generation for many rows at once: each row samples from its own seed and stops on its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

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
def speak(
    denoiser: BagelDenoiser,
    chat: Chat,
    read: Callable[[list[int]], Context],
    replies: Sequence[Reply],
    most: int | None = None,
) -> list[list[int]]:
    """Ids said after [bos], without the end token. `read` makes the context of these rows, given their numbers in
    `replies`; at most `most` rows speak at once, and others take the places of those that have finished."""
    said: list[list[int]] = [[] for _ in replies]
    dice = [torch.Generator().manual_seed(reply.seed) for reply in replies]
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
                return said
            tokens = [tokens[place] for place in live] + [chat.bos] * len(entering)
            parts = [context.select(live)] if live else []
            parts += [read(entering)] if entering else []
            context = Context.stack(parts, max(replies[row].max_new_tokens - len(said[row]) for row in rows) + 1)
        logits = next_logits(denoiser, context, tokens)[:, : chat.size]
        likeliest = logits.argmax(dim=-1).tolist()  # of all at once: each look at a value waits for the device
        for place, row in enumerate(rows):
            if row not in silent:
                tokens[place] = token = (
                    likeliest[place] if replies[row].temperature <= 0 else draw(logits[place], replies[row], dice[row])
                )
                if token != chat.eos:
                    said[row].append(token)
                if token == chat.eos or len(said[row]) == replies[row].max_new_tokens:
                    silent.add(row)


def next_logits(denoiser: BagelDenoiser, context: Context, tokens: Sequence[int]) -> Tensor:
    """Feed one token a row; float32 logits (rows, vocabulary) of what follows."""
    ids = [torch.tensor([token], device=denoiser.device) for token in tokens]
    hidden = denoiser.read_states(context, ids)
    return denoiser.language_model.lm_head(hidden[:, -1]).float()


def draw(logits: Tensor, reply: Reply, dice: torch.Generator) -> int:
    odds = torch.softmax(logits.cpu() / reply.temperature, dim=-1)
    return int(torch.multinomial(odds, 1, generator=dice))
