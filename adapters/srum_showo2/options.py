"""The options of Show-o2. Light: no torch."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen, validators

from srum_core.options import SAMPLING, SPEED, SmallMemory


@frozen
class Sampling:
    """How images are generated. Defaults are those of the published configuration for 432x432."""

    steps: int = field(default=50, validator=validators.ge(2))
    """Points of the time grid; the network runs at all but the last."""
    guidance: float = field(default=5.0, validator=validators.ge(0))
    """unconditional + guidance * (conditional - unconditional); 0 = the conditional one alone."""
    shift: float = field(default=3.0, validator=validators.gt(0))
    """Time shift s·t / (1 + (s-1)·t); 1 = none."""


@frozen
class Options(SmallMemory):
    """Show-o2 1.5B by default."""

    checkpoint: str = "showlab/show-o2-1.5B"
    """A directory in the published layout (config.json; pytorch_model.bin, its shards or safetensors), or a hub id."""
    language_model: str = ""
    """Directory or hub id of the language model, whose config.json and tokenizer are not in the checkpoint; "" =
    as the checkpoint's config.json names (Qwen/Qwen2.5-1.5B-Instruct, Qwen/Qwen2.5-7B-Instruct)."""
    vision: str = ""
    """Directory or hub id of the SigLIP whose config.json has the heads of the semantic layers; "" = as the
    checkpoint's config.json names. Nothing is read for google/siglip-so400m-patch14-384, the published one."""
    vae: str = ""
    """The autoencoder: Wan2.1_VAE.pth, or a directory or hub id with it or with diffusers' edition in vae;
    "" = in the checkpoint, or else Wan-AI/Wan2.1-T2V-14B on the hub."""
    device: str = "auto"
    """`auto` uses the accelerator if there is one. A named device (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator. The trainer keeps what it trains in float32."""
    offload: Literal["none", "cpu"] = field(default="none", metadata=SPEED)
    """cpu: host memory holds what a stage does not need: while questions are answered the flow head, while images are
    generated and trained on the language model's own output matrix, if it has one, and in training the autoencoder."""
    train: Literal["head", "stage-1", "all"] = "head"
    """What is trained: the flow head and its projection, which answering never uses; as the first published stage,
    which adds patches, fusion and time, which answering uses too; or all that reaches the velocity."""
    size: tuple[int, int] = field(default=(0, 0), validator=validators.deep_iterable(validators.ge(0)))
    """(width, height) of generated images, in pixels; 0 = the checkpoint's table of positions (432)."""
    sampling: Sampling = field(default=Sampling(), metadata=SAMPLING)
    caption_tokens: int = field(default=290, validator=validators.ge(1))
    """Most tokens of a caption; the rest is truncated. Published: 290 for 432x432, 251 for 512x512 and 1024x1024."""
    control_tokens: bool = False
    """Let strings such as <|im_end|> in captions and questions act as control tokens, as the reference does."""
    crop: bool = True
    """Train on the middle of an image of another size, as the reference does; false: on all of it, scaled to about as
    many pixels as `size` has, at its own aspect ratio."""
    understanding: Literal["trained", "script"] = "trained"
    """How images and questions are read: as in the last training stage (image padded), or as in the published script
    (image cropped, and attention inside the image one token late)."""
    vision_size: int = field(default=0, validator=validators.ge(0))
    """Side of an image in a question, in pixels; 0 = the checkpoint's table of positions (432)."""
