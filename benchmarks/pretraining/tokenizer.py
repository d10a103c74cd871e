"""A small tokenizer of Qwen2's kind, for tiny models of adapters whose published ones have such a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The expression by which Qwen2's tokenizer splits text before it merges bytes."""


def train_tokenizer(
    corpus: Iterable[str], size: int, directory: Path, special: Sequence[str], pad: str, end: str
) -> Qwen2Tokenizer:
    """Train a byte-level BPE of at most `size` entries plus the special tokens, and save all files of the layout."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    directory.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(directory))
    lines = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges: Any = [tuple(line.split(" ")) for line in lines if not line.startswith("#")]
    vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    tokenizer: Any = Qwen2Tokenizer(vocab=vocabulary, merges=merges, pad_token=pad, eos_token=end)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.save_pretrained(directory)
    reloaded: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(directory)
    return reloaded
