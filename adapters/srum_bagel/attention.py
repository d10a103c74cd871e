"""The context so far (keys and values per layer), and the attention plan.

A plan is the only thing that knows about attention; the layers only know experts. Two plans exist: `Joint` (training:
one causal text and one image block per row) and `Segment` (inference: a new piece on top of a `Context`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Self

import torch
from attrs import define
from torch import Tensor, nn
from torch.nn import functional as F

from srum_core.errors import CheckpointError

GENERATION = "_moe_gen"
"""The suffix of the weights that serve latent cells; all else is served by those without one."""
Rope = tuple[Tensor, Tensor]
"""Cosines and sines, (rows, tokens, head width) each, in float32."""
Projected = tuple[Tensor | None, Tensor, Tensor]
"""Queries (n, heads, t, width), None for a stream that does not ask; keys and values (n, kv heads, t, width)."""


class PositionTable(nn.Module):
    """A fixed table of positions, (side², width), row-major; its values are in the checkpoint."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(torch.zeros(side**2, width), requires_grad=False)

    def places(self, rows: int, columns: int, what: str, way_out: str) -> Tensor:
        """Rows of the table for a grid, row-major. One beyond the table would alias silently: CheckpointError."""
        if max(rows, columns) > self.side:
            raise CheckpointError(
                f"{what} does not fit the checkpoint's position table of {self.side} x {self.side}: use smaller images "
                f"({way_out})."
            )
        grid = torch.arange(rows)[:, None] * self.side + torch.arange(columns)[None, :]
        return grid.flatten().to(self.pos_embed.device)


def rope(positions: Tensor, head: int, theta: float) -> Rope:
    """Angles of the half-split rotary embedding; always float32, whatever the weights are."""
    frequency = theta ** (-torch.arange(0, head, 2, dtype=torch.float32, device=positions.device) / head)
    angles = positions.float()[..., None] * frequency
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of each head's channels by its token's angles; x (n, heads, t, width), the others (n, t, width).

    The same as transformers' `apply_rotary_pos_emb`, in fewer passes over memory.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos[:, None], torch.cat([-second, first], dim=-1), sin[:, None])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Grouped-query attention; `mask` is True where a query may attend."""
    if q.dtype is torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        # torch's CPU kernel goes backwards in bfloat16 up to eight times slower than in float32 (docs/decisions.md).
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask, causal).to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def _key_mask(valid: Tensor) -> Tensor | None:
    """(n, t) -> (n, 1, 1, t), or None where nothing is padding: attention without a mask is faster."""
    return None if bool(valid.all()) else valid[:, None, None, :]


class Movable:
    """A plan whose tensors are needed on the device of every layer."""

    angles: Sequence[Rope]
    mask: Tensor | None

    def __init__(self) -> None:
        self.copies: dict[torch.device, Self] = {}

    def to(self, device: torch.device) -> Self:
        """The same on this device, made once for all of its layers."""
        if device not in self.copies:
            there = copy(self)
            there.copies = {}  # no cycle: it would keep the context in memory
            there.angles = [(cos.to(device), sin.to(device)) for cos, sin in self.angles]
            there.mask = None if self.mask is None else self.mask.to(device)
            self.copies[device] = there
        return self.copies[device]


class Joint(Movable):
    """Training. Text is causal and never sees the image (so right padding needs no mask); markers and cells see
    everything.

    The streams are text, markers, cells if `apart`: then text whose weights are frozen gets no graph at all, as nothing
    that is trained reaches it. Else markers and text are one stream, markers first: larger products.
    """

    def __init__(
        self, text: Rope, block: Rope, valid_text: Tensor, valid_cells: Tensor, apart: bool, wanted: bool
    ) -> None:
        """Angles of the text, and of the markers and cells; whether the final states of text and markers are wanted."""
        super().__init__()
        markers, cells = cut(block, 2)
        if apart:
            experts, angles, asks = ["", "", GENERATION], [text, markers, cells], [wanted, wanted, True]
        else:
            both = (torch.cat([markers[0], text[0]], dim=1), torch.cat([markers[1], text[1]], dim=1))
            experts, angles, asks = ["", GENERATION], [both, cells], [wanted, True]
        self.apart, self.experts, self.angles, self.wanted = apart, experts, angles, asks
        self.mask = _key_mask(torch.cat([valid_text.new_ones(len(valid_text), 2), valid_text, valid_cells], dim=1))

    def attend(self, layer: int, streams: Sequence[Projected]) -> list[Tensor | None]:
        (qt, kt, vt), (qm, km, vm), (qg, kg, vg) = streams if self.apart else (*_split(streams[0]), streams[1])
        keys, values = torch.cat([km, kt, kg], dim=2), torch.cat([vm, vt, vg], dim=2)
        markers, cells = _shared(lambda q: attend(q, keys, values, self.mask), qm, qg)
        text = qt if qt is None or not qt.shape[2] else attend(qt, kt, vt, causal=True)
        if self.apart:
            return [text, markers, cells]
        return [None if text is None or markers is None else torch.cat([markers, text], dim=2), cells]


