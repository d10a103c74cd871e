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

PROJECT = "srum"
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


def check_offload(held: bool, several: bool) -> None:
    """Raise TrainingError where several processes would train a model that is partly `held` in host memory."""
    if held and several:
        raise TrainingError(
            "adapter.offload works with one process. Train with --processes 1; or with --launch fsdp2-offload and "
            "without adapter.offload."
        )


def start(accelerator: Accelerator, folder: Path, settings: Mapping[str, Any], done: int) -> None:
    """Open the trackers the accelerator was made with. `folder` is the round's; `done` steps were logged before, and
    TensorBoard forgets what an interrupted run logged beyond them."""
    if accelerator.log_with:
        plain = bool | int | float | str  # TensorBoard takes nothing else
        values = {name: each if isinstance(each, plain) else str(each) for name, each in flatten(settings).items()}
        accelerator.init_trackers(
            PROJECT,
            config=values,
            init_kwargs={
                "tensorboard": {"purge_step": done + 1},
                "wandb": {"name": f"{folder.parent.name}/{folder.name}", "dir": str(folder)},
            },
        )


def log(accelerator: Accelerator, step: int, *tables: Mapping[str, Any]) -> None:
    """One step's numbers; unknown ones (None) are left out."""
    if accelerator.log_with:
        values = {name: value for table in tables for name, value in table.items() if value is not None}
        accelerator.log(values, step=step)


def finish(accelerator: Accelerator) -> None:
    """Close the trackers, and only them: other stages may continue in this process."""
    for tracker in accelerator.trackers:
        tracker.finish()
