"""Encode captions for the head with the frozen Qwen2.5-VL, with learned queries in the last places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from srum_core.errors import CheckpointError
from srum_core.models import qwen_vl
from srum_core.models.qwen_vl import SYSTEM, Chat

QUERIES = "[IMG]"
"""The token before the learned queries."""
INSTRUCTION = "Please generate image based on the following caption: "


def caption(chat: Chat, text: str, closed: bool, queries: int, limit: int) -> list[int]:
    """Return the ids before the queries. A long caption is truncated; the turns around it stay.

    closed   whether the assistant's empty turn is closed
    queries  number of queries that follow, after their own token
    limit    most tokens in all, queries included"""
    before, after = chat.turn("system", SYSTEM), chat.turn("assistant", "", closed)
    room = limit - (queries + 1) - len(before) - len(after)
    return [*before, *chat.turn("user", INSTRUCTION + text, room=room), *after]


def recomputing(model: Any) -> Any:
    """Let layers recompute their activations in training mode, which has no other effect."""
    method = getattr(model, "activation_checkpointing_enable", None)
    (method or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return model


def language_config(config: Mapping[str, Any], directory: Path) -> Qwen2_5_VLConfig:
    """Read the flat config.json of a BLIP3-o checkpoint."""
    kind = config.get("model_type")
    if not str(kind).startswith("blip3o_qwen"):
        raise CheckpointError(
            f"{directory / 'config.json'} is of model_type {kind!r}; BLIP3-o's is blip3o_qwen. (The branches "
            "BLIP3o-NEXT and Qwen3-Siglip2 have other layouts, which this adapter does not read.)"
        )
    return qwen_vl.language_config(config)


class Reader:
    """Encodes captions with the adapter's language model, which the adapter may free between calls.

    It is no module of the denoiser: frozen weights are not wrapped, averaged over processes or saved with it."""

    def __init__(self, text_model: Callable[[], Any], start: int, pad: int, recompute: bool) -> None:
        """`start`: the token before the queries; `recompute`: recompute activations when a gradient is needed."""
        self.text_model, self.start, self.pad, self.recompute = text_model, start, pad, recompute

    def __deepcopy__(self, memo: dict[int, Any]) -> Reader:
        return self  # copies of a denoiser share the frozen model

    def prepare(
        self, queries: Tensor, rows: Sequence[Sequence[int]], embed: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed captions and queries for the language model, padded on the right.

        Return embeddings (n, t, hidden), their mask (n, t), 1 on real tokens, and the places of the queries (n, q).

        queries  (1, q, hidden)
        rows     each row's ids up to the queries; an empty row has no prompt"""
        count, device = queries.shape[1], queries.device
        lengths = torch.tensor([len(row) + 1 for row in rows], device=device)[:, None]
        longest = max(map(len, rows)) + 1 + count
        ids = [[*row, self.start, *[self.pad] * (longest - len(row) - 1)] for row in rows]
        embeds = embed(torch.tensor(ids, device=device))
        # Places, not a mask: how many a mask selects depends on its values, which the meta device lacks.
        places = lengths + torch.arange(count, device=device)
        filling = queries.to(embeds).expand(len(rows), -1, -1)
        embeds = embeds.scatter(1, places[..., None].expand_as(filling), filling)
        return embeds, (torch.arange(longest, device=device) < lengths + count).long(), places

    def hidden(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Return hidden states after the final norm, (n, t, hidden); padding is masked."""
        model = self.text_model()
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        # Layers recompute only in training mode; nothing in them is random.
        model.train(self.recompute and torch.is_grad_enabled() and embeds.requires_grad)
        try:
            return model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
        finally:
            model.eval()

    def states(self, queries: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the condition of each row, (n, q, hidden)."""
        embeds, mask, places = self.prepare(queries, rows, self.text_model().embed_tokens)
        return self.hidden(embeds, mask)[torch.arange(len(rows), device=places.device)[:, None], places]
