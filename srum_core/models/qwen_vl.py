"""A frozen Qwen2.5-VL: its tokens and chat format, loading it strictly, and answering many questions at once."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from srum_core.errors import CheckpointError
from srum_core.models import small_memory
from srum_core.models.generation import Reply, load_tokenizer, speak, without_added_tokens
from srum_core.models.images import open_rgb
from srum_core.models.placement import Places
from srum_core.models.weights import Stored
from srum_core.options import SmallMemory
from srum_core.records import BoxFormat, Question

START, END, PAD, IMAGE = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>"
SPECIAL = (START, END, PAD, "<|vision_start|>", "<|vision_end|>", IMAGE)
SYSTEM = "You are a helpful assistant."
REASON_FIRST = (
    " Before you answer, reason about the question and about what can be seen. "
    "Put this reasoning between <think> and </think>, then give the answer."
)
LAYERS = {
    "understanding": r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
}
"""The linear layers of the language model, by transformers' names."""

FULL = SmallMemory()


@frozen
class Chat:
    """The tokenizer, once as it is and once without its added tokens: what people write is read by the second, so that
    no caption or question can hold an image, end a turn or ask for an image."""

    tokenizer: PreTrainedTokenizerBase
    plain: Tokenizer
    special: dict[str, int]

    @classmethod
    def load(cls, directory: Path, model: str, more: Sequence[str] = ()) -> Chat:
        """`model`: its name in messages; `more`: special tokens beside Qwen's. Raises CheckpointError."""
        tokenizer, special = load_tokenizer(directory, (*SPECIAL, *more), model)
        return cls(tokenizer, without_added_tokens(tokenizer), special)

    def ids(self, text: str) -> list[int]:
        """The text's own ids, whatever it looks like."""
        return list(self.plain.encode(text, add_special_tokens=False).ids)

    def turn(self, role: str, inner: Sequence[int] | str, closed: bool = True, room: int | None = None) -> list[int]:
        """A turn of the chat: role and text, or the ids of what is said. An open one is to be continued.

        room  most tokens of the turn: a closed one that is longer loses the end of what is said, not its frame"""
        end = [self.special[END], *self.ids("\n")] if closed else []
        words = self.ids(f"{role}\n{inner}") if isinstance(inner, str) else [*self.ids(f"{role}\n"), *inner]
        turn = [self.special[START], *words]
        return [*(turn if room is None else turn[: max(room - len(end), 1)]), *end]

    def question(self, text: str, cells: int, reason: bool = False) -> list[int]:
        """A question about an image of so many vision tokens (0: about none), the answer to be given next."""
        image = [self.special["<|vision_start|>"], *[self.special[IMAGE]] * cells, self.special["<|vision_end|>"]]
        user = self.turn("user", [*image, *self.ids(text)] if cells else text)
        system = self.turn("system", SYSTEM + REASON_FIRST * reason)
        return [*system, *user, *self.turn("assistant", "", closed=False)]

    @property
    def stops(self) -> list[int]:
        """Either ends an answer."""
        return [self.special[END], self.special[PAD]]

    def text(self, ids: Sequence[int]) -> str:
        """What was said, up to where it stops."""
        end = next((place for place, token in enumerate(ids) if token in self.stops), len(ids))
        return str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))


# ---- the model -------------------------------------------------------------------------------------------------------


def load(
    config: Qwen2_5_VLConfig,
    stored: Stored,
    device: torch.device,
    dtype: torch.dtype,
    memory: SmallMemory = FULL,
) -> Any:
    """Load the model in evaluation mode and without gradients. Sampling options that its checkpoint carries are
    dropped: a question says itself how it is to be answered."""
    empty = meta_model(config, dtype)
    small_memory.quantize(empty, memory, LAYERS, dtype)
    places = Places.of(memory, device, empty, r"model\.language_model\.layers\.\d+", dtype)
    names = {name: stored_name(name, stored.where) for name in language_state(config)}
    tensors = stored.tensors(name for name in names.values() if name in stored.where)
    result: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict={ours: tensors[name] for ours, name in names.items() if name in tensors},
        dtype=dtype,
        device_map=places.device_map(empty),
        attn_implementation="sdpa",
        quantization_config=small_memory.library_config(memory, LAYERS, dtype, skipped=["model.visual", "lm_head"]),
        output_loading_info=True,
    )
    model, report = result
    wrong = [str(key) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for key in report[kind]]
    if wrong:
        raise CheckpointError(f"transformers could not load {', '.join(wrong[:5])} of {stored.directory}.")
    small_memory.keep_layout(model)
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return model.eval().requires_grad_(False)


def language_config(config: Mapping[str, Any]) -> Qwen2_5_VLConfig:
    """Out of the flat dictionary of a config.json. transformers, when it is given the directory and does not know the
    model type, takes the vision tower's nested configuration for the whole: a text model of the tower's sizes."""
    # What the loaded model should be like is decided here, not by what a file says of types and attention.
    dropped = ("model_type", "architectures", "torch_dtype", "dtype", "auto_map", "_attn_implementation")
    return Qwen2_5_VLConfig(**{key: value for key, value in config.items() if key not in dropped})


def official_name(name: str) -> str:
    """transformers' name of a tensor -> the stored one, which is that of transformers 4.51."""
    return name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)


