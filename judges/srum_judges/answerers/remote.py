"""An answerer on another machine: any server with OpenAI's chat protocol (vLLM, SGLang, `transformers serve`).

A failure is an error with its cause, never an answer. Every answer is cached the moment it arrives, so the same
command, started again, asks only what is missing. docs/judging-with-a-server.md is the user's guide.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define, field, frozen

from srum_core.errors import AnswerError, ConfigError, clean, extra, hide, mask
from srum_core.files import read_file
from srum_core.models.images import open_image, open_rgb
from srum_core.models.templates import REASON_FIRST
from srum_core.records import Answer, Box, Question
from srum_judges.answerers.answer_cache import AnswerCache, cache_folder, key_of
from srum_judges.options import RemoteOptions, read_urls

if TYPE_CHECKING:
    import openai
    from PIL.Image import Image

    from srum_judges.answerers.wire import RequestFailed, Stop

PROBE = "Is this image white? Answer yes or no."
"""Asked about a small white image where a server refuses the first question, to see whether it refuses all."""
REFUSALS = (400, 413, 422, 451)
"""Statuses for the refusal of a single question: a content filter, an image or text that is too large, …"""
MOST_REFUSALS, SHARE_OF_REFUSALS = 20, 0.1
"""More refusals than both (a number, and a share of all questions) end the run: that is no longer a few odd items."""
UNSUPPORTED = re.compile(r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|deprecated", re.I)
log = logging.getLogger("srum")


@frozen
class _Ask:
    """A question, ready to be sent."""

    question: Question
    text: str
    image: str
    """As a data URL."""
    asked: dict[str, Any]
    """All that the answer depends on; the image as a hash."""
    key: str


@define
class _Tally:
    """State from the answers so far."""

    lock: threading.RLock = field(factory=threading.RLock)
    answered: int = 0
    refused: int = 0
    works: bool = False
    """The server has answered something."""
    models: list[str] = field(factory=list)
    """As replies name them, in order of appearance."""
    fields: dict[str, str | None] = field(factory=dict)
    """Fields of a request that the server takes under another name, or not at all (None)."""


class Remote:
    """Answers by asking one server or several, `concurrency` questions at a time each. Raises ConfigError for settings
    that cannot work.

    Reasoning that the server returns apart from the answer (`reasoning_content`) is left out.
    """

    def __init__(self, options: RemoteOptions | None = None) -> None:
        self.options = options or RemoteOptions()
        urls = read_urls(self.options.url or os.environ.get("OPENAI_BASE_URL", ""))
        try:
            from srum_judges.answerers.servers import Server, Servers
            from srum_judges.answerers.wire import Wire
        except ImportError as error:
            raise ConfigError(
                f"The answerer remote needs packages that are not installed ({error}): {extra('remote')}."
            ) from error
        key, timeout, most = _read_key(self.options.key_env), self.options.timeout, self.options.max_reply
        servers = [Server(Wire(url, key, timeout, most), url) for url in urls]
        self._servers = Servers(servers, self.options.concurrency, self.options.retries)
        self._cache = AnswerCache(cache_folder(self.options.cache))
        self._model = self.options.model
        self._tally = _Tally()
        self.converses = self.options.converses

    def identity(self) -> str:
        """The requested model. Raises AnswerError, ConfigError where the server has to list it."""
        self._model = self._model or self._only_model()
        return clean(self._model, 200)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question, in order; the same question is sent once. One that the server refuses has no words,
        and its reason, as long as those are few. Raises AnswerError, ConfigError."""
        if not questions:
            return []
        self.identity()
        asks = self._prepare(questions)
        found = {ask.key: answer for ask in asks if (answer := self._cache.get(ask.key)) is not None}
        with self._tally.lock:
            self._tally.answered += len(found)
        missing = {ask.key: ask for ask in asks if ask.key not in found}
        if missing:
            self._ask_all(list(missing.values()), found, sum(ask.key in found for ask in asks), len(asks))
        answers = [found[ask.key] for ask in asks]
        self._note_models(answers)
        return answers

    def _note_models(self, answers: Sequence[Answer]) -> None:
        """Warn if another model answers than before; a server can change it behind its name."""
        with self._tally.lock:
            known = self._tally.models
            fresh = [each for each in dict.fromkeys(each.model for each in answers) if each and each not in known]
            if fresh and (known or len(fresh) > 1):
                log.warning(
                    "The model that answers has changed: asked for %s, replies name %s. Scores of different models "
                    "cannot be compared; every answer is recorded with its own.",
                    clean(self._model),
                    ", then ".join([*known, *fresh]),
                )
            known += fresh

    # ---- asking -----------------------------------------------------------------------------------------------------

    def _ask_all(self, asks: Sequence[_Ask], found: dict[str, Answer], kept: int, total: int) -> None:
        """Put the answers into `found`. The first failure, or Ctrl-C, cancels the others at once."""
        from srum_judges.answerers.wire import RequestFailed, Stop, Stopped

        stop = Stop()
        most = self.options.concurrency * len(self._servers.servers)
        pool = ThreadPoolExecutor(min(most, len(asks)), thread_name_prefix="srum-remote")
        try:
            futures = {pool.submit(self._ask_one, ask, stop): ask for ask in asks}
            left = set(futures)
            while left and not stop.over:  # with a time limit: a Ctrl-C just before would not be noticed
                _, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        done = [each for each in futures if not each.cancelled()]
        found.update((futures[each].key, each.result()) for each in done if not each.exception())
        failed = [each for each in done if each.exception() and not isinstance(each.exception(), Stopped)]
        if not failed:
            return
        error = failed[0].exception()
        if not isinstance(error, RequestFailed):
            assert error is not None
            raise error
        kept += sum(not each.exception() and not each.result().refused for each in done)
        raise AnswerError(
            f"The server at {error.where} {error.why}. It was to answer a question about "
            f"{futures[failed[0]].question.image} with the model {clean(self._model)}."
            f"{self._tries(error)} {error.advice} {self._kept(kept, total)}"
        ) from error

    def _kept(self, kept: int, total: int) -> str:
        if self._cache.folder is None:
            return 'No answer of this batch is kept (answerer.cache is "off").'
        return (
            f"{kept} of the {total} answers of this batch are kept in {self._cache.folder}; the same command asks only "
            "for the others."
        )

    def _ask_one(self, ask: _Ask, stop: Stop) -> Answer:
        from srum_judges.answerers.wire import RequestFailed

        try:
            try:
                answer = self._send(ask, stop)
            except RequestFailed as trouble:
                if trouble.status not in REFUSALS:
                    raise
                return self._refused(trouble, ask, stop)
            with self._tally.lock:
                self._tally.answered += 1
                self._tally.works = True
            self._cache.put(ask.key, ask.asked, answer)
            return answer
        except BaseException:
            stop.set()  # here, so that no thread starts another question before it checks
            raise

    def _refused(self, trouble: RequestFailed, ask: _Ask, stop: Stop) -> Answer:
        """The unreadable answer for a question that the server refuses. Raises RequestFailed if it refuses all, or
        too many."""
        with self._tally.lock:
            if not self._tally.works:
                self._probe(ask, stop)
                self._tally.works = True
            self._tally.refused += 1
            refused, total = self._tally.refused, self._tally.refused + self._tally.answered
        if refused > MOST_REFUSALS and refused > SHARE_OF_REFUSALS * total:
            trouble.advice = f"It has refused {refused} of {total} questions, too many to continue without them."
            raise trouble
        reason = f"The server at {trouble.where} {trouble.why}."
        if refused == 1:
            log.warning(
                "%s It was asked about %s; such questions are recorded as unreadable.", reason, ask.question.image
            )
        return Answer(refused=reason)

    def _probe(self, ask: _Ask, stop: Stop) -> None:
        """Ask about something harmless, in the same way. Raises RequestFailed where that is refused too."""
        from PIL import Image as pil

        from srum_judges.answerers.wire import RequestFailed

        image = _data_url(_png(pil.new("RGB", (64, 64), "white")))
        question = attrs.evolve(ask.question, text=PROBE, history=())
        try:
            self._send(attrs.evolve(ask, question=question, text=PROBE, image=image), stop)
        except RequestFailed as again:
            again.advice = (
                "It refuses even a short question about a white image: not this image is wrong but something in every "
                "request, such as answerer.model, answerer.extra or a max_new_tokens that is too large."
                if again.status in REFUSALS
                else again.advice
            )
            raise

    def _send(self, ask: _Ask, stop: Stop) -> Answer:
        """Raises RequestFailed. A field that the server rejects is renamed or left out, from then on too."""
        from srum_judges.answerers.wire import RequestFailed

        question, changed = ask.question, dict(self._tally.fields)
        fields = {"max_tokens": question.max_new_tokens, "temperature": question.temperature, "seed": question.seed}
        while True:
            body: dict[str, Any] = {new: value for name, value in fields.items() if (new := changed.get(name, name))}
            try:
                answer = self._servers.ask(partial(self._create, ask, body), _read_answer, stop)
            except RequestFailed as trouble:
                change = _complaint(trouble, body)
                if change is None:
                    raise
                changed |= change
            else:
                self._note_fields(changed)
                return answer

    def _create(self, ask: _Ask, body: Mapping[str, Any], client: openai.OpenAI) -> Any:
        return client.chat.completions.with_raw_response.create(
            model=self._model, messages=_messages(ask), extra_body={**body, **self.options.extra}
        )

    def _note_fields(self, changed: dict[str, str | None]) -> None:
        with self._tally.lock:
            fresh = {old: new for old, new in changed.items() if self._tally.fields.get(old, old) != new}
            self._tally.fields |= fresh
        for old, new in fresh.items():
            if new is None:
                log.warning(
                    "The model %s does not take the field %s: it is left out, so the server's own setting counts.",
                    clean(self._model),
                    old,
                )

    def _only_model(self) -> str:
        """The one model that the servers list. Raises ConfigError if there is not exactly one."""
        from srum_judges.answerers.wire import RequestFailed, Stop, shown

        try:
            lists = self._servers.survey(lambda client: client.models.with_raw_response.list(), _read_models, Stop())
        except RequestFailed as trouble:
            raise AnswerError(
                f"The server at {trouble.where} {trouble.why}. It was asked to list its models.{self._tries(trouble)} "
                f"{trouble.advice} If it cannot list them, name the model with answerer.model."
            ) from trouble
        for where, names in lists.items():
            if len(names) != 1:
                listed = ", ".join(shown(name) for name in names[:20]) or "none"
                raise ConfigError(
                    f"The server at {where} does not serve exactly one model, so answerer.model must name the one to "
                    f"ask. It lists: {listed}."
                )
        served = {where: names[0] for where, names in lists.items()}
        if len(set(served.values())) > 1:
            listed = ", ".join(f"{shown(name)} at {where}" for where, name in served.items())
            raise ConfigError(f"The servers of answerer.url must all serve one model, and serve: {listed}.")
        return next(iter(served.values()))

    def _tries(self, trouble: RequestFailed) -> str:
        if trouble.attempts < 2:
            return ""
        asked = f"The {len(self._servers.servers)} servers were" if self._servers.several else "It was"
        return f" {asked} asked {trouble.attempts} times."

    # ---- preparing --------------------------------------------------------------------------------------------------

    def _prepare(self, questions: Iterable[Question]) -> list[_Ask]:
        images: dict[tuple[Path, Box | None], tuple[str, str]] = {}
        asks = []
        for question in questions:
            part = (question.image, question.crop)
            if part not in images:
                images[part] = _image(*part)
            url, digest = images[part]
            # in the user's turn: not every chat template knows a system's
            text = _sendable(REASON_FIRST + question.text if question.think else question.text)
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
            asks.append(_Ask(question, text, url, asked, key_of(asked)))
        return asks