def _split(stream: Projected) -> tuple[Projected, Projected]:
    """Markers and text, one after the other -> text, markers."""
    (qm, qt), (km, kt), (vm, vt) = ((None, None) if x is None else (x[:, :, :2], x[:, :, 2:]) for x in stream)
    assert km is not None and kt is not None and vm is not None and vt is not None  # noqa: PT018
    return (qt, kt, vt), (qm, km, vm)


def _shared(act: Callable[[Tensor], Tensor], *queries: Tensor | None) -> list[Tensor | None]:
    """`act` on all queries at once, cut up again as they were."""
    some = [q for q in queries if q is not None]
    if not some:
        return [None] * len(queries)
    parts = iter(act(torch.cat(some, dim=2) if len(some) > 1 else some[0]).split([q.shape[2] for q in some], dim=2))
    return [None if q is None else next(parts) for q in queries]


def cut(angles: Rope, size: int) -> tuple[Rope, Rope]:
    """The first `size` tokens' angles, and the others'."""
    (cos, sin) = angles
    return (cos[:, :size], sin[:, :size]), (cos[:, size:], sin[:, size:])


@define(eq=False)
class Context:
    """Keys and values of `rows` conversations in growing buffers; rows may have different lengths."""

    keys: list[Tensor]
    """Of each layer, (rows, heads, columns, width)."""
    values: list[Tensor]
    valid: Tensor
    """(rows, columns), which columns are real for a row."""
    position: Tensor
    """(rows,), the next rotary position."""
    used: int = 0
    """Columns that any row has read."""

    @classmethod
    def empty(
        cls, layers: Sequence[torch.device], rows: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> Context:
        """`layers`: the device of each."""
        keys, values = (
            [torch.empty(rows, heads, 0, width, dtype=dtype, device=layer) for layer in layers] for _ in range(2)
        )
        valid = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        return cls(keys, values, valid, torch.zeros(rows, dtype=torch.long, device=device))

    @property
    def rows(self) -> int:
        return len(self.position)

    def reserve(self, columns: int) -> Context:
        """Reserve `columns` more than are used; copies once, so request all that will be needed."""
        missing = self.used + columns - self.valid.shape[1]
        if missing > 0:
            self.keys = [F.pad(key, (0, 0, 0, missing)) for key in self.keys]
            self.values = [F.pad(value, (0, 0, 0, missing)) for value in self.values]
            self.valid = F.pad(self.valid, (0, missing))
        return self

    def select(self, rows: Sequence[int] | slice) -> Context:
        """A copy that holds these rows (in this order, repeats allowed), or a view of a slice of them: writes go to the
        same buffers."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.position.device)

        def selected(x: Tensor) -> Tensor:
            return x[index if isinstance(index, slice) else index.to(x.device)]

        keys, values = [selected(key) for key in self.keys], [selected(value) for value in self.values]
        return Context(keys, values, self.valid[index], self.position[index], self.used)

    @staticmethod
    def stack(contexts: Sequence[Context], room: int) -> Context:
        """All rows of all contexts in one, laid out once with `room` free columns; each row's context ends where these
        begin, so that rows of equal length can attend without a mask."""
        used = max(context.longest() for context in contexts)
        aligned = [context._right(used).reserve(room) for context in contexts]
        if len(aligned) == 1:
            return aligned[0]  # already a copy
        return Context(
            [torch.cat(layer) for layer in zip(*(context.keys for context in aligned), strict=True)],
            [torch.cat(layer) for layer in zip(*(context.values for context in aligned), strict=True)],
            torch.cat([context.valid for context in aligned]),
            torch.cat([context.position for context in aligned]),
            used,
        )

    def longest(self) -> int:
        """Columns of the row that has read the most (on the meta device nothing has a value: all that are used)."""
        return self.used if self.valid.is_meta else int(self.valid[:, : self.used].sum(dim=1).max())

    def _right(self, used: int) -> Context:
        """A copy with `used` columns whose real ones come last; no row may have more."""
        missing = max(0, used - self.used)
        valid = F.pad(self.valid[:, : self.used], (missing, 0))
        order = valid.int().argsort(dim=1, stable=True)[:, valid.shape[1] - used :]

        def moved(x: Tensor) -> Tensor:
            x = F.pad(x[:, :, : self.used], (0, 0, missing, 0))
            return x.gather(2, order.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

        keys, values = [moved(key) for key in self.keys], [moved(value) for value in self.values]
        return Context(keys, values, valid.gather(1, order), self.position, used)


class Segment(Movable):
    """Inference. A new piece attends to all of its row's context and to itself, causally or in full."""

    def __init__(
        self,
        context: Context,
        streams: Sequence[tuple[str, Rope]],
        valid: Tensor,
        causal: bool,
        wanted: Sequence[bool],
    ) -> None:
        """`streams`: expert and angles of each, in the order in which the context keeps them."""
        super().__init__()
        self.context, self.wanted = context, wanted
        self.experts, self.angles = zip(*streams, strict=True)
        size = valid.shape[1]
        context.reserve(size)
        self.columns = slice(context.used, context.used + size)
        context.valid[:, self.columns] = valid
        seen = context.valid[:, : self.columns.stop]
        self.causal = causal and size > 1
        self.groups = [] if self.causal else _groups(seen)
        self.mask = None if self.groups else _key_mask(seen)
        if self.causal and context.used:
            past = torch.ones(size, self.columns.stop, dtype=torch.bool, device=valid.device).tril(context.used)
            # Every query may see itself, or a padded one in a row that has read nothing would divide by zero.
            itself = past & ~past.tril(context.used - 1)
            self.mask, self.causal = past & (seen[:, None, None, :] | itself), False

    def attend(self, layer: int, streams: Sequence[Projected]) -> list[Tensor | None]:
        k, v = (torch.cat([stream[part] for stream in streams], dim=2) for part in (1, 2))  # type: ignore[misc]
        keys, values = self.context.keys[layer], self.context.values[layer]
        keys[:, :, self.columns], values[:, :, self.columns] = k, v
        return _shared(lambda q: self._look(q, k, v, keys, values), *(stream[0] for stream in streams))

    def _look(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        stop = self.columns.stop
        if self.causal:
            # Nothing precedes this text: plain causal attention, no real token attends to right padding.
            return attend(q, k, v, causal=True)
        if self.groups:
            parts = [
                attend(q[a:b], keys[a:b, :, start:stop], values[a:b, :, start:stop]) for a, b, start in self.groups
            ]
            return torch.cat(parts) if len(parts) > 1 else parts[0]
        return attend(q, keys[:, :, :stop], values[:, :, :stop], self.mask)

    def keep(self, advance: Tensor) -> None:
        """Make the piece part of the context and move each row's position on."""
        self.context.used = self.columns.stop
        self.context.position = self.context.position + advance


def _groups(valid: Tensor, most: int = 4) -> list[tuple[int, int, int]]:
    """(first row, row after the last, first column) of neighbouring rows that see all columns from one on; empty if
    there are more such groups than `most`, or a gap. Attention without a mask is faster: one call a group."""
    if valid.is_meta:
        return []
    start = valid.shape[1] - valid.sum(dim=1)
    if not bool((torch.arange(valid.shape[1], device=valid.device) >= start[:, None]).eq(valid).all()):
        return []
    starts, counts = torch.unique_consecutive(start, return_counts=True)
    ends = counts.cumsum(0).tolist()
    if len(ends) > most:
        return []
    return list(zip([0, *ends[:-1]], ends, starts.tolist(), strict=True))
