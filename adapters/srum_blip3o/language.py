"""The frozen language model with its eyes: loading it, and answering many questions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from srum_blip3o.checkpoint import Checkpoint, language_names
from srum_blip3o.words import Words
from srum_core.errors import CheckpointError
from srum_core.models import generation as replies_of
from srum_core.models.generation import Reply

PATCH, MERGE = 14, 2


def load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """From the published checkpoint; training never changes any of it. Sampling options that it carries are dropped:
    a question says itself how it is to be answered."""
    config = checkpoint.sizes.language
    stored = {ours: name for ours, name in language_names(config).items() if name in checkpoint.stored.where}
    tensors = checkpoint.stored.tensors(stored.values())
    loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict={ours: tensors[name] for ours, name in stored.items()},
        dtype=dtype,
        device_map={"": device},
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    model, report = loaded
    wrong = [str(key) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for key in report[kind]]
    if wrong:
        raise CheckpointError(f"transformers could not load {', '.join(wrong[:5])} of {checkpoint.directory}.")
    model.generation_config = GenerationConfig()
    allow_recomputing(model)
    return model.eval().requires_grad_(False)


def allow_recomputing(model: Any) -> None:
    """Layers then compute their activations again where they are in training mode, which nothing else depends on."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})


# ---- pictures -------------------------------------------------------------------------------------------------------


@frozen
class Eyes:
    """How pictures become patches: transformers' processor with limits of our own (checkpoints come without one)."""

    fewest: int
    most: int

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a picture as the model sees it: whole patches, what boxes count in."""
        width, height = size
        rows, columns = smart_resize(height, width, PATCH * MERGE, self.fewest, self.most)
        return columns, rows

    def patches(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Patches of all pictures one after another, and (frames, rows, columns) of patches of each."""
        size = {"shortest_edge": self.fewest, "longest_edge": self.most}
        processor = Qwen2VLImageProcessorPil(size=size, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
        made = processor(list(images), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]


def cells(grid: Tensor) -> int:
    """Vision tokens of a picture whose patches lie like this."""
    return int(grid.prod()) // MERGE**2


# ---- answering ------------------------------------------------------------------------------------------------------


@frozen
class Asked:
    """Questions side by side, padded on the left, as arguments of the model."""

    input_ids: Tensor
    attention_mask: Tensor
    mm_token_type_ids: Tensor
    """1 on a picture's tokens. Without it transformers gives these plain positions, and says nothing."""
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None

    @classmethod
    def of(cls, words: Words, rows: Sequence[Sequence[int]], eyes: tuple[Tensor, Tensor] | None, device: Any) -> Asked:
        """`rows`: ids of each question; `eyes`: the pictures of all that have one, in order."""
        longest, pad = max(map(len, rows)), words.special["<|endoftext|>"]
        ids = torch.tensor([[pad] * (longest - len(row)) + [*row] for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        kind = (ids == words.special["<|image_pad|>"]).int()
        seen = {} if eyes is None else {"pixel_values": eyes[0].to(device), "image_grid_thw": eyes[1].to(device)}
        return cls(ids, mask, kind, **seen)

    def arguments(self) -> dict[str, Tensor]:
        named = {
            "input_ids": self.input_ids, "attention_mask": self.attention_mask,
            "mm_token_type_ids": self.mm_token_type_ids,
            "pixel_values": self.pixel_values, "image_grid_thw": self.image_grid_thw,
        }  # fmt: skip
        return {name: value for name, value in named.items() if value is not None}


@torch.no_grad()
def speak(
    model: Any, words: Words, asked: Asked, replies: Sequence[Reply], watch: Callable[[Tensor], None] | None = None
) -> list[list[int]]:
    """Ids said, row by row, possibly with what stopped them at the end; `watch` gets every step's logits."""
    return replies_of.speak(model, asked.arguments(), replies, words.stops, words.special["<|endoftext|>"], watch)
