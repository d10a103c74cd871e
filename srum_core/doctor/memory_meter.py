"""Count the memory of tensors on torch's meta device, where they have shapes and no values."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from torch.autograd import graph
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
_SIXTEEN = {F.linear, F.conv2d, torch.matmul, torch.bmm, torch.addmm, Tensor.matmul, Tensor.__matmul__}
_THIRTY_TWO = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.mse_loss}
"""Functions that autocast computes in bfloat16 and in float32, as far as the models here use them."""


@define
class Metered:
    """Bytes allocated since the meter started."""

    now: int = 0
    peak: int = 0
    _counted: weakref.WeakSet[Any] = field(factory=weakref.WeakSet, init=False)
    _like: _Like | None = None

    def backward(self, loss: Tensor) -> None:
        """Do `loss.backward()` with function modes on. torch's own function switches them off, and blocks that compute
        their activations again would then do so without the planned attention and autocast."""
        if self._like is not None:
            self._like.cast = None  # autocast ends with the forward pass; casts live on only in the graph
        try:
            graph._engine_run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True)
        finally:
            if self._like is not None:
                self._like.cast = {}

    def know(self, tensor: Tensor) -> None:
        """Do not count a tensor: it existed before the meter started."""
        self._counted.add(tensor.untyped_storage())

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._counted:
            return
        self._counted.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size).atexit = False

    def _release(self, size: int) -> None:
        self.now -= size


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Track each storage until it is freed. A condition on values is assumed true."""

    def __init__(self, metered: Metered) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.metered = metered

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.metered.know(tensor)  # weights and inputs, before a view of them is seen
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self.metered.add(tensor)
        return out


class _Fused(torch.autograd.Function):
    """Attention as in flash kernels: saved are queries, keys, values, the output and one number per query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


class _Like(TorchFunctionMode):
    """Imitate fused attention and autocast, which meta tensors do not have."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.autocast = autocast
        self.cast: dict[int, Tensor] | None = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if self.autocast and func in _SIXTEEN:
            args, kwargs = tree_map(self._sixteen, (args, kwargs))
        elif self.autocast and func in _THIRTY_TWO:
            args, kwargs = tree_map(
                lambda each: each.float() if isinstance(each, Tensor) and each.dtype == torch.bfloat16 else each,
                (args, kwargs),
            )
        return func(*args, **kwargs)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        if self.autocast:
            q, k, v = (self._sixteen(each) for each in (q, k, v))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.empty_like(attn_mask, dtype=q.dtype)  # kernels take numbers, and torch converts
        out: Tensor = _Fused.apply(q, k, v)
        return out

    def _sixteen(self, value: Any) -> Any:
        """Cast to bfloat16; keep casts of trained weights until the forward pass ends, as autocast does."""
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if self.cast is None or not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self.cast:
            self.cast[id(value)] = value.to(torch.bfloat16)
        return self.cast[id(value)]


@contextmanager
def metered(autocast: bool = False) -> Iterator[Metered]:
    """Count the allocations on the meta device inside the context, as if attention were fused.

    autocast    compute products in bfloat16"""
    like = _Like(autocast)
    meter = Metered(like=like)
    with like, _Count(meter):
        yield meter
