"""The golden BLIP3-o checkpoint in the other forms that the published layout knows, for tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from adapter_runs import shard_names, write_shards
from safetensors.torch import load_file, save_file
from torch import Tensor

from srum_blip3o.checkpoint import TOWER
from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options, Sampling

GOLDEN = Path(__file__).parent / "golden" / "blip3o"
CHECKPOINT, BESIDE = GOLDEN / "checkpoint", GOLDEN / "eva_clip_vision_tower"
Tensors = dict[str, Tensor]


def build(checkpoint: Path | str = CHECKPOINT, **options: Any) -> Blip3o:
    """A model of few steps, small images to answer about, and parts that stay."""
    fixed: dict[str, Any] = {
        "device": "cpu", "dtype": "float32", "offload": "none", "vision_pixels": (3136, 12544),
        "sampling": Sampling(steps=3, decoder_steps=2),
    }  # fmt: skip
    return Blip3o(Options(checkpoint=str(checkpoint), **{**fixed, **options}))


def copied(folder: Path, tower: bool = True) -> Path:
    """The checkpoint in a folder of its own, the feature tower beside it."""
    if tower:
        shutil.copytree(BESIDE, folder / BESIDE.name)
    return Path(shutil.copytree(CHECKPOINT, folder / "checkpoint"))


def edit(directory: Path, change: Callable[[Tensors], object], **config: Any) -> Path:
    """Change the weights in place (a dictionary of all), and fields of config.json."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**stated, **config}))
    return directory


def tied(directory: Path) -> Path:
    """One matrix for reading and speaking, stored once."""
    return edit(directory, lambda tensors: tensors.pop("lm_head.weight"), tie_word_embeddings=True)


def sharded(directory: Path, parts: int = 3) -> Path:
    """Several files and an index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    write_shards(directory, tensors, parts, shard_names("model"), partial(save_file, metadata={"format": "pt"}))
    return directory


def tower_inside(directory: Path) -> Path:
    """The feature tower among the other weights, as the official trainer saves it; only its description beside."""
    weights = torch.load(BESIDE / "pytorch_model.bin", weights_only=True)
    edit(directory, lambda tensors: tensors.update({TOWER + name: tensor for name, tensor in weights.items()}))
    (directory.parent / BESIDE.name / "pytorch_model.bin").unlink(missing_ok=True)
    return directory


def fewer_queries(directory: Path, count: int = 16) -> Path:
    def cut(tensors: Tensors) -> None:
        tensors["model.latent_queries"] = tensors["model.latent_queries"][:, :count].clone()

    return edit(directory, cut, n_query=count)


def feed_forward(directory: Path, width: int) -> Path:
    """Another width inside the head's blocks, as another version of its library makes it."""

    def widen(tensors: Tensors) -> None:
        rng = torch.Generator().manual_seed(0)
        for name, tensor in list(tensors.items()):
            if "dit.model" in name and "feed_forward" in name:
                shape = (tensor.shape[0], width) if "linear_2" in name else (width, tensor.shape[1])
                tensors[name] = 0.1 * torch.randn(shape, generator=rng)

    return edit(directory, widen)
