"""The published layout: what belongs to which part, sizes read from the weights, everything accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from srum_blip3o import eva, head
from srum_blip3o.place import find
from srum_blip3o.weights import BASE, TRAINED, open_stored, overlay
from srum_core.errors import CheckpointError
from srum_core.models.weights import Stored, differences, loading, read_json, refuse

QUERIES, HEAD, TOWER = "model.latent_queries", "model.dit.model.", "model.gen_vision_tower.vision_tower.model."


Shapes = Mapping[str, Sequence[int]]


@frozen
class Sizes:
    """What the parts are built from."""

    language: Qwen2_5_VLConfig
    head: head.Sizes
    queries: int
    """Learned queries; their number has nothing to do with that of the feature tokens."""
    tower_inside: bool
    """Whether the feature tower's weights are among the others."""


@frozen
class Checkpoint:
    """A checkpoint, opened: nothing but headers is read."""

    stored: Stored
    base: str
    """The published checkpoint that it is, or that it was trained from: a directory or a hub id."""
    config: dict[str, Any]
    sizes: Sizes

    @property
    def directory(self) -> Path:
        return self.stored.directory

    @property
    def stride(self) -> int:
        """Tower patches per feature token and side: the last field of `gen_pooling`, early_pool2d_4."""
        last = str(self.config.get("gen_pooling", "")).rpartition("_")[2]
        if not last.isdecimal() or not int(last):
            raise CheckpointError(
                f"{self.directory / 'config.json'} has gen_pooling={self.config.get('gen_pooling')!r}; something like "
                "early_pool2d_4 is needed, whose last field says how many patches make a token."
            )
        return int(last)


def open_checkpoint(name: str, device: torch.device, asked: str) -> Checkpoint:
    """From a directory in the published layout, a hub id, or what a training saved. Strict: every tensor that a part
    needs is there with its shape, and no other. Raises CheckpointError with every difference."""
    directory, base, names = find(name, device, asked), name, None
    trained, note = directory / TRAINED, directory / BASE
    if note.is_file():
        about = read_json(note)
        base, names = str(about.get("checkpoint", "")), about.get("tensors")
        try:
            directory = find(base, device, asked)
        except CheckpointError as error:
            raise CheckpointError(
                f"{name} holds only what was trained, and belongs to {base}: {error} If that has moved, correct {note}."
            ) from error
    if Path(base).expanduser().is_dir():
        base = str(Path(base).expanduser().absolute())
    config = read_json(directory / "config.json")
    stored = open_stored(directory)
    with loading(f"The model that {directory} describes"):
        sizes = read_sizes(directory, config, stored.shapes)
    if trained.is_file():
        stored = overlay(stored, trained, names)
    elif note.is_file():
        raise CheckpointError(f"{trained} is not there, and {note} says that it should be: restore it, or train again.")
    return Checkpoint(stored, base, config, sizes)


def read_sizes(directory: Path, config: Mapping[str, Any], shapes: Shapes) -> Sizes:
    """Sizes of every part, after checking that the tensors are exactly those of these parts."""
    language = language_config(config, directory)
    needed = (QUERIES, f"{HEAD}patch_embedder.proj.weight", f"{HEAD}layers.0.gate")
    refuse(
        f"The weights in {directory} lack what draws; a BLIP3-o checkpoint with its head is needed",
        [f"missing: {key}" for key in needed if key not in shapes],
    )
    drawing, inside = head.read_sizes(within(HEAD, shapes)), within(TOWER, shapes)
    queries = shapes[QUERIES][1]
    wanted = {
        **language_shapes(language),
        QUERIES: (1, queries, language.get_text_config().hidden_size),
        **{HEAD + name: shape for name, shape in head.shapes(drawing).items()},
    }
    if language.tie_word_embeddings and "lm_head.weight" in shapes:
        wanted["lm_head.weight"] = wanted["model.embed_tokens.weight"]  # some savers write the tied copy too
    if inside:
        wanted |= {TOWER + name: shape for name, shape in eva.shapes(eva.read_sizes(inside, 1)).items()}
    problems = differences(wanted, shapes) + [f"unused: {name}" for name in sorted(shapes.keys() - wanted.keys())]
    for said, found in (("n_query", queries), ("gen_hidden_size", drawing.channels)):
        if config.get(said, found) != found:
            problems.append(f"{said}: the configuration says {config[said]}, the weights are for {found}")
    refuse(f"The weights in {directory} do not match its configuration", problems)
    return Sizes(language, drawing, queries, bool(inside))


def within(prefix: str, shapes: Shapes) -> dict[str, Sequence[int]]:
    """The tensors of one part, under its own names."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def language_config(config: Mapping[str, Any], directory: Path) -> Qwen2_5_VLConfig:
    """Out of the flat dictionary itself. transformers does not know the model type `blip3o_qwen` and, when it is given
    the directory, takes the vision tower's nested configuration for the whole: a text model of the tower's sizes."""
    kind = config.get("model_type")
    if not str(kind).startswith("blip3o_qwen"):
        raise CheckpointError(
            f"{directory / 'config.json'} is of model_type {kind!r}; BLIP3-o's is blip3o_qwen. (The branches "
            "BLIP3o-NEXT and Qwen3-Siglip2 have other layouts, which this adapter does not read.)"
        )
    # What the loaded model should be like is decided here, not by what a file says of types and attention.
    dropped = ("model_type", "architectures", "torch_dtype", "dtype", "auto_map", "_attn_implementation")
    return Qwen2_5_VLConfig(**{key: value for key, value in config.items() if key not in dropped})


def official_name(name: str) -> str:
    """transformers' name of a tensor of the language model -> the stored one."""
    for ours, stored in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(ours):
            return stored + name.removeprefix(ours)
    return name


def language_names(config: Qwen2_5_VLConfig) -> dict[str, str]:
    """transformers' name -> stored name of everything that the language model is made of, a tied head left out."""
    return {name: official_name(name) for name in _language(config)}


def language_shapes(config: Qwen2_5_VLConfig) -> dict[str, tuple[int, ...]]:
    """Stored name -> shape of the same."""
    return {official_name(name): tuple(tensor.shape) for name, tensor in _language(config).items()}


def _language(config: Qwen2_5_VLConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        state = Qwen2_5_VLForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return dict(state)
