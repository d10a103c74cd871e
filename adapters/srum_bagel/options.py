"""Options of BAGEL. Light: no torch."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core.options import SAMPLING, SPEED, SmallMemory


def _interval(_: Any, attribute: Any, value: tuple[float, float]) -> None:
    low, high = value
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{attribute.name} must be (low, high] with 0 <= low <= high <= 1, not {value}")


@frozen
class Sampling:
    """How images are sampled. Defaults are those of the released candidates."""

    steps: int = field(default=50, validator=validators.ge(2))
    """Points of the time grid; the network runs at all but the last."""
    shift: float = field(default=3.0, validator=validators.gt(0))
    """Time shift s·t / (1 + (s-1)·t)."""
    guidance: float = 4.0
    """Text guidance scale; 1 or less switches all guidance off."""
    image_guidance: float = 1.0
    """Second scale, against the context without images or thought; 1 or less is off."""
    interval: tuple[float, float] = field(default=(0.4, 1.0), validator=_interval)
    """Guide where low < t <= high, t being the shifted time."""
    renorm: Literal["global", "channel", "text_channel"] = "global"
    """Where a guided velocity's norm is pulled back: over the image, per cell, per cell after text guidance only."""
    renorm_min: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """Smallest rescale factor; 1 switches renormalisation off."""


@frozen
class Options(SmallMemory):
    """BAGEL-7B-MoT by default; the preset `shapes` is the bundled tiny model."""

    checkpoint: str = "ByteDance-Seed/BAGEL-7B-MoT"
    """A directory in the published layout, a hub id, or `bundled:shapes`."""
    device: str = "auto"
    """`auto` takes the accelerator if there is one. Naming one (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator. The trainer keeps trained parameters in float32."""
    offload: Literal["none", "cpu"] = field(default="none", metadata=SPEED)
    """cpu: host memory holds what a stage does not need, and the weights for text while images are generated and
    trained on, which are copied to the accelerator layer by layer. Quantised weights stay there."""
    experts: Literal["all", "generation"] = "all"
    """What full training changes: all that the paper trains, or the generation side only (understanding stays)."""
    size: tuple[int, int] = field(default=(0, 0), validator=validators.deep_iterable(validators.ge(0)))
    """(width, height) of generated images, in pixels; 0 = 1024, or the most that the checkpoint supports."""
    sampling: Sampling = field(default=Sampling(), metadata=SAMPLING)
    think: bool = field(default=False, metadata=SAMPLING)
    """Let the model plan an image in words before it generates it."""
    think_tokens: int = field(default=1000, validator=validators.ge(1), metadata=SAMPLING)
    """Longest plan, in tokens."""
    think_template: str = field(default="", metadata=SAMPLING)
    """A text file that replaces the wording which asks for a plan (the published model was tuned on its own)."""
    rows: int = field(default=64, validator=validators.ge(1), metadata=SPEED)
    """Most questions or plans that are answered at once; the others of a batch take the places of finished ones."""
    sample_latents: bool = False
    """Train on samples of the autoencoder's posterior, as the release does, instead of its mean."""
    generation_sides: tuple[int, int] = field(default=(1024, 512), validator=validators.deep_iterable(validators.ge(1)))
    """Longest and shortest side of an image before it is encoded, in pixels; at most what the checkpoint
    supports. Images of exactly the generated `size` are trained on as they are."""
    vision_sides: tuple[int, int] = field(default=(980, 224), validator=validators.deep_iterable(validators.ge(1)))
    """Longest and shortest side of an image for understanding, in pixels; at most what the checkpoint supports."""
    latent_scale: float = 0.3611
    latent_shift: float = 0.1159
    """latent = scale · (z - shift), the FLUX autoencoder's constants."""
