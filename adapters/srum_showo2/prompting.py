"""Show-o2's words: Qwen2.5's tokenizer with four more tokens, captions, and how questions are framed."""

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
"""What Show-o2 adds to Qwen2.5's tokenizer, in this order; the embedding has a row for each."""
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"
USER, ASSISTANT = "\n<|im_start|>user\n", "\n<|im_start|>assistant\n"


@frozen
class Words:
    """The tokenizer, once with its added tokens (for frames) and once without (for what people write)."""

    tokenizer: Qwen2Tokenizer
    plain: Tokenizer
    special: dict[str, int]
    limit: int
    """Most tokens of a caption."""
    control: bool = False
    """Whether control tokens in captions and questions act as such."""

    @classmethod
    def load(cls, directory: Path, rows: int, limit: int, control: bool = False) -> Words:
        """From the language model's directory; `rows` of the embedding. Raises CheckpointError if they do not fit."""
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
        """Start of a row, and start of an image."""
        return self.special[START], self.special[IMAGE_START]

    @property
    def stop(self) -> int:
        """Ends an answer."""
        return self.special[END]

    def ids(self, text: str) -> list[int]:
        """What people write; nothing in it is a control token unless `control` says so."""
        return self._frame(text) if self.control else list(self.plain.encode(text, add_special_tokens=False).ids)

    def _frame(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def caption(self, text: str | None) -> Tensor:
        """A caption's ids, cut at the limit; none where it is dropped."""
        return torch.tensor([] if text is None else self.ids(text)[: self.limit], dtype=torch.long)

    def before(self, image: bool = True) -> list[int]:
        """What precedes an image that is asked about, or the question where there is none."""
        return [*self._frame(SYSTEM), *self._frame(USER), *([self.special[IMAGE_START]] if image else [])]

    @property
    def frame(self) -> tuple[list[int], int]:
        """What precedes an image that is asked about, and the token that ends it."""
        return self.before(), self.special[IMAGE_END]

    def question(self, text: str, trained: bool = True, image: bool = True) -> list[int]:
        """A question, to be answered next: as in training, with a line break behind the image and the turn closed, or
        as the published script writes it."""
        asked = [*self.ids(f"\n{text}" if image else text), self.special[END]] if trained else self.ids(text)
        return [*asked, *self._frame(ASSISTANT)]

    def text(self, ids: Sequence[int]) -> str:
        """What was answered, up to where it stops."""
        end = next((place for place, token in enumerate(ids) if token == self.stop), len(ids))
        return str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
