"""Where the weights are."""

from __future__ import annotations

from pathlib import Path

import torch

from srum_core.models.hub import bundled, download, refuse_large

FILES = ["*.json", "*.safetensors", "merges.txt"]
PUBLISHED = {"ByteDance-Seed/BAGEL-7B-MoT": 29_200_000_000}
"""Bytes of weights behind well-known hub ids, so that a laptop does not download them first."""
NEEDS = (
    "LoRA training needs a GPU that holds the weights in bfloat16 and the activations of 1024x1024 pictures (80 GB is "
    "a safe size); full training needs several. To see the whole method on this machine, run the bundled model: "
    "srum-train --adapter bagel --preset shapes."
)


def find(checkpoint: str, device: torch.device, asked: str) -> Path:
    """The directory behind a path, a hub id or `bundled:NAME`. Errors say what is needed and what else would run."""
    inside = bundled(checkpoint, Path(__file__).parent, "llm_config.json")
    if inside is not None:
        return inside
    directory = Path(checkpoint).expanduser()
    if directory.is_dir():
        size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        refuse_large(checkpoint, size, device, asked, NEEDS)
        return directory
    refuse_large(checkpoint, PUBLISHED.get(checkpoint, 0), device, asked, NEEDS)
    return download(checkpoint, "adapter.checkpoint", FILES, ", or try the bundled model: --preset shapes")
