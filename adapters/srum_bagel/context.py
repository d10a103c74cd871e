"""What the model has read so far (keys and values per layer), and who may attend to whom.

A plan is the only thing that knows about attention; the layers only know experts. Two plans exist: `Joint` (training:
one causal text and one picture block per row) and `Segment` (inference: a new piece on top of a `Context`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

Rope = tuple[Tensor, Tensor]
"""Cosines and sines, (rows, tokens, head width) each, in float32."""
QKV = tuple[Tensor, Tensor, Tensor]
"""Queries (n, heads, t, width), keys and values (n, kv heads, t, width)."""


class PositionTable(nn.Module):
    """A fixed 2-D sine/cosine table, (side², width): column in the first half of the channels, row in the second."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(sincos_table(side, width), requires_grad=False)


def sincos_table(side: int, width: int) -> Tensor:
    """Each half is [sin(pos·w_k)] ++ [cos(pos·w_k)], w_k = 10000^(-k / (width/4)); cells row-major."""
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    one = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = one[None, :, :].expand(side, side, -1)
    rows = one[:, None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(side * side, width).float()


def pad_rows(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (t_i, …) -> (n, max t, …) filled with zeros, and which entries are real, (n, max t)."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return padded, torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]


def rope(positions: Tensor, head: int, theta: float) -> Rope:
    """Angles of the half-split rotary embedding; always float32, whatever the weights are."""
    frequency = theta ** (-torch.arange(0, head, 2, dtype=torch.float32, device=positions.device) / head)
    angles = positions.float()[..., None] * frequency
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Grouped-query attention; `mask` is True where a query may look."""
    if q.device.type == "cpu" and q.requires_grad:
        return _explicit(q, k, v, mask, causal)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def _explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The same in plain products: torch's fused CPU kernel is several times slower backwards on short sequences."""
    size = q.shape[2]
    if causal:
        mask = torch.ones(size, k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
    grouped = rearrange(q * q.shape[-1] ** -0.5, "n (k g) t d -> n k (g t) d", k=k.shape[1])
    odds = rearrange(grouped @ k.transpose(-1, -2), "n k (g t) s -> n k g t s", t=size)
    if mask is not None:
        odds = odds.masked_fill(~mask[:, :, None], torch.finfo(odds.dtype).min)
    weights = rearrange(odds.softmax(-1).to(v.dtype), "n k g t s -> n k (g t) s")
    return rearrange(weights @ v, "n k (g t) d -> n (k g) t d", t=size)


def _key_mask(valid: Tensor) -> Tensor | None:
    """(n, t) -> (n, 1, 1, t), or None where nothing is padding: attention without a mask is faster."""
    return None if bool(valid.all()) else valid[:, None, None, :]


class Joint:
    """Training. The plain stream holds [start marker, end marker, text…], the picture stream the latent cells.

    Text is causal and never sees the picture (so right padding needs no mask); markers and cells see everything.
    """

    def __init__(self, rope_und: Rope, rope_gen: Rope, valid_text: Tensor, valid_cells: Tensor) -> None:
        self.rope_und, self.rope_gen = rope_und, rope_gen
        markers = valid_text.new_ones(len(valid_text), 2)
        self.mask = _key_mask(torch.cat([markers, valid_text, valid_cells], dim=1))

    def attend(self, layer: int, und: QKV | None, gen: QKV | None) -> tuple[Tensor | None, Tensor | None]:
        assert und is not None
        assert gen is not None
        (qu, ku, vu), (qg, kg, vg) = und, gen
        keys, values = torch.cat([ku, kg], dim=2), torch.cat([vu, vg], dim=2)
        block = attend(torch.cat([qu[:, :, :2], qg], dim=2), keys, values, self.mask)
        out_und = block[:, :, :2]
        if qu.shape[2] > 2:
            text = attend(qu[:, :, 2:], ku[:, :, 2:], vu[:, :, 2:], causal=True)
            out_und = torch.cat([out_und, text], dim=2)
        return out_und, block[:, :, 2:]


class Context:
    """Keys and values of `rows` conversations in buffers with room to grow; rows may have read different amounts.

    `valid` says which columns are real for a row, `position` is the next rotary position of each row.
    """

    def __init__(
        self, layers: int, rows: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = [torch.empty(rows, heads, 0, width, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.empty_like(key) for key in self.keys]
        self.valid = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.position = torch.zeros(rows, dtype=torch.long, device=device)
        self.used = 0

    @property
    def rows(self) -> int:
        return len(self.position)

    def reserve(self, columns: int) -> Context:
        """Make room for `columns` more than are used; copies once, so ask for all that will be needed."""
        missing = self.used + columns - self.valid.shape[1]
        if missing > 0:
            self.keys = [F.pad(key, (0, 0, 0, missing)) for key in self.keys]
            self.values = [F.pad(value, (0, 0, 0, missing)) for value in self.values]
            self.valid = F.pad(self.valid, (0, missing))
        return self

    def select(self, rows: Sequence[int] | Tensor) -> Context:
        """A copy that holds these rows (in this order, repeats allowed)."""
        index = torch.as_tensor(rows, device=self.position.device)
        out = object.__new__(Context)
        out.keys, out.values = [key[index] for key in self.keys], [value[index] for value in self.values]
        out.valid, out.position, out.used = self.valid[index], self.position[index], self.used
        return out

    def first(self, rows: int) -> Context:
        """A view of the first rows; writes go to the same buffers."""
        out = object.__new__(Context)
        out.keys, out.values = [key[:rows] for key in self.keys], [value[:rows] for value in self.values]
        out.valid, out.position, out.used = self.valid[:rows], self.position[:rows], self.used
        return out

    @staticmethod
    def stack(contexts: Sequence[Context], room: int) -> Context:
        """All rows of all contexts in one, laid out once with `room` free columns."""
        used = max(context.used for context in contexts)
        grown = [context.select(range(context.rows)).reserve(used - context.used + room) for context in contexts]
        size = used + room
        out = object.__new__(Context)
        out.keys = [torch.cat([k[:, :, :size] for k in layer]) for layer in zip(*(c.keys for c in grown), strict=True)]
        out.values = [
            torch.cat([v[:, :, :size] for v in layer]) for layer in zip(*(c.values for c in grown), strict=True)
        ]
        out.valid = torch.cat([context.valid[:, :size] for context in grown])
        out.position, out.used = torch.cat([context.position for context in grown]), used
        return out


class Segment:
    """Inference. A new piece attends to all of its row's context and to itself, causally or in full."""

    def __init__(
        self, context: Context, rope_und: Rope | None, rope_gen: Rope | None, valid: Tensor, causal: bool
    ) -> None:
        self.context, self.rope_und, self.rope_gen = context, rope_und, rope_gen
        size = valid.shape[1]
        context.reserve(size)
        self.columns = slice(context.used, context.used + size)
        context.valid[:, self.columns] = valid
        seen = context.valid[:, : self.columns.stop]
        self.causal = causal and size > 1
        self.mask = _key_mask(seen)
        if self.causal and context.used:
            past = torch.ones(size, self.columns.stop, dtype=torch.bool, device=valid.device).tril(context.used)
            # Every query may see itself, or a padded one in a row that has read nothing would divide by zero.
            itself = past & ~past.tril(context.used - 1)
            self.mask, self.causal = past & (seen[:, None, None, :] | itself), False

    def attend(self, layer: int, und: QKV | None, gen: QKV | None) -> tuple[Tensor | None, Tensor | None]:
        parts = [part for part in (und, gen) if part is not None]
        q, k, v = (torch.cat(each, dim=2) if len(parts) > 1 else each[0] for each in zip(*parts, strict=True))
        keys, values = self.context.keys[layer], self.context.values[layer]
        keys[:, :, self.columns], values[:, :, self.columns] = k, v
        seen = slice(0, self.columns.stop)
        if self.causal:
            # Nothing precedes this text: plain causal attention, right padding is never seen by what is real.
            out = attend(q, k, v, causal=True)
        else:
            out = attend(q, keys[:, :, seen], values[:, :, seen], self.mask)
        if und is None or gen is None:
            return (None, out) if und is None else (out, None)
        size = und[0].shape[2]
        return out[:, :, :size], out[:, :, size:]

    def keep(self, advance: Tensor) -> None:
        """Make the piece part of the context and move each row's position on."""
        self.context.used = self.columns.stop
        self.context.position = self.context.position + advance
