"""Where the weights are, and where they go."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from srum_core.errors import CheckpointError

BUNDLED = Path(__file__).parent
FILES = ["*.json", "*.safetensors", "merges.txt"]
LARGE = 4 * 2**30
"""Bytes of weights above which a machine without an accelerator is refused before anything is loaded."""
PUBLISHED = {"ByteDance-Seed/BAGEL-7B-MoT": 29_200_000_000}
"""Bytes of weights behind well-known hub ids, so that a laptop does not download them first."""


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
    """The directory behind a path, a hub id or `bundled:NAME`. Errors say what is needed and what else would run."""
    if checkpoint.startswith("bundled:"):
        directory = BUNDLED / checkpoint.removeprefix("bundled:")
        if not (directory / "llm_config.json").is_file():
            raise CheckpointError(f"adapter.checkpoint={checkpoint}: no such bundled model; there is bundled:shapes.")
        return directory
    directory = Path(checkpoint).expanduser()
    if directory.is_dir():
        size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        refuse_large(checkpoint, size, device, asked)
        return directory
    refuse_large(checkpoint, PUBLISHED.get(checkpoint, 0), device, asked)
    try:
        return Path(snapshot_download(checkpoint, allow_patterns=FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"adapter.checkpoint={checkpoint} is neither a directory here nor a repository that could be downloaded "
            f"from the hub ({type(error).__name__}: {error}). Give a directory in the published layout, or try the "
            "bundled model: --preset shapes."
        ) from error


def refuse_large(checkpoint: str, size: int, device: torch.device, asked: str) -> None:
    """A 7B model on a CPU would swap for hours: say so at once. Naming the device overrules."""
    if device.type == "cpu" and asked == "auto" and size > LARGE:
        raise CheckpointError(
            f"{checkpoint} is {size / 1e9:.0f} GB of weights and this machine has no accelerator. LoRA training "
            "needs a GPU that holds the weights in bfloat16 and the activations of 1024x1024 pictures (80 GB is a safe "
            "size); full training needs several. To see the whole method on this machine, run the bundled model: "
            "srum-train --adapter bagel --preset shapes. To load it on the CPU all the same, set adapter.device=cpu."
        )
