"""The Show-o2 golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from golden_sets import GoldenSet
from torch import Tensor

from srum_core.models.tensors import patchify, to_image, unpatchify
from srum_showo2.model import ShowO2
from srum_showo2.options import Options

SET = GoldenSet("showo2", tolerance=2e-5)  # what the set itself calls comfortable
folder, need, read_json, tensors, close = SET.folder, SET.need, SET.read_json, SET.tensors, SET.close


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one case, under their own names."""
    return {name.removeprefix(f"{prefix}."): each for name, each in weights.items() if name.startswith(f"{prefix}.")}


def cases(name: str) -> list[str]:
    """Names of a file's cases; none where there is no set."""
    if not (folder() / f"{name}.json").is_file():
        return []
    return [case for case, about in read_json(name).items() if isinstance(about, dict)]


def same_levels(pixels: Tensor, expected: Tensor) -> None:
    """(n, 3, H, W) become whole levels (n, H, W, 3); rounding may move one value in a thousand by one."""
    ours = np.stack([np.asarray(to_image(each), int) for each in pixels])
    gaps = np.abs(ours - expected.numpy().astype(int))
    assert gaps.max() <= 1
    assert (gaps > 0).mean() <= 1e-3


def grids(latents: Tensor) -> list[Tensor]:
    """(n, c, h, w) -> grids (rows, columns, cell)."""
    return list(patchify(latents, model().denoiser.sizes.patch))


def latents(cells: list[Tensor]) -> Tensor:
    """The inverse of `grids`."""
    return unpatchify(torch.stack(cells), model().denoiser.sizes.patch)


def model(train: Any = "head", understanding: Any = "trained", control_tokens: bool = True) -> ShowO2:
    """The checkpoint with the settings that the set's files state; control tokens act as in the reference."""
    need()
    return _model(train, understanding, control_tokens)


@cache
def _model(train: Any, understanding: Any, control_tokens: bool) -> ShowO2:
    return ShowO2(
        Options(
            checkpoint=str(folder() / "checkpoint"),
            device="cpu",
            dtype="float32",
            train=train,
            caption_tokens=read_json("sequences")["max_text_len"],
            control_tokens=control_tokens,
            understanding=understanding,
            vision_size=read_json("understanding")["resolution"],
        )
    )
