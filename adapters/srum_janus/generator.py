"""Generate images with Janus: its language model samples tokens, which a decoder turns into pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, JanusForConditionalGeneration, LogitsProcessor, LogitsProcessorList

from srum_core.errors import CheckpointError
from srum_core.models.generation import Choice, Reply
from srum_core.models.hub import Checkpoints, choose_device, choose_dtype
from srum_core.models.weights import failure, loading, read_json, refuse_infinite
from srum_core.records import Sample
from srum_janus import Options

CHECKPOINTS = Checkpoints(
    patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
    published={"deepseek-community/Janus-Pro-7B": 14_800_000_000},
    needs="Generation with it takes an accelerator with about that much memory and some more.",
)


class Janus:
    """Load a checkpoint in the layout of transformers, all of it."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.device = choose_device(self.options.device)
        directory = _find(self.options)
        dtype = choose_dtype(self.options.dtype, self.device)
        with loading(f"adapter.checkpoint={self.options.checkpoint}", directory):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, padding_side="left")
            self.template = _template(directory, self.tokenizer)
            loaded: Any = JanusForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        refuse_infinite(loaded.named_parameters(), directory)
        self.model = loaded.to(self.device).eval().requires_grad_(False)
        words, settings = self.tokenizer, self.model.generation_config
        settings.bos_token_id, settings.pad_token_id = words.bos_token_id, words.pad_token_id
        # What the unconditional rows keep; transformers expects it here and does not always store it.
        settings.generation_kwargs = {"boi_token_id": words.convert_tokens_to_ids(words.boi_token)}

    @classmethod
    def preflight(cls, options: Options) -> None:
        """Raise CheckpointError for a directory of another layout, or one too large for this machine."""
        _find(options)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """An image per prompt, each sampled from its own seed."""
        samples = []
        for start in range(0, len(prompts), self.options.batch):
            some = slice(start, start + self.options.batch)
            samples += self._draw(prompts[some], seeds[some])
        return samples

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        inputs = self.tokenizer([self._ask(prompt) for prompt in prompts], padding=True, return_tensors="pt")
        replies = [Reply(0, self.options.temperature, seed) for seed in seeds]
        tokens = self.model.generate(
            input_ids=inputs["input_ids"].to(self.device),
            attention_mask=inputs["attention_mask"].to(self.device),
            generation_mode="image",
            do_sample=False,  # the likeliest of what is left, which is the token that each row has sampled
            guidance_scale=1.0,  # transformers would guide after the rows have sampled
            logits_processor=LogitsProcessorList([_Guided(self.options.guidance, Choice(replies))]),
        )
        pixels = (self.model.decode_image_tokens(tokens).float() + 1) / 2 * 255  # (images, rows, columns, 3)
        images = pixels.clamp(0, 255).to(torch.uint8).cpu().numpy()
        return [
            Sample(Image.fromarray(image), failure=failure("image", each))
            for image, each in zip(images, pixels, strict=True)
        ]

    def _ask(self, prompt: str) -> str:
        turns = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        text = self.tokenizer.apply_chat_template(
            turns, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        return f"{text}{self.tokenizer.boi_token}"


class _Guided(LogitsProcessor):
    """Guidance first, then each row's own sample: conditional rows come first, as many unconditional ones follow."""

    def __init__(self, guidance: float, choice: Choice) -> None:
        self.guidance, self.choice = guidance, choice

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        conditional, unconditional = scores.chunk(2)
        return self.choice(input_ids, unconditional + self.guidance * (conditional - unconditional))


def _find(options: Options) -> Path:
    """The directory behind a path or a hub id. Raises CheckpointError for another layout."""
    directory = CHECKPOINTS.find(options.checkpoint, options.device)
    path = directory / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    if kind != "janus":
        raise CheckpointError(
            f"{options.checkpoint} is no Janus in the layout of transformers: its config.json has model_type "
            f"{kind!r}, not 'janus'. The authors' own repositories (deepseek-ai/…, model_type 'multi_modality') have "
            "another layout; deepseek-community/Janus-Pro-1B and -7B hold the same weights in this one."
        )
    return directory


def _template(directory: Path, tokenizer: Any) -> str:
    """How a conversation is written, which a checkpoint keeps in any of several places."""
    for name in ("chat_template.jinja", "chat_template.json"):
        path = directory / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            return text if name.endswith("jinja") else str(json.loads(text)["chat_template"])
    if not tokenizer.chat_template:
        raise CheckpointError(f"{directory} has no chat template (chat_template.jinja), so a prompt cannot be put.")
    return str(tokenizer.chat_template)