def _read_key(name: str) -> str:
    """The key, or a placeholder: servers of one's own need none. It is hidden in all that is shown from now on. Raises
    ConfigError."""
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"The environment variable {name} holds characters that no key has (only printable ASCII can be sent). Set "
            "it again, or name another one with answerer.key_env."
        )
    hide(key)
    return key or "none-needed"


def _messages(ask: _Ask) -> Any:
    """The conversation so far; the image comes with its first words."""
    turns = [("user", ask.text)]
    for asked, said in reversed(ask.question.history):
        turns = [("user", _sendable(asked)), ("assistant", _sendable(said)), *turns]
    first = [{"type": "image_url", "image_url": {"url": ask.image}}, {"type": "text", "text": turns[0][1]}]
    return [{"role": "user", "content": first}, *({"role": role, "content": text} for role, text in turns[1:])]


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent


def _image(path: Path, crop: Box | None) -> tuple[str, str]:
    """(data URL, hash) of an image or the part inside a box of fractions. Raises RecordError.

    The file's own bytes where they can go as they are; else a PNG, transparency on white, as adapters see images."""
    image, data = open_image(path), read_file(path)
    kind = next((kind for kind, magic in _AS_THEY_ARE.items() if data.startswith(magic)), None)
    if crop is not None or kind is None or "A" in image.getbands() or "transparency" in image.info:
        data, kind = _png(open_rgb(path, crop)), "png"
    return _data_url(data, kind), hashlib.sha256(data).hexdigest()


