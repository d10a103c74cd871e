"""Decode features to pixels: the checkpoint's UNet and autoencoder in diffusers' SDXL pipeline. The pipeline file that
a checkpoint may contain is code, and is not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from attrs import frozen
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from srum_blip3o.options import Sampling
from srum_core.errors import CheckpointError
from srum_core.models.images import check_size
from srum_core.models.weights import loading, read_json, refuse_infinite

ORIGINAL = (1024, 1024)
"""(height, width) of the original image, as the UNet's condition, whatever the size of the generated image."""
Watch = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


@frozen
class Decoder:
    """The pipeline, and its autoencoder in float32 (16-bit decoding is visible)."""

    pipeline: Any
    autoencoder: Any
    size: tuple[int, int]
    """(width, height) of the images that it was trained for."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.pipeline.unet, self.autoencoder

    def noise(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Sample one image's initial noise (c, h, w), before the scheduler's scaling."""
        factor = self.pipeline.vae_scale_factor
        check_size(size, factor)
        width, height = size
        channels = self.pipeline.unet.config.in_channels
        return torch.randn(channels, height // factor, width // factor, generator=rng)

    @torch.no_grad()
    def latents(
        self, features: Tensor, negative: Tensor, noise: Tensor, sampling: Sampling, watch: Watch | None = None
    ) -> Tensor:
        """Features (n, tokens, c) row-major, negative features (same shape), noise (n, c, h, w) -> latents."""
        unet, factor = self.pipeline.unet, self.pipeline.vae_scale_factor
        features, negative, noise = (each.to(unet.device, unet.dtype) for each in (features, negative, noise))
        height, width = (side * factor for side in noise.shape[-2:])
        callback = {} if watch is None else {"callback_on_step_end": watch}
        return self.pipeline(
            prompt_embeds=features,
            pooled_prompt_embeds=features.mean(1),
            negative_prompt_embeds=negative,
            negative_pooled_prompt_embeds=negative.mean(1),
            latents=noise,
            height=height,
            width=width,
            original_size=ORIGINAL,
            crops_coords_top_left=(0, 0),
            target_size=(height, width),
            num_inference_steps=sampling.decoder_steps,
            guidance_scale=sampling.decoder_guidance,
            output_type="latent",
            return_dict=False,
            **callback,
        )[0]

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """Latents -> images (n, 3, H, W) in [0, 1]."""
        scaled = latents.float() / self.autoencoder.config.scaling_factor
        return (self.autoencoder.decode(scaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)


def find(option: str, checkpoint: Path) -> Path:
    """Find the decoder's directory: `option`, or in the checkpoint. Raises CheckpointError if a part is missing."""
    directory = Path(option).expanduser() if option else checkpoint / "diffusion-decoder"
    for part in ("unet", "vae", "scheduler"):
        if not (directory / part).is_dir():
            raise CheckpointError(
                f"{directory} has no {part}: BLIP3-o generates with the decoder in diffusion-decoder (unet, vae, "
                "scheduler). Download it, or name its directory with adapter.decoder."
            )
    return directory


def load(directory: Path, channels: int, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Load the decoder. Raises CheckpointError if its UNet reads features with other channels."""
    with loading(f"The decoder in {directory}", *(directory / part for part in ("unet", "vae", "scheduler"))):
        unet = UNet2DConditionModel.from_pretrained(
            directory / "unet", torch_dtype=dtype, variant=_variant(directory / "unet"), use_safetensors=True
        )
        autoencoder = AutoencoderKL.from_pretrained(
            directory / "vae", torch_dtype=torch.float32, variant=_variant(directory / "vae"), use_safetensors=True
        )
        scheduler = _scheduler(directory / "scheduler")
    if unet.config.cross_attention_dim != channels:
        raise CheckpointError(
            f"The decoder in {directory} reads features of {unet.config.cross_attention_dim} channels, the head "
            f"generates {channels}: they are from different checkpoints."
        )
    for module in (unet, autoencoder):
        refuse_infinite(module.named_parameters(), directory)
        module.to(device).eval().requires_grad_(False)
    pipeline: Any = StableDiffusionXLPipeline(
        autoencoder, None, None, None, None, unet, scheduler, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    side = unet.config.sample_size * pipeline.vae_scale_factor
    return Decoder(pipeline, autoencoder, (side, side))


def _variant(folder: Path) -> str | None:
    """Return the variant of the weights: published as `….bf16.safetensors`, but a plain file takes precedence."""
    names = [path.name for path in folder.glob("diffusion_pytorch_model*.safetensors*")]
    plain = any(".bf16." not in name for name in names)
    return None if plain or not names else "bf16"


def _scheduler(folder: Path) -> Any:
    """Load the scheduler, a class of diffusers by the name in the configuration."""
    name = read_json(folder / "scheduler_config.json").get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise CheckpointError(f"{folder / 'scheduler_config.json'} names {name!r}, which is no scheduler of diffusers.")
    return kind.from_pretrained(str(folder))  # type: ignore[attr-defined]
