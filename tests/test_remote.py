"""The answerer `remote` against a server on loopback that behaves badly in every way we could think of."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from loopback import (
    Act,
    Handler,
    Server,
    drop,
    echo,
    endless,
    forget_servers,
    saying,
    serving,
    silent,
    trickle_body,
    trickle_headers,
    trickle_until_closed,
    with_body,
    with_status,
)
from PIL import Image
from rows import each_row

from srum_core.cli.main import train_main
from srum_core.config import load_settings
from srum_core.errors import AnswerError, ConfigError, RecordError
from srum_core.models.images import open_rgb
from srum_core.models.templates import REASON_FIRST
from srum_core.plugins import discover
from srum_core.records import Question
from srum_remote import cache, client, wire
from srum_remote.answerer import RemoteAnswerer
from srum_remote.options import AnswererOptions

KEY = "sk-do-not/tell+1234"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.001)
    forget_servers(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    image.save(path)
    return path


def remote(server: Server, **options: Any) -> RemoteAnswerer:
    settings = {"url": server.url, "model": "m", "retries": 2, "timeout": 5.0, **options}
    return RemoteAnswerer(AnswererOptions(**settings))


def questions(image: Path, count: int) -> list[Question]:
    return [Question(image, f"question {number}") for number in range(count)]


# ---- what goes out ---------------------------------------------------------------------------------------------------


def sent_image(handler: Handler) -> tuple[str, bytes]:
    url = handler.body["messages"][0]["content"][0]["image_url"]["url"]
    kind, data = url.split(";base64,")
    return kind, base64.b64decode(data)


def test_a_question_is_sent_whole(server: Server, image: Path) -> None:
    question = Question(image, "How\n\x00 is “it”? \ud800", max_new_tokens=7, temperature=0.7, seed=11)
    assert remote(server, extra={"top_p": 0.5}).answer([question]) == ["answer to How\n\x00 is “it”? ?"]
    (handler,) = server.taken
    assert handler.path == "/v1/chat/completions"
    assert handler.headers["Authorization"] == f"Bearer {KEY}"
    body = handler.body
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 7, 0.7, 11)
    assert body["top_p"] == 0.5
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert sent_image(handler) == ("data:image/png", image.read_bytes())


def test_a_crop_is_cut_out_as_adapters_cut_it(server: Server, image: Path) -> None:
    crop = (0.51, 0.0, 1.0, 0.26)
    remote(server).answer([Question(image, "x", crop=crop)])
    kind, data = sent_image(server.taken[0])
    with Image.open(io.BytesIO(data)) as sent:
        assert (kind, sent.format, sent.size) == ("data:image/png", "PNG", (28, 28))
        assert sent.tobytes() == open_rgb(image, crop).tobytes()


def test_images_that_cannot_go_as_they_are(server: Server, tmp_path: Path) -> None:
    """JPEG goes unchanged, other formats as PNG, transparency on white."""
    Image.new("RGB", (9, 9), "green").save(tmp_path / "a.jpg")
    Image.new("RGB", (9, 9), "green").save(tmp_path / "b.bmp")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "c.png")
    names = ["a.jpg", "b.bmp", "c.png"]
    remote(server, concurrency=1).answer([Question(tmp_path / name, "x") for name in names])
    jpeg, bitmap, clear = map(sent_image, server.taken)
    assert jpeg == ("data:image/jpeg", (tmp_path / "a.jpg").read_bytes())
    assert bitmap[0] == clear[0] == "data:image/png"
    with Image.open(io.BytesIO(clear[1])) as image:
        assert image.convert("RGB").getcolors() == [(81, (255, 255, 255))]


def test_a_broken_image_is_said_to_be_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing of the kind")
    for name in ("x.png", "gone.png"):
        with pytest.raises(RecordError, match=rf"{name} .*(cannot be read|not there|missing)"):
            remote(server).answer([Question(tmp_path / name, "x")])


def test_thinking_is_asked_for_in_words(server: Server, image: Path) -> None:
    remote(server).answer([Question(image, "Score it.", think=True)])
    assert server.asked == [f"{REASON_FIRST}Score it."]
    assert "<think>" in REASON_FIRST
    assert "</think>" in REASON_FIRST


def test_without_a_key_a_placeholder_is_sent(server: Server, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    remote(server).answer(questions(image, 1))
    monkeypatch.setenv("MINE", f" {KEY}\n")
    remote(server, key_env="MINE", cache="off").answer(questions(image, 1))
    assert [handler.headers["Authorization"] for handler in server.taken] == ["Bearer none-needed", f"Bearer {KEY}"]


def test_the_url_can_come_from_the_environment(server: Server, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert remote(server, url="").answer(questions(image, 1)) == ["answer to question 0"]


# ---- order, bound, cache ---------------------------------------------------------------------------------------------


def test_order_is_kept_and_concurrency_is_bounded(server: Server, image: Path) -> None:
    """The first ones take longest, and the server counts how many it has in hand."""
    together = threading.Barrier(4, timeout=10)

    def slowly(handler: Handler) -> None:
        together.wait()  # only passes with all four in flight
        server.closing.wait(0.06 - int(handler.asked().split()[1]) * 0.004)
        echo(handler)

    server.act = slowly
    asked = questions(image, 12)
    assert remote(server, concurrency=4).answer(asked) == [f"answer to question {number}" for number in range(12)]
    assert server.most == 4


def test_nothing_is_asked_twice(server: Server, image: Path) -> None:
    asked = questions(image, 3)
    twice = [*asked, *reversed(asked)]
    answers = remote(server).answer(twice)
    assert answers == [f"answer to question {number}" for number in (0, 1, 2, 2, 1, 0)]
    assert len(server.taken) == 3
    server.act = lambda handler: handler.reply(500, "closed")
    assert remote(server).answer(twice) == answers  # another process would find the same files
    assert len(server.taken) == 3
    assert remote(server).answer([]) == []


def test_threads_may_share_one(server: Server, image: Path) -> None:
    asker, asked = remote(server), questions(image, 4)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: asker.answer(asked), range(24)))
    assert found == [[f"answer to question {number}" for number in range(4)]] * 24


def test_the_same_image_under_another_name_is_the_same_question(server: Server, image: Path) -> None:
    copy = image.with_name("copy.png")
    copy.write_bytes(image.read_bytes())
    remote(server).answer([Question(image, "x"), Question(copy, "x")])
    assert len(server.taken) == 1


DIFFERENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"text": "y"}, {}),
    ({"max_new_tokens": 9}, {}),
    ({"temperature": 0.5}, {}),
    ({"temperature": 0.5, "seed": 1}, {}),
    ({"think": True}, {}),
    ({"crop": (0.0, 0.0, 0.5, 0.5)}, {}),
    ({}, {"model": "other"}),
    ({}, {"extra": {"top_p": 0.1}}),
]


def test_whatever_could_change_the_answer_makes_another_question(server: Server, image: Path) -> None:
    numbers = iter(range(100))
    server.act = lambda handler: handler.say(f"{next(numbers)}")
    for count, (changes, options) in enumerate([({}, {}), *DIFFERENT]):
        question = Question(image, **{"text": "x", **changes})
        assert remote(server, **options).answer([question]) == [str(count)]
    Image.new("RGB", (5, 5)).save(image)
    assert remote(server).answer([Question(image, "x")]) == ["9"]
    for setting in ({"concurrency": 1}, {"timeout": 9.0}, {"retries": 0}, {"max_reply": 10_000}):
        assert remote(server, **setting).answer([Question(image, "x")]) == ["9"]


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "xdg" / "srum" / "answers").glob("*/*.json"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"answer": "made up", "check": ""}', b"[" * 100_000, b"\xff"])
def test_a_damaged_cache_file_is_asked_again(server: Server, image: Path, tmp_path: Path, damage: bytes) -> None:
    remote(server).answer(questions(image, 1))
    (path,) = cached(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert remote(server).answer(questions(image, 1)) == ["answer to question 0"]
    assert (len(server.taken), path.read_bytes()) == (2, whole)
    path.write_bytes(whole.replace(b"answer to", b"answer two"))
    assert remote(server).answer(questions(image, 1)) == ["answer to question 0"]
    assert len(server.taken) == 3


def test_where_answers_are_kept(server: Server, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        remote(server, cache="off").answer(questions(image, 1))
    assert len(server.taken) == 2
    assert not cached(tmp_path)
    remote(server, cache=str(tmp_path / "mine")).answer(questions(image, 1))
    assert len(list((tmp_path / "mine").glob("??/*.json"))) == 1
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    remote(server).answer(questions(image, 1))
    assert len(list((tmp_path / "home" / ".cache" / "srum" / "answers").glob("??/*.json"))) == 1
    remote(server, cache="~/other").answer(questions(image, 1))
    assert len(list((tmp_path / "home" / "other").glob("??/*.json"))) == 1


def test_a_cache_that_cannot_be_written_is_an_error(server: Server, image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"The folder of answers .*file cannot be .*answerer.cache"):
        remote(server, cache=str(tmp_path / "file")).answer(questions(image, 1))


def test_a_full_disk_is_an_error(server: Server, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "write_atomic", full)
    with pytest.raises(ConfigError, match=r"answers cannot be written \(No space left on device\)"):
        remote(server).answer(questions(image, 1))


def test_a_failure_keeps_what_has_arrived_and_the_next_run_asks_for_the_rest(
    server: Server, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any, **more: Any) -> Any:
        found = wait(*arguments, **more)
        time.sleep(0.1)  # whoever waits wakes up late; the queue must be closed by then
        return found

    monkeypatch.setattr(client, "wait", late)

    def third_fails(handler: Handler) -> None:
        if handler.asked() == "question 3":
            handler.reply(403, "no")
        else:
            echo(handler)

    server.act = third_fails
    asked = questions(image, 8)
    with pytest.raises(
        AnswerError, match=r"3 of the 8 answers of this batch are stored in .*answers; the same command"
    ):
        remote(server, concurrency=1).answer(asked)
    assert server.asked == [f"question {number}" for number in range(4)]  # the queue was dropped
    server.act = echo
    server.taken.clear()
    assert remote(server, concurrency=1).answer(asked) == [f"answer to question {number}" for number in range(8)]
    assert server.asked == [f"question {number}" for number in range(3, 8)]


def test_a_failure_does_not_wait_for_what_is_under_way(server: Server, image: Path) -> None:
    """Seven requests get no answer: they have to be cut off before the server tires of them."""
    waiting = threading.Semaphore(0)

    def first_fails(handler: Handler) -> None:
        if handler.asked() == "question 0":
            for _ in range(7):
                waiting.acquire(timeout=10)
            handler.reply(403, "no")
        else:
            waiting.release()
            silent(handler)

    server.act = first_fails
    with pytest.raises(AnswerError, match="returned 403"):
        remote(server, concurrency=8, timeout=30.0, retries=0).answer(questions(image, 20))
    assert (len(server.taken), server.tired) == (8, 0)


def test_ctrl_c_ends_everything_and_keeps_what_has_arrived(server: Server, image: Path, tmp_path: Path) -> None:
    def interrupt(handler: Handler) -> None:
        if handler.asked() in ("question 0", "question 1"):
            echo(handler)
        elif handler.asked() == "question 2":
            while len(cached(tmp_path)) < 2:
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)
            silent(handler)
        else:
            silent(handler)

    server.act = interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            remote(server, concurrency=3, timeout=30.0, retries=0).answer(questions(image, 20))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (len(cached(tmp_path)), server.tired) == (2, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("srum-remote")]


# ---- what a person sees ----------------------------------------------------------------------------------------------


ECHOES_KEY = f"Incorrect API key provided: {KEY}.\r\n\x1b[31m"
FAILURES: dict[str, tuple[Act, int, str]] = {
    # what the server does: (how, requests, what is said about it)
    "slow first byte": (
        silent,
        3,
        r"gave no complete reply within 0.3 seconds\. .*asked 3 times\. Raise answerer.time",
    ),
    "trickling body": (trickle_body, 3, r"gave no complete reply within 0.3 seconds"),
    "trickling body without a length": (trickle_until_closed, 3, r"gave no complete reply within 0.3 seconds"),
    "trickling headers": (trickle_headers, 3, r"gave no complete reply within 0.3 seconds"),
    "500 for ever": (
        with_status(500, "out of memory"),
        3,
        r'returned 500 .*"out of memory"\. .*asked 3 times\. Check its log',
    ),
    "503 for ever": (with_status(503), 3, r"returned 503 Service Unavailable"),
    "429 for ever": (with_status(429, "slow down"), 3, r'returned 429 .*"slow down".*Lower answerer\.concurrency'),
    "408 for ever": (with_status(408), 3, r"returned 408"),
    "401": (with_status(401, ECHOES_KEY), 1, r'returned 401 .*provided: \(hidden\)\. \[31m".*answerer\.key_env'),
    "403": (with_status(403, "no"), 1, r"returned 403 .*answerer\.key_env"),
    "404": (with_status(404, '{"detail": "Not Found"}'), 1, r'returned 404 .*usually ends in "/v1"'),
    "400 with a long body": (
        with_status(400, "too many tokens\0" * 500),
        2,
        r'returned 400 .*"too many tokens too .{150,200}…"',
    ),
    "422": (with_status(422, "Unexpected fields"), 2, r"returned 422 .*Unexpected fields.*refuses even"),
    "redirect": (
        with_status(307, Location="http://127.0.0.1:9/elsewhere"),
        1,
        r"returned 307, a redirect \(http://127.0.0.1:9/elsewhere\).*Redirects are not followed",
    ),
    "garbage": (with_body("<html>hello</html>"), 3, r'sent something that is not JSON: "<html>hello</html>"'),
    "an empty reply": (with_body(""), 3, r"sent an empty reply\."),
    "binary garbage": (with_body(b"\xff\xfe\x00\x80"), 3, r"sent something that is not JSON"),
    "deep JSON": (with_body("[" * 9000), 3, r"sent something that is not JSON"),
    "JSON of another shape": (with_body('{"answer": 42}'), 3, r'not a chat completion: "{"answer": 42}"'),
    "a JSON list": (with_body("[1]"), 3, r"sent JSON that is not a chat completion"),
    "null": (with_body("null"), 3, r"sent JSON that is not a chat completion"),
    "no choices": (with_body('{"choices": []}'), 3, r"sent JSON that is not a chat completion"),
    "null choices": (with_body('{"choices": null}'), 3, r"sent JSON that is not a chat completion"),
    "null content": (saying(None), 3, r"sent a chat completion without text"),
    "content of parts": (saying([{"type": "text", "text": "hi"}]), 3, r"sent a chat completion without text"),
    "content that is a number": (saying(0), 3, r"sent a chat completion without text"),
    "cut-off JSON": (
        lambda handler: handler.reply(200, '{"choices": [', length=99) or drop(handler),
        3,
        r"lost or refused",
    ),
    "dropped connection": (drop, 3, r"lost or refused the connection"),
    "oversized reply": (saying("x" * 20_000), 1, r"sent more than 9999 bytes for one reply\. .*answerer\.max_reply"),
    "endless reply": (endless, 1, r"sent more than 9999 bytes"),
    "oversized error": (with_status(500, "x" * 20_000), 1, r"sent more than 9999 bytes"),
    "compressed reply": (with_body(b"\x1f\x8b", Content_Encoding="gzip"), 1, r"sent a compressed reply"),
    "no HTTP": (
        lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n") and drop(handler),
        3,
        r"lost or refused the con",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_an_error_in_words(server: Server, image: Path, tmp_path: Path, name: str) -> None:
    server.act, requests, words = FAILURES[name]
    timeout = 0.3 if "0.3 seconds" in words else 5.0  # a slow machine must not be taken for a slow server
    with pytest.raises(AnswerError, match=words) as caught:
        remote(server, timeout=timeout, max_reply=9999).answer(questions(image, 1))
    said = str(caught.value)
    assert len(server.taken) == requests
    assert f"The server at {server.url} " in said
    assert f"about {image} with the model m." in said
    assert "0 of the 1 answers" in said
    assert KEY not in said
    assert said.isprintable()
    assert len(said) < 900
    assert not cached(tmp_path)


HOSTILE = f"{KEY} \x1b[31m\x07[bold]"
ECHOES: dict[str, Act] = {
    # where a server puts what it was sent, and what a terminal would obey
    "reason phrase": lambda handler: handler.wfile.write(
        f"HTTP/1.1 401 {HOSTILE}\r\nContent-Length: 0\r\n\r\n".encode()
    ),
    "body": with_status(401, HOSTILE),
    "key in a URL": with_status(401, f"GET /v1?key={quote(KEY, safe='')}"),
    "body that is not JSON": with_body(HOSTILE),
    "location": with_status(302, Location=HOSTILE),
    "no HTTP": lambda handler: handler.wfile.write(f"{HOSTILE}\r\n\r\n".encode()) and drop(handler),
}


@pytest.mark.parametrize("name", ECHOES)
def test_what_a_server_says_is_shown_without_the_key_and_control_characters(
    server: Server, image: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.act = ECHOES[name]
    with pytest.raises(AnswerError) as caught:
        remote(server, retries=0).answer(questions(image, 1))
    assert KEY not in str(caught.value)
    assert quote(KEY, safe="") not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_key_in_an_answer_is_not_kept(server: Server, image: Path, tmp_path: Path) -> None:
    server.act = saying(f"Your key is {KEY}.")
    assert remote(server).answer(questions(image, 1)) == ["Your key is (hidden)."]
    assert KEY not in cached(tmp_path)[0].read_text(encoding="utf-8")


def test_nobody_there(server: Server, image: Path) -> None:
    server.server_close()
    with pytest.raises(
        AnswerError, match=r"lost or refused the connection \(.*efused.*\).*Check whether it is running"
    ):
        remote(server).answer(questions(image, 1))


RECOVERIES: dict[str, list[Act]] = {
    "500, 502": [with_status(500), with_status(502)],
    "429 with Retry-After": [with_status(429, Retry_After="0.01")],
    "429 with a date": [with_status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")],
    "429 with nonsense": [with_status(429, Retry_After="soon")],
    "a dropped connection": [drop, drop],
    "garbage": [with_body("<html>"), with_body('{"error": "busy"}')],
    "a time-out": [silent],
}


@pytest.mark.parametrize("name", RECOVERIES)
def test_what_passes_is_tried_again(server: Server, image: Path, name: str) -> None:
    server.acts = list(RECOVERIES[name])
    assert remote(server, timeout=0.5).answer(questions(image, 1)) == ["answer to question 0"]
    assert len(server.taken) == 1 + len(RECOVERIES[name])


def test_pauses_grow_and_follow_the_server_within_limits(
    server: Server, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(wire.Stop, "pause", lambda self, seconds: pauses.append(seconds))
    server.acts = [*[with_status(500)] * 8, with_status(429, Retry_After="77"), with_status(503, Retry_After="inf")]
    remote(server, retries=10).answer(questions(image, 1))
    for attempt, pause in enumerate(pauses[:8]):
        assert 0.75 * min(0.5 * 2**attempt, 30) <= pause <= min(0.5 * 2**attempt, 30)
    assert pauses[8:] == [77, 120]


WORDS: dict[str, tuple[Act, str]] = {
    "empty": (saying(""), ""),
    "all reasoning": (saying(None, "length", reasoning_content="hm"), ""),
    "reasoning apart": (saying("Score: 1", reasoning="hm"), "Score: 1"),
    "only reasoning": (saying(None, reasoning_content="hm"), ""),
    "declined": (saying(None, refusal="I will not."), ""),
    "cut off": (saying("Score: 0.", "length"), "Score: 0."),
    "control characters": (saying("\x00\x1b[2J\r\n\u202e"), "\x00\x1b[2J\r\n\u202e"),
    "surrogates": (
        with_body(r'{"choices": [{"message": {"content": "\ud800 \ud83d\ude00 \udc00"}}]}'),
        "\ud800 😀 \udc00",
    ),
    "much unicode": (saying("𝒮ç\u0301😀" * 50_000), "𝒮ç\u0301😀" * 50_000),
    "no finish reason": (with_body('{"choices": [{"message": {"content": "x"}}]}'), "x"),
}


@pytest.mark.parametrize("name", WORDS)
def test_words_arrive_as_they_are_now_and_from_the_cache(server: Server, image: Path, name: str) -> None:
    server.act, expected = WORDS[name]
    for _ in range(2):
        assert remote(server).answer(questions(image, 1)) == [expected]
    assert len(server.taken) == 1


# ---- settings --------------------------------------------------------------------------------------------------------


def test_the_key_is_written_nowhere(server: Server, image: Path, tmp_path: Path) -> None:
    asker = remote(server)
    asker.answer(questions(image, 2))
    assert cached(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in repr(asker.options)


def test_a_time_limit_is_a_real_one() -> None:
    for timeout in (0, -1, float("inf"), float("nan"), 1e10):
        with pytest.raises(ConfigError, match="timeout"):
            discover().create("answerer", {"use": "remote", "url": "http://localhost/v1", "timeout": timeout})


def test_a_key_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="api_key"):
        discover().create("answerer", {"use": "remote", "url": "http://localhost/v1", "api_key": KEY})


def test_a_key_that_cannot_be_sent_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY contains characters") as caught:
        remote(server)
    assert KEY not in str(caught.value)


@each_row(
    "url, words",
    [
        ("", "set answerer.url, .* or the environment variable OPENAI_BASE_URL"),
        ("localhost:8000/v1", 'should have the form "http://localhost:8000/v1"'),
        ("ftp://localhost/v1", "should have the form"),
        ("http://", "should have the form"),
        ("http://[::1/v1", "should have the form"),
        ("http://localhost:port/v1", "should have the form"),
    ],
)
def test_urls_that_cannot_work(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        discover().create("answerer", {"use": "remote", "url": url})


SECRET_URLS = (
    "http://me:secret@localhost/v1",
    "http://secret@localhost/v1",
    "http://localhost/v1?token=secret",
    "http://localhost/v1#secret",
    "http://localhost:8000/v1,http://me:secret@other/v1",
    "ftp://me:secret@localhost/v1",
    "http://me:1/secret@localhost/v1",
)


@each_row("url", SECRET_URLS)
def test_a_url_with_a_secret_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    setting = f'answerer={{use="remote", url="{url}"}}'
    monkeypatch.chdir(tmp_path)
    assert train_main(["--adapter", "bagel", "--out", str(tmp_path / "run"), setting]) == 2
    error = capsys.readouterr().err
    assert re.search(r"answerer.url .*(password|should have the form)", error)
    assert "secret" not in error
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL") as caught:
        RemoteAnswerer(AnswererOptions())
    assert "secret" not in str(caught.value)


@each_row(
    "setting, where",
    [
        ("adapter.checkpoint=https://me:secret@host/x", "adapter.checkpoint"),
        ('answerer={use="remote", extra={hook=["https://me:secret@host/x"]}}', "answerer.extra.hook.0"),
        ("prompts=https://me:secret@host/x", "prompts"),
    ],
)
def test_no_setting_holds_a_password_in_a_url(setting: str, where: str) -> None:
    with pytest.raises(ConfigError, match=rf"{where} .*password") as caught:
        load_settings("bagel", (), None, [setting], discover())
    assert "secret" not in str(caught.value)


@each_row("extra", ['{api_key="sk"}', '{a=[{Authorization="sk"}]}', '{extra_headers={x="sk"}}', '{access-token="sk"}'])
def test_a_key_among_the_fields_of_the_body_is_refused(extra: str) -> None:
    with pytest.raises(ConfigError, match=r"answerer.extra .*must not contain .*environment variable"):
        load_settings("bagel", (), None, [f'answerer={{use="remote", extra={extra}}}'], discover())
    usual = "{stop_token_ids=[1], chat_template_kwargs={enable_thinking=false}}"
    load_settings("bagel", (), None, [f'answerer={{use="remote", extra={usual}}}'], discover())


def test_a_key_in_place_of_its_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"key_env .*environment variable") as caught:
        discover().create("answerer", {"use": "remote", "key_env": KEY})
    assert KEY not in str(caught.value)


def models(*names: Any) -> Act:
    return with_body(json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}))


def test_the_only_model_is_found_once_and_late(server: Server, image: Path) -> None:
    server.acts = [models("org/the-one")]
    asker = remote(server, model="")
    assert not server.taken
    asker.answer(questions(image, 1))
    asker.answer(questions(image, 2))
    assert [handler.path for handler in server.taken] == ["/v1/models", *["/v1/chat/completions"] * 2]
    assert {handler.body["model"] for handler in server.taken[1:]} == {"org/the-one"}


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (models("a", "b"), ConfigError, r"answerer\.model must name one\. It lists: a, b\."),
        (models(), ConfigError, r"It lists: none\."),
        (
            with_status(404),
            AnswerError,
            r"returned 404 .*It was asked to list its models.*name the model with answerer\.model",
        ),
        (with_body('{"data": "x"}'), AnswerError, r"sent JSON that is not a list of models.*asked 3 times"),
        (models(None), AnswerError, r"sent JSON that is not a list of models"),
        (models("a\ud800"), AnswerError, r"sent JSON that is not a list of models"),
        (with_body("{}"), AnswerError, r"sent JSON that is not a list of models"),
    ],
)
def test_which_model_is_not_guessed(server: Server, image: Path, act: Act, error: type[Exception], words: str) -> None:
    server.act = act
    with pytest.raises(error, match=words):
        remote(server, model="").answer(questions(image, 1))


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['openai'] = None\n"
        "from srum_core.plugins import discover\n"
        "from srum_core.errors import ConfigError\n"
        "try: discover().create('answerer', {'use': 'remote', 'url': 'http://localhost:1/v1'})\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "srum[remote]"' in done.stdout
