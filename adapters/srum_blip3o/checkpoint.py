"""The published layout: the tensors of each part, with sizes from the weights and no tensor unused; trained weights;
and the feature tower, inside or beside the checkpoint."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig

from srum_blip3o import dit, eva
from srum_blip3o.options import Options
from srum_blip3o.text_encoder import language_config
from srum_core.errors import CheckpointError
from srum_core.models.hub import Checkpoints, download
from srum_core.models.qwen_vl import stored_shapes
from srum_core.models.weights import (
    Stored,
    differences,
    fill,
    loading,
    locate,
    read_json,
    read_tensors,
    refuse,
    shapes_of,
)

QUERIES, HEAD, TOWER = "model.latent_queries", "model.dit.model.", "model.gen_vision_tower.vision_tower.model."
STEM, TRAINED, BASE = "model", "trained.safetensors", "base.json"
"""Files of the published layout's weights, of trained weights, and of the name of their base checkpoint."""
CONFIG, FOLDER = "tower_config.json", "eva_clip_vision_tower"
"""Configuration and folder of a feature tower beside the checkpoint."""
OFFICIAL_TOWER = "jiuhai/eva_clip_vision_tower"
"""The hub id from which the official code loads the feature tower."""
CHECKPOINTS = Checkpoints(
    patterns=["*.json", "*.safetensors", "*.txt"],
    published={"BLIP3o/BLIP3o-Model-8B": 33_000_000_000, "BLIP3o/BLIP3o-Model-4B": 24_000_000_000},
    weights="**/*.safetensors",
    needs="Training the head needs a GPU that holds the language model in bfloat16 beside it (80 GB is a safe size); "
    "with adapter.train_queries=false it needs the head alone. To see the whole method on this machine, run the "
    "bundled model: srum-train --adapter blip3o --preset shapes.",
    bundled={path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob("*/config.json"))},
)
Shapes = Mapping[str, Sequence[int]]


@frozen
class Sizes:
    """The sizes of all parts."""

    language: Qwen2_5_VLConfig
    head: dit.Sizes
    queries: int
    """Number of learned queries, independent of the number of feature tokens."""
    tower_inside: bool
    """Whether the feature tower's weights are among the others."""


@frozen
class Checkpoint:
    """An open checkpoint: only headers are read."""

    stored: Stored
    base: str
    """The published checkpoint, or the one that this was trained from: a directory or a hub id."""
    config: dict[str, Any]
    sizes: Sizes

    @property
    def directory(self) -> Path:
        return self.stored.directory

    @property
    def stride(self) -> int:
        """Tower patches per side of a feature token: the last field of `gen_pooling`, such as early_pool2d_4."""
        last = str(self.config.get("gen_pooling", "")).rpartition("_")[2]
        if not last.isdecimal() or not int(last):
            raise CheckpointError(
                f"{self.directory / 'config.json'} has gen_pooling={self.config.get('gen_pooling')!r}; a value such as "
                "early_pool2d_4 is needed, whose last field is the number of patches per token and side."
            )
        return int(last)


def open_checkpoint(name: str, device: str) -> Checkpoint:
    """Open a directory in the published layout, a hub id, or what training saved. Strict: every tensor that a part
    needs is there with its shape, and no other. Raises CheckpointError with every difference."""
    directory, base, names = CHECKPOINTS.find(name, device), name, None
    trained, note = directory / TRAINED, directory / BASE
    if note.is_file():
        about = read_json(note)
        base, names = str(about.get("checkpoint", "")), about.get("tensors")
        try:
            directory = CHECKPOINTS.find(base, device)
        except CheckpointError as error:
            raise CheckpointError(
                f"{name} holds only trained weights for {base}: {error} If that checkpoint has moved, correct {note}."
            ) from error
    if Path(base).expanduser().is_dir():
        base = str(Path(base).expanduser().absolute())
    config = read_json(directory / "config.json")
    stored = Stored.open(directory, [STEM], "BLIP3-o")
    with loading(f"The model that {directory} describes"):
        sizes = read_sizes(directory, config, stored.shapes)
    if trained.is_file():
        stored = _overlay(stored, trained, names)
    elif note.is_file():
        raise CheckpointError(f"{trained} is missing, although {note} names its tensors: restore it, or train again.")
    return Checkpoint(stored, base, config, sizes)


