"""The last phase: understanding on images that the model itself generated, while generation stays unchanged.

A model's own mistakes are subtler than synthetic corruptions. It generates images for train prompts, with several
guidance scales; the exact checker labels each image; the image tower and its connector learn from the answers, and
from what covers each patch. Generation uses neither, so it stays bit-identical. With an anchor the text weights learn
too, which generation uses: a loss on the distance of its velocities from their old values limits the change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from pretraining.bagel import answer_loss, write
from pretraining.captions import fulfilled, near_miss
from pretraining.curriculum import Recipe, loader
from pretraining.examples import exchanges, lesson, self_play
from pretraining.fit import Phase, autocast, fit, named_of
from pretraining.measure import draw_all
from pretraining.scenes import random_prompt
from pretraining.vision_pretraining import Sight, patch_labels, patches_of
from srum_benchmarks.shapes.appraisal import Lesson, appraise
from srum_benchmarks.shapes.checker import Pixels, look
from srum_benchmarks.shapes.world import SIDE, crowded
from srum_core.flow import Schedule, flow_step
from srum_core.protocols import UnifiedModel
from srum_core.records import Prompt
from srum_core.training.lora import Start, Tuned

GUIDANCE = (1.5, 2.5, 4.0)
"""Guidance scales; images with less guidance have more faults."""
RENDERED = 0.3
"""Share of the examples that are rendered, so that earlier training is not lost."""
UNCLEAN = 0.5
"""Share of the generated ones that contain something that is not a shape."""
PLAYED = 0.15
"""Share of the lessons that ask a question of self-play, so that the text weights do not forget it."""
NEW_HEAD = 100
"""Steps in which only the head learns what covers each patch: a new one's gradients would spoil the tower."""
SHIFT = 2
"""Pixels; a generated image is shifted by up to so many, and mirrored every other time."""


def generate_own(generators: Sequence[UnifiedModel], recipe: Recipe, out: Path) -> tuple[np.ndarray, list[Prompt]]:
    """Generate with each of `generators` for its own train prompts; return images (n, 32, 32, 3) and prompts. Parts
    that are in `out` are not generated again."""
    parts, all_prompts, count = [], list[Prompt](), recipe.looking_images
    for part, generator in enumerate(generators):
        rng = np.random.default_rng([recipe.seed, part, len("looking")])
        prompts = [random_prompt(rng, world=recipe.world) for _ in range(count)]
        path = out / f"own-{part}.npy"
        if not path.is_file():
            images = draw_all(generator, prompts, [part * 1_000_003 + i for i in range(count)])
            with path.with_suffix(".aside").open("wb") as file:
                np.save(file, np.stack(images))
            path.with_suffix(".aside").replace(path)
        parts.append(np.load(path))
        all_prompts += prompts
    return np.concatenate(parts), all_prompts


class Glances(Dataset):
    """Item i is the batch of step first + i: images, their patches' labels, a (question, answer) for each."""

    def __init__(
        self,
        recipe: Recipe,
        templates: tuple[str, str],
        first: int,
        patch: int,
        drawn: np.ndarray,
        prompts: Sequence[Prompt],
    ) -> None:
        self.recipe, self.templates, self.first, self.patch = recipe, templates, first, patch
        self.drawn, self.prompts = drawn, prompts
        self.small = recipe.world == "crowded"
        unclean = [i for i, each in enumerate(drawn) if any(thing.shape is None for thing in look(each, self.small))]
        self.unclean = unclean or list(range(len(drawn)))

    def __len__(self) -> int:
        return max(0, self.recipe.looking_steps - self.first)

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng([self.recipe.seed, self.first + index, len("looking")])
        images, pairs = zip(*(self._one(rng) for _ in range(self.recipe.looking_batch)), strict=True)
        return np.stack(images), np.stack([patch_labels(each, self.patch, self.small) for each in images]), pairs

    def _one(self, rng: np.random.Generator) -> tuple[Pixels, list[tuple[str, str]]]:
        example = lesson(rng, world=self.recipe.world) if rng.random() < RENDERED else self._drawn(rng)
        self_played = self.recipe.looking_anchor and not self.small and rng.random() < PLAYED
        pairs = self_play(example, rng) if self_played else exchanges(example, *self.templates)
        return example.image, [pairs[int(rng.integers(len(pairs)))]]  # many images help more than many questions

    def _drawn(self, rng: np.random.Generator) -> Lesson:
        among = self.unclean if rng.random() < UNCLEAN else range(len(self.drawn))
        i = among[int(rng.integers(len(among)))]
        prompt = self.prompts[i]
        if crowded(prompt.tags):
            return self._crowd(self.drawn[i], prompt, rng)
        image = shifted(self.drawn[i], rng)
        if rng.random() < 0.3:
            other = fulfilled(look(image), rng) if rng.random() < 0.5 else None
            prompt = other or near_miss(prompt, rng)
        return appraise(image, prompt)

    def _crowd(self, image: Pixels, prompt: Prompt, rng: np.random.Generator) -> Lesson:
        """Mirror the image or not, but do not move it: things would lie between cells. Such images are rarely right, so
        most get a prompt that they fulfil or just miss."""
        image = image[:, ::-1] if rng.random() < 0.5 else image
        if rng.random() < 0.6:
            true = fulfilled(look(image, True), rng, crowd=True)
            prompt = true if true is not None and rng.random() < 0.6 else near_miss(true or prompt, rng)
        return appraise(image, prompt)


