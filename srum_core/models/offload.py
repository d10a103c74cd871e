"""Weights in host memory that are on the device only while they are needed.

accelerate's hooks put them there; what it does not have, and is added here, is to fetch the next block meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn

from srum_core.models import small_memory


class Offload:
    """Groups of layers, and parts, of a model that was loaded in host memory, of which each stage has some on the
    device (`keep`)."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        groups: Mapping[str, Sequence[nn.Module]],
        parts: Mapping[str, nn.Module],
        device: torch.device,
    ) -> None:
        """Puts all of `model` but the groups on the device.

        blocks  its repeated layers, which hold those of the groups and run one after another, if any are streamed
        groups  of modules whose own modules are listed too"""
        self.blocks, self.groups, self.parts, self.device = blocks, groups, parts, device
        cuda: Any = torch.cuda
        self.stream = cuda.Stream(device) if device.type == "cuda" else None
        self.last: Fetch | None = None
        """Of the block that ran last, and fetches its successor from now on."""
        self.waiting: Fetch | None = None
        """Of the block whose weights were fetched, and that does not run yet."""
        self.kept: object = None
        apart = {id(layer) for group in groups.values() for layer in group}
        for each in model.modules():
            if id(each) not in apart:
                apply: Any = each._apply
                apply(lambda tensor: tensor.to(device), recurse=False)
        small_memory.scales_follow(model)

    def keep(self, *names: str, streamed: str = "") -> None:
        """Have these groups and parts on the device, and of the group `streamed` the block that runs and the next one.
        The others are in host memory, and must not be used."""
        if self.kept == (names, streamed):
            return
        self.kept, self.last, self.waiting = (names, streamed), None, None
        for block in self.blocks:
            remove_hook_from_module(block)
        for name, modules in [*self.groups.items(), *((name, [part]) for name, part in self.parts.items())]:
            for each in modules:
                small_memory.move(each, self.device if name in names else torch.device("cpu"))
        some = {id(layer) for layer in self.groups.get(streamed, ())}
        for block in self.blocks:
            if layers := [each for each in block.modules() if id(each) in some]:
                add_hook_to_module(block, Fetch(self, layers))


class Fetch(ModelHook):  # type: ignore[misc]  # accelerate's is untyped
    """Has weights of a block on the device while it runs. They are frozen: a backward pass uses the same copies."""

    def __init__(self, owner: Offload, layers: Sequence[nn.Module]) -> None:
        self.owner = owner
        self.following: Fetch | None = None
        self.here = [(layer, name, each) for layer in layers for name, each in layer.named_parameters(recurse=False)]
        self.ahead: list[Tensor] | None = None
        if owner.stream is not None:
            for _, _, each in self.here:
                each.data = each.data.pin_memory()

    def pre_forward(self, module: nn.Module, *given: Any, **named: Any) -> tuple[Any, Any]:
        owner, there = self.owner, self.fetch()
        if owner.stream is not None:
            now = torch.cuda.current_stream(owner.device)
            now.wait_stream(owner.stream)
            for each in there:
                each.record_stream(now)
        for (layer, name, _), each in zip(self.here, there, strict=True):
            layer._parameters[name] = nn.Parameter(each, requires_grad=False)
        self.ahead = None
        owner.waiting = None
        if owner.last is not None:
            owner.last.following = self
        owner.last = self
        if self.following is not None:
            self.following.fetch()
            owner.waiting = self.following
        return given, named

    def fetch(self) -> list[Tensor]:
        """Begin to copy the weights, and drop those of a block that did not run."""
        if self.ahead is None:
            if self.owner.waiting is not None:
                self.owner.waiting.ahead = None
                self.owner.waiting = None
            with nullcontext() if self.owner.stream is None else torch.cuda.stream(self.owner.stream):
                self.ahead = [each.detach().to(self.owner.device, non_blocking=True) for _, _, each in self.here]
        return self.ahead

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        for layer, name, each in self.here:
            layer._parameters[name] = each
        return output


def saved(blocks: Sequence[nn.Module], layers: Sequence[nn.Module]) -> int:
    """Bytes of these layers that the device need not hold if those of two blocks are there at a time."""
    inside = {id(layer) for layer in layers}
    by_block = ((each for each in block.modules() if id(each) in inside) for block in blocks)
    sizes = sorted(sum(small_memory.size(each.parameters()) for each in some) for some in by_block)
    return sum(sizes) - sum(sizes[-2:])
