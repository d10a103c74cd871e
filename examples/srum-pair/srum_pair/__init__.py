"""Combine a text-to-image pipeline with a vision-language model. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import field, frozen, validators

from srum_core import Component, hookimpl


@frozen
class PairOptions:
    """The pipeline that generates, the model that answers, and their settings."""

    checkpoint: str = "stabilityai/stable-diffusion-3.5-medium"
    """The hand: a diffusers text-to-image pipeline with a flow-matching scheduler; a directory or a hub id."""
    vlm: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """A transformers vision-language model with a chat template; a directory or a hub id."""
    size: tuple[int, int] = (1024, 1024)
    """(width, height) of generated images, in pixels."""
    steps: int = field(default=28, validator=validators.ge(1))
    """Steps of the pipeline's own sampler."""
    guidance: float = 5.0
    """What the pipeline calls guidance_scale."""
    device: str = "cuda"
    """Where both live."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the loaded weights. The trainer keeps what it trains in float32; on a CPU use float32 throughout."""
    lora: str = r"attn2?\.(to_q|to_k|to_v|to_out\.0)"
    """Regular expression for the end of the names of the transformer's layers that get a LoRA."""


@hookimpl
def srum_adapters() -> Sequence[Component]:
    summary = "any diffusers flow-matching pipeline with any transformers vision-language model"
    return [Component("pair", "srum_pair.model:Pair", PairOptions, summary=summary)]
