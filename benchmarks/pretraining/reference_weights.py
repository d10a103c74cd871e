"""Let the text weights learn better answers, while an anchor keeps generation unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pretraining.curriculum import Recipe
from srum_core.flow import Schedule, flow_step
from srum_core.records import Prompt
from srum_core.training.lora import Start, Tuned


def text_weights(model: Any) -> dict[str, nn.Parameter]:
    """The text weights without word embeddings: the denoiser's weights that are not trained by the recipe of a model
    with separate generation training."""
    drawing = re.compile("|".join(f"(?:{each})" for each in model.recipe.full))
    return {
        name: each
        for name, each in model.denoiser.named_parameters()
        if not drawing.fullmatch(name) and "embed" not in name
    }


class Anchor:
    """Mean squared distance of the velocities from what they were when this was made, on images (n, 32, 32, 3) and
    their prompts; called with the step."""

    def __init__(
        self,
        model: Any,
        weights: Mapping[str, nn.Parameter],
        recipe: Recipe,
        drawn: np.ndarray,
        prompts: Sequence[Prompt],
    ) -> None:
        self.model, self.recipe, self.drawn, self.prompts = model, recipe, drawn, prompts
        self.start = Start.of(Tuned(model.denoiser, dict(weights), "full"))
        self.schedule = Schedule("logit-normal", recipe.shift)

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.recipe.seed, step, len("anchor")])
        some = rng.integers(len(self.drawn), size=self.recipe.looking_batch).tolist()
        words = [None if rng.random() < self.recipe.dropped else self.prompts[i].text for i in some]
        clean = self.model.encode([Image.fromarray(self.drawn[i]) for i in some])
        generator = torch.Generator().manual_seed(step)
        time = self.schedule.sample(len(clean), generator)
        noise = [torch.randn(x.shape, generator=generator) for x in clean]
        flow = flow_step(self.model.denoiser, clean, self.model.condition(words), time, None, noise, start=self.start)
        moved = zip(flow.velocity, flow.start or (), strict=True)
        return torch.stack([(now.float() - then.float()).square().mean() for now, then in moved]).mean()
