"""What the frozen language model makes of a caption: its hidden states at the learned queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor


@frozen
class Prepared:
    """Captions and queries as the language model reads them, padded on the right."""

    embeds: Tensor
    """(n, t, hidden)."""
    mask: Tensor
    """(n, t), 1 on what is real."""
    queries: Tensor
    """(n, t), True where the queries are."""


class Reader:
    """Reads captions with a language model that somebody else holds and may let go of in between.

    It is no module of the denoiser: what is frozen is neither wrapped, averaged over processes, nor saved with it."""

    def __init__(self, text_model: Callable[[], Any], start: int, pad: int, recompute: bool) -> None:
        """`start`: the token before the queries; `recompute`: save memory where a gradient is needed."""
        self.text_model, self.start, self.pad, self.recompute = text_model, start, pad, recompute

    def __deepcopy__(self, memo: dict[int, Any]) -> Reader:
        return self  # copies of a denoiser read with the same frozen model

    def prepare(self, queries: Tensor, rows: Sequence[Sequence[int]], embed: Callable[[Tensor], Tensor]) -> Prepared:
        """`queries` (1, q, hidden), and each row's ids up to them; an empty row is no prompt at all."""
        count, device = queries.shape[1], queries.device
        lengths = torch.tensor([len(row) + 1 for row in rows], device=device)
        longest = max(len(row) for row in rows) + 1 + count
        ids = [[*row, self.start, *[self.pad] * (longest - len(row) - 1)] for row in rows]
        place = torch.arange(longest, device=device)
        here = (place >= lengths[:, None]) & (place < lengths[:, None] + count)
        embeds = embed(torch.tensor(ids, device=device))
        filling = queries.to(embeds).expand(len(rows), -1, -1)
        embeds = embeds.scatter(1, _at(lengths, count)[..., None].expand_as(filling), filling)
        return Prepared(embeds, (place < lengths[:, None] + count).long(), here)

    def hidden(self, prepared: Prepared) -> Tensor:
        """Hidden states after the final norm, (n, t, hidden); positions are plain, and what is padding sees nothing."""
        model = self.text_model()
        n, t = prepared.mask.shape
        places = torch.arange(t, device=prepared.mask.device).expand(n, -1)
        training = self.recompute and torch.is_grad_enabled() and prepared.embeds.requires_grad
        model.train(training)  # in this mode, and in no other, layers recompute; nothing in them is random
        try:
            return model(
                inputs_embeds=prepared.embeds, attention_mask=prepared.mask, position_ids=places, use_cache=False
            ).last_hidden_state
        finally:
            model.eval()

    def states(self, queries: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """The condition of each row: (n, q, hidden)."""
        prepared = self.prepare(queries, rows, self.text_model().embed_tokens)
        hidden = self.hidden(prepared)
        starts = torch.tensor([len(row) + 1 for row in rows], device=hidden.device)
        return hidden[torch.arange(len(rows), device=hidden.device)[:, None], _at(starts, queries.shape[1])]


def _at(starts: Tensor, count: int) -> Tensor:
    """(n, count) consecutive places. No mask: how many it picks would have to be looked up in its values."""
    return starts[:, None] + torch.arange(count, device=starts.device)
