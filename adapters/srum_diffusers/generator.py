"""Generate images with a diffusers pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

from srum_core.errors import CheckpointError, ConfigError
from srum_core.models.hub import Checkpoints, choose_device, choose_dtype
from srum_core.models.weights import failure, loading, read_json, refuse_infinite
from srum_core.records import Sample
from srum_diffusers import Options

INDEX = "model_index.json"
CHECKPOINTS = Checkpoints(
    patterns=(),  # diffusers itself knows which files of a repository a pipeline takes
    published={
        "black-forest-labs/FLUX.1-dev": 33_700_000_000,
        "black-forest-labs/FLUX.1-schnell": 33_700_000_000,
        "stabilityai/stable-diffusion-3-medium-diffusers": 15_500_000_000,
        "stabilityai/stable-diffusion-xl-base-1.0": 6_900_000_000,
    },
    weights="**/*.safetensors",
    needs="Generation with it takes an accelerator with about that much memory.",
)


class Diffusers:
    """Load a pipeline; settings that it does not know are refused before generation."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.device = choose_device(self.options.device)
        self.pipeline: Any = _load(self.options, self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.arguments = self._arguments()

    @classmethod
    def preflight(cls, options: Options) -> None:
        """Raise CheckpointError for a directory that holds no pipeline, or one too large for this machine."""
        _look(options)
        CHECKPOINTS.find(options.checkpoint, options.device)

    def _arguments(self) -> dict[str, Any]:
        """Arguments of every call of the pipeline. Raises ConfigError for arguments that it does not have."""
        o = self.options
        own = {
            "num_inference_steps": o.steps, "guidance_scale": o.guidance,
            "width": o.size[0] or None, "height": o.size[1] or None,
        }  # fmt: skip
        known = inspect.signature(self.pipeline.__call__).parameters
        arguments = {name: value for name, value in {**own, **o.extra}.items() if value is not None}
        ours = {"prompt", "generator", "output_type", "num_images_per_prompt", "return_dict"} & arguments.keys()
        if wrong := sorted(ours | (arguments.keys() - known.keys())):
            free = [name for name in known if name not in ("prompt", "generator", "output_type", "return_dict")]
            raise ConfigError(
                f"{type(self.pipeline).__name__} of {o.checkpoint} cannot be given {', '.join(wrong)} here. Its call "
                f"takes {', '.join(free)}."
            )
        return arguments

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """An image per prompt; each has its own random generator, on the CPU, so that all devices start alike."""
        samples = list[Sample]()
        for start in range(0, len(prompts), self.options.batch):
            some = slice(start, start + self.options.batch)
            rngs = [torch.Generator().manual_seed(seed) for seed in seeds[some]]
            # As numbers, because an image of whole levels does not show what was not finite.
            generated = self.pipeline(prompt=list(prompts[some]), generator=rngs, output_type="np", **self.arguments)
            samples += map(_sample, generated.images)
        return samples


def _sample(pixels: np.ndarray) -> Sample:
    """(rows, columns, 3) in [0, 1], rounded to whole levels as diffusers does."""
    levels = (np.nan_to_num(pixels) * 255).round().astype("uint8")
    return Sample(Image.fromarray(levels), failure=failure("image", torch.from_numpy(pixels)))


def _look(options: Options) -> None:
    directory = Path(options.checkpoint).expanduser()
    if directory.is_dir() and not (directory / INDEX).is_file():
        raise CheckpointError(
            f"{directory} holds no pipeline of diffusers: it has no {INDEX}. Single-file checkpoints are converted "
            "with from_single_file(…).save_pretrained(DIR) of the pipeline's class in diffusers."
        )
    CHECKPOINTS.refuse_large(options.checkpoint, options.device)


def _load(options: Options, device: torch.device) -> Any:
    """Raises CheckpointError if it is not a text-to-image pipeline, or cannot be loaded."""
    _look(options)
    name, directory = options.checkpoint, Path(options.checkpoint).expanduser()
    source = str(directory) if directory.is_dir() else name
    dtype = choose_dtype(options.dtype, device)
    parts = [directory / part for part in read_json(directory / INDEX)] if directory.is_dir() else []
    hint = (
        "Give a directory or a hub id that AutoPipelineForText2Image of diffusers knows; a repository with a licence "
        "to accept also needs a login (hf auth login)."
    )
    with loading(f"adapter.checkpoint={name}", *parts, hint=hint):
        pipeline = AutoPipelineForText2Image.from_pretrained(source, torch_dtype=dtype, use_safetensors=True)
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            refuse_infinite(module.named_parameters(), f"{name}, {part}")
    if options.lora:
        _load_lora(pipeline, options.lora)
    return pipeline.to(device)


def _load_lora(pipeline: Any, name: str) -> None:
    """Raises CheckpointError, also where no name in the file is one of the pipeline's: diffusers would only warn."""
    what = f"adapter.lora={name}"
    with loading(what, hint=f"Give LoRA weights for {type(pipeline).__name__} (srum export --to diffusers)."):
        pipeline.load_lora_weights(str(Path(name).expanduser()) if Path(name).expanduser().exists() else name)
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    if not any(getattr(each, "peft_config", None) for each in modules):
        raise CheckpointError(f"{what} holds nothing for {type(pipeline).__name__}: its names are another model's.")
    for module in modules:
        refuse_infinite(module.named_parameters(), what)