def language_state(config: Qwen2_5_VLConfig) -> dict[str, Tensor]:
    """Return all tensors of the model, by transformers' names and without values; a tied head is left out."""
    with torch.device("meta"):
        state = Qwen2_5_VLForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def stored_name(name: str, there: Container[str]) -> str:
    """Return the name that a tensor has among those that are `there`: transformers' own, or the one of 4.51."""
    return name if name in there else official_name(name)


def stored_shapes(config: Qwen2_5_VLConfig, there: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Stored name -> shape of every tensor. Some savers write the copy of a tied head too: wanted if it is `there`."""
    state = language_state(config)
    shapes: dict[str, Sequence[int]] = {stored_name(name, there): tensor.shape for name, tensor in state.items()}
    if config.tie_word_embeddings and "lm_head.weight" in there:
        shapes["lm_head.weight"] = state["model.language_model.embed_tokens.weight"].shape
    return shapes


# ---- images ----------------------------------------------------------------------------------------------------------


@frozen
class ImageInput:
    """How images become patches: transformers' processor with its limits."""

    processor: Qwen2VLImageProcessorPil

    @classmethod
    def within(cls, fewest: int, most: int) -> ImageInput:
        """The published settings, with these limits to an image's pixels."""
        return cls(Qwen2VLImageProcessorPil(size={"shortest_edge": fewest, "longest_edge": most}))

    @property
    def step(self) -> int:
        """Pixels of a vision token's side."""
        return int(self.processor.patch_size * self.processor.merge_size)

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image as the model sees it: whole vision tokens, what boxes count in."""
        width, height = size
        limits = self.processor.size
        rows, columns = smart_resize(height, width, self.step, limits["shortest_edge"], limits["longest_edge"])
        return columns, rows

    def tokens(self, size: tuple[int, int]) -> int:
        """Vision tokens of an image of this (width, height)."""
        columns, rows = self.seen(size)
        return columns * rows // self.step**2

    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        """Qwen2.5-VL writes boxes in pixels of the image as it was resized for it: not of the file, not thousandths."""
        return BoxFormat("pixels", self.seen(size))

    def patches(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Patches of all images one after another, and (frames, rows, columns) of patches of each."""
        batch = self.processor(list(images), return_tensors="pt")
        return batch["pixel_values"], batch["image_grid_thw"]

    def cells(self, grid: Tensor) -> int:
        """Vision tokens of an image whose patches lie like this."""
        return int(grid.prod()) // int(self.processor.merge_size) ** 2


# ---- answering -------------------------------------------------------------------------------------------------------


def answer(model: Any, chat: Chat, image_input: ImageInput, questions: Sequence[Question]) -> list[str]:
    """All questions at once, whatever their lengths."""
    patches, grids = image_input.patches([open_rgb(question.image, question.crop) for question in questions])
    rows = [
        chat.question(question.text, image_input.cells(grid), question.think)
        for question, grid in zip(questions, grids, strict=True)
    ]
    replies = [Reply(question.max_new_tokens, question.temperature, question.seed) for question in questions]
    arguments = ask(chat, rows, (patches, grids), model.device)
    return [chat.text(ids) for ids in speak(model, arguments, replies, chat.stops, chat.special[PAD])]


def ask(
    chat: Chat, rows: Sequence[Sequence[int]], images: tuple[Tensor, Tensor] | None, device: torch.device
) -> dict[str, Tensor]:
    """Return questions side by side, padded on the left, as arguments of the model.

    rows    ids of each question
    images  `ImageInput.patches` of all that have one, in order"""
    longest, pad = max(map(len, rows)), chat.special[PAD]
    ids = torch.tensor([[pad] * (longest - len(row)) + [*row] for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    # The types are 1 on an image's tokens. Without them transformers gives these plain positions, and says nothing.
    types = (ids == chat.special[IMAGE]).int()
    arguments = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
    if images is not None:
        arguments |= {"pixel_values": images[0], "image_grid_thw": images[1]}
    return {name: tensor.to(device) for name, tensor in arguments.items()}


# ---- without weights, for memory planning ----------------------------------------------------------------------------


def published_config(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool, kind: str
) -> dict[str, Any]:
    """The config.json of a language model with the published vision tower; `kind`: its model_type."""
    return {
        "model_type": kind, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "tie_word_embeddings": tied, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 128000, "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                          "out_hidden_size": hidden, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
                          "fullatt_block_indexes": [7, 15, 23, 31], "model_type": "qwen2_5_vl"},
    }  # fmt: skip


def meta_model(config: Qwen2_5_VLConfig, dtype: torch.dtype) -> Any:
    """The model on torch's meta device."""
    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    nn.Module.to(model, dtype)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def prefill(model: Any, tokens: int, count: int, new: int) -> None:
    """Read so many questions at once, of so many tokens with their images, and begin so many `new` tokens of each
    answer; zeros stand for the vision tower's output."""
    text, config = model.model.language_model, model.config.get_text_config()
    embeds = torch.zeros(count, tokens, config.hidden_size, device="meta", dtype=text.dtype)
    out = text(inputs_embeds=embeds, use_cache=True)
    cached = 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    cache = torch.zeros(config.num_hidden_layers, count, new, cached, device="meta", dtype=text.dtype)
    model.lm_head(out.last_hidden_state[:, -1])
    del cache
