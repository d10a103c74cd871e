"""An answerer on another machine: any server with OpenAI's chat protocol (vLLM, SGLang, …)."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from srum_core.errors import clean, mask
from srum_core.models.images import open_image, open_rgb
from srum_core.models.templates import REASON_FIRST
from srum_core.records import Answer, Box, Question
from srum_core.runs.files import read_file
from srum_remote.cache import key_of
from srum_remote.client import Ask, Client, sendable
from srum_remote.options import AnswererOptions

if TYPE_CHECKING:
    import openai
    from PIL.Image import Image

PROBE = "Is this image white? Answer yes or no."
"""Asked about a small white image after a server refuses the first question, to test whether it refuses all."""


class RemoteAnswerer(Client):
    """Answers by requests to servers. Reasoning that a server returns separately (`reasoning_content`) is left out."""

    noun = "answer"
    refused_kind = "questions are recorded as unreadable"
    probe_kind = (
        "a short question about a white image: the image is not the cause but something in every request, such as "
        "answerer.model, answerer.extra or a max_new_tokens that is too large."
    )
    changes = (("max_tokens", "max_completion_tokens"), ("temperature", None), ("seed", None))

    def __init__(self, options: AnswererOptions | None = None) -> None:
        options = options or AnswererOptions()
        super().__init__(options)
        self.converses = options.converses

    def identity(self) -> str:
        """The requested model. Raises AnswerError, ConfigError where the server has to list it."""
        self._model = self._model or self._only_model()
        return clean(self._model, 200)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question, in order; the same question is sent once. A refused question has an empty answer
        with the reason, as long as those are few. Raises AnswerError, ConfigError."""
        if not questions:
            return []
        self.identity()
        return self.ask(self._prepare(questions))

    def _create(self, ask: Ask, body: Mapping[str, Any], client: openai.OpenAI) -> Any:
        return client.chat.completions.with_raw_response.create(
            model=self._model, messages=ask.content, extra_body={**body, **self.options.extra}
        )

    def _read(self, reply: Any) -> Answer:
        """The text of the first choice. Raises ValueError for JSON of another shape.

        Null is an empty answer where the model did reply: its reasoning took all the tokens or is the whole reply, or
        it refused. A key in the reply is masked: answers are written to disk."""
        try:
            choice = reply["choices"][0]
            message = choice["message"]
            content = message.get("content")
            apart = [message.get(name) for name in ("reasoning_content", "reasoning", "refusal")]
            stopped = choice.get("finish_reason") in ("length", "content_filter")
            model = reply.get("model")
        except (TypeError, KeyError, IndexError, AttributeError):
            raise ValueError("JSON that is not a chat completion") from None
        model = clean(model, 200) if isinstance(model, str) else ""
        if isinstance(content, str):
            return Answer(mask(content), model)
        if content is None and (stopped or any(isinstance(each, str) and each for each in apart)):
            return Answer("", model)
        raise ValueError("a chat completion without text")

    def _harmless(self, ask: Ask) -> Ask:
        from PIL import Image as pil

        url = _data_url(_png(pil.new("RGB", (64, 64), "white")), "png")
        return attrs.evolve(ask, content=_messages(PROBE, url, ()))

    def _prepare(self, questions: Iterable[Question]) -> list[Ask]:
        images: dict[tuple[Path, Box | None], tuple[str, str]] = {}
        asks = []
        for question in questions:
            part = (question.image, question.crop)
            if part not in images:
                images[part] = _image(*part)
            url, digest = images[part]
            # in the user's turn: not every chat template has a system turn
            text = sendable(REASON_FIRST + question.text if question.think else question.text)
            asked = {
                "model": self._model,
                "image": digest,
                "text": text,
                "max_tokens": question.max_new_tokens,
                "temperature": question.temperature,
                "seed": question.seed,
                "think": question.think,
                "extra": self.options.extra,
                **({"history": question.history} if question.history else {}),
            }
            asks.append(
                Ask(
                    task=f"answer a question about {question.image}",
                    about=str(question.image),
                    content=_messages(text, url, question.history),
                    fields={name: asked[name] for name in ("max_tokens", "temperature", "seed")},
                    asked=asked,
                    key=key_of(asked),
                )
            )
        return asks


def _messages(text: str, url: str, history: Sequence[tuple[str, str]]) -> Any:
    """The conversation so far and the new question; the image, a data URL, is in the first message."""
    turns = [("user", text)]
    for question, answer in reversed(history):
        turns = [("user", sendable(question)), ("assistant", sendable(answer)), *turns]
    first = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": turns[0][1]}]
    return [{"role": "user", "content": first}, *({"role": role, "content": text} for role, text in turns[1:])]


def _image(path: Path, crop: Box | None) -> tuple[str, str]:
    """(data URL, hash) of an image or the part inside a box of fractions. Raises RecordError.

    The file's own bytes where servers accept them; else a PNG, transparency on white, as adapters read images."""
    image, data = open_image(path), read_file(path)
    kind = next((kind for kind, magic in _ACCEPTED.items() if data.startswith(magic)), None)
    if crop is not None or kind is None or "A" in image.getbands() or "transparency" in image.info:
        data, kind = _png(open_rgb(path, crop)), "png"
    return _data_url(data, kind), hashlib.sha256(data).hexdigest()


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_ACCEPTED = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
