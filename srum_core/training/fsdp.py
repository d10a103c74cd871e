"""Weights sharded over processes (FSDP2), and gathered again. Only rounding changes results."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed import get_world_size, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from srum_core.models import small_memory


def wanted() -> bool:
    """Whether this process was launched to share weights with others: accelerate's flag, which `fsdp2` sets."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def shard(module: nn.Module, blocks: Iterable[nn.Module], mixed: bool = False) -> dict[str, nn.Parameter]:
    """Shard every block, and then the remainder, over all processes; in place, and before the optimizer is created.
    Returns the trained parameters as they are now, by name: float32 master weights, made just before they are divided,
    so that no process holds all of them.

    A block's weights are whole only while it runs, so each must run once per call, and by being called; quantised ones
    stay whole. Accelerate's own FSDP2 has no CPUs, and rounds times and losses to bfloat16; so only its launch settings
    are taken."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    device, offload = next(module.parameters()).device.type, plugin.cpu_offload
    if device == "cpu" and isinstance(offload, CPUOffloadPolicy):
        offload = CPUOffloadPolicy(pin_memory=False)  # there is nothing to fetch it to
    mesh = init_device_mesh(device, (get_world_size(),))
    policy = MixedPrecisionPolicy()
    if mixed:  # as autocast does it: multiplied in bfloat16, summed over processes in float32, inputs left alone
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    quantised = {parameter for parameter in module.parameters() if small_memory.is_quantised(parameter)}
    how: dict[str, Any] = {
        "mesh": mesh, "mp_policy": policy, "offload_policy": offload, "ignored_params": quantised,
    }  # fmt: skip
    for block in blocks:
        _masters(block)
        fully_shard(block, reshard_after_forward=plugin.reshard_after_forward, **how)
    _masters(module)
    fully_shard(module, **how)
    # Velocities may be views. Who changed one in place would go wrong; losses are tested not to (LossConformance).
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _masters(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.float()


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def reshard(module: nn.Module) -> None:
    """Let go of gathered weights: sharded ones were changed."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def whole(weights: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """The tensors, sharded ones put together on the CPU. All processes take part; those that do not `keep` get none."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        full: Any = weight.detach()
        if isinstance(weight, DTensor):
            full = full.to(weight.device_mesh.device_type).full_tensor()
            full = full.cpu() if keep else full
        if keep:
            out[name] = full
    return out


def like(weight: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, sharded as `other` is if it is. Then all processes take part."""
    if not isinstance(other, DTensor) or isinstance(weight, DTensor):
        return weight
    device = other.device_mesh.device_type
    return distribute_tensor(weight.to(device), other.device_mesh, other.placements).to(other.device)