def _overlay(stored: Stored, trained: Path, names: Sequence[str] | None) -> Stored:
    """Replace tensors of `stored` by trained ones. Raises CheckpointError for unknown ones, and if any of `names` is
    missing (None: an older checkpoint without this list)."""
    where, shapes = locate([trained])
    expected = {name: stored.shapes[name] for name in names or shapes if name in stored.shapes}
    problems = differences(expected, shapes, unused=True) or ([] if shapes else ["missing: every tensor"])
    refuse(
        f"{trained} does not belong to the checkpoint {stored.directory}, or is incomplete",
        problems,
        f"Restore the file, or train again. {BASE} beside it names its base checkpoint.",
    )
    return evolve(stored, where={**stored.where, **where})


def read_sizes(directory: Path, config: Mapping[str, Any], shapes: Shapes) -> Sizes:
    """Return the sizes of every part, and check that the tensors are exactly those of the parts."""
    language = language_config(config, directory)
    needed = (QUERIES, f"{HEAD}patch_embedder.proj.weight", f"{HEAD}layers.0.gate")
    refuse(
        f"The weights in {directory} lack the diffusion head; a BLIP3-o checkpoint with its head is needed",
        [f"missing: {key}" for key in needed if key not in shapes],
    )
    sampling, inside = dit.read_sizes(within(HEAD, shapes)), within(TOWER, shapes)
    queries = shapes[QUERIES][1]
    expected: dict[str, Sequence[int]] = {
        **stored_shapes(language, shapes),
        QUERIES: (1, queries, language.get_text_config().hidden_size),
        **{HEAD + name: shape for name, shape in meta_shapes(dit.build, sampling).items()},
    }
    if inside:
        expected |= {TOWER + name: shape for name, shape in meta_shapes(eva.Tower, eva.read_sizes(inside, 1)).items()}
    problems = differences(expected, shapes, unused=True)
    for name, value in (("n_query", queries), ("gen_hidden_size", sampling.channels)):
        if config.get(name, value) != value:
            problems.append(f"{name}: {config[name]} in the configuration, {value} in the weights")
    refuse(f"The weights in {directory} do not match its configuration", problems)
    return Sizes(language, sampling, queries, bool(inside))


def meta_shapes(build: Callable[[Any], nn.Module], sizes: Any) -> Shapes:
    """Return the shapes of a part's tensors, by the part's own names."""
    with torch.device("meta"):
        return shapes_of(build(sizes).state_dict())


def within(prefix: str, shapes: Shapes) -> dict[str, Sequence[int]]:
    """Return the tensors of one part, under its own names."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def save_trained(checkpoint: Checkpoint, directory: Path, changed: Mapping[str, Tensor]) -> None:
    """Write only what differs from the published checkpoint: `changed` (stored names), and tensors trained before."""
    stored = checkpoint.stored
    before = [name for name, path in stored.where.items() if path.name == TRAINED]
    tensors = {**stored.tensors(before), **stored.as_stored(changed)}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / TRAINED, metadata={"format": "pt"})
    about = {"checkpoint": checkpoint.base, "tensors": sorted(tensors)}
    (directory / BASE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


# ---- the feature tower -----------------------------------------------------------------------------------------------


def load_tower(checkpoint: Checkpoint, options: Options, device: torch.device, dtype: torch.dtype) -> eva.Tower:
    """Load the tower. Raises CheckpointError if there are no weights, or if they do not fit the head."""
    tensors, where = _tower_tensors(checkpoint, options)
    shapes = shapes_of(tensors)
    sizes = eva.read_sizes(shapes, _heads(shapes, checkpoint, options))
    channels = checkpoint.sizes.head.channels
    if sizes.width != channels:
        raise CheckpointError(f"The tower in {where} makes features of {sizes.width} channels, the head {channels}.")
    _side(sizes.grid, checkpoint.stride)
    with torch.device("meta"):
        tower = eva.Tower(sizes, checkpoint.stride)
    return fill(tower, tensors, where, f"The feature tower in {where} does not match", device, dtype)


def grid_side(checkpoint: Checkpoint, options: Options) -> int:
    """Return the feature tokens per side, from the cheapest source: the table of positions in the checkpoint, the
    preset's name, or the table in a separate file."""
    preset = eva.PRESETS.get(str(checkpoint.config.get("gen_vision_tower")))
    if checkpoint.sizes.tower_inside:
        patches = math.isqrt(checkpoint.stored.shapes[f"{TOWER}pos_embed"][1] - 1)
    elif preset is not None:
        patches = preset.grid
    else:
        patches = math.isqrt(_tower_tensors(checkpoint, options)[0]["pos_embed"].shape[1] - 1)
    return _side(patches, checkpoint.stride)


