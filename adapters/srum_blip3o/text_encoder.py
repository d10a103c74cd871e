"""The frozen Qwen2.5-VL: its tokens and chat format, reading captions for the head, and answering many questions at
once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from srum_core.errors import CheckpointError
from srum_core.models import generation
from srum_core.models.generation import Reply, load_tokenizer
from srum_core.models.weights import Stored

START, END, PAD, QUERIES, IMAGE = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[IMG]", "<|image_pad|>"
SPECIAL = (START, END, PAD, "<|vision_start|>", "<|vision_end|>", IMAGE, QUERIES)
PATCH, MERGE = 14, 2
"""Pixels of a patch's side; patches of a vision token's side."""
SYSTEM = "You are a helpful assistant."
DRAW = "Please generate image based on the following caption: "
REASON_FIRST = (
    " Before you answer, reason about the question and about what can be seen. "
    "Put this reasoning between <think> and </think>, then give the answer."
)


@frozen
class Words:
    """The tokenizer, once as it is and once without its added tokens: what people write is read by the second, so that
    no caption or question can hold an image, end a turn or start the queries."""

    tokenizer: PreTrainedTokenizerBase
    plain: Tokenizer
    special: dict[str, int]
    limit: int
    """Most tokens of a caption's sequence, queries included."""

    @classmethod
    def load(cls, directory: Path, limit: int) -> Words:
        """Raises CheckpointError if a special token is unknown."""
        tokenizer, special = load_tokenizer(directory, SPECIAL, "BLIP3-o")
        made = json.loads(tokenizer.backend_tokenizer.to_str())
        plain = Tokenizer.from_str(json.dumps({**made, "added_tokens": []}))
        return cls(tokenizer, plain, special, limit)

    def ids(self, text: str) -> list[int]:
        """The text's own ids, whatever it looks like."""
        return list(self.plain.encode(text, add_special_tokens=False).ids)

    def turn(self, role: str, inner: Sequence[int] | str, closed: bool = True) -> list[int]:
        """A turn of the chat: role and text, or the ids of what is said. An open one is to be continued."""
        start, end = self.special[START], self.special[END]
        said = self.ids(f"{role}\n{inner}") if isinstance(inner, str) else [*self.ids(f"{role}\n"), *inner]
        return [start, *said, *([end, *self.ids("\n")] if closed else [])]

    def caption(self, text: str, closed: bool, queries: int) -> list[int]:
        """What is read before the queries. A caption that is too long is cut itself; the turns around it stay.

        closed   whether the assistant's empty turn is closed
        queries  how many follow, after their own token"""
        before, after = self.turn("system", SYSTEM), self.turn("assistant", "", closed)
        room = self.limit - (queries + 1) - len(before) - len(after)
        user = self.turn("user", DRAW + text)
        shut = 1 + len(self.ids("\n"))
        if len(user) > room:
            user = user[: max(room - shut, 1)] + user[-shut:]
        return [*before, *user, *after]

    def question(self, text: str, cells: int, aloud: bool = False) -> list[int]:
        """A question about an image of so many vision tokens (0: about none), the answer to be given next."""
        shown = [self.special["<|vision_start|>"], *[self.special[IMAGE]] * cells, self.special["<|vision_end|>"]]
        asked = self.turn("user", [*shown, *self.ids(text)]) if cells else self.turn("user", text)
        system = self.turn("system", SYSTEM + REASON_FIRST * aloud)
        return [*system, *asked, *self.turn("assistant", "", closed=False)]

    @property
    def stops(self) -> list[int]:
        """Either ends an answer."""
        return [self.special[END], self.special[PAD]]

    def text(self, ids: Sequence[int]) -> str:
        """What was said, up to where it stops."""
        end = next((place for place, token in enumerate(ids) if token in self.stops), len(ids))
        return str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))


# ---- the language model ----------------------------------------------------------------------------------------------


def load(config: Qwen2_5_VLConfig, stored: Stored, device: torch.device, dtype: torch.dtype) -> Any:
    """From the published checkpoint; training never changes any of it. Sampling options that it carries are dropped:
    a question says itself how it is to be answered."""
    names = {name: official_name(name) for name in language_state(config)}
    tensors = stored.tensors(name for name in names.values() if name in stored.where)
    loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict={ours: tensors[name] for ours, name in names.items() if name in tensors},
        dtype=dtype,
        device_map={"": device},
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    model, report = loaded
    wrong = [str(key) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for key in report[kind]]
    if wrong:
        raise CheckpointError(f"transformers could not load {', '.join(wrong[:5])} of {stored.directory}.")
    model.generation_config = GenerationConfig()
    allow_recomputing(model)
    return model.eval().requires_grad_(False)


def allow_recomputing(model: Any) -> None:
    """Layers then compute their activations again where they are in training mode, which nothing else depends on."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})


def language_config(config: Mapping[str, Any], directory: Path) -> Qwen2_5_VLConfig:
    """Out of the flat dictionary itself. transformers does not know the model type `blip3o_qwen` and, when it is given
    the directory, takes the vision tower's nested configuration for the whole: a text model of the tower's sizes."""
    kind = config.get("model_type")
    if not str(kind).startswith("blip3o_qwen"):
        raise CheckpointError(
            f"{directory / 'config.json'} is of model_type {kind!r}; BLIP3-o's is blip3o_qwen. (The branches "
            "BLIP3o-NEXT and Qwen3-Siglip2 have other layouts, which this adapter does not read.)"
        )
    # What the loaded model should be like is decided here, not by what a file says of types and attention.
    dropped = ("model_type", "architectures", "torch_dtype", "dtype", "auto_map", "_attn_implementation")
    return Qwen2_5_VLConfig(**{key: value for key, value in config.items() if key not in dropped})


def official_name(name: str) -> str:
    """transformers' name of a tensor of the language model -> the stored one."""
    return name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)


