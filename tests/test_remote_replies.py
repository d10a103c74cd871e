"""What a server says beside its answers: which model gave them, what it refuses, and which fields it does not take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, Server, echo, forget_servers, serving, with_status
from PIL import Image

from srum_core import config, plugins
from srum_core.errors import AnswerError
from srum_core.options import Use
from srum_core.records import Question, Score
from srum_core.runs.run import Run
from srum_core.stages.generate import generate
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge
from srum_remote import client
from srum_remote.answerer import PROBE, RemoteAnswerer
from srum_remote.options import AnswererOptions

SCORE = "Score: 0.5\nReason: so"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_servers(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def remote(server: Server, **options: Any) -> RemoteAnswerer:
    return RemoteAnswerer(
        AnswererOptions(**{"url": server.url, "model": "m", "concurrency": 1, "retries": 0, **options})
    )


@pytest.fixture
def asked(tmp_path: Path) -> list[Question]:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "image.png")
    return [Question(tmp_path / "image.png", f"question {number}") for number in range(6)]


def judged(folder: Path, server: Server, *judges: Use, grounder: str = "grid") -> Run:
    """A run as far as its judgements; the toy generates three images of which the server is asked."""
    folder.mkdir()
    (folder / "words.txt").write_text("a red cat\ntwo dogs\nthe sea\n", encoding="utf-8")
    options = {"url": server.url, "model": "m", "cache": "off", "retries": 0, "concurrency": 1}
    settings = config.Settings(
        adapter=Use("toy:ToyModel"),
        grounder=Use(grounder),
        judges=judges or (Use("toy:ToyJudge"),),
        answerer=Use("remote", options),
        prompts=str(folder / "words.txt"),
        judge=config.Judge(retries=2),
    )
    run = Run.create(folder / "run", settings, plugins.discover())
    for stage in (generate, ground, judge):
        stage(run, 1)
    return run


# ---- questions that are refused --------------------------------------------------------------------------------------


def refusing(*words: str) -> Any:
    """Refuse questions that hold one of the words, as a content filter does; answer all others."""

    def act(handler: Handler) -> None:
        if any(word in handler.asked() for word in words):
            handler.reply(400, "content filter \x1b[31m")
        else:
            handler.say(SCORE)

    return act


def test_one_refused_question_is_no_answer_and_its_reason_is_kept(
    server: Server, asked: list[Question], caplog: pytest.LogCaptureFixture
) -> None:
    server.act = refusing("question 0", "question 4")
    given = remote(server).answer(asked)
    assert given == ["", SCORE, SCORE, SCORE, "", SCORE]
    why = f'The server at {server.url} returned 400 Bad Request: "content filter [31m".'
    assert given[0].refused == given[4].refused == why
    assert server.asked == ["question 0", PROBE, *[f"question {number}" for number in range(1, 6)]]
    assert len(caplog.messages) == 1
    server.act = echo  # refusals are not kept: a filter may be another one tomorrow
    assert remote(server).answer(asked)[0] == "answer to question 0"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_server_that_refuses_everything_ends_the_run_at_once(
    server: Server, asked: list[Question], status: int
) -> None:
    server.act = with_status(status, "no")
    with pytest.raises(AnswerError, match=rf"returned {status} .*refuses even a short question"):
        remote(server).answer(asked)
    assert len(server.taken) == 2


def test_too_many_refusals_end_the_run(server: Server, asked: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_REFUSALS", 2)
    server.act = refusing("question 1", "question 3", "question 4")
    with pytest.raises(AnswerError, match="refused 3 of 5 questions, too many"):
        remote(server).answer(asked)
    monkeypatch.setattr(client, "SHARE_OF_REFUSALS", 0.7)
    assert remote(server).answer(asked).count("") == 3


def test_a_refused_image_is_left_out_and_the_others_are_judged(server: Server, tmp_path: Path) -> None:
    server.act = refusing("two dogs")
    first, second, third = judged(tmp_path / "a", server).judgements(1)
    assert (len(first.scores), len(third.scores)) == (5, 5)
    (failure,) = second.failures
    assert "returned 400" in failure.why
    assert len(second.exchanges) == 5  # what was refused is not asked again
    assert second.exchanges[0].refused == failure.why


def test_a_refused_grounding_and_what_a_judge_makes_of_no_words(server: Server, tmp_path: Path) -> None:
    server.act = refusing("bbox_2d")
    run = judged(tmp_path / "a", server, grounder="native")
    assert all("returned 400" in each.failures[0].why for each in run.groundings(1))
    server.act = refusing("two dogs")
    second = list(judged(tmp_path / "b", server, Use(f"{__name__}:Credulous")).judgements(1))[1]
    assert "returned 400" in second.failures[0].why  # and so it is not trained on


class Credulous:
    """Takes no words for a zero."""

    def questions(self, candidate: Any, regions: Any) -> list[Question]:
        return [Question(candidate.image, candidate.prompt.text)]

    def scores(self, candidate: Any, regions: Any, answers: Any) -> list[Any]:
        return [Score(0.5 if answers[0] else 0.0)]


# ---- the model that answers ------------------------------------------------------------------------------------------


def switching(*models: str) -> Any:
    left = list(models)

    def act(handler: Handler) -> None:
        handler.say_as(left.pop(0) if len(left) > 1 else left[0], SCORE)

    return act


def test_every_answer_carries_its_model_also_from_the_cache(
    server: Server, asked: list[Question], caplog: pytest.LogCaptureFixture
) -> None:
    server.act = switching("m-1", "m-1", "m-1", "m-2\x1b[31m")
    expected = [*["m-1"] * 3, *["m-2 [31m"] * 3]
    asker = remote(server)
    assert [each.model for each in asker.answer(asked)] == expected
    assert [each.model for each in asker.answer(asked)] == expected
    assert len(server.taken) == 6
    (message,) = caplog.messages
    assert "requested m, replies name m-1, then m-2 [31m" in message


def test_a_run_and_its_report_name_all_models_that_answered(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from srum_core.report.gather import gather_run

    server.act = switching(*["m-1"] * 7, "m-2")
    run = judged(tmp_path / "a", server)
    models = [exchange.model for each in run.judgements(1) for exchange in each.exchanges]
    assert models == [*["m-1"] * 7, *["m-2"] * 8]
    (stage,) = [each for each in gather_run(run, 0)["rounds"][0]["stages"] if each["stage"] == "judge"]
    assert "answered by m-1, m-2" in stage["facts"]
    assert "several models: m-1, m-2" in caplog.messages[-1]


# ---- fields that are not taken ---------------------------------------------------------------------------------------


def reasoning(handler: Handler) -> None:
    """OpenAI's models that reason, as they put it."""
    body = handler.body
    if "max_tokens" in body:
        wrong = (
            "max_tokens",
            (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead."
            ),
        )
    elif body.get("temperature", 1) != 1:
        wrong = (
            "temperature",
            (
                "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default "
                "(1) value is supported."
            ),
        )
    else:
        echo(handler)
        return
    error = {"message": wrong[1], "type": "invalid_request_error", "param": wrong[0], "code": "unsupported"}
    handler.reply(400, json.dumps({"error": error}))


