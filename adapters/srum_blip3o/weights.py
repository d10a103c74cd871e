"""Tensors on disk: read by name, out of one file or shards, with those of a training laid over them; and written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from attrs import evolve
from safetensors.torch import save_file
from torch import Tensor, nn

from srum_core.errors import CheckpointError
from srum_core.models.weights import Stored, differences, locate, refuse

STEM, TRAINED, BASE = "model", "trained.safetensors", "base.json"
"""The published layout's weights; what a training saved, and which checkpoint that belongs to."""


def open_stored(directory: Path) -> Stored:
    """`model.safetensors`, or its index with shards. Raises CheckpointError where neither is whole."""
    return Stored.open(directory, (STEM,), "BLIP3-o")


def overlay(stored: Stored, trained: Path, names: Sequence[str] | None) -> Stored:
    """`stored` with the tensors that a training saved in place of its own. Raises CheckpointError for others, and where
    any of `names` is missing (None: an older checkpoint, which does not say what it holds)."""
    where, shapes = locate([trained])
    wanted = {name: stored.shapes[name] for name in names or shapes if name in stored.shapes}
    problems = differences(wanted, shapes, unused=True) or ([] if shapes else ["missing: every tensor"])
    refuse(
        f"{trained} does not belong to the checkpoint {stored.directory}, or is not whole",
        problems,
        f"Restore the file, or train again. {BASE} beside it says which checkpoint it was trained from.",
    )
    return evolve(stored, where={**stored.where, **where})


def fill(module: nn.Module, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Put tensors (own names, all of them) into a module built on the meta device."""
    module.load_state_dict(
        {name: tensor.to(device, dtype).contiguous() for name, tensor in tensors.items()}, strict=True, assign=True
    )
    module.eval().requires_grad_(False)


# ---- writing --------------------------------------------------------------------------------------------------------


def save_trained(stored: Stored, base: str, directory: Path, changed: Mapping[str, Tensor]) -> None:
    """Only what differs from the published checkpoint: `changed` (stored names), and what was trained before."""
    if unknown := sorted(changed.keys() - stored.where.keys()):
        raise CheckpointError(
            f"{', '.join(unknown[:5])} do not exist in {stored.directory}: refusing to write names that upstream does "
            "not know."
        )
    before = [name for name, path in stored.where.items() if path.name == TRAINED]
    whole = {**stored.tensors(before), **_in_stored_types(stored, changed)}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(whole, directory / TRAINED, metadata={"format": "pt"})
    about = {"checkpoint": base, "tensors": sorted(whole)}
    (directory / BASE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def write_whole(stored: Stored, directory: Path, changed: Mapping[str, Tensor]) -> None:
    """The published layout: every other file of the checkpoint copied, every shard with the tensors as they are now."""
    directory.mkdir(parents=True, exist_ok=True)
    original = open_stored(stored.directory)
    own = set(original.where.values())
    for path in stored.directory.rglob("*"):
        # A model card tells about the weights it came with; code is never run, so it is not passed on either.
        if path.is_file() and path not in own and path.suffix != ".py" and path.name != "README.md":
            target = directory / path.relative_to(stored.directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in sorted(own):  # one shard in memory at a time
        names = [name for name, place in original.where.items() if place == path]
        new = {name: changed[name] for name in names if name in changed}
        shard = {**stored.tensors(set(names) - set(new)), **_in_stored_types(stored, new)}
        save_file(shard, directory / path.name, metadata={"format": "pt"})


def _in_stored_types(stored: Stored, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Training keeps float32; a checkpoint keeps the types that it came with."""
    types = {name: tensor.dtype for name, tensor in stored.tensors(changed).items()}
    shapes = {name: stored.shapes[name] for name in changed}
    return {
        name: tensor.detach().to("cpu", types[name]).reshape(shapes[name]).contiguous()
        for name, tensor in changed.items()
    }
