"""The image generator `remote` against real models on loopback: a pipeline of diffusers, and the bundled BAGEL."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_generators
import torch
from loopback import Server, forget_servers, serving
from painting import ModelServer, Painter, size_of
from PIL import Image

from srum_core.cli.main import main, train_main
from srum_core.config import load_settings
from srum_core.models import trained
from srum_core.models.images import open_image
from srum_core.plugins import discover
from srum_core.protocols import ImageGenerator
from srum_core.testing.generators import pixel_gap
from srum_diffusers import Options as DiffusersOptions
from srum_diffusers.generator import Diffusers
from srum_remote import generator
from srum_remote.generator import RemoteGenerator
from srum_remote.options import GeneratorOptions

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generator, "_checked", {})
    forget_servers(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


def write_sdxl(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_generators.sdxl(folder)
    return folder


@pytest.mark.parametrize("api", ["images", "chat"])
def test_a_pipeline_behind_a_server_gives_its_own_images(server: Server, tmp_path: Path, api: Any) -> None:
    checkpoint = write_sdxl(tmp_path / "sdxl")
    plain = DiffusersOptions(str(checkpoint), device="cpu", dtype="float32")
    pipeline = Diffusers(plain).pipeline

    def paint(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        width, height = size_of(body)
        arguments = {name: body[name] for name in ("num_inference_steps", "guidance_scale", "negative_prompt")}
        rng = torch.Generator().manual_seed(seed)
        made: Image.Image = pipeline(prompt, generator=rng, width=width, height=height, **arguments).images[0]
        return made

    server.act = Painter("sdxl", paint=paint)
    sampling: dict[str, Any] = {"steps": 2, "guidance": 3.0, "size": (32, 16)}
    far = RemoteGenerator(GeneratorOptions(url=server.url, api=api, negative_prompt="dull", concurrency=1, **sampling))
    near = Diffusers(
        DiffusersOptions(str(checkpoint), device="cpu", dtype="float32", extra={"negative_prompt": "dull"}, **sampling)
    )
    prompts, seeds = ["a red cup", "two dogs"], [3, 4]
    for one, other in zip(far.generate(prompts, seeds), near.generate(prompts, seeds), strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert (one.image.size, one.model, one.note) == ((32, 16), "sdxl", "")


SETTINGS = ("adapter.sampling.steps=4", "adapter.device=cpu")


def bagel(checkpoint: Path | None) -> ImageGenerator:
    registry = discover()
    use = load_settings("bagel", ["shapes"], None, SETTINGS, registry).adapter
    made: ImageGenerator = registry.create("generator", use, checkpoint=str(checkpoint or "bundled:shapes"))
    return made


class LoraServer(ModelServer):
    """Serves the base model, with the LoRA folder that a request names, as vLLM-Omni does."""

    def _paint(self, prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        if "lora" not in body:
            return super()._paint(prompt, seed, body)
        model: Any = self.make(None)
        trained.apply(model, Path(body["lora"]["path"]))
        made: Image.Image = model.generate([prompt], [seed])[0].image
        return made


def test_bagel_is_trained_on_images_of_a_server_that_loads_what_each_round_exports(server: Server) -> None:
    """The images of the second round are those that a run without a server gets, also with LoRA folders by request."""
    server.act = served = ModelServer("bagel", bagel)
    model = ["--adapter", "bagel", "--preset", "shapes", *SETTINGS, "grounder=grid", "answerer=scripted", "benchmark="]
    few = ["prompts=['a red circle', 'a blue square']", "generate.candidates=1", "rounds=2"]
    training = ["train.method=lora", "train.steps=2", "train.warmup=0", "train.lr=3e-3", "map=uniform"]
    common = [*model, *few, *training]
    assert train_main([*common, "--out", "near"]) == 0
    remote = f"generator={{use='remote', url='{server.url}'}}"
    assert train_main([*common, remote, "--out", "far"]) == 2
    message = json.loads(Path("far/round-1/served.json").read_text())
    served.load(Path("far/round-1", message["path"]), message["name"])
    assert train_main([*common, remote, "--out", "far"]) == 0
    server.act = LoraServer("bagel", bagel)
    assert train_main([*common, remote.replace("}", ", load='lora'}"), "--out", "lora"]) == 0
    for round, out in itertools.product((1, 2), ("far", "lora")):
        near, far = (sorted(Path(run, f"round-{round}/candidates/images").glob("*.png")) for run in ("near", out))
        assert [path.name for path in near] == [path.name for path in far]
        for one, other in zip(near, far, strict=True):
            assert pixel_gap(open_image(one), open_image(other)) <= 2  # images one by one, or in a batch
    record = json.loads(Path("far/round-2/candidates/part-0.jsonl").read_text().splitlines()[0])
    untrained = bagel(None).generate([record["prompt"]["text"]], [record["seed"]])[0].image
    image = open_image(Path("far/round-2/candidates", record["image"]))
    assert pixel_gap(untrained, image) > 2


def test_a_server_is_evaluated_like_any_adapter(server: Server) -> None:
    server.act = ModelServer("bagel", bagel)
    typed = ["--adapter", "remote", "--benchmark", "shapes", "evaluate.limit=2", f"adapter.url={server.url}"]
    assert main(["eval", "run", *typed, "--out", "run"]) == 0
    lines = [json.loads(line) for line in Path("run/images/part-0.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["bagel"] * 2
