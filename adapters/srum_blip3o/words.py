"""BLIP3-o's words: special tokens by name, and what is said around a caption or a question. Qwen's chat format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from srum_core.errors import CheckpointError
from srum_core.models.weights import loading

START, END, PAD, QUERIES, PICTURE = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[IMG]", "<|image_pad|>"
SPECIAL = (START, END, PAD, "<|vision_start|>", "<|vision_end|>", PICTURE, QUERIES)
SYSTEM = "You are a helpful assistant."
DRAW = "Please generate image based on the following caption: "
REASON_FIRST = (
    " Before you answer, reason about the question and about what can be seen. "
    "Put this reasoning between <think> and </think>, then give the answer."
)


@frozen
class Words:
    """The tokenizer, once as it is and once without its added tokens: what people write is read by the second, so that
    no caption or question can hold a picture, end a turn or start the queries."""

    tokenizer: PreTrainedTokenizerBase
    plain: Tokenizer
    special: dict[str, int]
    limit: int
    """Most tokens of a caption's sequence, queries included."""

    @classmethod
    def load(cls, directory: Path, limit: int) -> Words:
        """Raises CheckpointError if a special token is unknown: adding one would resize the embedding."""
        with loading(f"The tokenizer in {directory}", directory):
            tokenizer = Qwen2Tokenizer.from_pretrained(directory)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in SPECIAL if token not in vocabulary]
        if missing:
            raise CheckpointError(
                f"The tokenizer in {directory} has no {', '.join(missing)}; BLIP3-o frames texts, pictures and its "
                "queries with them."
            )
        made = json.loads(tokenizer.backend_tokenizer.to_str())
        plain = Tokenizer.from_str(json.dumps({**made, "added_tokens": []}))
        return cls(tokenizer, plain, {token: vocabulary[token] for token in SPECIAL}, limit)

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
        """A question about a picture of so many vision tokens (0: about none), the answer to be given next."""
        shown = [self.special["<|vision_start|>"], *[self.special[PICTURE]] * cells, self.special["<|vision_end|>"]]
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
