"""CLIP similarities of images and prompts as scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from srum_clip import ClipOptions
from srum_core.errors import CheckpointError, ConfigError
from srum_core.models.hub import choose_device
from srum_core.models.images import open_rgb
from srum_core.records import Candidate, Question, Region, Score


class Clip:
    """One score for the whole image and one for each region, cut out, all against the prompt.

    Raises ConfigError for options, and CheckpointError for a checkpoint, that cannot be used."""

    name = "clip"

    def __init__(self, options: ClipOptions | None = None) -> None:
        self.options = options or ClipOptions()
        self.preflight(self.options)
        self.device = choose_device(self.options.device)
        try:
            self.model = CLIPModel.from_pretrained(self.options.checkpoint).to(self.device).eval()
            self.processor = CLIPProcessor.from_pretrained(self.options.checkpoint)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"checkpoint={self.options.checkpoint} is no CLIP model: {error}") from error

    @classmethod
    def preflight(cls, options: ClipOptions) -> None:
        """Raise ConfigError for what can be known before anything is generated or loaded."""
        if not options.low < options.high:
            raise ConfigError(f"low={options.low} must be less than high={options.high}.")

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return []

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Score]:
        return self.score_many([candidate], [regions])[0]

    def score_many(self, candidates: Sequence[Candidate], regions: Sequence[Sequence[Region]]) -> list[list[Score]]:
        views = [view for each, own in zip(candidates, regions, strict=True) for view in _views(each, own)]
        counts = [1 + len(own) for own in regions]
        texts = [each.prompt.text for each, count in zip(candidates, counts, strict=True) for _ in range(count)]
        values = iter(self._similarities(views, texts))
        return [[self._score(next(values), each) for each in (None, *(region.id for region in own))] for own in regions]

    @torch.no_grad()
    def _similarities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Cosine of each image and its text. Padding comes after a text and is masked."""
        given = self.processor(
            text=list(texts), images=list(images), return_tensors="pt", padding=True, truncation=True
        ).to(self.device)
        made = self.model(**given)
        found: list[float] = (made.image_embeds * made.text_embeds).sum(-1).tolist()
        return found

    def _score(self, similarity: float, region: str | None) -> Score:
        share = (similarity - self.options.low) / (self.options.high - self.options.low)
        value = 2 * min(max(share, 0.0), 1.0) - 1
        return Score(value, region, f"CLIP similarity {similarity:.3f}", self.name)


def _views(candidate: Candidate, regions: Sequence[Region]) -> list[Image.Image]:
    """The image, then each region cut out."""
    return [open_rgb(candidate.image, crop) for crop in (None, *(region.box for region in regions))]
