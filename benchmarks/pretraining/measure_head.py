"""Measure the correct images of a model that generates features: after tower and decoder alone, and generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from pretraining.measure import drawing, measure
from pretraining.scenes import compose, draw
from srum_benchmarks.shapes.checker import check
from srum_benchmarks.shapes.world import prompts
from srum_core.records import Prompt


def rebuilt(model: Any, count: int, split: str = "dev") -> dict[str, Any]:
    """Return the share of rendered images that are correct after tower and decoder: the upper bound for the head."""
    scenes, images = rendered(count, split)
    decoder = model.parts["decoder"]
    features = torch.stack(model.encode(images)).flatten(1, 2)
    noise = torch.stack([decoder.noise(decoder.size, torch.Generator().manual_seed(i)) for i in range(count)])
    latents = decoder.latents(features, torch.zeros_like(features), noise, model.options.sampling)
    return figures([(255 * x).round().byte().permute(1, 2, 0).numpy() for x in decoder.pixels(latents)], scenes)


def rendered(count: int, split: str = "dev") -> tuple[Sequence[Prompt], list[Image.Image]]:
    """Return prompts, and a rendered image of each."""
    scenes, rng = prompts(split, count), np.random.default_rng(0)
    return scenes, [Image.fromarray(draw(compose(prompt.tags, rng))) for prompt in scenes]


def figures(images: Sequence[Any], scenes: Sequence[Prompt]) -> dict[str, Any]:
    verdicts = [check(image, prompt.tags) for image, prompt in zip(images, scenes, strict=True)]
    return drawing(verdicts, scenes, np.arange(len(scenes)))


def generated(model: Any, count: int, split: str = "dev") -> dict[str, Any]:
    """Return the share of generated images that are correct."""
    return dict(measure(model, ("", ""), split, count, only="drawing")["drawing"])
