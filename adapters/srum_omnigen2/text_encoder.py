"""Encode texts with the frozen language model for the transformer: chat turns around a prompt, no assistant turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from srum_core.models.qwen_vl import Chat

GENERATE = "You are a helpful assistant that generates high-quality images based on user instructions."
DROPPED = "You are a helpful assistant that generates images."
"""System prompt of a dropped caption, whose user text is empty."""
READ_AT_ONCE = 16
"""Texts whose states are computed in one batch."""


def prompt_ids(chat: Chat, text: str | None, limit: int) -> list[int]:
    """A prompt's ids; None is a dropped caption. One that is too long is truncated; the turns around it stay."""
    system = chat.turn("system", DROPPED if text is None else GENERATE)
    return [*system, *chat.turn("user", text or "", room=limit - len(system))]


@torch.no_grad()
def read(text_model: Any, rows: Sequence[Sequence[int]], pad: int) -> list[Tensor]:
    """Hidden states after the final norm, (tokens, hidden) for each text's ids; texts do not attend to each other."""
    out: list[Tensor] = []
    for start in range(0, len(rows), READ_AT_ONCE):
        some = rows[start : start + READ_AT_ONCE]
        longest, device = max(map(len, some)), text_model.device
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in some], device=device)
        places = torch.arange(longest, device=device).expand_as(ids)
        mask = (places < torch.tensor([[len(row)] for row in some], device=device)).long()
        found = text_model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
        out += [states[: len(row)] for states, row in zip(found.last_hidden_state, some, strict=True)]
    return out
