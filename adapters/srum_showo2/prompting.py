"""Show-o2's prompts: Qwen2.5's tokenizer with four more tokens, captions, and the template of questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2Tokenizer

from srum_core.errors import CheckpointError
from srum_core.models.generation import load_tokenizer, without_added_tokens

START, END, IMAGE_START, IMAGE_END = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
PADDING, ADDED = "[PAD]", ("<image>", "<|vid_start|>", "<|vid_end|>")
"""Tokens that Show-o2 adds to Qwen2.5's tokenizer, in this order; the embedding has a row for each."""
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"
USER, ASSISTANT = "\n<|im_start|>user\n", "\n<|im_start|>assistant\n"


@frozen
class Words:
    """The tokenizer, once with its added tokens (for templates) and once without (for user text)."""

    tokenizer: Qwen2Tokenizer
    plain: Tokenizer
    special: dict[str, int]
    limit: int
    """Most tokens of a caption."""
    control: bool = False
    """Whether control tokens in captions and questions act as such."""

    @classmethod
    def load(cls, directory: Path, rows: int, limit: int, control: bool = False) -> Words:
        """Load the language model's tokenizer. Raises CheckpointError unless it has as many entries as the embedding
        `rows`."""
        tokenizer, special = load_tokenizer(directory, (START, END, IMAGE_START, IMAGE_END), "Show-o2")
        plain = without_added_tokens(tokenizer)
        tokenizer.add_special_tokens({"pad_token": PADDING})
        tokenizer.add_tokens(list(ADDED))
        if len(tokenizer) != rows:
            raise CheckpointError(
                f"The tokenizer in {directory} has {len(tokenizer)} entries with Show-o2's own, the checkpoint's "
                f"embedding {rows} rows: they belong to different models. Set adapter.language_model."
            )
        return cls(tokenizer, plain, special, limit, control)

    @property
    def markers(self) -> tuple[int, int]:
        """The tokens that start a row, and an image."""
        return self.special[START], self.special[IMAGE_START]

    @property
    def stop(self) -> int:
        """The token that ends an answer."""
        return self.special[END]

    def ids(self, text: str) -> list[int]:
        """Encode user text; control tokens in it are plain text unless `control` is set."""
        return self._frame(text) if self.control else list(self.plain.encode(text, add_special_tokens=False).ids)

    def _frame(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def caption(self, text: str | None) -> Tensor:
        """Encode a caption, truncated at the limit; None (dropped) is empty."""
        return torch.tensor([] if text is None else self.ids(text)[: self.limit], dtype=torch.long)

    def before(self, image: bool = True) -> list[int]:
        """Return the ids before an image in a question, or before a question without an image."""
        return [*self._frame(SYSTEM), *self._frame(USER), *([self.special[IMAGE_START]] if image else [])]

    @property
    def frame(self) -> tuple[list[int], int]:
        """The ids before an image in a question, and the token that ends it."""
        return self.before(), self.special[IMAGE_END]

    def question(self, text: str, trained: bool = True, image: bool = True) -> list[int]:
        """Encode a question: as in training (`trained`), with a line break after the image and a closed turn, or as in
        the published script."""
        ids = [*self.ids(f"\n{text}" if image else text), self.special[END]] if trained else self.ids(text)
        return [*ids, *self._frame(ASSISTANT)]

    def text(self, ids: Sequence[int]) -> str:
        """Decode an answer up to the stop token."""
        end = next((place for place, token in enumerate(ids) if token == self.stop), len(ids))
        return str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
