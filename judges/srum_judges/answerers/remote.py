"""An answerer on another machine: any server that speaks OpenAI's chat protocol (vLLM, SGLang, `transformers serve`).

A failure is an error that says what happened, never an answer. Every answer is kept the moment it arrives, so the same
command, started again, asks only what is missing. docs/judging-with-a-server.md has the user's side.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from srum_core.errors import AnswerError, ConfigError, RecordError
from srum_core.pictures import open_rgb
from srum_core.records import Box, Question
from srum_judges.answerers.addresses import read_key, read_urls
from srum_judges.answerers.answer_cache import AnswerCache, cache_folder, key_of
from srum_judges.options import RemoteOptions

if TYPE_CHECKING:
    from srum_judges.answerers.wire import Stop, Trouble

REASON_FIRST = (
    "Before you answer, think the task through step by step, and write your thoughts between <think> and </think>. "
    "Then answer in exactly the form that is asked for."
)
"""Put before a question with `think`, in the user's turn: not every chat template knows a system's."""


@frozen
class _Ask:
    """A question, ready to be sent."""

    question: Question
    text: str
    picture: str
    """As a data URL."""
    asked: dict[str, Any]
    """All that the answer depends on; the picture as a hash."""
    key: str


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
                f"The answerer remote needs packages that are not installed ({error}): install srum[remote]."
            ) from error
        key, timeout, most = read_key(self.options.key_env), self.options.timeout, self.options.max_reply
        servers = [Server(Wire(url, key, timeout, most), shown) for shown, url in urls.items()]
        self._servers = Servers(servers, self.options.concurrency, self.options.retries)
        self._cache = AnswerCache(cache_folder(self.options.cache))
        self._model = self.options.model
        self.converses = self.options.converses

    def identity(self) -> str:
        """The model that answers. Raises AnswerError, ConfigError where the server has to be asked for it."""
        self._model = self._model or self._only_model()
        return self._model

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """One answer per question, in order; the same question is sent once. Raises AnswerError, ConfigError."""
        if not questions:
            return []
        self.identity()
        asks = self._prepare(questions)
        found = {ask.key: answer for ask in asks if (answer := self._cache.get(ask.key)) is not None}
        missing = {ask.key: ask for ask in asks if ask.key not in found}
        if missing:
            self._ask_all(list(missing.values()), found, sum(ask.key in found for ask in asks), len(asks))
        return [found[ask.key] for ask in asks]

    # ---- asking -----------------------------------------------------------------------------------------------------

    def _ask_all(self, asks: Sequence[_Ask], found: dict[str, str], kept: int, total: int) -> None:
        """Put the answers into `found`. The first failure, or Ctrl-C, ends the rest at once."""
        from srum_judges.answerers.wire import Stop, Stopped, Trouble

        stop = Stop()
        most = self.options.concurrency * len(self._servers.servers)
        pool = ThreadPoolExecutor(min(most, len(asks)), thread_name_prefix="srum-remote")
        try:
            futures = {pool.submit(self._ask_one, ask, stop): ask for ask in asks}
            left = set(futures)
            while left and not stop.over:  # not for ever at once: a Ctrl-C that comes just before would not be noticed
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
        if not isinstance(error, Trouble):
            assert error is not None
            raise error
        kept += sum(not each.exception() for each in done)
        raise AnswerError(
            f"The server at {error.where} {error.why}. It was to answer a question about "
            f"{futures[failed[0]].question.image} with the model {self._model}.{self._tries(error)} {error.advice} "
            f"{self._kept(kept, total)}"
        ) from error

    def _kept(self, kept: int, total: int) -> str:
        if self._cache.folder is None:
            return 'No answer of this batch is kept (answerer.cache is "off").'
        return (
            f"{kept} of the {total} answers of this batch are kept in {self._cache.folder}; the same command asks only "
            "for the others."
        )

    def _ask_one(self, ask: _Ask, stop: Stop) -> str:
        try:
            return self._send(ask, stop)
        except BaseException:
            stop.set()  # here, so that no thread takes up another question before anybody looks
            raise

    def _send(self, ask: _Ask, stop: Stop) -> str:
        question, extra = ask.question, self.options.extra
        answer = self._servers.ask(
            lambda client: client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=_messages(ask),
                max_tokens=question.max_new_tokens,  # the older name is the one that every server takes
                temperature=question.temperature,
                seed=question.seed,
                extra_body=extra or None,
            ),
            _read_answer,
            stop,
        )
        self._cache.put(ask.key, ask.asked, answer)
        return answer

    def _only_model(self) -> str:
        """The one model that the servers list. Raises ConfigError if there is not exactly one."""
        from srum_judges.answerers.wire import Stop, Trouble

        try:
            lists = self._servers.survey(lambda client: client.models.with_raw_response.list(), _read_models, Stop())
        except Trouble as trouble:
            raise AnswerError(
                f"The server at {trouble.where} {trouble.why}. It was to list its models.{self._tries(trouble)} "
                f"{trouble.advice} If it cannot list them, name the model with answerer.model."
            ) from trouble
        clean = self._servers.servers[0].wire.clean
        for where, names in lists.items():
            if len(names) != 1:
                listed = ", ".join(clean(name) for name in names[:20]) or "none"
                raise ConfigError(
                    f"The server at {where} does not serve exactly one model, so answerer.model must say which one to "
                    f"ask. It lists: {listed}."
                )
        served = {where: names[0] for where, names in lists.items()}
        if len(set(served.values())) > 1:
            listed = ", ".join(f"{clean(name)} at {where}" for where, name in served.items())
            raise ConfigError(f"The servers of answerer.url must all serve one model, and serve: {listed}.")
        return next(iter(served.values()))

    def _tries(self, trouble: Trouble) -> str:
        if trouble.attempts < 2:
            return ""
        asked = f"The {len(self._servers.servers)} servers were" if self._servers.several else "It was"
        return f" {asked} asked {trouble.attempts} times."

    # ---- preparing --------------------------------------------------------------------------------------------------

    def _prepare(self, questions: Iterable[Question]) -> list[_Ask]:
        pictures: dict[tuple[Path, Box | None], tuple[str, str]] = {}
        asks = []
        for question in questions:
            part = (question.image, question.crop)
            if part not in pictures:
                pictures[part] = _picture(*part)
            url, digest = pictures[part]
            text = f"{REASON_FIRST}\n\n{question.text}" if question.think else question.text
            text = _sendable(text)
            asked = {
                "model": self._model,
                "picture": digest,
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


def _messages(ask: _Ask) -> Any:
    """The conversation so far; the picture comes with its first words."""
    turns = [("user", ask.text)]
    for asked, said in reversed(ask.question.history):
        turns = [("user", _sendable(asked)), ("assistant", _sendable(said)), *turns]
    first = [{"type": "image_url", "image_url": {"url": ask.picture}}, {"type": "text", "text": turns[0][1]}]
    return [{"role": "user", "content": first}, *({"role": role, "content": text} for role, text in turns[1:])]


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent


def _picture(path: Path, crop: Box | None) -> tuple[str, str]:
    """(data URL, hash) of a picture or the part inside a box of fractions. Raises RecordError.

    The file's own bytes where they can go as they are; else a PNG, transparency on white, as adapters see pictures."""
    try:
        data = path.read_bytes()
        kind = next((kind for kind, magic in _AS_THEY_ARE.items() if data.startswith(magic)), None)
        if crop is not None or kind is None or _transparent(path):
            data, kind = _cut(path, crop), "png"
    except OSError as error:  # PIL's "cannot identify" is one too
        raise RecordError(f"The picture {path} cannot be read ({error}). Run the stage that makes it again.") from error
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", hashlib.sha256(data).hexdigest()


_AS_THEY_ARE = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


def _transparent(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        return "A" in image.getbands() or "transparency" in image.info


def _cut(path: Path, crop: Box | None) -> bytes:
    file = io.BytesIO()
    open_rgb(path, crop).save(file, "PNG")
    return file.getvalue()


# ---- replies --------------------------------------------------------------------------------------------------------


def _read_answer(reply: Any) -> str:
    """The words of the first choice. Raises ValueError for JSON of another shape.

    Null stands for no words where the model did answer: its reasoning took all the tokens, or is all there is, or it
    declined."""
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content")
        apart = [message.get(name) for name in ("reasoning_content", "reasoning", "refusal")]
        stopped = choice.get("finish_reason") in ("length", "content_filter")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ValueError("JSON that is no chat completion") from None
    if isinstance(content, str):
        return content
    if content is None and (stopped or any(isinstance(each, str) and each for each in apart)):
        return ""
    raise ValueError("a chat completion without words")


def _read_models(reply: Any) -> list[str]:
    try:
        names = [each["id"] for each in reply["data"]]
    except (TypeError, KeyError):
        names = [None]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("JSON that is no list of models")
    return names