def no_seed(handler: Handler) -> None:
    if "seed" in handler.body:
        wrong = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
        handler.reply(422, json.dumps({"detail": [wrong]}))
    else:
        echo(handler)


@pytest.mark.parametrize(
    ("act", "first", "present", "absent"),
    [
        (reasoning, 3, {"max_completion_tokens", "seed"}, {"max_tokens", "temperature"}),
        (no_seed, 2, {"max_tokens", "temperature"}, {"seed"}),
    ],
)
def test_a_field_that_a_server_does_not_take_is_renamed_or_left_out(
    server: Server,
    asked: list[Question],
    caplog: pytest.LogCaptureFixture,
    act: Any,
    first: int,
    present: set[str],
    absent: set[str],
) -> None:
    server.act = act
    asker = remote(server)
    assert asker.answer(asked[:1]) == ["answer to question 0"]
    assert len(server.taken) == first
    assert asker.answer(asked) == [f"answer to question {number}" for number in range(6)]
    assert len(server.taken) == first + 5  # remembered
    assert present <= server.taken[-1].body.keys()
    assert not absent & server.taken[-1].body.keys()
    assert len(caplog.messages) == 1  # what is left out changes how answers are sampled


def test_a_value_that_is_too_large_is_no_complaint_about_a_field(server: Server, asked: list[Question]) -> None:
    server.act = with_status(400, "'max_tokens' is too large: 9999. The model's context length is 4096 tokens.")
    with pytest.raises(AnswerError, match="max_new_tokens that is too large"):
        remote(server).answer(asked)
    assert all("max_tokens" in handler.body for handler in server.taken)