def shifted(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Mirror the image or not, and move it by up to SHIFT pixels; new pixels repeat the edge."""
    wide = np.pad(image[:, ::-1] if rng.random() < 0.5 else image, [(SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)], "edge")
    y, x = rng.integers(2 * SHIFT + 1, size=2).tolist()
    return wide[y : y + SIDE, x : x + SIDE]


def train_looking(
    model: Any, recipe: Recipe, out: Path, templates: tuple[str, str], generators: Sequence[UnifiedModel]
) -> None:
    """Train tower and connector on the answers and the patches' labels of images by `generators`; write
    `out`/model-looking.

    With `looking_anchor` train the text weights too; then the `model` must have separate generation training."""
    torch.manual_seed(recipe.seed)
    images, prompts = generate_own(generators, recipe, out)
    words = text_weights(model) if recipe.looking_anchor else {}
    anchor = Anchor(model, words, recipe, images, prompts) if words else None  # before anything is restored
    sight = Sight.of(model)
    parameters = named_of(sight=sight, connector=model.eye.connector)
    parameters |= {f"words.{key}": parameter for key, parameter in words.items()}

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """`right`: share of patches with the right label; `moved`: distance that the velocities moved."""
        images, labels, pairs = batch
        with autocast(model.denoiser.device):
            # First: it exchanges weights for a moment, which would break a graph built before.
            moved = anchor(step) if anchor else torch.zeros((), device=model.denoiser.device)
            covered, right = sight.loss(*patches_of(model, images, labels), head_only=step < NEW_HEAD)
            looking = answer_loss(model, [Image.fromarray(each) for each in images], pairs)
        loss = covered + 2 * looking + recipe.looking_anchor * moved
        return loss, {"covered": covered, "right": right, "looking": looking, "moved": moved}

    share = recipe.looking_rate
    phase = Phase("looking", recipe.looking_steps, share * recipe.adam, share * recipe.muon, warm_up=50)
    patch = model.eye.patch
    fit(phase, out, parameters, lambda done: loader(Glances(recipe, templates, done, patch, images, prompts)), loss_of)
    write(model, out / "model-looking")


# ---- the anchor ------------------------------------------------------------------------------------------------------


def text_weights(model: Any) -> dict[str, nn.Parameter]:
    """Return the text weights without word embeddings: the denoiser's weights that the recipe of a model with separate
    generation training does not train."""
    generation = re.compile("|".join(f"(?:{each})" for each in model.recipe.full))
    parameters = model.denoiser.named_parameters()
    return {name: each for name, each in parameters if not generation.fullmatch(name) and "embed" not in name}


class Anchor:
    """Returns, for a step, the mean squared distance of the velocities from the initial ones, on images (n, 32, 32, 3)
    and their prompts."""

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
        indices = rng.integers(len(self.drawn), size=self.recipe.looking_batch).tolist()
        words = [None if rng.random() < self.recipe.dropped else self.prompts[i].text for i in indices]
        clean = self.model.encode([Image.fromarray(self.drawn[i]) for i in indices])
        generator = torch.Generator().manual_seed(step)
        time = self.schedule.sample(len(clean), generator)
        flow = flow_step(
            self.model.denoiser, clean, self.model.condition(words), time, None, generator, start=self.start
        )
        pairs = zip(flow.velocity, flow.start or (), strict=True)
        return torch.stack([(new.float() - old.float()).square().mean() for new, old in pairs]).mean()
