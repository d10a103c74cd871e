"""Text from many rows at once through transformers' `generate`: each row has its own length, temperature and seed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

from srum_core.errors import CheckpointError
from srum_core.models.weights import loading

CACHE = "cache" if "cache" in inspect.signature(Qwen2Model.forward).parameters else "past_key_values"
"""The name that transformers gives a model's argument for keys and values of earlier tokens: it has changed."""


def load_tokenizer(directory: Path, special: Sequence[str], model: str) -> tuple[Qwen2Tokenizer, dict[str, int]]:
    """Return Qwen's tokenizer and the ids of the special tokens. Raises CheckpointError for one that it does not know:
    adding it would resize the embedding."""
    with loading(f"The tokenizer in {directory}", directory):
        tokenizer = Qwen2Tokenizer.from_pretrained(directory)
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in special if token not in vocabulary]:
        raise CheckpointError(
            f"The tokenizer in {directory} has no {', '.join(missing)}; {model} frames texts and images with them."
        )
    return tokenizer, {token: vocabulary[token] for token in special}


def without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy that knows no control tokens: what people write is read by it, so that no prompt or question can
    hold an image or end a turn."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**description, "added_tokens": []}))


@frozen
class Reply:
    """Sampling of one row: at temperature 0 the likeliest token, else a sample of softmax(logits / temperature)."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


def draw(logits: Tensor, reply: Reply, rng: torch.Generator) -> int:
    """Return a token of one row's logits (vocabulary,) sampled at a temperature above 0, on the CPU."""
    odds = torch.softmax(logits.float().cpu() / reply.temperature, dim=-1)
    return int(torch.multinomial(odds, 1, generator=rng))


class Choice(LogitsProcessor):
    """Every row has its own generator, so that no row depends on the others."""

    def __init__(self, replies: Sequence[Reply], watch: Callable[[Tensor], None] | None = None) -> None:
        self.replies, self.watch = replies, watch
        self.rngs = [torch.Generator().manual_seed(reply.seed) for reply in replies]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary) logits; of a sampled row, all but the sampled one become -inf."""
        if self.watch is not None:
            self.watch(scores)
        result = scores.clone()
        for row, (reply, rng) in enumerate(zip(self.replies, self.rngs, strict=True)):
            if reply.temperature > 0:
                token = draw(scores[row], reply, rng)
                result[row] = -torch.inf
                result[row, token] = 0.0
        return result


class _Enough(StoppingCriteria):
    """Stop a row at its token limit, independently of the others."""

    def __init__(self, replies: Sequence[Reply], start: int) -> None:
        self.most = torch.tensor([start + reply.max_new_tokens for reply in replies])

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return (input_ids.shape[1] >= self.most).to(input_ids.device)


def speak(
    model: Any,
    arguments: Mapping[str, Any],
    replies: Sequence[Reply],
    stops: Sequence[int],
    pad: int,
    watch: Callable[[Tensor], None] | None = None,
) -> list[list[int]]:
    """Generated ids, row by row, possibly with the stop token at the end.

    arguments  the model's arguments, `input_ids` and `attention_mask` padded on the left
    stops      tokens that end an answer
    watch      gets every step's logits

    The checkpoint's own sampling options do not count: every option is given here."""
    start = arguments["input_ids"].shape[1]
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, repetition_penalty=1.0, pad_token_id=pad, eos_token_id=list(stops),
        max_new_tokens=max(1, *(reply.max_new_tokens for reply in replies)),
    )  # fmt: skip
    out = model.generate(
        **arguments,
        generation_config=settings,
        logits_processor=LogitsProcessorList([Choice(replies, watch)]),
        stopping_criteria=StoppingCriteriaList([_Enough(replies, start)]),
    )
    return [row[start : start + reply.max_new_tokens].tolist() for row, reply in zip(out, replies, strict=True)]
