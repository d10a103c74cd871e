"""What the bundled model is pretrained on, step by step: fresh scenes and lessons from (seed, step)."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from torch.utils.data import DataLoader, Dataset

from srum_benchmarks.shapes.lessons import Lesson, exchanges, lesson
from srum_benchmarks.shapes.render import compose, draw
from srum_benchmarks.shapes.world import random_prompt


@frozen
class Recipe:
    """What the bundled model was made with; every field is a command-line option."""

    seed: int = 0
    autoencoder_steps: int = 1200
    autoencoder_batch: int = 32
    steps: int = 9000
    """Of the joint phase."""
    drawings: int = 128
    """Pictures a step that are drawn, until step `turn`."""
    lessons: int = 8
    """Pictures a step that are judged, two questions each, until step `turn`."""
    turn: int = 1500
    """Drawing comes first; from this step on, most of the work goes into looking."""
    late_drawings: int = 48
    late_lessons: int = 24
    late_looking: float = 2.0
    """Weight of the answers' cross-entropy from `turn` on (0.3 before): most of their tokens never change, so
    their mean says little about what was seen."""
    muon: float = 0.01
    """Learning rate of the matrices."""
    adam: float = 1.5e-3
    """Learning rate of embeddings, norms, biases, heads."""
    decay: float = 0.35
    """Share of the steps, at the end, over which both rates fall to zero."""
    shift: float = 2.0
    """Time shift of the drawing loss."""
    dropped: float = 0.1
    """Share of drawings without their text, for guidance."""
    ema: float = 0.998
    wrong_captions: float = 0.0
    """Share of drawings whose caption belongs to another scene."""


def picture(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    prompt = random_prompt(rng, "train")
    return draw(compose(prompt.tags, rng)), prompt.text


def description(taught: Lesson) -> tuple[str, str]:
    """A plain question about what there is to see, in reading order: the shortest way to connect words and picture."""
    return "Describe the picture.", ", ".join(part.label for part in taught.parts) or "nothing"


class Steps(Dataset):
    """Item i is everything that step i learns from."""

    def __init__(self, recipe: Recipe, templates: tuple[str, str], first: int, phase: str) -> None:
        self.recipe, self.templates, self.first, self.phase = recipe, templates, first, phase

    def __len__(self) -> int:
        total = self.recipe.autoencoder_steps if self.phase == "autoencoder" else self.recipe.steps
        return max(0, total - self.first)

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng([self.recipe.seed, self.first + index, len(self.phase)])
        if self.phase == "autoencoder":
            spoilt = [lesson(rng).image if i % 2 else picture(rng)[0] for i in range(self.recipe.autoencoder_batch)]
            return np.stack(spoilt)
        late = self.first + index >= self.recipe.turn
        drawn = [picture(rng) for _ in range(self.recipe.late_drawings if late else self.recipe.drawings)]
        texts = [text if rng.random() >= self.recipe.wrong_captions else picture(rng)[1] for _, text in drawn]
        captions = [None if rng.random() < self.recipe.dropped else text for text in texts]
        taught = [lesson(rng) for _ in range(self.recipe.late_lessons if late else self.recipe.lessons)]
        asked = [[*exchanges(each, *self.templates), *([description(each)] if late else [])] for each in taught]
        return np.stack([image for image, _ in drawn]), captions, [each.image for each in taught], asked


def _as_is(item: Any) -> Any:
    return item


def loader(recipe: Recipe, templates: tuple[str, str], first: int, phase: str) -> DataLoader:
    return DataLoader(
        Steps(recipe, templates, first, phase), batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=_as_is
    )


def corpus(templates: tuple[str, str], count: int = 2000) -> list[str]:
    rng = np.random.default_rng(1)
    return [text for _ in range(count) for pair in exchanges(lesson(rng), *templates) for text in pair]
