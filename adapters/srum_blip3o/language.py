"""The frozen language model with its eyes: loading it, and answering many questions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2_5_VLForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from srum_blip3o.checkpoint import Checkpoint, language_names
from srum_blip3o.words import Words
from srum_core.errors import CheckpointError

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
    _allow_recomputing(model)
    return model.eval().requires_grad_(False)


def _allow_recomputing(model: Any) -> None:
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


@frozen
class Reply:
    """How one row speaks: at temperature 0 the likeliest token, else a draw from softmax(logits / temperature)."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


@torch.no_grad()
def speak(
    model: Any, words: Words, asked: Asked, replies: Sequence[Reply], watch: Callable[[Tensor], None] | None = None
) -> list[list[int]]:
    """Ids said, row by row, possibly with what stopped them at the end; `watch` gets every step's logits."""
    start = asked.input_ids.shape[1]
    longest = max(1, *(reply.max_new_tokens for reply in replies))
    settings = GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=longest,
        eos_token_id=words.stops, pad_token_id=words.special["<|endoftext|>"],
    )  # fmt: skip
    out = model.generate(
        **asked.arguments(),
        generation_config=settings,
        logits_processor=LogitsProcessorList([_Choice(replies, watch)]),
        stopping_criteria=StoppingCriteriaList([_Enough(replies, start)]),
    )
    return [row[start : start + each.max_new_tokens].tolist() for row, each in zip(out, replies, strict=True)]


class _Choice(LogitsProcessor):
    """Every row draws from a generator of its own, so that no answer depends on what is asked beside it."""

    def __init__(self, replies: Sequence[Reply], watch: Callable[[Tensor], None] | None) -> None:
        self.replies, self.watch = replies, watch
        self.dice = [torch.Generator().manual_seed(reply.seed) for reply in replies]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        if self.watch is not None:
            self.watch(scores)
        chosen = scores.clone()
        for row, (reply, dice) in enumerate(zip(self.replies, self.dice, strict=True)):
            if reply.temperature > 0:
                odds = torch.softmax(scores[row].float().cpu() / reply.temperature, dim=-1)
                chosen[row] = -torch.inf
                chosen[row, int(torch.multinomial(odds, 1, generator=dice))] = 0.0
        return chosen


class _Enough(StoppingCriteria):
    """A row that has said as much as it may stops, whatever the others do."""

    def __init__(self, replies: Sequence[Reply], start: int) -> None:
        self.most = torch.tensor([start + reply.max_new_tokens for reply in replies])

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        return (input_ids.shape[1] >= self.most).to(input_ids.device)
