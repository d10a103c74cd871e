"""Checkpoint files that are damaged, foreign or hostile are refused by a sentence that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from rows import each_row
from safetensors.torch import load_file, save_file
from training import clean, interrupt, make  # noqa: F401  (clean is used by being here)

from srum_bagel.model import Bagel
from srum_bagel.options import Options, Sampling
from srum_core.config import Lora
from srum_core.errors import CheckpointError
from srum_core.models import trained, weights
from srum_core.training import lora
from srum_core.training.trainer import train

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
LORA, FULL = "adapter_model.safetensors", "ema.safetensors"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change tensors or JSON in place."""
    if path.suffix == ".json":
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
    else:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def poison(tensors: dict[str, torch.Tensor], name: str = "llm2vae.weight", value: float = torch.nan) -> None:
    tensors[name].view(-1)[-1] = value


# ---- trained weights are put back strictly --------------------------------------------------------------------------


@pytest.fixture
def lora_folder(tmp_path: Path) -> Path:
    model = toy.ToyModel()
    lora.save(model, lora.tune(model, "lora", Lora(rank=2), False), tmp_path / "lora", {})  # type: ignore[arg-type]
    return tmp_path / "lora"


def rename(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.replace("blocks", "layers")] = tensors.pop(name)


def shorten(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name][:1].clone()


@pytest.mark.parametrize(
    ("file", "fault", "words"),
    [
        (LORA, lambda path: path.unlink(), [LORA, "nothing that was trained is there"]),
        (LORA, lambda path: edit(path, dict.clear), [LORA, "0 tensors"]),
        (LORA, lambda path: edit(path, dict.popitem), ["do not fit", "1 difference", "missing: base_model."]),
        (LORA, lambda path: edit(path, rename), ["16 differences", "missing: base_model.", "unused: base_model."]),
        (LORA, lambda path: edit(path, shorten), ["1 difference\n", "stored (1, ", "expected (2, "]),
        (LORA, lambda path: edit(path, lambda all: poison(all, next(iter(all)))), [LORA, "not finite", "in 1 tensor"]),
        (LORA, cut, [LORA, "cut off"]),
        (LORA, lambda path: path.write_bytes(POINTER), [LORA, "Git LFS pointer"]),
        ("adapter_config.json", lambda path: edit(path, lambda all: all.update(r=10**9)), ["rank 1000000000"]),
        ("adapter_config.json", lambda path: edit(path, lambda all: all.update(r=3)), ["8 differences"]),
        ("adapter_config.json", lambda path: path.write_text("{"), ["adapter_config.json", "no JSON"]),
        ("srum.json", lambda path: path.write_text("{}"), ["srum.json", "neither"]),
    ],
    ids=["gone", "empty", "lacks", "names", "shapes", "nan", "cut", "pointer", "huge", "rank", "config", "kind"],
)
def test_a_lora_that_does_not_fit_is_not_taken_for_a_trained_one(
    lora_folder: Path, file: str, fault: Callable[[Path], object], words: list[str]
) -> None:
    fault(lora_folder / file)
    with pytest.raises(CheckpointError) as caught:
        trained.apply(toy.ToyModel(), lora_folder)  # type: ignore[arg-type]
    assert [word for word in [str(lora_folder), *words] if word not in str(caught.value)] == []


@each_row(
    "values, words",
    [
        ({}, "1 difference\n  missing: w"),
        ({"w": torch.zeros(1)}, r"w: stored \(1,\), expected \(3,\)"),  # copy_ would broadcast it
        ({"w": torch.zeros(3), "x": torch.zeros(3)}, "unused: x"),
    ],
)
def test_weights_that_are_copied_in_place_must_all_fit(values: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        lora.copy_into({"w": torch.zeros(3)}, values, "state.pt")


@pytest.mark.parametrize("part", ["weights", "average", "optimizer", "file"])
def test_a_state_that_lost_a_part_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    run = make(tmp_path / "run", ema=0.9)
    interrupt(monkeypatch, run, after=6)
    path = run.round_folder(1) / "training" / "state.pt"
    if part == "file":
        cut(path)
    else:
        state = torch.load(path, weights_only=True)
        (state[part]["state"] if part == "optimizer" else state[part]).pop("place")
        torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"(?s)state\.pt.*redo train" if part == "file" else "place"):
        train(run, 1)


# ---- damaged files ---------------------------------------------------------------------------------------------------


def to_int8(tensors: dict[str, torch.Tensor]) -> None:
    tensors["llm2vae.weight"] = tensors["llm2vae.weight"].to(torch.int8)


def layers(count: object) -> Callable[[Path], None]:
    return lambda path: edit(path, lambda all: all.update(num_hidden_layers=count))


