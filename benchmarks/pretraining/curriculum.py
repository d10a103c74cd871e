"""What the bundled model is pretrained on, step by step: fresh scenes and lessons from (seed, step)."""

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
    """What a bundled BAGEL was made with."""

    world: str = "shapes"
    """The world: "shapes" or "crowded"."""
    autoencoder_steps: int = 1200
    autoencoder_batch: int = 32
    eye_steps: int = 2000
    eye_batch: int = 96
    """Images a step from which the tower learns what covers each patch, before answers are trained."""
    steps: int = 9000
    """Of the joint phase."""
    drawings: int = 128
    """Images per step for generation, until step `turn`."""
    lessons: int = 8
    """Images a step that are judged, six or seven questions each, until step `turn`."""
    turn: int = 1500
    """Generation comes first; from this step on, most of the work goes into understanding."""
    late_drawings: int = 96
    late_lessons: int = 24
    late_looking: float = 2.0
    """Weight of the answers' cross-entropy from `turn` on (0.3 before): most of their tokens never change, so
    their mean depends little on the image."""
    drawing_steps: int = 0
    """Of the phase after it, in which generation is trained alone."""
    drawing_batch: int = 128
    alike: int = 1
    """Images of each caption in that phase, one after another."""
    looking_steps: int = 0
    """Of the last phase, in which the image tower learns from images that the model generated (`self_labelling.py`)."""
    looking_batch: int = 32
    looking_rate: float = 0.4
    """Share of both learning rates that this phase begins with."""
    looking_anchor: float = 0.0
    """Weight of the squared distance that the velocities move in it. Above 0 the text weights learn too; 0 leaves them,
    and so generation, exactly as they are."""
    looking_images: int = 1600
    """That the model generates for it with each of three guidance scales."""
    adam: float = 1.5e-3
    """Learning rate of embeddings, norms, biases, heads."""
    decay: float = 0.35
    missed_captions: float = 0.35
    """As many misses (half of it for three objects) that the model understands better than it generates. In the
    crowded world, the share that deviates object by object."""


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
"""What the bundled model of the crowded world was made with, from the weights of the bundled one."""


def image(rng: np.random.Generator, missed: float = 0.0, world: str = "shapes") -> tuple[np.ndarray, str]:
    """An image and its caption, which a share of the images misses in one thing."""
    return images_of_one(rng, 1, missed, world)[0]


def images_of_one(
    rng: np.random.Generator, count: int, missed: float, world: str = "shapes"
) -> list[tuple[np.ndarray, str]]:
    """Images of one caption, each with it."""
    prompt = random_prompt(rng, world=world)
    return [(image_for(prompt, compose(prompt.tags, rng), missed, rng), prompt.text) for _ in range(count)]


def asked_about(taught: Lesson, templates: tuple[str, str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) pairs: the whole image judged for three prompts (its own, one that it fulfils where there
    is one, near misses); self-play and the regions for one of these each. The same image with other words is what
    teaches to compare."""
    crowd = crowded(taught.prompt.tags)
    true = fulfilled(look(taught.image, crowd), rng, crowd)
    second = true if true is not None and rng.random() < 0.7 else near_miss(taught.prompt, rng)
    prompts = [second, near_miss(true or taught.prompt, rng)]
    views = [taught, *(appraise(taught.image, prompt) for prompt in prompts)]
    pairs = [exchanges(view, *templates) for view in views]
    regional = [pair[1] for pair in pairs if len(pair) > 1]
    played = self_play(views[int(rng.integers(len(views)))], rng)
    start = int(rng.random() < 0.6)  # writing is learnt quickly
    # In the crowded world these questions are as long as its lists, and no judge of it asks them.
    played = [] if crowd else played[start:]
    return [pair[0] for pair in pairs] + played + ([regional[int(rng.integers(len(regional)))]] if regional else [])


class Steps(Dataset):
    """Item i is everything that step first + i learns from; `patch`: pixels of a side of the tower's patches."""

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
            world, batch = self.recipe.world, self.recipe.autoencoder_batch
            return np.stack([self._lesson(rng).image if i % 2 else image(rng, 0.0, world)[0] for i in range(batch)])
        if self.phase == "eye":
            seen = [self._lesson(rng).image for _ in range(self.recipe.eye_batch)]
            small = self.recipe.world == "crowded"
            return np.stack(seen), np.stack([patch_labels(image, self.patch, small) for image in seen])
        if self.phase == "drawing":
            return self._drawings(rng, self.recipe.drawing_batch, self.recipe.alike)
        late = self.first + index >= self.recipe.turn
        images = self.recipe.late_drawings if late else self.recipe.drawings
        drawn, captions = self._drawings(rng, images)
        lessons = [self._lesson(rng) for _ in range(self.recipe.late_lessons if late else self.recipe.lessons)]
        pairs = [asked_about(each, self.templates, rng) for each in lessons]
        return drawn, captions, [each.image for each in lessons], pairs

    def _lesson(self, rng: np.random.Generator) -> Lesson:
        return lesson(rng, world=self.recipe.world)

    def _drawings(self, rng: np.random.Generator, count: int, each: int = 1) -> tuple[np.ndarray, list[str | None]]:
        missed, world = self.recipe.missed_captions, self.recipe.world
        pairs = [pair for _ in range(count // each) for pair in images_of_one(rng, each, missed, world)]
        named = [rng.random() >= self.recipe.dropped for _ in range(count // each)]
        captions = [text if named[place // each] else None for place, (_, text) in enumerate(pairs)]
        return np.stack([image for image, _ in pairs]), captions


def _as_is(item: Any) -> Any:
    return item


def loader(dataset: Dataset) -> DataLoader:
    """What each of the steps learns from, made by a separate process."""
    return DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=_as_is)


def captioned(recipe: fit.Recipe, steps: int, batch: int, alike: int = 1) -> Callable[[int], DataLoader]:
    """Images with captions for the steps of a recipe's phase from one on, for `fit`."""
    plan = Recipe(
        seed=recipe.seed, drawing_steps=steps, drawing_batch=batch, alike=alike, dropped=recipe.dropped,
        missed_captions=recipe.missed_captions,
    )  # fmt: skip
    return lambda done: loader(Steps(plan, ("", ""), done, "drawing"))


def corpus(templates: tuple[str, str], world: str = "shapes", count: int = 2000) -> list[str]:
    rng = np.random.default_rng(1)
    return [text for _ in range(count) for pair in exchanges(lesson(rng, world=world), *templates) for text in pair]