def language_state(config: Qwen2_5_VLConfig) -> dict[str, Tensor]:
    """Return everything that the language model is made of, by transformers' names and without values; a tied head is
    left out."""
    with torch.device("meta"):
        state = Qwen2_5_VLForConditionalGeneration(config).state_dict()
    return {name: each for name, each in state.items() if name != "lm_head.weight" or not config.tie_word_embeddings}


# ---- captions --------------------------------------------------------------------------------------------------------


class Reader:
    """Reads captions with a language model that somebody else holds and may let go of in between.

    It is no module of the denoiser: what is frozen is neither wrapped, averaged over processes, nor saved with it."""

    def __init__(self, text_model: Callable[[], Any], start: int, pad: int, recompute: bool) -> None:
        """`start`: the token before the queries; `recompute`: save memory where a gradient is needed."""
        self.text_model, self.start, self.pad, self.recompute = text_model, start, pad, recompute

    def __deepcopy__(self, memo: dict[int, Any]) -> Reader:
        return self  # copies of a denoiser read with the same frozen model

    def prepare(
        self, queries: Tensor, rows: Sequence[Sequence[int]], embed: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Captions and queries as the language model reads them, padded on the right: embeddings (n, t, hidden), their
        mask (n, t), 1 on what is real, and where the queries are, (n, q).

        queries  (1, q, hidden)
        rows     each row's ids up to the queries; an empty row is no prompt at all"""
        count, device = queries.shape[1], queries.device
        lengths = torch.tensor([len(row) + 1 for row in rows], device=device)[:, None]
        longest = max(map(len, rows)) + 1 + count
        ids = [[*row, self.start, *[self.pad] * (longest - len(row) - 1)] for row in rows]
        embeds = embed(torch.tensor(ids, device=device))
        # Consecutive places and no mask: how many a mask picks would have to be looked up in its values.
        places = lengths + torch.arange(count, device=device)
        filling = queries.to(embeds).expand(len(rows), -1, -1)
        embeds = embeds.scatter(1, places[..., None].expand_as(filling), filling)
        return embeds, (torch.arange(longest, device=device) < lengths + count).long(), places

    def hidden(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Hidden states after the final norm, (n, t, hidden); positions are plain, and what is padding sees nothing."""
        model = self.text_model()
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        # In this mode, and in no other, layers recompute; nothing in them is random.
        model.train(self.recompute and torch.is_grad_enabled() and embeds.requires_grad)
        try:
            return model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
        finally:
            model.eval()

    def states(self, queries: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """The condition of each row: (n, q, hidden)."""
        embeds, mask, places = self.prepare(queries, rows, self.text_model().embed_tokens)
        return self.hidden(embeds, mask)[torch.arange(len(rows), device=places.device)[:, None], places]


# ---- images --------------------------------------------------------------------------------------------------------


@frozen
class Eyes:
    """How images become patches: transformers' processor with limits of our own (checkpoints come without one)."""

    fewest: int
    most: int

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image as the model sees it: whole patches, what boxes count in."""
        width, height = size
        rows, columns = smart_resize(height, width, PATCH * MERGE, self.fewest, self.most)
        return columns, rows

    def patches(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Patches of all images one after another, and (frames, rows, columns) of patches of each."""
        size = {"shortest_edge": self.fewest, "longest_edge": self.most}
        processor = Qwen2VLImageProcessorPil(size=size, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
        made = processor(list(images), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]


def cells(grid: Tensor) -> int:
    """Vision tokens of an image whose patches lie like this."""
    return int(grid.prod()) // MERGE**2


# ---- answering -------------------------------------------------------------------------------------------------------


def ask(
    words: Words, rows: Sequence[Sequence[int]], images: tuple[Tensor, Tensor] | None, device: torch.device
) -> dict[str, Tensor]:
    """Return questions side by side, padded on the left, as arguments of the model.

    rows      ids of each question
    images  `Eyes.patches` of all that have one, in order"""
    longest, pad = max(map(len, rows)), words.special[PAD]
    ids = torch.tensor([[pad] * (longest - len(row)) + [*row] for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    # The types are 1 on an image's tokens. Without them transformers gives these plain positions, and says nothing.
    types = (ids == words.special[IMAGE]).int()
    asked = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
    if images is not None:
        asked |= {"pixel_values": images[0], "image_grid_thw": images[1]}
    return {name: tensor.to(device) for name, tensor in asked.items()}


@torch.no_grad()
def speak(
    model: Any,
    words: Words,
    asked: Mapping[str, Tensor],
    replies: Sequence[Reply],
    watch: Callable[[Tensor], None] | None = None,
) -> list[list[int]]:
    """Ids said, row by row, possibly with what stopped them at the end; `watch` gets every step's logits."""
    return generation.speak(model, asked, replies, words.stops, words.special[PAD], watch)
