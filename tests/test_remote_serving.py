"""The answerer `remote` against a real server: `transformers serve` with a tiny random vision-language model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import forget_servers
from PIL import Image
from tiny_vlm import write_tiny_vlm

from srum_core import config, plugins
from srum_core.errors import AnswerError
from srum_core.options import Use
from srum_core.records import Question
from srum_core.runs.run import Run
from srum_core.stages.generate import generate
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge
from srum_remote.answerer import RemoteAnswerer
from srum_remote.options import AnswererOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a free port of this machine, gone when the module is done."""
    folder = tmp_path_factory.mktemp("server")
    write_tiny_vlm(folder / "vlm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    arguments = [str(folder / "vlm"), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*program, *arguments], stdout=log, stderr=log, env=environment)
    try:
        for _ in range(1200):
            if server.poll() is not None or answers(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.1)
        assert server.poll() is None, (folder / "log").read_text(errors="replace")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(opener.open(url, timeout=1).status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_servers(monkeypatch)


def remote(url: str, cache: Path | str = "off") -> RemoteAnswerer:
    return RemoteAnswerer(AnswererOptions(url=url, cache=str(cache), concurrency=3, timeout=60.0, retries=0))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "red.png", tmp_path / "mixed.jpg", tmp_path / "clear.webp"]
    Image.new("RGB", (64, 48), "red").save(paths[0])
    image = Image.new("RGB", (70, 70), "blue")
    image.paste("yellow", (0, 0, 35, 70))
    image.save(paths[1])
    Image.new("RGBA", (40, 40), (0, 255, 0, 99)).save(paths[2])
    return paths


def test_real_questions_get_real_words(url: str, images: list[Path], tmp_path: Path) -> None:
    """The server is asked for its model; what it says depends on image, crop, words and seed, and repeats."""
    red, mixed, clear = images
    crop = (0.5, 0.0, 1.0, 1.0)
    asked = [
        Question(red, "What is this?", max_new_tokens=16),
        Question(mixed, "What is this?", max_new_tokens=16),
        Question(mixed, "What is this?", crop=crop, max_new_tokens=16),
        Question(clear, "What is this?", max_new_tokens=16),
        Question(red, "And where?", max_new_tokens=16),
        Question(red, "What is this?", max_new_tokens=16, think=True),
        Question(red, "What is this?", max_new_tokens=16, temperature=1.0, seed=1),
        Question(red, "What is this?", max_new_tokens=16, temperature=1.0, seed=2),
    ]
    said = remote(url, tmp_path / "cache").answer(asked)
    assert len(set(said)) == len(asked)
    assert remote(url, tmp_path / "cache").answer(asked) == said
    greedy = slice(0, 6)
    assert remote(url).answer(asked[greedy]) == said[greedy]  # asked anew
    (short,) = remote(url).answer([Question(red, "What is this?", max_new_tokens=4)])
    assert len(short) < len(said[0])
    assert said[0].startswith(short.rstrip("\ufffd"))


def test_what_a_real_server_refuses(url: str, images: list[Path]) -> None:
    asker = RemoteAnswerer(AnswererOptions(url=url, model="org/another", cache="off", retries=0))
    with pytest.raises(AnswerError, match=r"returned 400 .*Server is pinned to .*org/another"):
        asker.answer([Question(images[0], "x")])
    asker = RemoteAnswerer(AnswererOptions(url=url, cache="off", retries=0, extra={"no_such_field": 1}))
    with pytest.raises(AnswerError, match=r"returned 422 .*Unexpected fields.*no_such_field"):
        asker.answer([Question(images[0], "x")])
    asker = RemoteAnswerer(AnswererOptions(url=url.removesuffix("/v1"), model="m", cache="off", retries=0))
    with pytest.raises(AnswerError, match=r'returned 404 .*usually ends in "/v1"'):
        asker.answer([Question(images[0], "x")])


def test_a_real_judge_finds_gibberish_unreadable(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose images the toy draws, and whose questions the server answers: no words of it become a number."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    (tmp_path / "words.txt").write_text("a red cat left of a dog\ntwo dogs\n", encoding="utf-8")
    settings = config.Settings(
        adapter=Use("toy:ToyModel"),
        grounder=Use("grid"),
        judges=(
            Use("global-layout", {"max_new_tokens": 24}),
            Use("local-regions", {"max_new_tokens": 24}),
        ),
        answerer=Use("remote", {"cache": str(tmp_path / "cache"), "timeout": 60.0}),
        prompts=str(tmp_path / "words.txt"),
        judge=config.Judge(retries=1),
    )
    run = Run(tmp_path / "run", settings, plugins.discover())
    for stage in (generate, ground, judge):
        stage(run, 1)
    judgements = list(run.judgements(1))
    assert len(judgements) == 2
    for judgement in judgements:
        assert judgement.scores == ()
        assert [failure.judge for failure in judgement.failures] == ["global-layout", *["local-regions"] * 4]
        assert len(judgement.exchanges) == 4  # each question and its retry
        assert all(exchange.answer for exchange in judgement.exchanges)
        first, again = judgement.exchanges[:2]
        assert (first.question.temperature, again.question.temperature) == (0.0, settings.judge.temperature)
    assert len(list((tmp_path / "cache").glob("*/*.json"))) == 8
