"""The feature tower of a checkpoint: where its weights are, inside or beside, and what it makes of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from srum_blip3o import eva
from srum_blip3o.checkpoint import TOWER, Checkpoint, within
from srum_blip3o.options import Options
from srum_blip3o.place import beside, find_tower
from srum_blip3o.weights import fill
from srum_core.errors import CheckpointError
from srum_core.models.weights import differences, read_json, read_tensors, refuse, refuse_infinite

CONFIG, FOLDER = "tower_config.json", "eva_clip_vision_tower"


@frozen
class Tower:
    """A loaded tower with its pooling."""

    net: eva.Tower
    stride: int

    @property
    def image(self) -> int:
        """Pixels a side of the pictures it sees."""
        return self.net.sizes.image

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, side, side) -> feature grids (n, rows, columns, c)."""
        return eva.pool(self.net(pictures), self.stride)


def load(checkpoint: Checkpoint, options: Options, device: torch.device, dtype: torch.dtype) -> Tower:
    """Raises CheckpointError where there are no weights, or others than the head's features need."""
    tensors, where = _tensors(checkpoint, options)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = eva.read_sizes(shapes, _heads(shapes, checkpoint, options))
    wanted = eva.shapes(sizes)
    problems = differences(wanted, shapes) + [f"unused: {name}" for name in sorted(shapes.keys() - wanted.keys())]
    refuse(f"The feature tower in {where} does not match", problems)
    channels = checkpoint.sizes.head.channels
    if sizes.width != channels:
        raise CheckpointError(f"The tower in {where} makes features of {sizes.width} channels, the head {channels}.")
    side_of(sizes.grid, checkpoint.stride)
    refuse_infinite(tensors.items(), where)
    with torch.device("meta"):
        net = eva.Tower(sizes)
    fill(net, tensors, device, dtype)
    return Tower(net, checkpoint.stride)


def grid_side(checkpoint: Checkpoint, options: Options) -> int:
    """Feature tokens a side, by what says it and is least to read: the table of positions among the checkpoint's
    weights, the preset's name, the table in a file of its own."""
    preset = eva.PRESETS.get(str(checkpoint.config.get("gen_vision_tower")))
    if checkpoint.sizes.tower_inside:
        patches = _square_root(checkpoint.stored.shapes[f"{TOWER}pos_embed"][1] - 1)
    elif preset is not None:
        patches = preset.grid
    else:
        patches = _square_root(_tensors(checkpoint, options)[0]["pos_embed"].shape[1] - 1)
    return side_of(patches, checkpoint.stride)


def _square_root(positions: int) -> int:
    return round(positions**0.5)


def side_of(patches: int, stride: int) -> int:
    """Feature tokens a side, of so many patches a side. Raises CheckpointError if the pooling leaves a rest."""
    side, rest = divmod(patches, stride)
    if rest or not side:
        raise CheckpointError(f"A tower of {patches} x {patches} patches cannot be pooled by {stride}.")
    return side


def copy_beside(checkpoint: Checkpoint, options: Options, directory: Path) -> None:
    """Put a tower that lies beside the checkpoint beside its copy too, inside the directory; of one whose weights are
    in the checkpoint, what is said about it. One that came from the hub is found there again."""
    own = Path(options.feature_tower).expanduser()
    found = own if options.feature_tower and own.is_dir() else beside(checkpoint.directory)
    if found is not None and not (directory / FOLDER).exists():
        skipped = ("*.py", *(("*.bin",) if checkpoint.sizes.tower_inside else ()))
        shutil.copytree(found, directory / FOLDER, ignore=shutil.ignore_patterns(*skipped))


def _tensors(checkpoint: Checkpoint, options: Options) -> tuple[Mapping[str, Tensor], str]:
    """Own names -> tensors, and where they are, for people."""
    file = find(checkpoint, options)
    if file is None:
        names = list(within(TOWER, checkpoint.stored.shapes))
        stored = checkpoint.stored.tensors(TOWER + name for name in names)
        return {name: stored[TOWER + name] for name in names}, str(checkpoint.directory)
    return read_tensors(file, lazily=True), str(file)


def check(checkpoint: Checkpoint, options: Options) -> None:
    """Look for the weights without reading them. Raises CheckpointError where `load` would miss something."""
    find(checkpoint, options)
    _heads({}, checkpoint, options)


def find(checkpoint: Checkpoint, options: Options) -> Path | None:
    """The file of the tower's weights; None if they are among the checkpoint's. Raises CheckpointError."""
    if checkpoint.sizes.tower_inside and not options.feature_tower:
        return None
    found = find_tower(options.feature_tower, checkpoint.directory, checkpoint.base)
    files = [] if found is None else [found] if found.is_file() else sorted(found.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(
            f"{checkpoint.directory} has no feature tower inside, and there is none in {FOLDER} beside it. It turns "
            "pictures into what the head learns: set adapter.feature_tower=jiuhai/eva_clip_vision_tower (8.7 GB), or "
            'learn from the features that pictures were drawn from with adapter.x0="sampled".'
        )
    return files[0]


def _heads(shapes: Mapping[str, Any], checkpoint: Checkpoint, options: Options) -> int:
    """The one thing that the weights do not tell: by an option, a file beside them, or the preset's name."""
    name = str(checkpoint.config.get("gen_vision_tower"))
    preset = eva.PRESETS.get(name)
    width = options.feature_head_width or _told(checkpoint, options) or (preset.head_width if preset else 0)
    if not width:
        raise CheckpointError(
            f'The width of the attention heads of the feature tower "{name}" is not known: say it with '
            f"adapter.feature_head_width, or in a {CONFIG} beside the weights (vision_cfg.head_width)."
        )
    return max(1, int(shapes.get("cls_token", (1, 1, width))[-1]) // width)


def _told(checkpoint: Checkpoint, options: Options) -> int:
    """vision_cfg.head_width of the first tower_config.json there is; 0 without one."""
    own = Path(options.feature_tower).expanduser() if options.feature_tower else checkpoint.directory
    here = own if own.is_dir() else own.parent
    places = (here, checkpoint.directory / FOLDER, checkpoint.directory.parent / FOLDER)
    for place in places:
        if (place / CONFIG).is_file():
            return int(read_json(place / CONFIG).get("vision_cfg", {}).get("head_width", 0))
    return 0
