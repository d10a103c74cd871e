"""The common part of the answerer and the image generator: concurrent requests to servers.

A failure is an error that describes the cause, never an answer. Every reply is stored when it arrives, so the same
command, started again, requests only what is missing. docs/judging-with-a-server.md has the user's side.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from srum_core.errors import AnswerError, ConfigError, clean, extra, hide
from srum_core.records import Answer
from srum_remote.cache import AnswerCache, cache_folder
from srum_remote.options import ServerOptions, option, read_urls

if TYPE_CHECKING:
    import openai

    from srum_remote.wire import RequestFailed, Stop

REFUSALS = (400, 413, 422, 451)
"""Statuses with which servers refuse a single request: a content filter, an image or text that is too large, …"""
MOST_REFUSALS, SHARE_OF_REFUSALS = 20, 0.1
"""More refusals than both (a number, and a share of all requests) end the run: more than a few single items."""
UNSUPPORTED = re.compile(r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|deprecated", re.I)
log = logging.getLogger("srum")


@frozen
class Ask:
    """A request, ready to be sent."""

    task: str
    """The task of the server: the predicate of a sentence."""
    about: str
    """The subject of a refusal, for messages."""
    content: Any
    """The messages of a conversation, or a prompt."""
    fields: Mapping[str, Any]
    """Fields of the body besides model, content and `extra`."""
    asked: Mapping[str, Any]
    """All that the reply depends on; images as a hash."""
    key: str


@frozen
class Served:
    """A model as a server lists it."""

    name: str
    root: str = ""
    """The path that it was loaded from, where the server lists it."""


@define
class _Tally:
    """State from the replies so far."""

    lock: threading.RLock = field(factory=threading.RLock)
    answered: int = 0
    refused: int = 0
    works: bool = False
    """The server has answered a request."""
    models: list[str] = field(factory=list)
    """Models named in replies, in order of appearance."""
    fields: dict[str, str | None] = field(factory=dict)
    """Fields of a request that the server accepts under another name, or not at all (None)."""


class Client:
    """Sends requests to one or several servers, `concurrency` at a time each. Raises ConfigError for settings that
    cannot work. A subclass defines what is sent, how replies are read, and their names in messages."""

    noun: ClassVar[str]
    """The name of a reply, singular: "answer"."""
    refused_kind: ClassVar[str]
    """The refused items, plural, and the consequence: "questions are recorded as unreadable"."""
    probe_kind: ClassVar[str]
    """The request of `_harmless`: "a short question about a white image", with its article."""
    changes: Sequence[tuple[str, str | None]]
    """Optional fields of a request, each with the name that other servers use (None: no other name)."""
    elsewhere = True
    """It computes on other machines."""
    options: ServerOptions

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        urls = read_urls(options.url or os.environ.get("OPENAI_BASE_URL", ""), options.kind)
        try:
            from srum_remote import servers, wire
        except ImportError as error:
            raise ConfigError(
                f"The {options.kind} remote needs packages that are not installed ({error}): {extra('remote')}."
            ) from error
        name = partial(option, options.kind)
        key = _read_key(options.key_env, name("key_env"))
        self._wire = wire  # openai and httpx, which it needs, are loaded here and not with this file
        wires = [wire.Wire(url, key, options.timeout, options.max_reply, name) for url in urls]
        several = [servers.Server(*pair) for pair in zip(wires, urls, strict=True)]
        self._servers = servers.Servers(several, options.concurrency, options.retries)
        self._cache = AnswerCache(cache_folder(options.cache, f"{self.noun}s"), name("cache"))
        self._model = options.model
        self._tally = _Tally()
        self._under_way: set[Stop] = set()

    # ---- for subclasses --------------------------------------------------------------------------------------------

    def _create(self, ask: Ask, body: Mapping[str, Any], client: openai.OpenAI) -> Any:
        """Send a request with these fields."""
        raise NotImplementedError

    def _read(self, reply: Any) -> Answer:
        """Read a reply. Raises ValueError for JSON of another shape."""
        raise NotImplementedError

    def _harmless(self, ask: Ask) -> Ask:
        """A request of the same kind that no server refuses."""
        raise NotImplementedError

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """One reply each, in order; requests with the same key are sent once. A refused one has an empty reply with
        the reason, as long as those are few. Raises AnswerError, ConfigError."""
        known = {ask.key: answer for ask in asks if (answer := self._cache.get(ask.key)) is not None}
        with self._tally.lock:
            self._tally.answered += len(known)
        missing = {ask.key: ask for ask in asks if ask.key not in known}
        if missing:
            self._ask_all(list(missing.values()), known, sum(ask.key in known for ask in asks), len(asks))
        answers = [known[ask.key] for ask in asks]
        self._note_models(answers)
        return answers

    def _note_models(self, answers: Sequence[Answer]) -> None:
        """Warn if another model answers than before; a server can change it under the same name."""
        with self._tally.lock:
            known = self._tally.models
            fresh = [each for each in dict.fromkeys(each.model for each in answers) if each and each not in known]
            if fresh and (known or len(fresh) > 1):
                log.warning(
                    "The answering model has changed: requested %s, replies name %s. Scores of different models "
                    "cannot be compared; every %s is recorded with its model.",
                    clean(self._model),
                    ", then ".join([*known, *fresh]),
                    self.noun,
                )
            known += fresh

    def _ask_all(self, asks: Sequence[Ask], answers: dict[str, Answer], stored: int, total: int) -> None:
        """Put the replies into `answers`. The first failure, or Ctrl-C, stops the rest at once."""
        stop = self._wire.Stop()
        self._under_way.add(stop)
        most = self.options.concurrency * len(self._servers.servers)
        pool = ThreadPoolExecutor(min(most, len(asks)), thread_name_prefix="srum-remote")
        try:
            futures = {pool.submit(self._ask_one, ask, stop): ask for ask in asks}
            left = set(futures)
            while left and not stop.over:  # with a timeout: otherwise a Ctrl-C just before would not be noticed
                _, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            self._under_way.discard(stop)
        done = [each for each in futures if not each.cancelled()]
        answers.update((futures[each].key, each.result()) for each in done if not each.exception())
        failed = [each for each in done if each.exception() and not isinstance(each.exception(), self._wire.Stopped)]
        if not failed:
            if any(ask.key not in answers for ask in asks):
                raise self._wire.Stopped  # by `cancel`
            return
        error = failed[0].exception()
        if not isinstance(error, self._wire.RequestFailed):
            assert error is not None
            raise error
        stored += sum(not each.exception() and not each.result().refused for each in done)
        raise AnswerError(
            f"The server at {error.where} {error.why}. It was to {futures[failed[0]].task} with the model "
            f"{clean(self._model)}.{self._tries(error)} {error.advice} {self._kept(stored, total)}"
        ) from error

    def cancel(self) -> None:
        """Stop the requests of other threads, which raises Stopped there."""
        for stop in list(self._under_way):
            stop.set()

    def _kept(self, stored: int, total: int) -> str:
        if self._cache.folder is None:
            return f'No {self.noun} of this batch is stored ({option(self.options.kind, "cache")} is "off").'
        return (
            f"{stored} of the {total} {self.noun}s of this batch are stored in {self._cache.folder}; the same command "
            "requests only the others."
        )

    def _ask_one(self, ask: Ask, stop: Stop) -> Answer:
        try:
            try:
                answer = self._send(ask, stop)
            except self._wire.RequestFailed as trouble:
                if trouble.status not in REFUSALS:
                    raise
                return self._refused(trouble, ask, stop)
            with self._tally.lock:
                self._tally.answered += 1
                self._tally.works = True
            self._cache.put(ask.key, ask.asked, answer)
            return answer
        except BaseException:
            stop.set()  # here, so that no thread starts another request before the failure is handled
            raise

    def _refused(self, trouble: RequestFailed, ask: Ask, stop: Stop) -> Answer:
        """An empty reply for a request that the server refuses. Raises RequestFailed if it refuses all, or too many."""
        with self._tally.lock:
            if not self._tally.works:
                self._probe(ask, stop)
                self._tally.works = True
            self._tally.refused += 1
            refused, total = self._tally.refused, self._tally.refused + self._tally.answered
        if refused > MOST_REFUSALS and refused > SHARE_OF_REFUSALS * total:
            plural = self.refused_kind.partition(" ")[0]
            trouble.advice = f"It has refused {refused} of {total} {plural}, too many to continue without them."
            raise trouble
        reason = f"The server at {trouble.where} {trouble.why}."
        if refused == 1:
            log.warning("%s It was asked about %s; such %s.", reason, ask.about, self.refused_kind)
        return Answer(refused=reason)

    def _probe(self, ask: Ask, stop: Stop) -> None:
        """Send a harmless request in the same way. Raises RequestFailed if that is refused too."""
        try:
            self._send(self._harmless(ask), stop)
        except self._wire.RequestFailed as again:
            if again.status in REFUSALS:
                again.advice = f"It refuses even {self.probe_kind}"
            raise

    def _send(self, ask: Ask, stop: Stop) -> Answer:
        """Send a request; a field that the server rejects is renamed or left out, also later. Raises RequestFailed."""
        changed = dict(self._tally.fields)
        while True:
            body: dict[str, Any] = {
                new: value for name, value in ask.fields.items() if (new := changed.get(name, name))
            }
            try:
                answer = self._servers.ask(partial(self._create, ask, body), self._read, stop)
            except self._wire.RequestFailed as trouble:
                change = self._rejected_field(trouble, body)
                if change is None:
                    raise
                changed |= change
            else:
                self._note_fields(changed)
                return answer

    def _rejected_field(self, trouble: RequestFailed, body: Mapping[str, Any]) -> dict[str, str | None] | None:
        """The change of later requests if a server rejects one of the fields in the body; None = no change.

        OpenAI's reasoning models take max_completion_tokens in place of max_tokens, and no temperature; others have
        no seed. A value that is too large is not such a rejection."""
        if trouble.status not in (400, 422) or not UNSUPPORTED.search(trouble.body):
            return None
        for name, new in self.changes:
            if name in body and re.search(rf"\b{name}\b", trouble.body):
                return {name: new}
        return None

    def _note_fields(self, changed: dict[str, str | None]) -> None:
        with self._tally.lock:
            fresh = {old: new for old, new in changed.items() if self._tally.fields.get(old, old) != new}
            self._tally.fields |= fresh
        for old, new in fresh.items():
            if new is None:
                log.warning(
                    "The model %s does not accept the field %s: it is left out, so the server's own setting is used.",
                    clean(self._model),
                    old,
                )

    # ---- which model ------------------------------------------------------------------------------------------------

    def _only_model(self) -> str:
        """The one model that the servers list. Raises ConfigError if there is not exactly one."""
        setting = partial(option, self.options.kind)
        try:
            lists = self._served()
        except AnswerError as error:
            hint = f"If it cannot list them, name the model with {setting('model')}."
            raise AnswerError(f"{error} {hint}") from error.__cause__
        for where, models in lists.items():
            if len(models) != 1:
                names = ", ".join(clean(each.name, 200) for each in models[:20]) or "none"
                raise ConfigError(
                    f"The server at {where} does not serve exactly one model, so {setting('model')} must name "
                    f"one. It lists: {names}."
                )
        served = {where: models[0].name for where, models in lists.items()}
        if len(set(served.values())) > 1:
            names = ", ".join(f"{clean(name, 200)} at {where}" for where, name in served.items())
            raise ConfigError(f"The servers of {setting('url')} must all serve the same model, but serve: {names}.")
        return next(iter(served.values()))

    def _served(self) -> dict[str, list[Served]]:
        """The models that each server lists, by its URL for messages. Raises AnswerError."""
        try:
            return self._servers.survey(list_models, read_models, self._wire.Stop())
        except self._wire.RequestFailed as trouble:
            raise AnswerError(
                f"The server at {trouble.where} {trouble.why}. It was asked to list its models.{self._tries(trouble)} "
                f"{trouble.advice}"
            ) from trouble

    def _tries(self, trouble: RequestFailed) -> str:
        if trouble.attempts < 2:
            return ""
        asked = f"The {len(self._servers.servers)} servers were" if self._servers.several else "It was"
        return f" {asked} asked {trouble.attempts} times."


def _read_key(variable: str, setting: str) -> str:
    """The key, or a placeholder, as local servers need none. It is masked in all later output. Raises ConfigError."""
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"The environment variable {variable} contains characters that cannot be sent (only printable ASCII can). "
            f"Set it again, or name another one with {setting}."
        )
    hide(key)
    return key or "none-needed"


def sendable(text: str) -> str:
    """The text without lone surrogates, which cannot be sent."""
    return text.encode("utf-8", "replace").decode()


def list_models(client: openai.OpenAI) -> Any:
    return client.models.with_raw_response.list()


def read_models(reply: Any) -> list[Served]:
    try:
        models = [(each["id"], each.get("root")) for each in reply["data"]]
    except (TypeError, KeyError, AttributeError):
        models = [(None, None)]
    if not all(isinstance(name, str) and name and name.isprintable() for name, _ in models):
        raise ValueError("JSON that is not a list of models")
    return [Served(name, root if isinstance(root, str) else "") for name, root in models]