def _side(patches: int, stride: int) -> int:
    """Return the feature tokens per side. Raises CheckpointError if pooling `patches` per side leaves a remainder."""
    side, remainder = divmod(patches, stride)
    if remainder or not side:
        raise CheckpointError(f"A tower of {patches} x {patches} patches cannot be pooled by {stride}.")
    return side


def copy_tower(checkpoint: Checkpoint, options: Options, directory: Path) -> None:
    """Copy a tower beside the checkpoint into `directory`, without weights that are in the checkpoint; a tower from the
    hub is not copied."""
    tower = Path(options.feature_tower).expanduser()
    folder = tower if options.feature_tower and tower.is_dir() else _beside(checkpoint.directory)
    if folder is not None and not (directory / FOLDER).exists():
        skipped = ("*.py", *(("*.bin",) if checkpoint.sizes.tower_inside else ()))
        shutil.copytree(folder, directory / FOLDER, ignore=shutil.ignore_patterns(*skipped))


def _tower_tensors(checkpoint: Checkpoint, options: Options) -> tuple[Mapping[str, Tensor], str]:
    """Return tensors by their own names, and their place for messages."""
    if file := _tower_file(checkpoint, options):
        return read_tensors(file, lazily=True), str(file)
    stored = checkpoint.stored.read(TOWER + name for name in within(TOWER, checkpoint.stored.shapes))
    return {name.removeprefix(TOWER): tensor for name, tensor in stored}, str(checkpoint.directory)


def check_tower(checkpoint: Checkpoint, options: Options) -> None:
    """Check that the weights exist, without reading them. Raises CheckpointError if `load_tower` would fail."""
    _tower_file(checkpoint, options)
    _heads({}, checkpoint, options)


def _tower_file(checkpoint: Checkpoint, options: Options) -> Path | None:
    """Find the file of the tower's weights; None if they are in the checkpoint. Raises CheckpointError."""
    name = options.feature_tower
    if checkpoint.sizes.tower_inside and not name:
        return None
    place = Path(name).expanduser() if name else _beside(checkpoint.directory)
    if place is None and not Path(checkpoint.base).expanduser().is_dir():
        name = OFFICIAL_TOWER  # downloaded automatically only for a checkpoint from the hub
    if name and (place is None or not place.exists()):
        place = download(name, "adapter.feature_tower", ["*.bin", *CHECKPOINTS.patterns])
    files = [] if place is None else [place] if place.is_file() else sorted(place.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(
            f"{checkpoint.directory} has no feature tower inside, and there is none in {FOLDER} beside it. It encodes "
            f"images into the head's targets: set adapter.feature_tower={OFFICIAL_TOWER} (8.7 GB), or train on "
            'the features that images were generated from with adapter.x0="sampled".'
        )
    return files[0]


def _beside(checkpoint: Path) -> Path | None:
    """Find the tower's folder in the checkpoint, or next to it."""
    return next((path for path in (checkpoint / FOLDER, checkpoint.parent / FOLDER) if path.is_dir()), None)


def _heads(shapes: Mapping[str, Any], checkpoint: Checkpoint, options: Options) -> int:
    """Return the number of heads, which weights do not show: from an option, a file, or the preset's name."""
    name = str(checkpoint.config.get("gen_vision_tower"))
    width = options.feature_head_width or _configured_width(checkpoint, options)
    if not width and name in eva.PRESETS:
        width = eva.PRESETS[name].head_width
    if not width:
        raise CheckpointError(
            f'The width of the attention heads of the feature tower "{name}" is unknown: set '
            f"adapter.feature_head_width, or write it into a {CONFIG} beside the weights (vision_cfg.head_width)."
        )
    return max(1, int(shapes.get("cls_token", (1, 1, width))[-1]) // width)


def _configured_width(checkpoint: Checkpoint, options: Options) -> int:
    """Read vision_cfg.head_width from the first tower_config.json; 0 without one."""
    source = Path(options.feature_tower).expanduser() if options.feature_tower else checkpoint.directory
    first = source if source.is_dir() else source.parent
    for place in (first, checkpoint.directory / FOLDER, checkpoint.directory.parent / FOLDER):
        if (place / CONFIG).is_file():
            return int(read_json(place / CONFIG).get("vision_cfg", {}).get("head_width", 0))
    return 0
