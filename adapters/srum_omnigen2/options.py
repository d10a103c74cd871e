"""The options of OmniGen2. Light: no torch."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core.options import SAMPLING, SPEED, SmallMemory

_at_least_1: Any = validators.ge(1)


def _range(_: Any, attribute: Any, value: tuple[float, float]) -> None:
    low, high = value
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{attribute.name} must be (low, high) with 0 <= low <= high <= 1, not {value}")


def _limits(_: Any, attribute: Any, value: tuple[int, int]) -> None:
    if value != (0, 0) and not 1 <= value[0] <= value[1]:
        raise ValueError(f"{attribute.name} must be (fewest, most) with 1 <= fewest <= most, or (0, 0), not {value}")


@frozen
class Sampling:
    """How images are generated. Defaults are those of the official text-to-image example, without its negative
    prompt."""

    steps: int = field(default=50, validator=_at_least_1)
    """Euler steps."""
    guidance: float = 4.0
    """v = v_negative + guidance * (v_prompt - v_negative); 1 or less switches it off."""
    guidance_range: tuple[float, float] = field(default=(0.0, 1.0), validator=_range)
    """Guide step k of n where low <= k / n <= high: the share of steps, not the time."""
    shift: float = field(default=0.0, validator=validators.ge(0))
    """Time shift s·t / (1 + (s-1)·t); 0 = the official one, root of (latent rows · columns) / 40."""
    negative_prompt: str = ""
    """What images are guided away from."""
    unconditional: Literal["negative_prompt", "dropped_caption"] = "negative_prompt"
    """The unconditional branch: the negative prompt with the system prompt of generation (official), or a dropped
    caption as in training, which has another system prompt."""


@frozen
class Options(SmallMemory):
    """OmniGen2 by default."""

    checkpoint: str = "OmniGen2/OmniGen2"
    """A directory in the published layout, or a hub id."""
    device: str = "auto"
    """`auto` uses the accelerator if there is one. A named device (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator. The trainer keeps what it trains in float32."""
    offload: Literal["none", "disk", "cpu"] = field(default="disk", metadata=SPEED)
    """What becomes of weights that the current operation does not need. disk: parts other than the transformer are
    freed, and read again; cpu: all wait in host memory, also between the steps of generating; none: they stay."""
    size: tuple[int, int] = field(default=(0, 0), validator=validators.deep_iterable(validators.ge(0)))
    """(width, height) of generated images, in pixels; 0 = 1024."""
    sampling: Sampling = field(default=Sampling(), metadata=SAMPLING)
    text_tokens: int = field(default=888, validator=_at_least_1)
    """Most tokens of a prompt with its template (official training); a longer prompt is truncated."""
    lora_modules: Literal["all", "attention"] = "all"
    """What LoRA adapts in every block: attention and feed-forward, or attention alone (official)."""
    time_shift: Literal["v1", "v2"] = "v1"
    """Shift of the training times, where `train.shift` is 0: that of the official recipe (v1: 3.16 for 1024x1024), or
    that of sampling (v2: 3.2)."""
    encode_pixels: int = field(default=1024**2, validator=_at_least_1)
    """Larger images are scaled down to this many pixels before they are encoded."""
    encode_side: int = field(default=2048, validator=_at_least_1)
    """Images with a longer side are scaled down before they are encoded."""
    vision_pixels: tuple[int, int] = field(default=(0, 0), validator=_limits)
    """Fewest and most pixels of an image in a question; (0, 0) = the checkpoint's own."""
