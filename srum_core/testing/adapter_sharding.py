"""What an adapter must keep to so that its denoiser can be sharded over processes; a part of `AdapterConformance`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from attrs import evolve
from peft import PeftModel
from torch import Tensor, distributed

from srum_core.protocols import UnifiedModel
from srum_core.testing.adapter_training import TrainingConformance, backward, tune
from srum_core.testing.checks import after, called
from srum_core.training import fsdp, lora


class ShardingConformance(TrainingConformance):
    """In one process: what needs weights that are elsewhere fails here too."""

    @pytest.mark.parametrize("method", ["lora", "full"])
    @after(
        "test_encoding_is_repeatable",
        "test_gradients_reach_every_trained_parameter",
        "test_each_block_runs_once_per_call",
        "test_lora_trains",
        dropped=False,
    )
    def test_sharding_changes_no_gradient(self, adapter: UnifiedModel, method: str) -> None:
        plain, shards = tune(adapter, method), tune(adapter, method)
        expected = self.gradients(adapter, plain)
        with alone():
            blocks = lora.find_blocks(shards.module, adapter.recipe.blocks)
            shards = evolve(shards, parameters=fsdp.shard(shards.module, blocks))
            found = called(
                "With sharded weights (--launch fsdp2) the denoiser fails. A block's weights are whole only while it "
                "runs: blocks of recipe.blocks must be called, what is in one must not be used outside, and "
                "`condition` must use no weights of the denoiser",
                lambda: self.gradients(adapter, shards),
            )
            whole = fsdp.whole(found)
        for name, gradient in expected.items():
            self.same(whole[name], gradient, f"Sharding changes the gradient of {name}.")

    def gradients(self, adapter: UnifiedModel, tuned: lora.Tuned) -> dict[str, Tensor]:
        torch.manual_seed(0)
        own, module = adapter.denoiser, tuned.module
        adapter.denoiser = module.get_base_model() if isinstance(module, PeftModel) else module
        try:
            backward(self.loss(adapter, module, self.prompts[:3]))
        finally:
            adapter.denoiser = own
        return {name: each.grad for name, each in tuned.parameters.items() if each.grad is not None}


@contextmanager
def alone() -> Iterator[None]:
    """A group of one process. Skips the test where this process is in a group already, or there are none."""
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("needs torch.distributed, and a process that is not in a group")
    store: Any = distributed.HashStore()
    distributed.init_process_group(store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
