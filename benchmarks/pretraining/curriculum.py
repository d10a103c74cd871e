"""The batches on which the bundled model is pretrained: new scenes and lessons for each (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import frozen
from torch.utils.data import DataLoader, Dataset

from pretraining import fit
from pretraining.captions import fulfilled, image_for, near_miss
from pretraining.examples import exchanges, lesson, self_play
from pretraining.scenes import compose, random_prompt
from pretraining.vision_pretraining import patch_labels
from srum_benchmarks.shapes.appraisal import Lesson, appraise
from srum_benchmarks.shapes.checker import look
from srum_benchmarks.shapes.world import crowded


@frozen(kw_only=True)
class Recipe(fit.Recipe):
    """The training of a bundled BAGEL."""

    world: str = "shapes"
    """The world: "shapes" or "crowded"."""
    autoencoder_steps: int = 1200
    autoencoder_batch: int = 32
    eye_steps: int = 2000
    eye_batch: int = 96
    """Images per step for the phase in which the tower learns what covers each patch, before answers."""
    steps: int = 9000
    """Steps of the joint phase."""
    drawings: int = 128
    """Images per step for generation, until step `turn`."""
    lessons: int = 8
    """Images per step for understanding, six or seven questions each, until step `turn`."""
    turn: int = 1500
    """The step from which most of the work goes into understanding; before, into generation."""
    late_drawings: int = 96
    late_lessons: int = 24
    late_looking: float = 2.0
    """Weight of the answers' cross-entropy from `turn` on (0.3 before): most tokens are the same in all answers, so
    that their mean depends little on the image."""
    drawing_steps: int = 0
    """Steps of the next phase, in which generation is trained alone."""
    drawing_batch: int = 128
    alike: int = 1
    """Consecutive images of each caption in that phase."""
    looking_steps: int = 0
    """Steps of the last phase, in which the image tower learns from images of the model (`self_labelling.py`)."""
    looking_batch: int = 32
    looking_rate: float = 0.4
    """Share of both learning rates at the start of this phase."""
    looking_anchor: float = 0.0
    """Weight of the squared distance that velocities move in this phase. Above 0, text weights are trained too; with 0
    they, and so generation, do not change."""
    looking_images: int = 1600
    """Images that the model generates for this phase, with each of three guidance scales."""
    adam: float = 1.5e-3
    """Learning rate of embeddings, norms, biases, heads."""
    decay: float = 0.35
    missed_captions: float = 0.35
    """Share of images that miss their caption (half of it for three objects), large enough that the model understands
    better than it generates. In the crowded world, the share that deviates object by object."""


CROWDED = Recipe(
    world="crowded",
    autoencoder_steps=400,
    eye_steps=100,
    steps=1000,
    turn=0,
    late_drawings=64,
    late_lessons=16,
    drawing_steps=8000,
    alike=4,
    looking_steps=900,
    looking_anchor=20.0,
    muon=0.008,
    decay=0.4,
    missed_captions=1.0,
)
"""The training of the bundled model of the crowded world, from the weights of the bundled one."""


def image(rng: np.random.Generator, missed: float = 0.0, world: str = "shapes") -> tuple[np.ndarray, str]:
    """Return an image and its caption; a share `missed` of images misses it in one thing."""
    return images_of_one(rng, 1, missed, world)[0]


def images_of_one(
    rng: np.random.Generator, count: int, missed: float, world: str = "shapes"
) -> list[tuple[np.ndarray, str]]:
    """Return images of one caption, each with the caption."""
    prompt = random_prompt(rng, world=world)
    return [(image_for(prompt, compose(prompt.tags, rng), missed, rng), prompt.text) for _ in range(count)]


def asked_about(first: Lesson, templates: tuple[str, str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return (question, answer) pairs: the image judged for three prompts (its own, one that it fulfils if any, near
    misses); self-play and the regions for one of these each. The same image with other prompts teaches to compare."""
    crowd = crowded(first.prompt.tags)
    true = fulfilled(look(first.image, crowd), rng, crowd)
    second = true if true is not None and rng.random() < 0.7 else near_miss(first.prompt, rng)
    prompts = [second, near_miss(true or first.prompt, rng)]
    views = [first, *(appraise(first.image, prompt) for prompt in prompts)]
    pairs = [exchanges(view, *templates) for view in views]
    regional = [pair[1] for pair in pairs if len(pair) > 1]
    played = self_play(views[int(rng.integers(len(views)))], rng)
    start = int(rng.random() < 0.6)  # writing questions is learnt quickly
    # In the crowded world these questions are as long as its lists, and no judge of it asks them.
    played = [] if crowd else played[start:]
    return [pair[0] for pair in pairs] + played + ([regional[int(rng.integers(len(regional)))]] if regional else [])


