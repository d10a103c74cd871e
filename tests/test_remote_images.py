"""The image generator `remote` against a server on loopback: one that works, and the ways of misbehaving."""

from __future__ import annotations

import base64
import json
import random
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Act, Handler, Server, drop, forget_servers, serving, silent, with_status
from painting import Painter, colours, in_base64
from PIL import Image

from srum_core.cli.main import train_main
from srum_core.errors import AnswerError, ConfigError
from srum_core.plugins import discover
from srum_core.records import Sample
from srum_core.testing import GeneratorConformance
from srum_remote import client, generator, wire
from srum_remote import servers as servers_module
from srum_remote.generator import ALIKE, PROBES, UNREPEATABLE, RemoteGenerator
from srum_remote.options import GeneratorOptions

KEY = "sk-do-not/tell+1234"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        made.act = Painter()
        yield made


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(generator, "_checked", {})
    forget_servers(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def remote(*servers: Server, **options: Any) -> RemoteGenerator:
    url = ",".join(server.url for server in servers)
    return RemoteGenerator(GeneratorOptions(**{"url": url, "retries": 2, "timeout": 5.0, **options}))


def asked(server: Server) -> list[dict[str, Any]]:
    """The requests for images that were no tests."""
    bodies: list[dict[str, Any]] = server.act.bodies  # type: ignore[attr-defined]
    return [body for body in bodies if body.get("prompt") not in PROBES]


def pixels(samples: list[Sample]) -> list[bytes]:
    return [sample.image.tobytes() for sample in samples]


# ---- what goes out, and what comes back ------------------------------------------------------------------------------


class TestConformance(GeneratorConformance):
    @pytest.fixture
    def generator(self, server: Server) -> RemoteGenerator:
        return remote(server, cache="off")


def test_an_image_is_asked_for_whole(server: Server) -> None:
    made = remote(server, size=(24, 16), steps=7, guidance=2.5, negative_prompt="blur", extra={"cfg": 1})
    (sample,) = made.generate(["a “cat” \ud800"], [11])
    (body,) = asked(server)
    assert body == {
        "model": "painter", "prompt": "a “cat” ?", "n": 1, "size": "24x16", "seed": 11, "response_format": "b64_json",
        "output_format": "png", "num_inference_steps": 7, "guidance_scale": 2.5, "negative_prompt": "blur", "cfg": 1,
    }  # fmt: skip
    assert sample.image.tobytes() == colours("a “cat” ?", 11, body).tobytes()
    assert (sample.model, sample.note, sample.failure) == ("painter", "", "")
    assert server.taken[-1].headers["Authorization"] == f"Bearer {KEY}"


def test_what_is_not_set_is_left_to_the_server(server: Server) -> None:
    remote(server).generate(["a cat"], [1])
    assert asked(server)[0].keys() == {"model", "prompt", "n", "seed", "response_format", "output_format"}


def test_images_come_inside_chat_completions_too(server: Server) -> None:
    (sample,) = remote(server, api="chat", size=(24, 16), steps=3).generate(["a cat"], [11])
    body = server.act.bodies[-1]  # type: ignore[attr-defined]
    assert body["messages"] == [{"role": "user", "content": "a cat"}]
    assert (body["width"], body["height"], body["seed"], body["num_inference_steps"]) == (24, 16, 11, 3)
    assert sample.image.tobytes() == colours("a cat", 11, body).tobytes()
    assert sample.model == "painter"


def test_an_image_may_follow_the_text_of_an_earlier_stage(server: Server) -> None:
    """vLLM-Omni gives every stage of a model its own choice."""
    painter = Painter()

    def text_first(handler: Handler) -> None:
        reply = handler.reply
        text = {"index": 0, "message": {"role": "assistant", "content": "a thought"}}

        def add(status: int, body: str, *more: Any) -> None:
            data = json.loads(body)
            reply(status, json.dumps({**data, "choices": [text, *data["choices"]]} if handler.body else data))

        handler.reply = add  # type: ignore[method-assign, assignment]
        painter(handler)

    server.act = text_first
    (sample,) = remote(server, api="chat").generate(["a cat"], [11])
    assert sample.image.tobytes() == colours("a cat", 11, {}).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_usual_formats_are_read_and_transparency_is_white(server: Server, kind: str) -> None:
    clear = Image.new("RGB" if kind == "JPEG" else "RGBA", (8, 8), (255, 255, 255))
    answer = generator.Answer(in_base64(clear, kind))
    assert generator._decoded(answer).getcolors() == [(64, (255, 255, 255))]


def test_nothing_is_asked_twice(server: Server) -> None:
    prompts, seeds = ["a cat", "a dog", "a cat"], [1, 1, 1]
    first = remote(server).generate(prompts, seeds)
    assert len(asked(server)) == 2
    again = remote(server).generate(prompts, seeds)
    assert len(asked(server)) == 2
    assert pixels(again) == pixels(first)
    assert [sample.model for sample in again] == ["painter"] * 3


@pytest.mark.parametrize(
    "options", [{"steps": 3}, {"guidance": 1.0}, {"negative_prompt": "x"}, {"size": (8, 8)}, {"extra": {"a": 1}}]
)
def test_whatever_could_change_the_image_asks_again(server: Server, options: dict[str, Any]) -> None:
    remote(server).generate(["a cat"], [1])
    remote(server, **options).generate(["a cat"], [1])
    remote(server, **options).generate(["a cat"], [2])
    assert len(asked(server)) == 3


def test_requests_are_bounded_and_spread_over_servers() -> None:
    with serving() as one, serving() as two:
        one.act, two.act = Painter(), Painter()
        together = threading.Barrier(4, timeout=10)

        def slowly(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
            if prompt not in PROBES:
                together.wait()  # only passes with two in flight at each
            return colours(prompt, seed, body)

        one.act.paint = two.act.paint = slowly
        made = remote(one, two, concurrency=2)
        samples = made.generate([f"image {n}" for n in range(8)], list(range(8)))
        expected = [colours(f"image {n}", n, {}).tobytes() for n in range(8)]
        assert pixels(samples) == expected
        assert one.most == two.most == 2
        assert len(asked(one)) == len(asked(two)) == 4


# ---- the test before the first image ---------------------------------------------------------------------------------


def ignoring_prompts(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
    return colours("", seed, body)


def ignoring_seeds(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
    return colours(prompt, random.getrandbits(32), body)


def with_one_seed(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
    return colours(prompt, 0, body)


def ignoring_sizes(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
    return colours(prompt, seed, {"size": "16x16"})


def almost_the_same(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
    """One level more or less, as with another batch; the prompt does nothing."""
    image = ignoring_prompts(prompt, seed, body)
    image.putpixel((0, 0), (random.getrandbits(8), 0, 0))
    return image


@pytest.mark.parametrize("api", ["images", "chat"])
@pytest.mark.parametrize("paint", [ignoring_prompts, almost_the_same])
def test_a_server_that_ignores_prompts_is_refused(server: Server, paint: Any, api: Any) -> None:
    server.act = Painter(paint=paint)
    with pytest.raises(ConfigError, match=r"ignores prompts.*red circle.*1702"):
        remote(server, api=api).generate(["a cat"], [1])
    assert not asked(server) or api == "chat"


def test_a_server_that_ignores_prompts_is_found_among_several() -> None:
    with serving() as one, serving() as two:
        one.act, two.act = Painter(), Painter(paint=ignoring_prompts)
        with pytest.raises(ConfigError, match=rf"{two.url} ignores prompts"):
            RemoteGenerator.preflight(GeneratorOptions(url=f"{one.url},{two.url}"))


@pytest.mark.parametrize("api", ["images", "chat"])
def test_a_server_that_ignores_size_is_refused(server: Server, api: Any) -> None:
    server.act = Painter(paint=ignoring_sizes)
    with pytest.raises(AnswerError, match=r"image of 16x16 pixels where 24x16 were requested.*option size"):
        RemoteGenerator.preflight(GeneratorOptions(url=server.url, size=(24, 16), api=api))


@pytest.mark.parametrize(("paint", "note"), [(ignoring_seeds, UNREPEATABLE), (with_one_seed, ALIKE), (colours, "")])
def test_ignored_seeds_are_noted_with_every_image(server: Server, paint: Any, note: str) -> None:
    server.act = Painter(paint=paint)
    samples = remote(server).generate(["a cat", "a dog"], [1, 2])
    assert [sample.note for sample in samples] == [note] * 2


def test_a_server_is_tested_once_in_a_process(server: Server) -> None:
    RemoteGenerator.preflight(GeneratorOptions(url=server.url))
    for seed in range(3):
        remote(server).generate(["a cat"], [seed])
    assert len(server.act.bodies) == 4 + 3  # type: ignore[attr-defined]


def test_one_of_several_servers_may_be_away(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as gone:
        gone.act = drop
        samples = remote(server, gone).generate(["a cat"], [1])
    assert samples[0].model == "painter"
    assert "other servers are used instead" in caplog.text


def test_a_server_that_returns_untested_generates_nothing(server: Server) -> None:
    with serving() as late:
        late.act = drop
        made = remote(server, late)
        made.generate(["a cat"], [1])
        late.act = Painter(paint=ignoring_prompts)
        for each in made._servers.servers:
            each.wakes = 0.0
        made.generate(["a dog", "two dogs"], [1, 2])
        assert not late.act.bodies
    assert sorted(body["prompt"] for body in asked(server)) == ["a cat", "a dog", "two dogs"]


def test_a_server_that_is_away_again_does_not_hide_those_that_are_back(server: Server) -> None:
    with serving() as other:
        other.act = drop
        made = remote(server, other)
        assert made.generate(["a cat"], [1])[0].model == "painter"
        generator._checked.clear()
        server.act, other.act = drop, Painter()
        for each in made._all:
            each.wakes = 0.0
        assert made.generate(["a dog"], [1])[0].model == "painter"
        assert [body["prompt"] for body in asked(other)] == ["a dog"]


def test_a_fault_of_a_server_is_not_answered_with_what_it_should_load(server: Server) -> None:
    server.act = Painter(paint=ignoring_prompts)
    message = remote(server, load="lora").follow("round-1", Path("weights"), "1")
    assert "ignores prompts" in message
    assert "Let it load" not in message


def test_a_server_with_the_weights_may_refuse_their_field(server: Server) -> None:
    painter = Painter(model="round-1")

    def act(handler: Handler) -> None:
        if handler.body and "lora" in handler.body:
            handler.reply(400, json.dumps({"error": {"message": "Unrecognized request argument: lora"}}))
        else:
            painter(handler)

    server.act = act
    made = remote(server, load="lora")
    assert made.follow("round-1", Path("weights"), "1") == ""
    assert made.generate(["a cat"], [1])[0].model == "round-1"


# ---- hostile servers -------------------------------------------------------------------------------------------------


def after_the_test(act: Act) -> Act:
    """Do what is asked in the tests, and then what the test is about."""
    painter = Painter()

    def answer(handler: Handler) -> None:
        own = handler.body and handler.body.get("prompt") not in PROBES
        act(handler) if own else painter(handler)

    return answer


def saying(data: Any) -> Act:
    return lambda handler: handler.reply(200, json.dumps({"data": data}))


WHOLE = in_base64(Image.new("RGB", (64, 64), "red"))
FAULTS: list[tuple[Act, str]] = [
    (with_status(500, "out of memory"), "returned 500.*out of memory"),
    (with_status(429, "slow down"), "returned 429.*Lower the generator's option concurrency"),
    (with_status(401, "who"), "returned 401.*key_env"),
    (with_status(404, "no"), r"returned 404.*usually ends in"),
    (lambda handler: handler.reply(200, "<html>"), "not JSON"),
    (lambda handler: handler.reply(200, "[]"), "JSON that is not a generated image"),
    (lambda handler: handler.reply(200, '{"data": []}'), "JSON that is not a generated image"),
    (saying([{}]), "a reply without an image"),
    (saying([{"url": "http://elsewhere/x.png"}]), "the URL of an image"),
    (saying([{"b64_json": 7}]), "a reply without an image"),
    (saying([{"b64_json": "not base64!"}]), "cannot be decoded"),
    (saying([{"b64_json": WHOLE[: len(WHOLE) // 2]}]), "cannot be decoded"),
    (saying([{"b64_json": WHOLE[: len(WHOLE) // 8 * 4]}]), "cannot be decoded"),
    (saying([{"b64_json": in_base64(Image.new("L", (4, 4)), "TIFF")}]), "cannot be decoded"),
    (drop, "lost or refused the connection"),
]


@pytest.mark.parametrize(("act", "words"), FAULTS)
def test_a_fault_is_told_and_what_came_before_is_kept(server: Server, act: Act, words: str) -> None:
    server.act = after_the_test(lambda handler: act(handler) if "dog" in handler.body["prompt"] else Painter()(handler))
    with pytest.raises(AnswerError, match=rf"(?s){words}.*1 of the 2 images of this batch are stored"):
        remote(server, concurrency=1).generate(["a cat", "a dog"], [1, 2])
    server.act = Painter()
    remote(server).generate(["a cat", "a dog"], [1, 2])
    assert [body["prompt"] for body in asked(server)] == ["a dog"]


def test_a_passing_fault_is_asked_again(server: Server) -> None:
    painter = Painter()
    faults = iter([with_status(500), with_status(429), saying([{"b64_json": WHOLE[:40]}])])

    def act(handler: Handler) -> None:
        next(faults, painter)(handler)

    server.act = after_the_test(act)
    (sample,) = remote(server, retries=3).generate(["a cat"], [1])
    assert sample.image.tobytes() == colours("a cat", 1, {}).tobytes()


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    server.act = after_the_test(silent)
    with pytest.raises(
        AnswerError, match=r"no complete reply within 0.3 seconds.*Raise the generator's option timeout"
    ):
        remote(server, timeout=0.3, retries=0).generate(["a cat"], [1])
    assert not server.tired


def test_a_reply_without_end_is_cut(server: Server) -> None:
    server.act = after_the_test(lambda handler: handler.reply(200, b" " * 50_000))
    with pytest.raises(AnswerError, match=r"more than 20000 bytes.*option max_reply"):
        remote(server, max_reply=20_000).generate(["a cat"], [1])


@pytest.mark.parametrize(
    ("side", "size", "words"),
    [
        (8000, (16, 16), "image of 8000x8000 pixels where 16x16"),
        (9000, (0, 0), r"cannot be decoded \(it has 9000x9000 pixels"),
    ],
)
def test_a_huge_image_is_not_unpacked(server: Server, side: int, size: tuple[int, int], words: str) -> None:
    """Its header is enough: the pixels behind it, of which a few bytes can hold a gigabyte, are not read."""
    small, header = base64.b64decode(in_base64(Image.new("RGB", (4, 4)))), side.to_bytes(4, "big") * 2
    chunk = b"IHDR" + header + small[24:29]
    huge = small[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + small[33:]
    server.act = after_the_test(saying([{"b64_json": base64.b64encode(huge).decode()}]))
    with pytest.raises(AnswerError, match=words):
        remote(server, size=size, retries=0).generate(["a cat"], [1])


def test_a_refused_prompt_is_a_failure_and_many_end_the_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(handler: Handler) -> None:
        with_status(400, "content policy")(handler) if "dog" in handler.body["prompt"] else Painter()(handler)

    server.act = after_the_test(act)
    cat, dog = remote(server, size=(8, 8)).generate(["a cat", "a dog"], [1, 2])
    assert (cat.failure, dog.image.size) == ("", (8, 8))
    assert "content policy" in dog.failure
    monkeypatch.setattr(client, "MOST_REFUSALS", 2)
    with pytest.raises(AnswerError, match=r"refused 3 of \d prompts"):
        remote(server, size=(8, 8), concurrency=1).generate([f"a dog {n}" for n in range(3)], [1, 2, 3])


def test_a_server_that_refuses_everything_is_told_at_once(server: Server) -> None:
    server.act = lambda handler: Painter()(handler) if handler.path.endswith("/models") else handler.reply(400, "no")
    with pytest.raises(AnswerError, match=r"refuses even a harmless prompt"):
        remote(server).generate(["a cat"], [1])


def test_a_field_that_a_server_does_not_know_is_left_out(server: Server) -> None:
    painter = Painter()

    def act(handler: Handler) -> None:
        if handler.body and "response_format" in handler.body:
            handler.reply(400, '{"error": "unknown field response_format"}')
        else:
            painter(handler)

    server.act = act
    assert remote(server).generate(["a cat"], [1])[0].model == "painter"
    assert painter.bodies[-1].keys() == {"model", "prompt", "n", "seed", "output_format"}


def test_another_model_under_way_is_refused(server: Server) -> None:
    made = remote(server)
    made.generate(["a cat"], [1])
    server.act.model = "another"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"serves another, but the model painter is to .*Set .*option model"):
        made.generate(["a dog"], [1])


def test_a_server_that_rests_is_not_asked_for_its_models(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might not answer for minutes, and every batch begins with the lists of models."""
    monkeypatch.setattr(servers_module, "FIRST_REST", 600.0)
    with serving() as other:
        other.act = Painter()
        made = remote(other, server, concurrency=1, timeout=0.5)
        made.check()
        server.act = silent
        made.generate(["a cat", "a dog"], [1, 1])
        before = len(server.taken)
        made.generate(["a hill"], [1])
        assert len(server.taken) == before


@pytest.mark.parametrize("several", [False, True])
def test_a_server_that_returns_with_another_model_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    """It crashes during a batch and is restarted with another model, whose images it sends for any name."""
    monkeypatch.setattr(servers_module, "FIRST_REST", 0.0)
    painter = Painter()

    def crash(handler: Handler) -> None:
        painter.model, server.act = "another", painter
        drop(handler)

    with serving() as other:
        other.act = Painter()
        made = remote(server, *([other] if several else []), concurrency=1)
        made.check()
        server.act = lambda handler: painter(handler) if handler.path.endswith("/models") else crash(handler)
        with pytest.raises(ConfigError, match=rf"{server.url} serves another, but the model painter is to generate"):
            made.generate([f"image {n}" for n in range(8)], list(range(8)))
    assert not painter.bodies


def test_a_server_that_lists_no_models_needs_a_name(server: Server) -> None:
    painter = Painter()
    server.act = lambda handler: handler.reply(404, "") if handler.path.endswith("/models") else painter(handler)
    with pytest.raises(AnswerError, match=r"name the model with the generator's option model"):
        remote(server).generate(["a cat"], [1])
    assert remote(server, model="mine").generate(["a cat"], [1])[0].model == ""


# ---- commands --------------------------------------------------------------------------------------------------------


SHAPES = ("--adapter", "bagel", "--preset", "shapes", "--dry-run")
TOLD: list[tuple[str, str]] = [
    ("generator=remote", "set the generator's option url"),
    (
        "generator={use='remote', url='http://me:pw@host/v1'}",
        "generator.url (on the command line) is a URL with a user",
    ),
    ("generator={use='remote', api='video'}", "generator.api (on the command line) should be one of images, chat"),
    ("generator={use='remote', load='all'}", "generator.load (on the command line) should be one of checkpoint, lora"),
    ("generator={use='remote', size=[24, 0]}", "generator.size (on the command line) should be a width and a height"),
    ("generator=remotely", 'Did you mean "remote"?'),
    ("generate.use=remote", 'Did you mean "generator"?'),
]


@pytest.mark.parametrize(("typed", "message"), TOLD)
def test_settings_that_cannot_work_are_told(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main([*SHAPES, typed]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_run_is_refused_before_it_starts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    server.act = Painter(paint=ignoring_prompts)
    assert train_main([*SHAPES, f"generator={{use='remote', url='{server.url}'}}"]) == 1
    assert "ignores prompts" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_it_is_listed() -> None:
    kinds = {found.kind for found in discover().listing() if found.component.name == "remote"}
    assert kinds == {"answerer", "generator"}
