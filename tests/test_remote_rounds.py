"""Rounds whose images come from a server: what it must load, who tells it, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import install
from loopback import Server, forget_servers, serving
from painting import ModelServer
from PIL import Image, ImageOps
from toy import ToyModel, ToyOptions

from srum_core.cli.main import train_main
from srum_core.errors import RecordError
from srum_core.runs.run import Run
from srum_core.stages.order import perform
from srum_remote import generator, wire
from srum_remote.generator import PROBES

pytestmark = pytest.mark.slow
RELOADING = """
import json
from urllib.request import ProxyHandler, Request, build_opener
from srum_core import hookimpl

@hookimpl
def srum_checkpoint_ready(run, round, path, name):
    told = json.dumps({"round": round, "path": str(path), "name": name, "run": str(run.folder)}).encode()
    request = Request(run.settings.generator.options["url"] + "/reload", told)
    return build_opener(ProxyHandler({})).open(request).read().decode()
"""


def toy(checkpoint: Path | None) -> ToyModel:
    return ToyModel(ToyOptions(checkpoint=str(checkpoint or "")))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        made.act = ModelServer("toy-base", toy)
        yield made


@pytest.fixture
def toys(server: Server) -> ModelServer:
    assert isinstance(server.act, ModelServer)
    return server.act


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("srum_core.runs.run.gc.collect", lambda *_: 0)  # takes longer than a round
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(generator, "_checked", {})
    forget_servers(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def reloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plugin that tells the server what to load."""
    install(tmp_path / "plugin", "srum-reload", "0.1.0", RELOADING)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    yield
    sys.modules.pop("srum_reload", None)


def trained(*typed: str, out: str = "run") -> int:
    components = ["--adapter", "toy:ToyModel", "grounder=toy:ToyGrounder", "judges=['toy:ToyJudge']"]
    few = ["prompts=['a leaf', 'a stone']", "generate.candidates=2", "train.steps=1", "rounds=2"]
    return train_main([*components, *few, *typed, "--out", out])


def remote(server: Server, **options: str) -> str:
    more = "".join(f", {name}='{value}'" for name, value in options.items())
    return f"generator={{use='remote', url='{server.url}'{more}}}"


def images(out: str, round: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out, f"round-{round}/candidates/images").glob("*.png")}


def models(out: str, round: int) -> set[str]:
    lines = Path(out, f"round-{round}/candidates/part-0.jsonl").read_text().splitlines()
    return {json.loads(line)["model"] for line in lines}


def served(out: str, round: int = 1) -> dict[str, str]:
    found: dict[str, str] = json.loads(Path(out, f"round-{round}/served.json").read_text())
    return found


