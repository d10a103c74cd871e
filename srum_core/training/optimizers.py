"""AdamW, in 32 or 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from srum_core.errors import TrainingError, extra

if TYPE_CHECKING:
    from srum_core.config.settings import Train


def check(name: str, sharded: bool) -> None:
    """Raise TrainingError where an optimiser is not available: `train.optimizer`, on whole or sharded weights."""
    if name == "adamw8bit" and sharded:
        raise TrainingError(
            "train.optimizer=adamw8bit does not work on sharded weights. Use train.optimizer=adamw, whose state is "
            "sharded with them, or --launch ddp."
        )
    if name == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise TrainingError(
            "train.optimizer=adamw8bit needs the package bitsandbytes, which is not installed here: "
            f"{extra('8bit')}, or use train.optimizer=adamw."
        )


def make(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """The optimiser that the settings ask for. On an accelerator AdamW is torch's fused one, which changes all weights
    in one pass. Raises TrainingError where 8 bits cannot be had."""
    own = list(parameters)
    betas = (train.beta1, train.beta2)
    if train.optimizer == "adamw":
        fused = own[0].device.type != "cpu" or None
        return torch.optim.AdamW(own, train.lr, betas, train.eps, train.weight_decay, fused=fused)
    check(train.optimizer, any(isinstance(parameter, DTensor) for parameter in own))
    from bitsandbytes.optim import AdamW8bit

    adamw: Any = AdamW8bit  # its annotations are not those of its arguments
    made: torch.optim.Optimizer = adamw(own, train.lr, betas, train.eps, train.weight_decay)
    return made
