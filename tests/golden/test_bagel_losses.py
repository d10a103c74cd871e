"""The loss arithmetic and the released reward map against the reference's numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from srum_core.flow import FlowStep
from srum_core.records import Judgement, Region, Score
from srum_losses import ReleasedOptions, SrumOptions
from srum_losses.maps import Released
from srum_losses.objectives import SftLoss, SrumLoss

pytestmark = pytest.mark.golden
GLOBAL = "global_layout_reward"


@pytest.fixture(scope="module")
def forward(goldens: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = goldens / "bagel"
    return json.loads((folder / "train_forward.json").read_text()), load_file(folder / "train_forward.safetensors")


def make_step(facts: dict[str, Any], tensors: dict[str, Tensor], shift: str, mode: str, signed: bool) -> FlowStep:
    grids = [(sample["grid_h"], sample["grid_w"]) for sample in facts["samples"]]
    sizes = [rows * columns for rows, columns in grids]

    def cut(packed: Tensor) -> list[Tensor]:
        parts = packed.split(sizes)
        return [part.reshape(*grid, *part.shape[1:]) for part, grid in zip(parts, grids, strict=True)]

    def latents(name: str) -> list[Tensor]:
        found = (tensors[f"sample{i}.{name}"] for i in range(len(grids)))
        return [
            rearrange(latent, "z (h p) (w q) -> h w (p q z)", h=h, w=w)
            for latent, (h, w) in zip(found, grids, strict=True)
        ]

    noise = cut(tensors["noise"])
    target = [e - x for e, x in zip(noise, latents("latent"), strict=True)]
    reference = target if mode == "self" else [e - x for e, x in zip(noise, latents("ref_latent"), strict=True)]
    weight = cut(torch.cat([tensors[f"sample{i}.reward_tokens"] for i in range(len(grids))]))
    return FlowStep(
        velocity=cut(tensors[f"{shift}.v_theta"]),
        target=target,
        reference=reference,
        weight=[2 * cells - 1 for cells in weight] if signed else weight,
        time=torch.zeros(len(grids)),
    )


@pytest.mark.parametrize("signed", [False, True])
def test_losses(forward: tuple[dict[str, Any], dict[str, Tensor]], close: Callable[..., None], signed: bool) -> None:
    facts, tensors = forward
    prefix = "signed_" if signed else ""
    for case, theirs in facts["losses"].items():
        shift, mode = case.split(".")
        step = make_step(facts, tensors, shift, mode, signed)
        total, parts = SrumLoss(SrumOptions(constraint=facts["lambda"]))(step)
        (name,) = (key for key in theirs if key.startswith(f"{prefix}total_lambda"))
        close(total, theirs[name], 1e-5, f"{case} total")
        close(parts["reward"], theirs[f"{prefix}loss_reward"], 1e-5, f"{case} reward")
        close(parts["reference"], theirs["loss_constraint"], 1e-5, f"{case} reference")
        plain, _ = SftLoss()(evolve(step, target=step.reference))
        close(plain, theirs["mse_no_reward_map"], 1e-5, f"{case} plain")


@pytest.fixture(scope="module")
def rewards(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "bagel" / "reward_map.json").read_text())


def judgement(case: dict[str, Any]) -> Judgement:
    """The record as ours: boxes as fractions of the image the map is made for, since the reference applies a box's
    pixel numbers to the resized image. What the reference skips (no proper box) never becomes a `Region` of ours."""
    width, height = case["map_width"], case["map_height"]
    regions: list[Region] = []
    scores: list[Score] = []
    for entry in case["vlm_rewards"]:
        if entry["object"] == GLOBAL:
            scores += [Score(entry["score"])] if "score" in entry else []
            continue
        box = proper_box(entry.get("bbox"), width, height)
        if box is None:
            continue
        regions.append(Region(str(len(regions) + 1), box, entry["object"]))
        scores += [Score(entry["score"], regions[-1].id)] if "score" in entry else []
    return Judgement("x", tuple(regions), tuple(scores))


def proper_box(values: Any, width: int, height: int) -> tuple[float, float, float, float] | None:
    if not isinstance(values, list) or len(values) != 4:
        return None
    try:
        x0, y0, x1, y1 = (int(value) if isinstance(value, str) else float(value) for value in values)
    except (TypeError, ValueError):
        return None
    if not all(math.isfinite(edge) for edge in (x0, y0, x1, y1)):
        raise ValueError("a box with an infinite edge")
    x0, x1 = max(0.0, x0 / width), min(1.0, x1 / width)
    y0, y1 = max(0.0, y0 / height), min(1.0, y1 / height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def readable(case: dict[str, Any]) -> bool:
    """Whether every score given is a number in [-1, 1] and every box is finite."""
    given = [entry["score"] for entry in case["vlm_rewards"] if "score" in entry]
    edges = [edge for entry in case["vlm_rewards"] for edge in entry.get("bbox") or [] if isinstance(edge, float)]
    return all(isinstance(score, int | float) and abs(score) <= 1 for score in given) and all(map(math.isfinite, edges))


def cases(rewards: dict[str, Any], wanted: bool) -> Iterator[dict[str, Any]]:
    found = [case for case in rewards["cases"] if readable(case) is wanted]
    assert found
    yield from found


def test_reward_maps(rewards: dict[str, Any], close: Callable[..., None]) -> None:
    stride = rewards["latent_token_stride"]
    released = Released(ReleasedOptions(pixels_per_cell=stride))
    for case in cases(rewards, wanted=True):
        assert case["status"] == "ok", case["name"]
        grid = case["map_height"] // stride, case["map_width"] // stride
        ours = released(judgement(case), grid)
        assert ours.dtype == torch.float32
        close(ours, torch.tensor(case["token_grid"]), 1e-5, case["name"])


def test_what_the_reference_drops_or_does_not_clip_we_refuse(rewards: dict[str, Any]) -> None:
    """A score of 8 gives the reference weights above 1; null, text and infinite boxes make it drop the sample.
    Here none of them can become a record."""
    for case in cases(rewards, wanted=False):
        size = {"map_width": case["image_size"][0], "map_height": case["image_size"][1]}
        with pytest.raises((TypeError, ValueError)):
            judgement({**case, **size})
