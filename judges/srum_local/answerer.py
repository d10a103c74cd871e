"""Answers by a vision-language model that is loaded here: many questions at once, each with its own settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from srum_core.errors import CheckpointError, ConfigError
from srum_core.models import generation
from srum_core.models.hub import Checkpoints, choose_device, choose_dtype
from srum_core.models.images import open_rgb
from srum_core.models.qwen_vl import ImageInput
from srum_core.models.templates import REASON_FIRST
from srum_core.models.weights import loading, refuse_infinite
from srum_core.records import BoxFormat, Question
from srum_local import LocalOptions

CHECKPOINTS = Checkpoints(
    patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
    published={
        "Qwen/Qwen2.5-VL-3B-Instruct": 7_500_000_000,
        "Qwen/Qwen2.5-VL-7B-Instruct": 16_600_000_000,
        "Qwen/Qwen2.5-VL-32B-Instruct": 67_000_000_000,
        "Qwen/Qwen2.5-VL-72B-Instruct": 147_000_000_000,
    },
    needs="Answering with it takes an accelerator with that much memory and some more; a server can hold it instead "
    '(answerer={use="remote", url="…"}).',
    setting="answerer.checkpoint",
)


class Local:
    """Greedy at temperature 0, else sampled from each question's own seed; earlier turns are sent as messages."""

    converses = True

    def __init__(self, options: LocalOptions | None = None) -> None:
        self.options = options or LocalOptions()
        self.device = choose_device(self.options.device)
        self.dtype = choose_dtype(self.options.dtype, self.device)
        directory = CHECKPOINTS.find(self.options.checkpoint, self.options.device)
        with _loading(self.options, directory):
            self.processor = _processor(directory, self.options)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(directory, dtype=self.dtype)
        refuse_infinite(loaded.named_parameters(), directory)
        self.model = loaded.to(self.device).eval().requires_grad_(False)
        self.stops, self.pad = _ends(self.model, self.processor, directory)
        # The question decides about sampling: the checkpoint's sampling options are ignored.
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    @classmethod
    def preflight(cls, options: LocalOptions) -> None:
        """Raise SrumError for a directory that holds no such model, or one too large for this machine."""
        directory = CHECKPOINTS.find(options.checkpoint, options.device)
        with _loading(options, directory):
            _processor(directory, options)

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """One answer per question, in order."""
        answers: list[str] = []
        for start in range(0, len(questions), self.options.batch):
            answers += self._answer(questions[start : start + self.options.batch])
        return answers

    def _answer(self, questions: Sequence[Question]) -> list[str]:
        arguments = self.processor.apply_chat_template(
            [self._turns(question) for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(self.device, self.dtype)
        replies = [generation.Reply(each.max_new_tokens, each.temperature, each.seed) for each in questions]
        answers = generation.speak(self.model, arguments, replies, self.stops, self.pad)
        return [self._text(ids) for ids in answers]

    def _turns(self, question: Question) -> list[dict[str, Any]]:
        """The conversation; the image comes with the first thing that was asked."""
        think = REASON_FIRST if question.think else ""
        turns: list[dict[str, Any]] = [_turn("system", self.options.system)] if self.options.system else []
        for earlier, answer in question.history:
            turns += [_turn("user", earlier), _turn("assistant", answer)]
        turns.append(_turn("user", think + question.text))
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"].insert(0, {"type": "image", "image": open_rgb(question.image, question.crop)})
        return turns

    def _text(self, ids: Sequence[int]) -> str:
        end = next((place for place, token in enumerate(ids) if token in self.stops), len(ids))
        return str(self.processor.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))

    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        """Qwen2-VL writes thousandths, Qwen2.5-VL pixels of the image as it was resized for it; others are taken to
        write pixels of the stored image (a judge's or grounder's option `boxes` overrules)."""
        kind, eyes = self.model.config.model_type, self.processor.image_processor
        if kind == "qwen2_vl":
            return BoxFormat("thousand")
        if kind != "qwen2_5_vl":
            return BoxFormat("pixels")
        return ImageInput(eyes).box_format(size)


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _loading(options: LocalOptions, directory: Path) -> AbstractContextManager[None]:
    hint = "answerer.checkpoint takes a vision-language model that AutoModelForImageTextToText knows."
    return loading(f"answerer.checkpoint={options.checkpoint}", directory, hint=hint)


def _processor(directory: Path, options: LocalOptions) -> Any:
    """Raises CheckpointError for a checkpoint without a processor, ConfigError for limits that it does not know."""
    processor: Any = AutoProcessor.from_pretrained(directory)
    eyes = getattr(processor, "image_processor", None)
    if eyes is None or not getattr(processor, "chat_template", None):
        raise CheckpointError(
            f"{directory} has no processor for images with a chat template, so no question about an image can be "
            "put to it. The answerer local takes instruction-tuned vision-language models."
        )
    processor.tokenizer.padding_side = "left"
    limits = {"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels}
    if any(limits.values()):
        known = dict(getattr(eyes, "size", None) or {})
        if not {"shortest_edge", "longest_edge"} <= known.keys() or not hasattr(eyes, "merge_size"):
            raise ConfigError(
                f"answerer.min_pixels and max_pixels are for models of Qwen's kind; {type(eyes).__name__} does not "
                "limit pixels. Leave them out."
            )
        eyes.size = {**known, **{name: value for name, value in limits.items() if value}}
    return processor


def _ends(model: Any, processor: Any, directory: Path) -> tuple[list[int], int]:
    """Tokens that end an answer, and the one that fills rows up."""
    ends = model.generation_config.eos_token_id
    stops = [ends] if isinstance(ends, int) else list(ends or ())
    tokenizer = processor.tokenizer
    stops += [each for each in (tokenizer.eos_token_id,) if each is not None and each not in stops]
    if not stops:
        raise CheckpointError(f"{directory} does not define the token that ends an answer (eos_token_id).")
    pad = tokenizer.pad_token_id
    return stops, stops[0] if pad is None else int(pad)
