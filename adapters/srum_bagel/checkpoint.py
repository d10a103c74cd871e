"""The published directory layout, read strictly and without a second copy in memory, and written back."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2Config, SiglipVisionConfig

from srum_core.errors import CheckpointError
from srum_core.models.weights import Stored, loading, opened, read_json, refuse

WEIGHTS = ("ema", "model")
"""Stems of the model's weight file, in order of preference."""


def open_part(directory: Path, stems: Sequence[str]) -> Stored:
    """Names, files and shapes of the first of `stems` there is. Reads headers only."""
    return Stored.open(directory, stems, "BAGEL")


@frozen
class Sizes:
    """Everything the model is built from. What the layout does not state is read from the weights' shapes."""

    language: Qwen2Config
    theta: float
    vision: SiglipVisionConfig
    cell: int
    """Values per latent cell."""
    latent_side: int
    """Largest latent grid side, in cells."""
    vision_side: int
    """Largest side of a looked-at picture, in vision patches."""


def read_sizes(directory: Path, shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """From the two config files and the shapes of the weights. The last vision layer is never used and not stored."""
    language = read_json(directory / "llm_config.json")
    vision = read_json(directory / "vit_config.json")
    for key in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed", "vae2llm.weight"):
        if key not in shapes:
            raise CheckpointError(
                f"The weights in {directory} lack {key}: a BAGEL checkpoint that draws and looks is needed."
            )
    with loading(f"The configuration in {directory}"):
        return build_sizes(
            language,
            vision,
            cell=shapes["vae2llm.weight"][1],
            latent_side=math.isqrt(shapes["latent_pos_embed.pos_embed"][0]),
            vision_side=math.isqrt(shapes["vit_pos_embed.pos_embed"][0]),
        )


def build_sizes(language: Mapping[str, Any], vision: Mapping[str, Any], **rest: int) -> Sizes:
    """`language` and `vision` as in `llm_config.json` and `vit_config.json`; unknown keys are accepted."""
    theta = language.get("rope_theta") or language.get("rope_parameters", {}).get("rope_theta", 1e6)
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "rms_norm_eps", "hidden_act", "max_position_embeddings")  # fmt: skip
    seen = ("hidden_size", "intermediate_size", "num_attention_heads", "num_channels", "patch_size", "image_size",
            "hidden_act", "layer_norm_eps", "attention_dropout")  # fmt: skip
    looks: dict[str, Any] = {key: vision[key] for key in seen if key in vision}
    looks |= {
        "num_hidden_layers": vision["num_hidden_layers"] - 1,
        "vision_use_head": False,
        "attn_implementation": "sdpa",
    }
    speaks: dict[str, Any] = {key: language[key] for key in kept if key in language}
    return Sizes(
        Qwen2Config(**speaks, tie_word_embeddings=False), float(theta), SiglipVisionConfig(**looks), **rest
    )  # fmt: skip


def load(
    module: nn.Module, files: Stored, names: Mapping[str, str], device: torch.device, dtype: torch.dtype | None
) -> None:
    """Stream tensors into a module built on the meta device, file by file. `names`: own name -> stored name.

    Strict over `names`: a missing tensor or a wrong shape raises CheckpointError with every difference.
    """
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = [f"missing: {names[key]}" for key in own if names[key] not in files.where]
    problems += [
        f"{names[key]}: stored {files.shapes[names[key]]}, expected {shape}"
        for key, shape in own.items()
        if names[key] in files.where and not _fits(files.shapes[names[key]], shape)
    ]
    _refuse(files, problems)
    ours = {names[key]: key for key in own}
    for name, stored in files.read(ours, device):
        tensor = stored.reshape(own[ours[name]])
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        module.load_state_dict({ours[name]: tensor.contiguous()}, strict=False, assign=True)


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """1×1 convolutions may be stored 4-D where the module holds a matrix."""
    return stored == wanted or (tuple(n for n in stored if n != 1) == tuple(n for n in wanted if n != 1))


def refuse_unused(files: Stored, used: set[str]) -> None:
    """A stored tensor that nothing reads is a sign of a wrong file: refused."""
    _refuse(files, [f"unused: {key}" for key in sorted(files.where.keys() - used)])


def _refuse(files: Stored, problems: Sequence[str]) -> None:
    refuse(f"The weights {files.stem}.safetensors in {files.directory} do not match its configuration", problems)


def save(source: Stored, directory: Path, changed: Mapping[str, Tensor]) -> None:
    """A complete directory: every other file copied, `changed` tensors (stored names) replaced, in the stored dtype."""
    if unknown := sorted(changed.keys() - source.where.keys()):
        raise CheckpointError(
            f"{', '.join(unknown[:5])} do not exist in {source.directory}: refusing to write names that upstream does "
            "not know."
        )
    directory.mkdir(parents=True, exist_ok=True)
    own = {path.name for path in source.where.values()} | {f"{source.stem}.safetensors.index.json"}
    for path in source.directory.iterdir():
        other_copy = re.match(rf"({'|'.join(WEIGHTS)})\b.*\.safetensors", path.name)
        # A model card tells about the weights it came with, not about these.
        if path.is_file() and path.name not in {*own, "README.md"} and not other_copy:
            shutil.copyfile(path, directory / path.name)
    shards = list(_shards(source))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = (
            f"{source.stem}.safetensors"
            if len(shards) == 1
            else f"{source.stem}-{number:05}-of-{len(shards):05}.safetensors"
        )
        weight_map |= dict.fromkeys(shard, name)
        save_file(_tensors(source, shard, changed), directory / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / f"{source.stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _shards(source: Stored) -> Iterator[list[str]]:
    """As many files as it was read from, so that no more than one of them is in memory."""
    if len(set(source.where.values())) == 1:
        yield sorted(source.where)
        return
    for path in sorted(set(source.where.values())):
        yield sorted(name for name, file in source.where.items() if file == path)


def _tensors(source: Stored, names: Sequence[str], changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    with opened(source.where[names[0]]) as file:
        for name in names:
            stored = file.get_tensor(name)
            new = changed.get(name)
            out[name] = (
                stored if new is None else new.detach().to("cpu", stored.dtype).reshape(stored.shape).contiguous()
            )
    return out
