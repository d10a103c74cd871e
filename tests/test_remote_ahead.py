"""Images are judged while others are generated, where servers do both; the records are those of one after the other."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, Server, forget_servers, serving, silent, with_status
from painting import Painter, colours
from PIL import Image

from srum_core.cli.main import train_main
from srum_core.stages import order
from srum_remote import generator, wire


@pytest.fixture
def images() -> Iterator[Server]:
    with serving() as made:
        made.act = Painter()
        yield made


@pytest.fixture
def judge() -> Iterator[Server]:
    with serving() as made:
        made.act = scoring
        yield made


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("srum_core.runs.run.gc.collect", lambda *_: 0)
    monkeypatch.setattr(order, "PAUSE", 0.01)
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(generator, "_checked", {})
    forget_servers(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


def scoring(handler: Handler) -> None:
    """A score that follows from the image and the question; one in three is unreadable and asked for again."""
    digest = hashlib.sha256(str(handler.body["messages"]).encode() + str(handler.body["seed"]).encode()).digest()
    unclear = digest[0] % 3 == 0
    handler.say_as("judge", "Let me think." if unclear else f"Score: 0.{digest[1] % 10}\nReason: so")


def trained(images: Server, judge: Server, *typed: str, out: str = "run") -> int:
    components = ["--adapter", "toy:ToyModel", "grounder=toy:ToyGrounder", "judges=['toy:ToyJudge']", "train.steps=1"]
    few = ["prompts=['a leaf', 'a stone', 'a hill']", "generate.batch=1", "ground.batch=2", "judge.batch=1"]
    generating = f"generator={{use='remote', url='{images.url}', size=[8, 8], cache='off', retries=0}}"
    answering = f"answerer={{use='remote', url='{judge.url}', model='judge', cache='off', retries=0}}"
    return train_main([*components, *few, generating, answering, *typed, "--out", out])


def lines(out: str, folder: str) -> list[str]:
    return Path(out, "round-1", folder, "part-0.jsonl").read_text().splitlines()


@pytest.mark.slow
def test_images_are_judged_while_others_are_generated(
    images: Server, judge: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last image waits until questions about earlier ones are asked. The records are the same without that."""
    judged = threading.Event()

    def answer(handler: Handler) -> None:
        if "a leaf" in str(handler.body["messages"]):
            judged.set()
        scoring(handler)

    def paint(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        assert prompt != "a hill" or judged.wait(20)
        return colours(prompt, seed, body)

    judge.act, images.act = answer, Painter(paint=paint)
    assert trained(images, judge) == 0
    monkeypatch.setattr(order, "_can_judge_ahead", lambda run, round: False)
    judge.act, images.act = scoring, Painter()
    assert trained(images, judge, out="after") == 0
    for folder in ("candidates", "regions", "judgements"):
        assert lines("run", folder) == lines("after", folder)


def test_one_stage_alone_judges_nothing(images: Server, judge: Server) -> None:
    assert trained(images, judge, "--only", "generate") == 0
    assert not judge.taken


def test_a_failing_image_server_ends_what_is_judged(images: Server, judge: Server) -> None:
    asked = threading.Event()

    def hang(handler: Handler) -> None:
        asked.set()
        silent(handler)

    def paint(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        if prompt == "a hill":
            assert asked.wait(20)
            raise OSError("out of order")
        return colours(prompt, seed, body)

    judge.act, images.act = hang, Painter(paint=paint)
    assert trained(images, judge) == 2
    assert not judge.tired


def test_what_the_judge_says_ends_the_run(images: Server, judge: Server, capsys: pytest.CaptureFixture[str]) -> None:
    judge.act = lambda handler: handler.reply(401, "who are you?")
    assert trained(images, judge) == 2
    assert "returned 401" in capsys.readouterr().err
    assert len(lines("run", "candidates")) == 3


def test_a_judge_that_fails_for_a_while_is_told_at_once_and_asked_again(
    images: Server, judge: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last image waits for the warning; then the server is back."""
    back = threading.Event()

    def paint(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        if prompt == "a hill":
            assert any("out of memory" in each and "Judging continues" in each for each in told(back, caplog))
            judge.act = scoring
        return colours(prompt, seed, body)

    judge.act, images.act = with_status(500, "out of memory"), Painter(paint=paint)
    assert trained(images, judge) == 0
    monkeypatch.setattr(order, "_can_judge_ahead", lambda run, round: False)
    images.act = Painter()
    assert trained(images, judge, out="after") == 0
    for folder in ("candidates", "regions", "judgements"):
        assert lines("run", folder) == lines("after", folder)


def told(waiting: threading.Event, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings, as soon as there are any."""
    for _ in range(1000):
        if caplog.messages or waiting.wait(0.02):
            break
    return list(caplog.messages)


@pytest.mark.parametrize("changed", ["answerer=", "grounder=sam", "generator=toy:ToyModel"])
def test_work_on_this_machine_is_not_doubled(changed: str, images: Server, judge: Server, tmp_path: Path) -> None:
    from srum_core.config import load_settings
    from srum_core.plugins import discover
    from srum_core.runs.run import Run

    registry = discover()
    common = {
        "adapter": "toy:ToyModel", "grounder": "toy:ToyGrounder", "judges": ["toy:ToyJudge"],
        "generator": {"use": "remote", "url": images.url}, "answerer": {"use": "remote", "url": judge.url},
    }  # fmt: skip
    name, _, value = changed.partition("=")
    applies = [
        order._can_judge_ahead(Run(tmp_path, load_settings(None, (), None, overrides, registry), registry), 1)
        for overrides in (common, {**common, name: value})
    ]
    assert applies == [True, False]
