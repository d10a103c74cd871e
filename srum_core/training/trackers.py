"""TensorBoard and W&B, through accelerate, and which optional packages training needs. No torch.

Trackers are off unless `train.trackers` names them; metrics.jsonl is written always."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srum_core.errors import ConfigError, TrainingError, extra
from srum_core.options import flatten

if TYPE_CHECKING:
    from accelerate import Accelerator

KNOWN = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Packages of which one is needed."""


def check(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    for name in names:
        if not any(find_spec(package) for package in KNOWN[name]):
            raise ConfigError(
                f'train.trackers names "{name}", but the package {KNOWN[name][0]} is not installed. Install it with '
                f"{extra(name)}, or leave {name} out of train.trackers; metrics.jsonl is written anyway."
            )


def check_optimizer(name: str, sharded: bool) -> None:
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


def start(accelerator: Accelerator, folder: Path, settings: Mapping[str, Any], done: int) -> None:
    """Open the trackers the accelerator was made with. `folder` is the round's; `done` steps were logged before, and
    TensorBoard forgets what an interrupted run logged beyond them."""
    if accelerator.log_with:
        plain = bool | int | float | str  # TensorBoard takes nothing else
        values = {name: value if isinstance(value, plain) else str(value) for name, value in flatten(settings).items()}
        accelerator.init_trackers(
            "srum",
            config=values,
            init_kwargs={
                "tensorboard": {"purge_step": done + 1},
                "wandb": {"name": f"{folder.parent.name}/{folder.name}", "dir": str(folder)},
            },
        )
