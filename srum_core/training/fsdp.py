"""Shard weights over processes (FSDP2), and gather them again. Results differ only by rounding."""

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


def is_requested() -> bool:
    """Return whether this process was launched to shard weights: accelerate's flag, which `fsdp2` sets."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def shard(module: nn.Module, blocks: Iterable[nn.Module], mixed: bool = False) -> dict[str, nn.Parameter]:
    """Shard every block, then the other weights, over all processes, in place. Call it before creating the optimizer.

    Returns the sharded trained parameters by name: float32 master weights, made block by block, so that no process
    holds all of them. Quantised weights stay whole. A block's weights are gathered while it runs, so each block must be
    called once per step. Accelerate's own FSDP2 does not support CPUs, and rounds times and losses to bfloat16; so only
    its launch settings are used."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    device, offload = next(module.parameters()).device.type, plugin.cpu_offload
    if device == "cpu" and isinstance(offload, CPUOffloadPolicy):
        offload = CPUOffloadPolicy(pin_memory=False)  # it has nowhere to be copied to
    mesh = init_device_mesh(device, (get_world_size(),))
    policy = MixedPrecisionPolicy()
    if mixed:  # as autocast: products in bfloat16, sums over processes in float32, inputs unchanged
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    quantised = {parameter for parameter in module.parameters() if small_memory.is_quantised(parameter)}
    options: dict[str, Any] = {
        "mesh": mesh, "mp_policy": policy, "offload_policy": offload, "ignored_params": quantised,
    }  # fmt: skip
    for block in blocks:
        _masters(block)
        fully_shard(block, reshard_after_forward=plugin.reshard_after_forward, **options)
    _masters(module)
    fully_shard(module, **options)
    # Velocities may be views; losses must not change them in place, which LossConformance tests.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _masters(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.float()


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def reshard(module: nn.Module) -> None:
    """Free gathered weights, after sharded ones were changed."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def full_tensors(weights: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Gather sharded tensors on the CPU. All processes must call it; those without `keep` get none."""
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
    """Shard a full tensor like `other`, if that is sharded; then all processes must call it."""
    if not isinstance(other, DTensor) or isinstance(weight, DTensor):
        return weight
    device = other.device_mesh.device_type
    return distribute_tensor(weight.to(device), other.device_mesh, other.placements).to(other.device)
