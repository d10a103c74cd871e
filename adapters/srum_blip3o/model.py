"""BLIP3-o as a `UnifiedModel`: a frozen Qwen2.5-VL understands and answers; a head generates image features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from srum_blip3o import decoder, eva, text_encoder
from srum_blip3o.checkpoint import (
    HEAD,
    QUERIES,
    check_tower,
    copy_tower,
    grid_side,
    load_tower,
    open_checkpoint,
    save_trained,
)
from srum_blip3o.dit import Condition, Denoiser, sample
from srum_blip3o.options import Options
from srum_blip3o.text_encoder import Reader
from srum_core.flow import Recipe, Schedule
from srum_core.models import qwen_vl, small_memory
from srum_core.models.hub import Parts, choose_device, choose_dtype
from srum_core.models.images import check_size, flatten, to_image
from srum_core.models.memory_outline import outline_in
from srum_core.models.placement import Places
from srum_core.models.qwen_vl import Chat, ImageInput
from srum_core.models.weights import failure, read_json
from srum_core.records import Box, BoxFormat, Question, Sample

GENERATING = ("language model", "decoder")
"""Parts that generate with the head."""
READ_AT_ONCE = 16
"""Captions whose conditions are computed in one batch."""
LAYERS = r"layers\.\d+\.(attn1\.to_[qkv]|attn2\.(to_[qkv]|to_out\.0)|feed_forward\.linear_[123])"
"""The linear layers of diffusers' model."""
LINEAR = {"generation": rf"dit\.model\.({LAYERS})"}
"""The linear layers of the head."""
BLOCKS = r"dit\.model\.layers\.\d+"
"""The head's layers."""


