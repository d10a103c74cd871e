"""The options of BLIP3-o. Light: no torch."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core.options import SAMPLING, SPEED, SmallMemory

_at_least_1: Any = validators.ge(1)
_positive: Any = validators.gt(0)


def _limits(_: Any, attribute: Any, value: tuple[int, int]) -> None:
    if not 1 <= value[0] <= value[1]:
        raise ValueError(f"{attribute.name} must be (fewest, most) with 1 <= fewest <= most, not {value}")


@frozen
class Sampling:
    """How images are generated: first features, by the head, then pixels, by the decoder. Defaults are the official
    ones."""

    steps: int = field(default=30, validator=_at_least_1)
    """Steps of the head, at noise levels 1, …, 1 / steps."""
    guidance: float = 3.0
    """Of the head: unconditional + guidance * (conditional - unconditional)."""
    shift: float = field(default=1.0, validator=_positive)
    """Time shift of the head's noise levels, s·t / (1 + (s-1)·t); the published head was trained without (1)."""
    whole_timesteps: bool = True
    """Cut the head's timesteps (1000 * noise level) to whole numbers, as the official sampler does."""
    decoder_steps: int = field(default=50, validator=_at_least_1)
    """Steps of the decoder."""
    decoder_guidance: float = 3.0
    """Of the decoder, away from `negative`; 1 or less switches it off."""
    negative: Literal["empty_prompt", "zero_image", "zeros"] = "empty_prompt"
    """What the decoder is guided away from: features generated without a prompt, those of an all-zero image
    (needs the feature tower), or zeros."""
    negative_seed: int = 0
    """Of the noise for the features without a prompt."""


@frozen
class Options(SmallMemory):
    """BLIP3-o 8B by default."""

    checkpoint: str = "BLIP3o/BLIP3o-Model-8B"
    """A directory in the published layout, a checkpoint of a training, a hub id, or `bundled:shapes`."""
    feature_tower: str = ""
    """Where the EVA-CLIP weights are if not inside or beside the checkpoint: a directory, a file, or a hub id."""
    feature_head_width: int = field(default=0, validator=validators.ge(0))
    """Width of the tower's attention heads, which the weights do not show; 0 = from its preset or tower_config.json."""
    decoder: str = ""
    """Directory of the decoder (unet, vae, scheduler); "" = diffusion-decoder in the checkpoint."""
    device: str = "auto"
    """`auto` uses the accelerator if there is one. A named device (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator. The trainer keeps what it trains in float32."""
    offload: Literal["none", "disk", "cpu"] = field(default="disk", metadata=SPEED)
    """What becomes of weights that the current operation does not need. disk: parts other than the head are freed, and
    read again; cpu: all of them wait in host memory, also between the steps of generating; none: they stay."""
    train_queries: bool = True
    """Train the learned queries too, through the frozen language model, as the official code does. false: the head
    only; each prompt is encoded once, and training needs no language model in memory."""
    recompute: bool = field(default=True, metadata=SPEED)
    """With train_queries: compute the language model's activations again in the backward pass (less memory)."""
    x0: Literal["encoded", "sampled"] = "encoded"
    """Training target of a generated image: the tower's features of its pixels, or the features it was decoded from."""
    training_turn: Literal["closed", "open"] = "closed"
    """Whether the assistant's turn is closed before the queries in training (official), or open as in generation."""
    generation_turn: Literal["closed", "open"] = field(default="open", metadata=SAMPLING)
    """The same in generation; the published weights were used with the open form."""
    size: tuple[int, int] = field(default=(0, 0), validator=validators.deep_iterable(validators.ge(0)))
    """(width, height) of generated images, in pixels; 0 = the decoder's training size (1024)."""
    sampling: Sampling = field(default=Sampling(), metadata=SAMPLING)
    vision_pixels: tuple[int, int] = field(default=(3136, 12_845_056), validator=_limits)
    """Fewest and most pixels of an image in a question; it is resized into this range, in steps of 28."""