@each_row(
    "file, fault, words",
    [
        (FULL, lambda path: path.write_bytes(b""), "it is empty"),
        (FULL, lambda path: path.write_bytes(POINTER), "Git LFS pointer"),
        (FULL, lambda path: path.write_bytes(b"<!DOCTYPE html><html>"), "web page"),
        (FULL, cut, "cut off"),
        (FULL, lambda path: edit(path, to_int8), r"1 tensor of other types.*llm2vae.weight \(I8\).* quantised"),
        (FULL, lambda path: edit(path, poison), "not finite.* in 1 tensor: llm2vae.weight"),
        ("ae.safetensors", cut, "cut off"),
        ("ae.safetensors", lambda path: edit(path, lambda all: poison(all, "decoder.conv_in.bias")), "not finite"),
        ("llm_config.json", lambda path: path.write_bytes(b""), "it is empty"),
        ("llm_config.json", lambda path: path.write_bytes(POINTER), "Git LFS pointer"),
        ("llm_config.json", lambda path: path.write_text("[" * 100_000), "no JSON"),
        ("llm_config.json", lambda path: path.write_text("[]"), "list instead of an object"),
        ("llm_config.json", layers(10**9), "num_hidden_layers is 1000000000"),
        ("llm_config.json", lambda path: edit(path, lambda all: all.update(hidden_size=1e400)), "hidden_size is inf"),
        ("llm_config.json", layers("many"), "num_hidden_layers"),
        ("vit_config.json", layers(10**9), "num_hidden_layers is 1000000000"),
        ("vit_config.json", lambda path: edit(path, lambda all: all.pop("num_hidden_layers")), "num_hidden_layers"),
        ("tokenizer.json", lambda path: path.write_bytes(POINTER), "Git LFS pointer"),
        ("tokenizer.json", lambda path: path.write_bytes(b""), r"tokenizer\.json cannot be read: it is empty"),
        ("tokenizer.json", lambda path: path.write_text('{"a'), r"tokenizer\.json cannot be read.* no JSON"),
        ("merges.txt", lambda path: path.write_bytes(POINTER), "Git LFS pointer"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named(tmp_path: Path, file: str, fault: Callable[[Path], object], words: str) -> None:
    directory = Path(shutil.copytree(GOLDEN, tmp_path / "model"))
    fault(directory / file)
    with pytest.raises(CheckpointError, match=words) as caught:
        Bagel(Options(checkpoint=str(directory), device="cpu", generation_sides=(160, 64), vision_sides=(112, 56)))
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize(("place", "words"), [("round-2/checkpoint", "--redo train:2 "), ("mine", "Download it again")])
def test_a_damaged_file_of_a_run_is_trained_again(tmp_path: Path, place: str, words: str) -> None:
    path = tmp_path / place / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(CheckpointError, match=f"it is empty.*{words}"):
        weights.header(path)


def test_finite_values_pass_whatever_their_sum() -> None:
    assert weights.finite(torch.full((10,), 60_000.0, dtype=torch.float16))
    assert weights.finite(torch.tensor([3], dtype=torch.int64))
    for value in (torch.nan, torch.inf, -torch.inf):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            assert not weights.finite(torch.tensor([0.0, value, 1.0], dtype=dtype))
    assert not weights.finite(torch.tensor([torch.inf, -torch.inf]))


@pytest.mark.parametrize("kind", ["I8", "quantised", "plain"])
def test_what_a_library_loads_may_be_quantised_only_where_it_says_so(tmp_path: Path, kind: str) -> None:
    save_file({"w": torch.zeros(2, dtype=torch.float32 if kind == "plain" else torch.int8)}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {}}' if kind == "quantised" else "{}")
    if kind == "I8":
        with pytest.raises(CheckpointError, match=r"m\.safetensors .* w \(I8\)"), weights.loading("it", tmp_path):
            pass
    else:
        with weights.loading("it", tmp_path):
            pass


# ---- shards stay inside ----------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """An index beside its one shard, and the same shard outside of the folder."""
    folder = tmp_path / "models--a--b" / "snapshots" / "0123"
    for path in (folder / "one.safetensors", tmp_path / "one.safetensors", tmp_path / "models--a--b" / "blobs" / "f"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.zeros(2)}, path)
    return folder


@pytest.mark.parametrize(
    "name", ["../../../one.safetensors", "/{root}/one.safetensors", "..", ".", "", "x/one.safetensors", "a\0b", "link"]
)
def test_a_shard_outside_of_the_folder_is_refused(sharded: Path, tmp_path: Path, name: str) -> None:
    (sharded / "link").symlink_to(tmp_path / "one.safetensors")
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name.replace("/{root}", str(tmp_path))}}))
    for read in (
        lambda: weights.Stored.open(sharded, ["model"], "toy"),
        lambda: weights.loading("it", sharded).__enter__(),
    ):
        with pytest.raises(CheckpointError, match="outside of its folder"):
            read()


@pytest.mark.parametrize("name", ["one.safetensors", "hub"])
def test_shards_beside_the_index_and_in_the_hub_s_cache_are_read(sharded: Path, name: str) -> None:
    (sharded / "hub").symlink_to("../../blobs/f")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    stored = weights.Stored.open(sharded, ["model"], "toy")
    assert stored.tensors(["w"])["w"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "text", ["{}", '{"weight_map": []}', '{"weight_map": {"w": 3}}', '{"weight_map": {"w": "no"}}']
)
def test_an_index_that_names_no_file_is_refused(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json (does not list|names no)"):
        weights.Stored.open(sharded, ["model"], "toy")


# ---- what is generated -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["denoiser.llm2vae", "autoencoder.net.decoder.conv_out"])
def test_bagel_says_which_image_is_not_finite(part: str) -> None:
    """Weights that are finite can still overflow."""
    options = {"device": "cpu", "generation_sides": (160, 64), "vision_sides": (112, 56)}
    model = Bagel(Options(checkpoint=str(GOLDEN), size=(32, 32), sampling=Sampling(steps=3), **options))
    (sample,) = model.generate(["a boat"], [1])
    assert sample.failure == ""
    with torch.no_grad():
        attrgetter(f"{part}.bias")(model).fill_(torch.nan)
    (sample,) = model.generate(["a boat"], [1])
    assert "image holds values that are not finite" in sample.failure