class Blip3o:
    """Load a checkpoint directory (or hub id) strictly: no missing, no unused key. Only the head is loaded at
    once; the language model, the decoder and the feature tower are loaded when they are needed."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.checkpoint = open_checkpoint(options.checkpoint, options.device)
        sizes = self.checkpoint.sizes
        self.words = Chat.load(self.checkpoint.directory, "BLIP3-o", [text_encoder.QUERIES])
        self.image_input = ImageInput.within(*options.vision_pixels)
        device, dtype = self.device, self.dtype
        self.parts = Parts(
            {
                "language model": lambda: text_encoder.recomputing(
                    qwen_vl.load(sizes.language, self.checkpoint.stored, device, dtype, options)
                ),
                "decoder": lambda: decoder.load(
                    decoder.find(options.decoder, self.checkpoint.directory), sizes.head.channels, device, dtype
                ),
                "feature tower": lambda: load_tower(self.checkpoint, options, device, dtype),
            },
            device,
            options.offload,
        )
        special = self.words.special
        reader = Reader(
            lambda: self.parts["language model"].model.language_model,
            special[text_encoder.QUERIES],
            special[qwen_vl.PAD],
            options.recompute,
        )
        with torch.device("meta"):
            self.denoiser = Denoiser(sizes.head, sizes.queries, reader, options.train_queries)
        small_memory.quantize(self.denoiser, options, LINEAR, dtype)
        places = Places.of(options, device, self.denoiser, BLOCKS, dtype)
        self.checkpoint.stored.load([self.denoiser], places, dtype, stored_name, partly=True)
        places.connect(self.denoiser, "dit.model.norm_out")
        self.parts.add("denoiser", self.denoiser)
        self.hidden_states: dict[str, Tensor] = {}
        """With train_queries off: the condition of every caption so far, on the CPU."""
        self.recipe = make_recipe(options)

    outline = outline_in("srum_blip3o.memory_outline")

    @classmethod
    def preflight(cls, options: Options) -> None:
        """Raise CheckpointError or ConfigError for problems that files and headers show before a run."""
        checkpoint = open_checkpoint(options.checkpoint, options.device)
        Chat.load(checkpoint.directory, "BLIP3-o", [text_encoder.QUERIES])
        autoencoder = read_json(decoder.find(options.decoder, checkpoint.directory) / "vae" / "config.json")
        check_size(options.size, 2 ** (len(autoencoder["block_out_channels"]) - 1))
        if options.x0 == "encoded":
            check_tower(checkpoint, options)

    # ---- generating -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """One image of `options.size` per prompt. With `x0="sampled"` each has the features it was decoded from."""
        self.parts.only("language model", of=GENERATING)
        sampling = self.options.sampling
        # One more row without a prompt: features that the decoder is guided away from, with the current weights.
        rows = [*(self.read(prompt, self.options.generation_turn) for prompt in prompts), []]
        used = len(rows) if sampling.negative == "empty_prompt" else len(prompts)
        states = self._states(rows[:used])
        self.parts.only("denoiser", of=GENERATING)
        side, channels = self.side, self.checkpoint.sizes.head.channels
        rngs = [torch.Generator().manual_seed(seed) for seed in [*seeds, sampling.negative_seed]]
        noise = torch.stack([torch.randn(channels, side, side, generator=each) for each in rngs])
        grids = sample(self.denoiser, states, noise[:used], sampling)
        self.parts.only("decoder", of=GENERATING)
        image_decoder = self.parts["decoder"]
        size = (self.options.size[0] or image_decoder.size[0], self.options.size[1] or image_decoder.size[1])
        for_pixels = torch.stack([image_decoder.noise(size, each) for each in rngs[:-1]])
        tokens = rearrange(grids, "n c h w -> n (h w) c")
        features, negative = tokens[: len(prompts)], self._negative(tokens)
        latents = image_decoder.latents(features, negative.expand_as(features), for_pixels, sampling)
        recorded = rearrange(grids, "n c h w -> n h w c").cpu() if self.options.x0 == "sampled" else [None] * len(grids)
        return [
            Sample(to_image(image), latent=latent, failure=failure("image", *tensors, image))
            for image, latent, *tensors in zip(image_decoder.pixels(latents), recorded, features, latents, strict=False)
        ]

    def _negative(self, tokens: Tensor) -> Tensor:
        """(1, tokens, c) that the decoder is guided away from; `tokens`: generated features, last without prompt."""
        kind = self.options.sampling.negative
        if kind == "empty_prompt":
            return tokens[-1:]
        if kind == "zeros":
            return torch.zeros_like(tokens[:1])
        tower: eva.Tower = self.parts["feature tower"]
        black = torch.zeros(1, 3, tower.sizes.image, tower.sizes.image, device=self.device)
        return rearrange(tower.features(black), "n h w c -> n (h w) c").to(tokens)

    @property
    def side(self) -> int:
        """Rows and columns of the feature grid, from the tower's weights."""
        if not hasattr(self, "_side"):
            self._side = grid_side(self.checkpoint, self.options)
        return self._side

    def read(self, prompt: str, turn: str) -> list[int]:
        """A caption's ids up to the queries, the assistant's turn closed or open."""
        limit = int(self.checkpoint.config.get("tokenizer_model_max_length", 512))
        return text_encoder.caption(self.words, prompt, turn == "closed", self.checkpoint.sizes.queries, limit)

    # ---- training ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Feature grids (rows, columns, channels), float32, of each image's middle square."""
        self.parts.only("feature tower")
        return list(self.parts["feature tower"].features(self.seen(images)).float())

    def seen(self, images: Sequence[Image.Image]) -> Tensor:
        """The middle squares as input of the feature tower, (n, 3, side, side)."""
        side = self.parts["feature tower"].sizes.image
        return torch.stack([eva.preprocess(flatten(image), side) for image in images]).to(self.device)

    def window(self, size: tuple[int, int]) -> Box:
        """The part of an image that `encode` uses, the middle square."""
        width, height = size
        side = min(size)
        left, top = (width - side) / 2 / width, (height - side) / 2 / height
        return left, top, left + side / width, top + side / height

    def condition(self, texts: Sequence[str | None]) -> list[Condition]:
        """A caption's ids, which the denoiser encodes with the current queries; with train_queries off the encoded
        condition, (queries, hidden). None where the text is dropped."""
        if not self.options.train_queries:
            self._encode_captions(texts)
            self.parts.only("denoiser", of=self.parts.makers)
            return [None if text is None else self.hidden_states[text].to(self.device) for text in texts]
        self.parts.only("denoiser", "language model", of=self.parts.makers)
        ids = [None if text is None else self.read(text, self.options.training_turn) for text in texts]
        return [None if row is None else torch.tensor(row, device=self.device) for row in ids]

    def before_training(self, texts: Sequence[str]) -> None:
        """Keep only the head and the language model in memory; with train_queries off, encode all captions of the
        training now, and keep only the head."""
        if self.options.train_queries:
            self.parts.only("denoiser", "language model")
        else:
            self.parts.only("language model")
            self._encode_captions(texts)
            self.parts.only("denoiser")

    @torch.no_grad()
    def _encode_captions(self, texts: Sequence[str | None]) -> None:
        new = [text for text in dict.fromkeys(texts) if text is not None and text not in self.hidden_states]
        for start in range(0, len(new), READ_AT_ONCE):
            some = new[start : start + READ_AT_ONCE]
            rows = [self.read(text, self.options.training_turn) for text in some]
            self.hidden_states |= zip(some, self._states(rows).cpu(), strict=True)

    def _states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The condition of each row of ids; the queries may wait in host memory."""
        return self.denoiser.reader.states(self.denoiser.latent_queries.to(self.device), rows)

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """The trained weights under the official names, and the base checkpoint's name; it loads like a checkpoint."""
        changed = {stored_name(name): tensor for name, tensor in weights.items()}
        save_trained(self.checkpoint, directory, changed)

    def export(self, directory: Path) -> None:
        """The whole model with its current weights, as a directory in the published layout."""
        now = {stored_name(name): tensor for name, tensor in self.denoiser.state_dict().items()}
        self.checkpoint.stored.write(directory, now, self.checkpoint.directory.rglob("*"))
        copy_tower(self.checkpoint, self.options, directory)

    def diffusers_model(self) -> Any:
        """The head; its projection of the condition, which the class has not, is in the file too."""
        return self.denoiser.head

    # ---- answering --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, questions: Sequence[Question]) -> list[str]:
        """All questions in one batch, of any lengths."""
        self.parts.only("language model")
        return qwen_vl.answer(self.parts["language model"], self.words, self.image_input, questions)

    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        """Pixels of the image resized for the model, not of the file and not thousandths."""
        return self.image_input.box_format(size)


def make_recipe(options: Options) -> Recipe:
    return Recipe(
        blocks=("LuminaNextDiTBlock",),
        full=(r"dit\..*", *([r"latent_queries"] if options.train_queries else [])),
        lora=LAYERS,
        schedule=Schedule("uniform", levels=1000),
        prefix="dit.model",
    )


def stored_name(name: str) -> str:
    """A denoiser parameter -> its name in the checkpoint."""
    return QUERIES if name == "latent_queries" else HEAD + name.removeprefix("dit.model.")
