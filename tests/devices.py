"""Several accelerators without any: tensors that are computed on the CPU and know on which device they would be.

As on GPUs, an operation fails where its tensors are on two devices. torch's device type "lazy" is unused here, and
autograd treats it like the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from srum_core.models import placement, weights

HOST = torch.device("cpu")
_ops = torch.ops.aten
MOVES = {_ops._to_copy.default, _ops.copy_.default}
"""Take tensors of any two devices."""
INDICES = {_ops.index.Tensor, _ops.index_put.default, _ops.index_put_.default, _ops._index_put_impl_.default}
"""Take indices on the CPU too."""


class Placed(Tensor):
    """A tensor of the simulated device `place`, with its values in `held`, on the CPU."""

    held: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> Placed:
        kind: Any = Tensor
        out: Placed = kind._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=HOST, dispatch_device=True
        )
        out.held, out.place = held, place
        return out

    def __init__(self, held: Tensor, place: torch.device) -> None:
        pass

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def storage(self) -> Any:
        return self.held.storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.place

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], place: torch.device, *_: Any) -> Placed:
        return Placed(inner["held"], place)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Made(TorchFunctionMode):
    """Tensors of Python's numbers, also of indices, are made on the CPU, and then moved."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.__getitem__ and isinstance(args[1], list):
            return args[0][torch.tensor(args[1])]
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        made = func(*tree_map(lambda value: value.held if isinstance(value, Placed) else value, args), **kwargs)
        return made if device is None else made.to(device)


class _Everywhere(TorchDispatchMode):
    """For operations without such a tensor that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return args[0].place
    places: dict[torch.device, None] = {}
    found: dict[int, Placed] = {}

    def inner(value: Any) -> Any:
        if isinstance(value, Placed):
            places[value.place] = None
            found[id(value.held)] = value
            return value.held
        if isinstance(value, Tensor) and value.dim():
            places[value.device] = None
        return HOST if isinstance(value, torch.device) and value.type == "lazy" else value

    own, named = tree_map(inner, list(args)), tree_map(inner, dict(kwargs))
    if func in INDICES:
        places.pop(HOST, None)
    if len(places) > 1 and func not in MOVES:
        raise RuntimeError(f"{func}: tensors are on {', '.join(map(str, places))}")
    place = kwargs.get("device") or next(iter(places), HOST)
    result = func(*own, **named)

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) in found:
            return found.get(id(value), value)
        return value if place.type != "lazy" else Placed(value, place)

    return tree_map(outer, result)


@contextmanager
def several(count: int) -> Iterator[list[torch.device]]:
    """Simulate so many accelerators, over which layers are divided evenly."""
    devices = [torch.device("lazy", number) for number in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("lazy"))
        patch.setattr(torch.accelerator, "device_count", lambda: count)
        patch.setattr(torch, "lazy", SimpleNamespace(_initialized=False), raising=False)  # has no random numbers
        optimizer = sys.modules["torch.optim.optimizer"]
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["lazy"])
        patch.setattr(placement, "free", lambda device: 2**30)
        patch.setattr(
            placement, "divide", lambda sizes, *_: [place * count // len(sizes) for place in range(len(sizes))]
        )
        patch.setattr(weights, "safe_open", Opened)
        patch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # other threads do not know of it
        with _Made(), _Everywhere(), torch.autograd.set_multithreading_enabled(False):
            yield devices


class Opened:
    """safetensors' file, which knows only devices that exist."""

    def __init__(self, path: Any, framework: str, device: str) -> None:
        self.file, self.device = safe_open(path, framework=framework), device

    def __enter__(self) -> Opened:
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def get_tensor(self, name: str) -> Tensor:
        found: Tensor = self.file.get_tensor(name)
        return found.to(self.device)
