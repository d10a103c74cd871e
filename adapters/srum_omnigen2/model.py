"""OmniGen2 as a `UnifiedModel`: a frozen Qwen2.5-VL understands; a diffusion transformer generates latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from srum_core.flow import Recipe, Schedule
from srum_core.models import qwen_vl, small_memory
from srum_core.models.hub import Parts, choose_device, choose_dtype
from srum_core.models.images import check_size, flatten, to_image
from srum_core.models.memory_outline import outline_in
from srum_core.models.placement import Places
from srum_core.models.tensors import by_shape, patchify, unpatchify
from srum_core.models.weights import copy_files, failure
from srum_core.records import BoxFormat, Question, Sample
from srum_omnigen2.checkpoint import Configs, open_checkpoint
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.options import Options
from srum_omnigen2.sampling import (
    SIDE_STEP,
    Watch,
    decode,
    encode,
    fitted_size,
    prompt_ids,
    read,
    sample,
    sampling_shift,
    time_grid,
    to_tensor,
    training_shift,
)

GENERATING = ("language model", "autoencoder")
"""Parts that generate with the transformer."""
SIDE = 1024
"""Pixels per side of a generated image where `Options.size` is 0."""
LAYERS = r"(noise_refiner|context_refiner|layers)\.\d+\.(attn\.(to_[qkv]|to_out\.0)|feed_forward\.linear_[123])"
"""The linear layers of the transformer."""


class OmniGen2:
    """Load a checkpoint directory (or hub id) strictly: no missing, no unused key. Only the transformer is loaded at
    once; the language model and the autoencoder are loaded when they are needed."""

    diffusers_name = "transformer"

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.checkpoint = open_checkpoint(options, options.device)
        self.configs = self.checkpoint.configs
        self.size = image_size(options, self.configs)
        self.chat, self.image_input = self.checkpoint.chat(), self.checkpoint.image_input(options.vision_pixels)
        language = self.configs.language
        language.image_token_id = self.chat.special[qwen_vl.IMAGE]  # the tokenizer's, as of all special tokens
        self.parts = Parts(
            {
                "language model": lambda: qwen_vl.load(
                    language, self.checkpoint.mllm, self.device, self.dtype, options
                ),
                "autoencoder": lambda: self.checkpoint.load_autoencoder(self.device),
            },
            self.device,
            options.offload,
        )
        with torch.device("meta"):
            # Without the weights for reference images, which never reach a velocity: they stay on disk.
            self.denoiser = Denoiser(self.configs.transformer)
        small_memory.quantize(self.denoiser, options, {"generation": LAYERS}, self.dtype)
        places = Places.of(options, self.device, self.denoiser, r"layers\.\d+", self.dtype)
        self.checkpoint.transformer.load([self.denoiser], places, self.dtype, partly=True)
        places.connect(self.denoiser, "norm_out")
        self.parts.add("denoiser", self.denoiser)
        self.conditions: dict[str | None, Tensor] = {}
        """The condition of every text of the training so far, on the CPU."""
        self.recipe = make_recipe(options, self.configs)

    outline = outline_in("srum_omnigen2.memory_outline")

    @classmethod
    def preflight(cls, options: Options) -> None:
        """Raise CheckpointError or ConfigError for problems that files and headers show before a run."""
        checkpoint = open_checkpoint(options, options.device)
        image_size(options, checkpoint.configs)
        checkpoint.chat()
        checkpoint.image_input(options.vision_pixels)

    # ---- generating -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """One image of `options.size` per prompt."""
        latents = self._sample(prompts, seeds)
        pairs = zip(self.decode(latents), latents, strict=True)
        return [Sample(to_image(image), failure=failure("image", latent, image)) for image, latent in pairs]

    def _sample(self, prompts: Sequence[str], seeds: Sequence[int], watch: Watch | None = None) -> list[Tensor]:
        """Clean latent grids."""
        self.parts.only("language model", of=GENERATING)
        sampling = self.options.sampling
        negative = sampling.negative_prompt if sampling.unconditional == "negative_prompt" else None
        *states, without = self.read([*prompts, negative])
        self.parts.only("denoiser", of=GENERATING)
        columns, rows = (side // self.configs.factor for side in self.size)
        shape = (self.configs.transformer.in_channels, rows, columns)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        grids = patchify(noise, self.configs.transformer.patch_size)
        return sample(self.denoiser, states, without, list(grids), sampling, self.shift, watch)

    @property
    def shift(self) -> float:
        """Shift of the sampling times."""
        if self.options.sampling.shift or not self.configs.shifted:
            return self.options.sampling.shift or 1.0
        width, height = (side // self.configs.factor for side in self.size)
        return sampling_shift(height, width)

    def sampling_times(self) -> list[float]:
        """Times from 1 to 0; one more than steps."""
        return time_grid(self.options.sampling.steps, self.shift).tolist()

    @torch.no_grad()
    def trace(self, prompts: Sequence[str], seeds: Sequence[int], steps: Sequence[int]) -> list[list[Image.Image]]:
        """Per prompt, the clean estimate x - t·v (guided v) at each of the given steps, as an image."""
        estimates: list[Tensor] = []

        def watch(time: float, x: Tensor, used: Tensor, *_: object) -> None:
            estimates.append(x - time * used)

        self._sample(prompts, seeds, watch)
        images = [[to_image(each) for each in self.decode(list(estimates[step]))] for step in steps]
        return [list(of_one) for of_one in zip(*images, strict=True)]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Grids (h, w, c) of one size -> images (n, 3, H, W) in [0, 1]."""
        self.parts.only("autoencoder", of=GENERATING)
        grid = torch.stack(list(latents))
        return decode(self.parts["autoencoder"], unpatchify(grid, self.configs.transformer.patch_size))

    def read(self, texts: Sequence[str | None]) -> list[Tensor]:
        """Conditions (tokens, hidden) of texts; None is a dropped caption."""
        rows = [prompt_ids(self.chat, text, self.options.text_tokens) for text in texts]
        return read(self.parts["language model"].model.language_model, rows, self.chat.special[qwen_vl.PAD])

    # ---- training ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Latent grids (h, w, c), float32, from the posterior's mean. An image of the generated size is not
        resized; others are fitted. Images are encoded by size, without padding."""
        self.parts.only("autoencoder")
        options, step = self.options, math.lcm(SIDE_STEP, self.configs.stride)
        pixels = []
        for image in map(flatten, images):
            fitted = fitted_size(image.size, options.encode_pixels, options.encode_side, step)
            pixels.append(to_tensor(image, self.size if image.size == self.size else fitted))

        def grids(batch: Tensor) -> Tensor:
            latents = encode(self.parts["autoencoder"], batch.to(self.device))
            return patchify(latents, self.configs.transformer.patch_size)

        return by_shape(pixels, grids)

    def condition(self, texts: Sequence[str | None]) -> list[Tensor]:
        """Hidden states (tokens, hidden) of a text, constant and computed once. None: dropped caption."""
        new = [text for text in dict.fromkeys(texts) if text not in self.conditions]
        if new:
            self.conditions |= zip(new, (states.cpu() for states in self.read(new)), strict=True)
        self.parts.only("denoiser", of=self.parts.makers)
        return [self.conditions[text].to(self.device) for text in texts]

    def before_training(self, texts: Sequence[str]) -> None:
        """Encode all captions of the training; then keep only the transformer in memory."""
        self.parts.only("language model")
        self.condition([*texts, None])
        self.parts.only("denoiser")

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """A complete directory in the published layout, with the weights for reference images; denoiser names are the
        stored ones."""
        whole, own = self.checkpoint.directory, self.checkpoint.transformer
        copy_files(whole, directory, (path for path in whole.rglob("*") if own.directory not in path.parents))
        own.write(directory / "transformer", weights, own.directory.rglob("*"))

    # ---- answering --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, questions: Sequence[Question]) -> list[str]:
        """All questions in one batch, of any lengths, in Qwen2.5-VL's own chat format."""
        self.parts.only("language model")
        return qwen_vl.answer(self.parts["language model"], self.chat, self.image_input, questions)

    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        """Pixels of the image resized for the model."""
        return self.image_input.box_format(size)


def make_recipe(options: Options, configs: Configs) -> Recipe:
    """The shift of the training times follows from the generated size."""
    width, height = image_size(options, configs)
    modules = r"attn\.(to_[qkv]|to_out\.0)" + (r"|feed_forward\.linear_[123]" if options.lora_modules == "all" else "")
    return Recipe(
        blocks=("Lumina2TransformerBlock",),
        full=(r"(x_embedder|time_caption_embed|noise_refiner|context_refiner|layers|norm_out)\..*",),
        lora=rf"(noise_refiner|context_refiner|layers)\.\d+\.({modules})",
        schedule=Schedule(
            "logit-normal", shift=training_shift(width * height // configs.stride**2, options.time_shift)
        ),
    )


def image_size(options: Options, configs: Configs) -> tuple[int, int]:
    """(width, height) of generated images. Raises ConfigError for one that is not a multiple of a token."""
    size = (options.size[0] or SIDE, options.size[1] or SIDE)
    check_size(size, configs.stride)
    return size
