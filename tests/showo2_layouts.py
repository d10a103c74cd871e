"""The golden Show-o2 checkpoint in the other forms that the published layout knows, for tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from adapter_runs import shard_names, write_shards
from safetensors.torch import save_file
from torch import Tensor

from srum_core.models.weights import read_json
from srum_showo2.checkpoint import expected_shapes, language_config, open_checkpoint
from srum_showo2.model import ShowO2
from srum_showo2.options import Options, Sampling

GOLDEN = Path(__file__).parent / "golden" / "showo2"
CHECKPOINT = GOLDEN / "checkpoint"
WEIGHTS, SHARDED = "pytorch_model.bin", "diffusion_pytorch_model.bin.index.json"
Tensors = dict[str, Tensor]


def build(checkpoint: Path | str = CHECKPOINT, **options: Any) -> ShowO2:
    """A model of few steps."""
    fixed: dict[str, Any] = {"device": "cpu", "dtype": "float32", "sampling": Sampling(steps=4)}
    return ShowO2(Options(checkpoint=str(checkpoint), **{**fixed, **options}))


def copied(folder: Path) -> Path:
    """The checkpoint in a folder of its own."""
    return Path(shutil.copytree(CHECKPOINT, folder / "checkpoint"))


def stored(directory: Path) -> Tensors:
    """The weights of a checkpoint of one file."""
    return torch.load(directory / WEIGHTS, weights_only=True)


def edit(directory: Path, change: Callable[[Tensors], object], **config: Any) -> Path:
    """Change the weights in place (a dictionary of all), and fields of config.json; None takes one away."""
    tensors = stored(directory)
    change(tensors)
    torch.save(tensors, directory / WEIGHTS)
    stated = {**json.loads((directory / "config.json").read_text()), **config}
    (directory / "config.json").write_text(json.dumps({key: each for key, each in stated.items() if each is not None}))
    return directory


def untied(directory: Path) -> Path:
    """An output matrix of its own that is not the embedding's; the golden one has that too."""
    rng = torch.Generator().manual_seed(1)
    return edit(directory, lambda each: each["showo.lm_head.weight"].normal_(generator=rng))


def tied(directory: Path) -> Path:
    """One matrix for reading and answering, stored once."""
    return edit(directory, lambda each: each.pop("showo.lm_head.weight"))


def sharded(directory: Path, parts: int = 3) -> Path:
    """Several files and an index, under the names that the official writer gives them."""
    return _split(directory, parts, ("pytorch_model-{number:05}-of-{count:05}.bin", SHARDED), torch.save)


def as_safetensors(directory: Path) -> Path:
    save_file(stored(directory), directory / "diffusion_pytorch_model.safetensors")
    (directory / WEIGHTS).unlink()
    return directory


def sharded_safetensors(directory: Path, parts: int = 2) -> Path:
    return _split(directory, parts, shard_names("diffusion_pytorch_model"), save_file)


def _split(directory: Path, parts: int, names: tuple[str, str], save: Callable[..., object]) -> Path:
    tensors = stored(directory)
    (directory / WEIGHTS).unlink()
    write_shards(directory, tensors, parts, names, save)
    return directory


def without_projections(directory: Path) -> Path:
    """A language model as wide as the flow head: then nothing is projected between the two. Random weights."""
    width = stored(directory)["diffusion_head_a.0.input_layernorm.weight"].shape[0]
    speaks = {**read_json(directory / "llm" / "config.json"), "hidden_size": width}
    (directory / "llm" / "config.json").write_text(json.dumps(speaks))
    sizes = open_checkpoint(Options(checkpoint=str(CHECKPOINT), device="cpu")).sizes
    shapes = expected_shapes(attrs.evolve(sizes, language=language_config(speaks, sizes.language.vocab_size)))
    rng = torch.Generator().manual_seed(2)

    def make(tensors: Tensors) -> None:
        tensors.clear()
        for name, shape in shapes.items():
            tensors[name] = 0.2 * torch.randn(shape, generator=rng) + ("norm" in name and len(shape) == 1)

    return edit(directory, make, hidden_size=width)
