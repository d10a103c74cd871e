"""BAGEL's words: tokenizer, special ids, how text becomes ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from srum_core.models.generation import load_tokenizer

BOS, EOS, START, END = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"

PLAN_A_IMAGE = (
    "Before you draw, work out a plan for the picture: what it shows, where everything is and what it looks like. "
    "Put this reasoning between <think> and </think>, then describe the picture that you will draw."
)
REASON_FIRST = (
    "Before you answer, reason about the question and about what can be seen. "
    "Put this reasoning between <think> and </think>, then give the answer."
)


@frozen
class Chat:
    """A tokenizer and the four ids that frame texts and images."""

    tokenizer: PreTrainedTokenizerBase
    bos: int
    eos: int
    markers: tuple[int, int]

    @classmethod
    def load(cls, directory: Path) -> Chat:
        """From `vocab.json`, `merges.txt` and `tokenizer_config.json`. Raises CheckpointError."""
        tokenizer, ids = load_tokenizer(directory, (BOS, EOS, START, END), "BAGEL")
        return cls(tokenizer, ids[BOS], ids[EOS], (ids[START], ids[END]))

    def ids(self, text: str) -> list[int]:
        """The text's own ids. Special tokens in it stay plain text: a prompt cannot inject control."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def frame(self, text: str | None) -> Tensor:
        """[bos] ids [eos]; empty for None (dropped text)."""
        return torch.tensor([] if text is None else [self.bos, *self.ids(text), self.eos], dtype=torch.long)

    def text(self, ids: Sequence[int]) -> str:
        """The generated text, up to the first end of text."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).split(EOS)[0]

    @property
    def size(self) -> int:
        """Ids from here on are padding rows of the embedding and belong to no token."""
        return len(self.tokenizer)
