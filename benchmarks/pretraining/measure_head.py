"""Share of correct images of a model that generates features: after tower and decoder alone, and its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from pretraining.measure import draw_all, drawing, seed_of
from srum_benchmarks.shapes.checker import check
from srum_benchmarks.shapes.render import compose, draw
from srum_benchmarks.shapes.world import prompts
from srum_core.records import Prompt


def rebuilt(model: Any, count: int, split: str = "dev") -> dict[str, Any]:
    """Share of rendered images that are correct after tower and decoder: the upper bound for the head."""
    asked, images = rendered(count, split)
    made, options = model.parts["decoder"], model.options.sampling
    features = torch.stack(model.encode(images)).flatten(1, 2)
    noise = torch.stack([made.noise(made.size, torch.Generator().manual_seed(i)) for i in range(count)])
    latents = made.latents(features, torch.zeros_like(features), noise, options)
    back = [(255 * each).round().byte().permute(1, 2, 0).numpy() for each in made.pixels(latents)]
    return figures(back, asked)


def rendered(count: int, split: str = "dev") -> tuple[Sequence[Prompt], list[Image.Image]]:
    """Prompts, and an image of the world for each."""
    asked, rng = prompts(split, count), np.random.default_rng(0)
    return asked, [Image.fromarray(draw(compose(prompt.tags, rng))) for prompt in asked]


def generated(model: Any, count: int, split: str = "dev") -> dict[str, Any]:
    """How right the model's own images are."""
    asked = prompts(split, count)
    made = draw_all(model, asked, [seed_of(prompt, 0, 0) for prompt in asked])
    return figures(made, asked)


def figures(images: Sequence[Any], asked: Sequence[Prompt]) -> dict[str, Any]:
    found = [check(each, prompt.tags) for each, prompt in zip(images, asked, strict=True)]
    return drawing(found, asked, np.arange(len(asked)))
