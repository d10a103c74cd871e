"""What can be set about BLIP3-o. Light: no torch."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core.options import SAMPLING, SPEED

_at_least_1: Any = validators.ge(1)
_positive: Any = validators.gt(0)


def _limits(_: Any, attribute: Any, value: tuple[int, int]) -> None:
    if not 1 <= value[0] <= value[1]:
        raise ValueError(f"{attribute.name} must be (fewest, most) with 1 <= fewest <= most, not {value}")


@frozen
class Sampling:
    """How images are drawn: first features, by the head, then pixels, by the decoder. Defaults are the official
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
    """What the decoder is guided away from: features drawn for no prompt at all, those of an all-zero image (needs
    the feature tower), or zeros."""
    negative_seed: int = 0
    """Of the noise from which the features for no prompt are drawn."""


@frozen
class Options:
    """BLIP3-o 8B by default."""

    checkpoint: str = "BLIP3o/BLIP3o-Model-8B"
    """A directory in the published layout, what training saved, a hub id, or `bundled:shapes`."""
    feature_tower: str = ""
    """Where the EVA-CLIP weights are if not inside or beside the checkpoint: a directory, a file, or a hub id."""
    feature_head_width: int = field(default=0, validator=validators.ge(0))
    """Width of the tower's attention heads, which the weights do not tell; 0 = as its preset or tower_config.json."""
    decoder: str = ""
    """Directory of the decoder (unet, vae, scheduler); "" = diffusion-decoder in the checkpoint."""
    device: str = "auto"
    """`auto` takes the accelerator if there is one. Naming one (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator. The trainer keeps what it trains in float32."""
    release: bool = field(default=True, metadata=SPEED)
    """Let go of the parts that the operation at hand does not need, so that no stage holds all of the model."""
    train_queries: bool = True
    """Train the learned queries too, through the frozen language model, as the official code does. false: the head
    only; what it is told of each prompt is computed once, and training needs no language model in memory."""
    recompute: bool = field(default=True, metadata=SPEED)
    """With train_queries: compute the language model's activations again in the backward pass (less memory)."""
    x0: Literal["encoded", "sampled"] = "encoded"
    """What is learned from a drawn image: the tower's features of its pixels, or the features it was drawn from."""
    training_turn: Literal["closed", "open"] = "closed"
    """Whether the assistant's turn is closed before the queries in training (official), or open as in drawing."""
    generation_turn: Literal["closed", "open"] = field(default="open", metadata=SAMPLING)
    """The same in drawing; the published weights were used with the open form."""
    size: tuple[int, int] = field(default=(0, 0), validator=validators.deep_iterable(validators.ge(0)))
    """(width, height) of drawn images, in pixels; 0 = what the decoder was made for (1024)."""
    sampling: Sampling = field(default=Sampling(), metadata=SAMPLING)
    vision_pixels: tuple[int, int] = field(default=(3136, 12_845_056), validator=_limits)
    """Fewest and most pixels of an image that is looked at; it is resized into these, in steps of 28."""
