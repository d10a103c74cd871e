"""Clean latents on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from attrs import evolve
from PIL import Image, ImageFile
from rows import each_row
from training import SIZES, clean, interrupt, make, metrics  # noqa: F401  (clean is used by being here)

from srum_core.errors import PluginError, RecordError, TrainingError
from srum_core.training.latent_cache import Latents
from srum_core.training.trainer import train


def test_latents_are_encoded_once_and_again_when_the_image_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run")
    candidates = list(run.candidates(1))
    model, seen = run.model(0), list[int]()
    encode = toy.ToyModel.encode
    monkeypatch.setattr(toy.ToyModel, "encode", lambda self, images: seen.append(len(images)) or encode(self, images))
    latents = Latents(tmp_path / "latents", "adapter")
    latents.prepare(model, candidates)
    assert sum(seen) == 6
    latent, reference = latents.load(candidates[1])
    assert reference is None
    assert torch.equal(latent, encode(model, [Image.open(candidates[1].image)])[0])  # type: ignore[arg-type]
    assert latents.grid(candidates[1]) == (2, 4)
    latents.prepare(model, candidates)
    assert sum(seen) == 6
    Image.new("RGB", (8, 8)).save(candidates[0].image)
    latents.prepare(model, candidates)
    assert sum(seen) == 12  # a chunk is encoded whole
    assert latents.load(candidates[0])[0].unique().tolist() == [-1.0]
    Latents(tmp_path / "latents", "other settings").prepare(model, candidates)
    assert sum(seen) == 18


def test_a_damaged_latent_is_a_sentence_and_made_again(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    candidates, model = list(run.candidates(1)), run.model(0)
    latents = Latents(tmp_path / "latents", "adapter")
    latents.prepare(model, candidates)
    whole = {path: path.read_bytes() for path in latents.folder.iterdir()}
    damaged = {"cut": b"x" * 5, "empty": b"", "other": b"{}", "short": next(iter(whole.values()))[:-4]}
    for path, data in zip(sorted(whole), damaged.values(), strict=False):
        path.write_bytes(data)
    for candidate in candidates[:4]:
        with pytest.raises(RecordError, match="cannot be read"):
            latents.grid(candidate)
    latents.prepare(model, candidates)
    assert {path: path.read_bytes() for path in latents.folder.iterdir()} == whole


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\x10" + b"\0" * 7 + b"{}"])
def test_a_damaged_latent_of_an_image_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    run = make(tmp_path / "run")
    path = run.stage_folder("generate", 1) / "images/kept.safetensors"
    path.write_bytes(data)
    candidate = evolve(next(iter(run.candidates(1))), latent=path)
    with pytest.raises(RecordError, match=r"kept.safetensors cannot be read .*--redo generate "):
        Latents(tmp_path / "latents", "adapter").prepare(run.model(0), [candidate])


def test_a_training_decodes_and_encodes_each_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several epochs, an interruption and a second start; the release does it twice a step and epoch."""
    run = make(tmp_path / "run", steps=0, epochs=3)
    decoded, encoded = list[str](), list[int]()
    load, encode = ImageFile.ImageFile.load, toy.ToyModel.encode
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: (decoded.append(self.filename) if self.tile else None, load(self))[1]
    )
    monkeypatch.setattr(
        toy.ToyModel, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images)
    )
    interrupt(monkeypatch, run, after=3)
    train(run, 1)
    trained_on = [candidate for candidate in run.candidates(1) if candidate.id != f"c{len(SIZES)}"]
    assert sum(row["cells"] for row in metrics(run)) == 3 * sum(w * h // 4 for w, h in SIZES)
    assert sorted(decoded) == sorted(str(candidate.image) for candidate in trained_on)
    assert sum(encoded) == len(trained_on)


def test_a_reference_is_what_the_constraint_pulls_towards(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "srum_losses.maps:Uniform", steps=1)
    alone = list(run.candidates(1))
    image = run.stage_folder("generate", 1) / "images/good.png"
    Image.new("RGB", (8, 8), "white").save(image)
    paired = [evolve(each, reference=image) if each.id == "c0" else each for each in alone]
    (run.stage_folder("generate", 1) / "part-0.jsonl").unlink()
    run.candidates(1).extend(paired)
    train(run, 1)
    (row,) = metrics(run)
    assert row["loss_reference"] != pytest.approx(row["loss_reward"], rel=1e-3)
    Image.new("RGB", (4, 4)).save(image)
    run.redo("train")
    with pytest.raises(TrainingError, match=r"Candidate c0 .* \(4, 4\) cells, its reference .* \(2, 2\)"):
        train(run, 1)


@pytest.mark.parametrize("name", ["clean", "reference"])
def test_a_latent_that_is_not_finite_stops_training_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = make(tmp_path / "run")
    candidates = list(run.candidates(1))
    candidates[2] = evolve(candidates[2], reference=candidates[2].image)
    encode = toy.ToyModel.encode

    def encodes(self: toy.ToyModel, images: list[Image.Image]) -> list[torch.Tensor]:
        found = encode(self, images)
        found[2 if len(found) > 1 else 0][0, 0, 0] = torch.nan if (name == "clean") == (len(found) > 1) else 0.0
        return found

    monkeypatch.setattr(toy.ToyModel, "encode", encodes)
    with pytest.raises(TrainingError, match=rf"The {name} latent of candidate c2 .* not finite"):
        Latents(tmp_path / "latents", "adapter").prepare(run.model(0), candidates)
    assert not list((tmp_path / "latents").glob("*"))


@each_row(
    "encoded, message",
    [
        (lambda latents: [(255 * latent).byte() for latent in latents], r"a clean latent of shape .* torch\.uint8"),
        (
            lambda latents: [latent.flatten(0, 1) for latent in latents],
            r"shape \(\d+, 3\) .* \(rows, columns, channels\)",
        ),
        (lambda latents: latents[1:], r"ToyModel encoded \d+ images to \d+ latents"),
    ],
)
def test_what_is_no_latent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Callable[[list[torch.Tensor]], Any], message: str
) -> None:
    run, encode = make(tmp_path / "run"), toy.ToyModel.encode
    monkeypatch.setattr(toy.ToyModel, "encode", lambda self, images: encoded(encode(self, images)))
    with pytest.raises(PluginError, match=message):
        Latents(tmp_path / "latents", "adapter").prepare(run.model(0), list(run.candidates(1)))