def _data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_AS_THEY_ARE = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# ---- replies --------------------------------------------------------------------------------------------------------


def _read_answer(reply: Any) -> Answer:
    """The words of the first choice. Raises ValueError for JSON of another shape.

    Null is an empty answer where the model did reply: its reasoning took all the tokens, or is all there is, or it
    declined. A key that comes back is masked: answers are written to disk."""
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content")
        apart = [message.get(name) for name in ("reasoning_content", "reasoning", "refusal")]
        stopped = choice.get("finish_reason") in ("length", "content_filter")
        model = reply.get("model")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ValueError("JSON that is no chat completion") from None
    model = clean(model, 200) if isinstance(model, str) else ""
    if isinstance(content, str):
        return Answer(mask(content), model)
    if content is None and (stopped or any(isinstance(each, str) and each for each in apart)):
        return Answer("", model)
    raise ValueError("a chat completion without words")


def _complaint(trouble: RequestFailed, body: Mapping[str, Any]) -> dict[str, str | None] | None:
    """What to change in later requests, where a server complains of one of the fields in the body; None = nothing.

    OpenAI's models that reason take max_completion_tokens in place of max_tokens, and no temperature; others do not
    know seed. A value that is too large is no such complaint."""
    if trouble.status not in (400, 422) or not UNSUPPORTED.search(trouble.body):
        return None
    for name, new in (("max_tokens", "max_completion_tokens"), ("temperature", None), ("seed", None)):
        if name in body and re.search(rf"\b{name}\b", trouble.body):
            return {name: new}
    return None


def _read_models(reply: Any) -> list[str]:
    try:
        names = [each["id"] for each in reply["data"]]
    except (TypeError, KeyError):
        names = [None]
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        raise ValueError("JSON that is no list of models")
    return names
