"""Where the weights are, and where they go."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from srum_core.errors import CheckpointError

FILES = ["*.json", "*.safetensors", "*.txt"]
"""What is taken from a checkpoint repository, folders included: weights and settings, never code."""
TOWER = "jiuhai/eva_clip_vision_tower"
"""Where the official code takes the feature tower from."""
LARGE = 4 * 2**30
"""Bytes of weights above which a machine without an accelerator is refused before anything is loaded."""
PUBLISHED = {"BLIP3o/BLIP3o-Model-8B": 33_000_000_000, "BLIP3o/BLIP3o-Model-4B": 24_000_000_000}
"""Bytes of weights behind well-known hub ids with the feature tower, so that a laptop does not download them first."""


def choose_device(name: str) -> torch.device:
    """`auto`: this process's accelerator if there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def find(checkpoint: str, device: torch.device, asked: str) -> Path:
    """The directory behind a path or a hub id. Errors say what is needed and what else would run."""
    directory = Path(checkpoint).expanduser()
    if directory.is_dir():
        refuse_large(checkpoint, _size(directory), device, asked)
        return directory
    refuse_large(checkpoint, PUBLISHED.get(checkpoint, 0), device, asked)
    return download(checkpoint, "adapter.checkpoint", FILES)


def download(repository: str, setting: str, patterns: list[str]) -> Path:
    """A hub repository as a directory here. Raises CheckpointError naming the setting that asked for it."""
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{setting}={repository} is neither a directory here nor a repository that could be downloaded from the "
            f"hub ({type(error).__name__}: {error}). Give a directory in the published layout."
        ) from error


def find_tower(option: str, checkpoint: Path, asked: str) -> Path | None:
    """The file or directory of the tower's own weights; None if there is none to be found.

    `asked`: the checkpoint as it was named; only one from the hub lets the tower be downloaded unasked."""
    if option:
        place = Path(option).expanduser()
        return place if place.exists() else download(option, "adapter.feature_tower", ["*.json", "*.bin", *FILES])
    found = beside(checkpoint)
    if found is None and not Path(asked).expanduser().is_dir():
        return download(TOWER, "adapter.feature_tower", ["*.json", "*.bin", *FILES])
    return found


def beside(checkpoint: Path) -> Path | None:
    """The tower's folder in the checkpoint, or next to it."""
    places = (checkpoint / "eva_clip_vision_tower", checkpoint.parent / "eva_clip_vision_tower")
    return next((place for place in places if place.is_dir()), None)


def refuse_large(checkpoint: str, size: int, device: torch.device, asked: str) -> None:
    """An 8B model on a CPU would swap for hours: say so at once. Naming the device overrules."""
    if device.type == "cpu" and asked == "auto" and size > LARGE:
        raise CheckpointError(
            f"{checkpoint} is {size / 1e9:.0f} GB of weights and this machine has no accelerator. Training the head "
            "needs a GPU that holds the language model in bfloat16 beside it (80 GB is a safe size); with "
            "adapter.train_queries=false it needs the head alone. To see the whole method on this machine, run the "
            "bundled model: srum-train --adapter bagel --preset shapes. To load it on the CPU all the same, set "
            "adapter.device=cpu."
        )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.safetensors"))