class Steps(Dataset):
    """Item i is the batch of step first + i; `patch`: pixels per side of the tower's patches."""

    def __init__(self, recipe: Recipe, templates: tuple[str, str], first: int, phase: str, patch: int = 0) -> None:
        self.recipe, self.templates, self.first, self.phase, self.patch = recipe, templates, first, phase, patch

    def __len__(self) -> int:
        total = {
            "autoencoder": self.recipe.autoencoder_steps,
            "eye": self.recipe.eye_steps,
            "both": self.recipe.steps,
            "drawing": self.recipe.drawing_steps,
        }
        return max(0, total[self.phase] - self.first)

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng([self.recipe.seed, self.first + index, len(self.phase)])
        if self.phase == "autoencoder":
            world, count = self.recipe.world, self.recipe.autoencoder_batch
            return np.stack([self._lesson(rng).image if i % 2 else image(rng, 0.0, world)[0] for i in range(count)])
        if self.phase == "eye":
            batch = [self._lesson(rng).image for _ in range(self.recipe.eye_batch)]
            small = self.recipe.world == "crowded"
            return np.stack(batch), np.stack([patch_labels(image, self.patch, small) for image in batch])
        if self.phase == "drawing":
            return self._drawings(rng, self.recipe.drawing_batch, self.recipe.alike)
        late = self.first + index >= self.recipe.turn
        images = self.recipe.late_drawings if late else self.recipe.drawings
        pixels, captions = self._drawings(rng, images)
        lessons = [self._lesson(rng) for _ in range(self.recipe.late_lessons if late else self.recipe.lessons)]
        pairs = [asked_about(each, self.templates, rng) for each in lessons]
        return pixels, captions, [each.image for each in lessons], pairs

    def _lesson(self, rng: np.random.Generator) -> Lesson:
        return lesson(rng, world=self.recipe.world)

    def _drawings(self, rng: np.random.Generator, count: int, alike: int = 1) -> tuple[np.ndarray, list[str | None]]:
        missed, world = self.recipe.missed_captions, self.recipe.world
        pairs = [pair for _ in range(count // alike) for pair in images_of_one(rng, alike, missed, world)]
        with_text = [rng.random() >= self.recipe.dropped for _ in range(count // alike)]
        captions = [text if with_text[place // alike] else None for place, (_, text) in enumerate(pairs)]
        return np.stack([image for image, _ in pairs]), captions


def _as_is(item: Any) -> Any:
    return item


def loader(dataset: Dataset) -> DataLoader:
    """Load batches in a separate process."""
    return DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=_as_is)


def captioned(recipe: fit.Recipe, steps: int, batch: int, alike: int = 1) -> Callable[[int], DataLoader]:
    """Return, for `fit`, a function from a step to the batches of captioned images from this step on."""
    plan = Recipe(
        seed=recipe.seed, drawing_steps=steps, drawing_batch=batch, alike=alike, dropped=recipe.dropped,
        missed_captions=recipe.missed_captions,
    )  # fmt: skip
    return lambda done: loader(Steps(plan, ("", ""), done, "drawing"))


def corpus(templates: tuple[str, str], world: str = "shapes", count: int = 2000) -> list[str]:
    rng = np.random.default_rng(1)
    return [text for _ in range(count) for pair in exchanges(lesson(rng, world=world), *templates) for text in pair]