def test_a_run_stops_with_the_command_and_goes_on_once_the_server_has_loaded_it(
    server: Server, toys: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images and its training are those of a run that samples by itself, in both rounds."""
    assert trained(out="local") == 0
    assert trained(remote(server)) == 2
    message = capsys.readouterr().err
    name, path = served("run")["name"], Path("run/round-1", served("run")["path"]).absolute()
    assert re.fullmatch(r"run-round-1-[0-9a-f]{8}", name)
    port = server.url.split(":")[2].removesuffix("/v1")
    assert f"vllm serve {path} --omni --served-model-name {name} --port {port}" in message
    assert "serves toy-base" in message
    assert "srum_checkpoint_ready" in message
    assert trained(remote(server)) == 2  # it has not been loaded
    with pytest.raises(RecordError, match=r"Round 2 samples from .*serves toy-base"):
        perform(Run.open(Path("run")), "generate", 2)  # nor in a process of its own
    assert not images("run", 2)
    toys.load(path, name)
    assert trained(remote(server)) == 0
    for round in (1, 2):
        assert images("run", round) == images("local", round)
    assert (models("run", 1), models("run", 2)) == ({"toy-base"}, {name})
    weights = "round-2/checkpoint/adapter_model.safetensors"
    assert Path("run", weights).read_bytes() == Path("local", weights).read_bytes()


def test_a_server_that_lists_the_folder_counts_as_serving_it(server: Server, toys: ModelServer) -> None:
    trained(remote(server))
    path = Path("run/round-1", served("run")["path"]).absolute()
    toys.load(path, str(path))
    assert trained(remote(server)) == 0
    assert models("run", 2) == {str(path)}


def test_a_server_that_loaded_the_folder_under_another_name_counts_too(server: Server, toys: ModelServer) -> None:
    trained(remote(server))
    path = Path("run/round-1", served("run")["path"]).absolute()
    toys.load(path, "policy")
    toys.root = str(path)
    assert trained(remote(server)) == 0
    assert models("run", 2) == {"policy"}


def test_a_plugin_reloads_the_server(server: Server, toys: ModelServer, reloading: None) -> None:
    assert trained(remote(server)) == 0
    assert [(each["round"], each["run"]) for each in toys.message] == [(1, str(Path("run").absolute()))]
    assert models("run", 2) == {served("run")["name"]}
    before = images("run", 2)
    assert trained(remote(server), "--redo", "generate:2") == 0
    assert len(toys.message) == 1  # it is served already
    assert images("run", 2) == before


def test_a_plugin_may_say_another_name(server: Server, toys: ModelServer, reloading: None) -> None:
    toys.called = "policy"
    assert trained(remote(server)) == 0
    assert models("run", 2) == {"policy"}
    assert trained(remote(server), "--redo", "generate:2") == 0
    assert len(toys.message) == 2  # that name may stand for anything by now
    first, painted = images("run", 2), len(toys.bodies)
    assert trained(remote(server), "train.lr=1e-3", "--redo", "train") == 0
    assert images("run", 2) != first  # the name is the same, the training is not
    assert len(toys.bodies) > painted


def test_a_plugin_that_fails_or_does_nothing_ends_the_run(
    server: Server, toys: ModelServer, reloading: None, capsys: pytest.CaptureFixture[str]
) -> None:
    toys.heeds = False
    assert trained(remote(server)) == 2
    assert "serves toy-base" in capsys.readouterr().err
    server.acts = [lambda handler: server.act(handler), lambda handler: handler.reply(500, "no")]
    assert trained(remote(server)) == 2
    assert re.search(r"srum-reload 0.1.0 .* failed at srum_checkpoint_ready", capsys.readouterr().err)


def test_a_server_may_serve_one_model_in_all_rounds(server: Server) -> None:
    assert trained(remote(server, load="none")) == 0
    assert models("run", 1) == models("run", 2) == {"toy-base"}
    assert not Path("run/round-1/served.json").exists()


def test_lora_folders_are_named_as_long_as_they_are_the_whole_change(
    server: Server, toys: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(remote(server, load="lora", model="toy-base")) == 2
    name, message = served("run")["name"], capsys.readouterr().err
    lora = Path("run/round-1/checkpoint").absolute()
    assert "the field lora of a request does not change its images" in message
    assert f"sglang serve --model-path toy-base --lora-path {lora} --served-model-name {name} --port" in message
    assert "vllm serve toy-base --omni, which gets the folder with every request" in message
    toys.model = name
    assert trained(remote(server, load="lora", model="toy-base")) == 0
    assert models("run", 2) == {name}
    for more in ("rounds=3", "train.method=full"):
        assert trained(remote(server, load="lora"), more, out="other") == 2
        assert "generator.load=lora is for runs of two rounds" in capsys.readouterr().err
    assert not Path("other/round-1").exists()


@pytest.mark.parametrize("model", ["", "toy-base"])
def test_a_server_that_applies_the_lora_folder_of_a_request_goes_on_serving_the_base(
    server: Server, toys: ModelServer, model: str
) -> None:
    paint = toys.paint

    def with_lora(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        image = paint(prompt, seed, body)
        return ImageOps.invert(image) if "lora" in body else image

    toys.paint = with_lora
    assert trained(remote(server, load="lora", model=model)) == 0
    name, lora = served("run")["name"], Path("run/round-1/checkpoint").absolute()
    assert (models("run", 1), models("run", 2)) == ({"toy-base"}, {f"toy-base with {name}"})
    applied = [body["lora"] for body in toys.bodies if "lora" in body and body["prompt"] not in PROBES]
    assert applied == [{"name": name, "path": str(lora)}] * 4


def test_lora_weights_whose_effect_cannot_be_seen_are_not_assumed(
    server: Server, toys: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every image of this server differs, with a LoRA folder or without."""
    toys.paint = lambda prompt, seed, body: Image.effect_noise((8, 8), 99).convert("RGB")
    assert trained(remote(server, load="lora")) == 2
    assert "does not change its images" in capsys.readouterr().err
    assert not images("run", 2)


def test_the_lora_folder_of_a_round_on_top_of_another_training_is_no_whole_model(
    server: Server, toys: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("rounds=1", out="before") == 0
    lora = remote(server, load="lora")
    assert trained(lora, "start=before") == 2
    record = json.loads(Path("run/base/served.json").read_text())
    assert Path("run/base", record["path"]).resolve() == Path("before/round-1/checkpoint").resolve()
    toys.model = record["name"]
    assert trained(lora, "start=before") == 2
    assert "generator.load=lora is not possible after round 1" in capsys.readouterr().err


def test_a_run_that_starts_from_another_needs_its_model_in_the_first_round(
    server: Server, toys: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("rounds=1", out="before") == 0
    assert trained(remote(server), "start=before", "rounds=1") == 2
    assert "before-round-1-" in capsys.readouterr().err
    record = json.loads(Path("run/base/served.json").read_text())
    toys.load(Path("run/base", record["path"]), record["name"])
    assert trained(remote(server), "start=before", "rounds=1") == 0
    assert models("run", 1) == {record["name"]}


def test_the_images_of_a_round_come_from_one_model(
    server: Server, toys: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(remote(server), "--only", "generate", "rounds=1") == 0
    shard = Path("run/round-1/candidates/part-0.jsonl")
    shard.write_text("".join(shard.read_text().splitlines(True)[:2]))
    Path("run/round-1/candidates/DONE").unlink()
    toys.model = "another"
    assert trained(remote(server), "rounds=1") == 2
    assert "several models: another, toy-base" in capsys.readouterr().err
    assert trained(remote(server), "rounds=1", "--redo", "generate") == 0
    assert models("run", 1) == {"another"}


def test_a_damaged_record_of_what_is_served_is_told(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    trained(remote(server))
    Path("run/round-1/served.json").write_text("[]")
    capsys.readouterr()
    assert trained(remote(server)) == 2
    assert "does not name the served model. Delete it" in capsys.readouterr().err
