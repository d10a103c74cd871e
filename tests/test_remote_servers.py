"""The answerer `remote` with several servers: turns, bounds, and servers that fail and come back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, Server, drop, echo, forget_servers, serving, with_body, with_status
from PIL import Image
from rows import each_row

from srum_core.errors import AnswerError, ConfigError
from srum_core.plugins import discover
from srum_core.records import Question
from srum_remote import servers as servers_module
from srum_remote import wire
from srum_remote.answerer import RemoteAnswerer
from srum_remote.options import AnswererOptions

REST = 600.0
"""Seconds; no paused server returns within a test."""


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with serving() as one, serving() as other:
        yield [one, other]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "FIRST_REST", REST)
    monkeypatch.setattr(servers_module, "LONGEST_REST", REST)
    forget_servers(monkeypatch)


@pytest.fixture
def asked(tmp_path: Path) -> list[Question]:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "picture.png")
    return [Question(tmp_path / "picture.png", f"question {number}") for number in range(12)]


ANSWERS = [f"answer to question {number}" for number in range(12)]


def remote(servers: list[Server], **options: Any) -> RemoteAnswerer:
    url = ", ".join(each.url for each in servers)
    return RemoteAnswerer(
        AnswererOptions(**{"url": url, "model": "m", "cache": "off", "concurrency": 1, "retries": 2, **options})
    )


def test_servers_take_turns_and_answers_keep_their_order(servers: list[Server], asked: list[Question]) -> None:
    """With one request at a time each, all must be busy at once for the barrier to open."""
    together = threading.Barrier(2, timeout=10)

    def slowly(handler: Handler) -> None:
        together.wait()
        echo(handler)

    for each in servers:
        each.act = slowly
    assert remote(servers).answer(asked) == ANSWERS
    assert [len(each.taken) for each in servers] == [6, 6]
    assert [each.most for each in servers] == [1, 1]


def test_a_slow_server_is_not_flooded(servers: list[Server], asked: list[Question]) -> None:
    """It keeps its two until the other one has answered all that is left."""
    slow, quick = servers
    over = threading.Event()

    def hold(handler: Handler) -> None:
        over.wait(10)
        echo(handler)

    def answer(handler: Handler) -> None:
        echo(handler)
        if len(quick.taken) == 10:
            over.set()

    slow.act, quick.act = hold, answer
    assert remote(servers, concurrency=2).answer(asked) == ANSWERS
    assert (len(slow.taken), slow.most) == (2, 2)
    assert (len(quick.taken), quick.most <= 2) == (10, True)


def test_a_server_that_fails_is_left_out_and_named(
    servers: list[Server], asked: list[Question], caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = servers
    broken.act = with_status(503, "out of memory")
    asker = remote(servers)
    assert asker.answer(asked) == asker.answer(asked) == ANSWERS
    assert (len(broken.taken), len(sound.taken)) == (1, 24)
    (message,) = caplog.messages
    assert f'The server at {broken.url} returned 503 Service Unavailable: "out of memory".' in message
    assert f"paused for {REST:g} seconds" in message


def test_one_that_was_left_out_is_tried_with_a_single_request(
    servers: list[Server], asked: list[Question], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(servers_module, "FIRST_REST", 0.0)
    broken, sound = servers
    asker = remote(servers, concurrency=4)
    broken.acts = [drop]
    assert asker.answer(asked[:1]) == ANSWERS[:1]
    busy, seen = threading.Semaphore(0), list[int]()

    def first(handler: Handler) -> None:
        for _ in range(6):
            busy.acquire(timeout=10)
        seen.append(len(broken.taken))
        echo(handler)

    def answer(handler: Handler) -> None:
        echo(handler)
        busy.release()

    broken.acts, sound.act = [first], answer
    assert asker.answer(asked) == ANSWERS
    assert seen == [2]  # the one that was dropped, and this one
    assert [each.split(" (")[0] for each in caplog.messages] == [
        f"The server at {broken.url} lost or refused the connection",
        f"The server at {broken.url} answers again.",
    ]


def test_failures_together_count_once_and_in_a_row_each(servers: list[Server], asked: list[Question]) -> None:
    asker = remote(servers, concurrency=4)
    together = threading.Barrier(4, timeout=10)
    broken = servers[0]

    def fail(handler: Handler) -> None:
        together.wait()
        handler.reply(500, "no")

    broken.act = fail
    assert asker.answer(asked) == ANSWERS
    state = asker._servers.servers[0]
    assert (len(broken.taken), state.failures) == (4, 1)


def test_when_nobody_answers_it_is_said(
    servers: list[Server], asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "FIRST_REST", 0.001)
    for each in servers:
        each.act = with_status(500, "no")
    with pytest.raises(AnswerError, match=r"server at http://127.* returned 500 .*The 2 servers were asked 3 times"):
        remote(servers).answer(asked)
    asker = remote(servers, retries=5)
    for state in asker._servers.servers:
        state.failures = 5  # the sixth time for each of them is the last
    for each in servers:
        each.taken.clear()
    with pytest.raises(AnswerError, match="returned 500"):
        asker.answer(asked[:1])
    assert [len(each.taken) for each in servers] == [1, 1]


def test_a_refusal_ends_all_at_once_although_others_wait(servers: list[Server], asked: list[Question]) -> None:
    """One server is paused for long, and the other does not accept what it is asked."""
    down = threading.Event()

    def refuse(handler: Handler) -> None:
        down.wait(10)
        handler.reply(403, "too long")

    servers[0].act = lambda handler: (drop(handler), down.set())[0]
    servers[1].act = refuse
    with pytest.raises(AnswerError, match=rf"The server at {servers[1].url} returned 403 .*too long"):
        remote(servers).answer(asked)
    assert len(servers[1].taken) == 1


def test_who_waits_for_servers_that_rest_notices_the_end(servers: list[Server]) -> None:
    asker, stop = remote(servers), wire.Stop()
    for state in asker._servers.servers:
        state.wakes = time.monotonic() + REST
    stop.set()
    with pytest.raises(wire.Stopped):
        asker._servers.ask(lambda client: None, lambda reply: reply, stop)


def models(*names: str) -> Any:
    return with_body('{"data": [' + ", ".join(f'{{"id": "{name}"}}' for name in names) + "]}")


def test_all_must_serve_the_same_model(servers: list[Server], caplog: pytest.LogCaptureFixture) -> None:
    servers[0].act, servers[1].act = models("a"), models("b")
    message = f"all serve the same model, but serve: a at {servers[0].url}, b at {servers[1].url}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        remote(servers, model="").identity()
    servers[1].act = models("a", "b")
    with pytest.raises(ConfigError, match=rf"{servers[1].url} does not serve exactly one model.*It lists: a, b"):
        remote(servers, model="").identity()
    servers[0].act = drop
    servers[1].act = models("b")
    assert remote(servers, model="").identity() == "b"
    assert servers[0].url in caplog.text


@each_row(
    "url, words",
    [
        ("http://a/v1,http://b/v1,http://a/v1", r"names http://a/v1 twice.*concurrency is for each"),
        ("http://a/v1,", "has no server"),
        ("http://a/v1,b:8000", "cannot use its URL"),
    ],
)
def test_urls_of_several(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        discover().create("answerer", {"use": "remote", "url": url})
