"""Where the weights are."""

from __future__ import annotations

from pathlib import Path

import torch

from srum_core.models.hub import bundled, download, refuse_large

FILES = ["*.json", "*.safetensors", "*.txt"]
"""What is taken from a checkpoint repository, folders included: weights and settings, never code."""
TOWER = "jiuhai/eva_clip_vision_tower"
"""Where the official code takes the feature tower from."""
PUBLISHED = {"BLIP3o/BLIP3o-Model-8B": 33_000_000_000, "BLIP3o/BLIP3o-Model-4B": 24_000_000_000}
"""Bytes of weights behind well-known hub ids with the feature tower, so that a laptop does not download them first."""
NEEDS = (
    "Training the head needs a GPU that holds the language model in bfloat16 beside it (80 GB is a safe size); with "
    "adapter.train_queries=false it needs the head alone. To see the whole method on this machine, run the bundled "
    "model: srum-train --adapter blip3o --preset shapes."
)


def find(checkpoint: str, device: torch.device, asked: str) -> Path:
    """The directory behind a path, a hub id or `bundled:NAME`. Errors say what is needed and what else would run."""
    inside = bundled(checkpoint, Path(__file__).parent, "config.json")
    if inside is not None:
        return inside
    directory = Path(checkpoint).expanduser()
    if directory.is_dir():
        refuse_large(checkpoint, _size(directory), device, asked, NEEDS)
        return directory
    refuse_large(checkpoint, PUBLISHED.get(checkpoint, 0), device, asked, NEEDS)
    return download(checkpoint, "adapter.checkpoint", FILES)


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


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.safetensors"))
