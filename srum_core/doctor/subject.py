"""The adapter under examination, with images to try it on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from attrs import define, field
from PIL import Image
from torch import Tensor

from srum_core.errors import ConfigError, clean, refuse
from srum_core.models.hub import device_of
from srum_core.models.images import open_rgb
from srum_core.protocols import UnifiedModel
from srum_core.records import Candidate, Prompt
from srum_core.runs.run import Run
from srum_core.stages.interview import Interview

IMAGES = 4
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@define
class Subject:
    """The adapter, its images, and what the checks learn about both."""

    run: Run
    model: UnifiedModel
    candidates: list[Candidate]
    """The images, on disk."""
    texts: list[str | None]
    """The prompt of each; None = not known."""
    trained: bool | None = None
    """Whether the weights explain their target; None until that is checked."""
    received: list[Interview] = field(factory=list)
    """Interviews of the run's judges about two images, once they are answered."""

    @property
    def images(self) -> list[Image.Image]:
        return [open_rgb(candidate.image) for candidate in self.candidates]

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def velocity(self, noisy: Sequence[Tensor], time: Tensor, texts: Sequence[str | None]) -> list[Tensor]:
        """Return the denoiser's output, float32 on the CPU, without gradient and in training's precision.

        Raises PluginError for other shapes than those of the latents."""
        with torch.no_grad(), self.precision():
            latents = [x.to(self.device) for x in noisy]
            velocities = self.model.denoiser(latents, time.to(self.device), self.model.condition(list(texts)))
        expected, shapes = ([tuple(x.shape) for x in grids] for grids in (noisy, velocities))
        refuse(expected != shapes, self.model, f"gives velocities of the shapes {shapes} for latents of {expected}.")
        return [velocity.float().cpu() for velocity in velocities]

    def precision(self) -> AbstractContextManager[object]:
        """Return autocast as in training."""
        precision = self.run.settings.train.mixed_precision
        auto = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        bf16 = precision == "bf16" or (precision == "auto" and auto)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Return latents, float32 on the CPU. Raises PluginError if there are more or fewer than images."""
        latents = list(self.model.encode(list(images)))
        refuse(len(latents) != len(images), self.model, f"encoded {len(images)} images as {len(latents)}.")
        odd = next((x for x in latents if x.dim() != 3), None)
        if odd is not None:
            refuse(True, self.model, f"encodes an image as {tuple(odd.shape)}; it should be (rows, columns, channels).")
        return [latent.detach().float().cpu() for latent in latents]

    def draw(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Generate images. Raises PluginError if there are more or fewer than prompts."""
        samples = list(self.model.generate(list(texts), list(seeds)))
        refuse(len(samples) != len(texts), self.model, f"generated {len(samples)} images for {len(texts)} prompts.")
        failed = next((sample.failure for sample in samples if sample.failure), "")
        refuse(bool(failed), self.model, f"generated something that is no image. {clean(failed)}")
        return [sample.image for sample in samples]


def with_own_images(run: Run, model: UnifiedModel, folder: Path) -> Subject:
    """Generate images for the run's first prompts, and store them in `folder`."""
    prompts = run.prompts(1)
    texts = [prompts[index % len(prompts)].text for index in range(IMAGES)]
    subject = Subject(run, model, [], list(texts))
    for index, image in enumerate(subject.draw(texts, list(range(IMAGES)))):
        path = folder / f"{index}.png"
        image.convert("RGB").save(path)
        subject.candidates.append(_candidate(path, image.size, texts[index], index))
    return subject


def with_given_images(run: Run, model: UnifiedModel, folder: Path) -> Subject:
    """Take the first images of a folder. A name such as a-red-cup.png is the prompt; a single word (IMG_1234) is not.

    Raises ConfigError if there is none."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)[:IMAGES]
    if not paths:
        raise ConfigError(f"--images {folder}: there is no image ({', '.join(_SUFFIXES)}) in this folder.")
    texts = [text_in_name(path) for path in paths]
    sizes = [open_rgb(path).size for path in paths]
    candidates = [_candidate(*each) for each in zip(paths, sizes, texts, range(len(paths)), strict=True)]
    return Subject(run, model, candidates, texts)


def text_in_name(path: Path) -> str | None:
    """Return the prompt in a file's name, or None."""
    words = re.split(r"[-_\s]+", path.stem)
    return " ".join(words) if len(words) > 1 and all(word.isalpha() for word in words) else None


def _candidate(path: Path, size: tuple[int, int], text: str | None, number: int) -> Candidate:
    return Candidate(f"picture-{number}", Prompt(f"prompt-{number}", text or "a picture"), path, size, number)
