"""TensorBoard and W&B, through accelerate. Off unless `train.trackers` names them; metrics.jsonl is written always."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srum_core.errors import ConfigError, extra
from srum_core.options import flatten

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "srum"
KNOWN = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Packages of which one is needed."""


def check(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is unknown or whose package is not installed."""
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f'train.trackers names "{name}"; there are {", ".join(KNOWN)}.')
        if not any(find_spec(package) for package in KNOWN[name]):
            raise ConfigError(
                f'train.trackers names "{name}", but the package {KNOWN[name][0]} is not installed. Install it with '
                f"{extra(name)}, or leave {name} out of train.trackers; metrics.jsonl is written anyway."
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
    """One step's numbers; what is not known (None) is left out."""
    if accelerator.log_with:
        values = {name: value for table in tables for name, value in table.items() if value is not None}
        accelerator.log(values, step=step)


def finish(accelerator: Accelerator) -> None:
    """Close the trackers, and only them: other stages may go on in this process."""
    for tracker in accelerator.trackers:
        tracker.finish()
