"""One model on several accelerators: which of them holds which layer, and the moves between them.

accelerate divides the layers, and its hooks move what a layer reads to the layer's device. All that is no repeated
layer is on the first device.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils.modeling import clean_device_map, named_module_tensors
from attrs import field, frozen
from torch import nn

from srum_core.errors import ConfigError
from srum_core.models import small_memory
from srum_core.options import SmallMemory

_BITS = {"Params4bit": 4, "Int8Params": 8}
"""Bits of a weight by the class of its parameter, without scales."""


@frozen
class Places:
    """The devices of a model's tensors. Called with the name of a module or tensor, it returns the device."""

    first: torch.device
    layers: Mapping[str, torch.device] = field(factory=dict)
    """Of the repeated layers by name; empty if all of the model is on one device."""

    @classmethod
    def of(
        cls,
        options: SmallMemory,
        device: torch.device,
        model: nn.Module,
        layers: str,
        dtype: torch.dtype,
        beside: int = 0,
    ) -> Places:
        """Divide a model on the meta device over this machine's accelerators if the options ask for it.

        device  what the option `device` gives
        layers  a regular expression for the names of the repeated layers, in the order in which they run
        dtype   of the loaded weights
        beside  bytes that the first device has to hold too

        Raises ConfigError for weights that do not fit."""
        small_memory.check(options, several=int(os.environ.get("WORLD_SIZE", "1")) > 1)
        count = torch.accelerator.device_count()
        if options.device_map == "none" or device.type == "cpu" or count < 2:
            return cls(device)
        devices = [torch.device(device.type, number) for number in range(count)]
        names = [name for name, _ in model.named_modules() if re.fullmatch(layers, name)]
        sizes = [_size(model.get_submodule(name), dtype) for name in names]
        rest = _size(model, dtype) - sum(sizes) + beside
        numbers = divide(sizes, rest, [free(each) for each in devices])
        return cls(devices[0], {name: devices[number] for name, number in zip(names, numbers, strict=True)})

    def __call__(self, name: str) -> torch.device:
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((self.layers[each] for each in prefixes if each in self.layers), self.first)

    def connect(self, model: nn.Module, *after: str) -> None:
        """Let layers, and the modules `after` them, take what they read to their own device."""
        for name in (*self.layers, *after) if self.layers else ():
            add_hook_to_module(model.get_submodule(name), AlignDevicesHook(self(name)))

    def device_map(self, model: nn.Module) -> dict[str, torch.device]:
        """Return the devices for libraries, by modules that together hold every tensor."""
        holding = (name for name, each in model.named_modules() if any(True for _ in named_module_tensors(each)))
        return dict(clean_device_map({name: self(name) for name in holding}))


def free(device: torch.device) -> int:
    """Return the bytes that are free on an accelerator, without torch's cache."""
    module = torch.get_device_module(device)
    module.empty_cache()  # of a model that was there before
    return int(module.mem_get_info(device)[0])


def divide(sizes: Sequence[int], rest: int, room: Sequence[int]) -> list[int]:
    """The number of a device for each layer: neighbours stay together, and the same share of every device's room is
    used. The first also holds `rest`, and keeps space for one more layer. All in bytes. Raises ConfigError."""
    model = nn.ModuleList(map(_Layer, sizes))

    def tried(percent: int) -> list[Any]:
        used = {number: each * percent // 100 for number, each in enumerate(room)}
        used[0] -= rest
        found = infer_auto_device_map(model, used, no_split_module_classes=[_Layer.__name__], clean_result=False)
        return [found[str(number)] for number in range(len(sizes))]

    shares = range(1, 101)
    place = bisect_left(shares, True, key=lambda percent: "disk" not in tried(percent))
    if place == len(shares):
        have = ", ".join(f"{each / 2**30:.1f}" for each in room)
        raise ConfigError(
            f"adapter.device_map=auto: the weights take {(rest + sum(sizes)) / 2**30:.1f} GiB, which the {len(room)} "
            f"accelerators do not have free ({have} GiB). Quantise them (adapter.quantize), or add accelerators."
        )
    return tried(shares[place])


class _Layer(nn.Module):
    """So many bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8, device="meta"), requires_grad=False)


def _size(module: nn.Module, dtype: torch.dtype) -> int:
    bits = 8 * dtype.itemsize
    return sum(each.numel() * _BITS.get(type(each).__name__, bits) for each in module.parameters()) // 8
