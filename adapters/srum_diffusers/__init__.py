"""Any text-to-image pipeline of diffusers, to be compared with: it is never trained. Options and hook only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core import Component, hookimpl
from srum_core.options import SPEED

_at_least_1: Any = validators.optional(validators.ge(1))


@frozen
class Options:
    """Unset options keep the pipeline's own default."""

    checkpoint: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    """A pipeline as diffusers saves it that AutoPipelineForText2Image knows; a directory or a hub id."""
    lora: str = ""
    """LoRA weights for it, as load_lora_weights of diffusers takes them: what srum export --to diffusers wrote, a file,
    or a hub id."""
    steps: int | None = field(default=None, validator=_at_least_1)
    """Steps of the sampler (num_inference_steps)."""
    guidance: float | None = None
    """The pipeline's guidance_scale."""
    size: tuple[int, int] = field(default=(0, 0), validator=validators.deep_iterable(validators.ge(0)))
    """(width, height) of the images, in pixels; 0 = the pipeline's own."""
    extra: dict[str, Any] = field(factory=dict, hash=False)
    """More arguments of the pipeline's call, such as {max_sequence_length=256, negative_prompt="blurry"}."""
    device: str = "auto"
    """`auto` takes the accelerator if there is one. Naming one (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator."""
    batch: int = field(default=4, validator=validators.ge(1), metadata=SPEED)
    """Most images generated at once."""


@hookimpl
def srum_generators() -> Iterable[Component]:
    summary = "any text-to-image pipeline of diffusers (FLUX.1, Stable Diffusion 3, SDXL, …); evaluated only"
    presets = Path(__file__).parent / "presets"
    return [Component("diffusers", "srum_diffusers.generator:Diffusers", Options, presets, summary)]
