"""Tensors on disk: read by name, out of one file or shards, with those of a training laid over them; and written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from srum_core.errors import CheckpointError

STEM, TRAINED, BASE = "model", "trained.safetensors", "base.json"
"""The published layout's weights; what a training saved, and which checkpoint that belongs to."""


@frozen
class Stored:
    """Every tensor of a checkpoint: name -> (file, shape). Reads headers only."""

    directory: Path
    where: dict[str, Path] = field(repr=False)
    shapes: dict[str, tuple[int, ...]] = field(repr=False)

    def tensors(self, names: Iterable[str], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The named tensors, file by file."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.where[name], []).append(name)
        out: dict[str, Tensor] = {}
        for path, some in by_file.items():
            with safe_open(path, framework="pt", device=str(device)) as file:
                out |= {name: file.get_tensor(name) for name in some}
        return out


def open_stored(directory: Path) -> Stored:
    """`model.safetensors`, or its index with shards. Raises CheckpointError where neither is whole."""
    single, index = directory / f"{STEM}.safetensors", directory / f"{STEM}.safetensors.index.json"
    if single.is_file():
        paths = [single]
    elif index.is_file():
        paths = [directory / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise CheckpointError(
                f"{index} names {', '.join(missing)}, which {directory} does not hold: download the missing shards."
            )
    else:
        raise CheckpointError(
            f"{directory} holds no {STEM}.safetensors (single or sharded with an index): it is no BLIP3-o checkpoint, "
            "or incomplete."
        )
    return Stored(directory, *_headers(paths))


def overlay(stored: Stored, trained: Path) -> Stored:
    """`stored` with the tensors that a training saved in place of its own. Raises CheckpointError for others."""
    where, shapes = _headers([trained])
    problems = [f"unknown: {name}" for name in shapes if name not in stored.shapes]
    problems += [
        f"{name}: trained {shape}, the checkpoint has {stored.shapes[name]}"
        for name, shape in shapes.items()
        if name in stored.shapes and stored.shapes[name] != shape
    ]
    refuse(f"{trained} does not belong to the checkpoint {stored.directory}", problems)
    return Stored(stored.directory, {**stored.where, **where}, stored.shapes)


def _headers(paths: Sequence[Path]) -> tuple[dict[str, Path], dict[str, tuple[int, ...]]]:
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                where[name], shapes[name] = path, tuple(file.get_slice(name).get_shape())
    return where, shapes


def read_json(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; the published BLIP3-o directory does.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is no JSON ({error}); download it again.") from error


def differences(wanted: Mapping[str, Sequence[int]], there: Mapping[str, Sequence[int]]) -> list[str]:
    """What is missing, and what has another shape, a line each; names as stored."""
    lines = [f"missing: {name}" for name in wanted if name not in there]
    return lines + [
        f"{name}: stored {tuple(there[name])}, the configuration wants {tuple(shape)}"
        for name, shape in wanted.items()
        if name in there and tuple(there[name]) != tuple(shape)
    ]


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raise CheckpointError, `what` and then every problem, if there are any."""
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise CheckpointError(f"{what}:\n  {shown}")


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
    (directory / BASE).write_text(json.dumps({"checkpoint": base}, indent=1) + "\n", encoding="utf-8")


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
