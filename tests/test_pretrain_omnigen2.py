"""The recipe of the tiny OmniGen2: what it writes is a checkpoint, the transformer learns, the same command resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from near import off
from safetensors.torch import load_file
from tiny_models import trained_by_its_preset

from pretraining.omnigen2 import load, main
from srum_core.plugins import discover
from srum_core.testing import sample_image

pytestmark = pytest.mark.slow

FEW = ["--batch", "4", "--measure", "0"]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omnigen2")
    main(["--out", str(folder), *FEW, "--steps", "2"])
    return folder


def test_what_it_writes_generates_with_the_adapter(out: Path) -> None:
    generated = load(out / "model", shift=2.0, guidance=2.0).generate(["a red circle", "two blue squares"], [0, 1])
    assert [each.image.size for each in generated] == [(32, 32)] * 2
    assert (np.asarray(generated[0].image) != np.asarray(generated[1].image)).any()


def test_all_that_reaches_a_velocity_learns_and_nothing_else(out: Path) -> None:
    """Before they are rounded: 16 bits do not show two steps of the warm-up."""
    before = {name: tensor.float() for name, tensor in load_file(out / "fresh" / WEIGHTS).items()}
    learnt = torch.load(out / "transformer.pt", weights_only=True)["weights"]
    moved = {name for name in before if not torch.equal(learnt.get(f"denoiser.{name}", before[name]), before[name])}
    assert moved == {name for name in before if not name.startswith(("ref_image_", "image_index_"))}
    for part in ("mllm/model", "vae/diffusion_pytorch_model"):
        fresh, written = (out / stage / f"{part}.safetensors" for stage in ("fresh", "model"))
        assert fresh.read_bytes() == written.read_bytes()


def test_the_autoencoder_is_the_bundled_bagels(out: Path) -> None:
    bagel = discover().create("adapter", {"use": "bagel", "checkpoint": "bundled:shapes", "device": "cpu"})
    image = sample_image((32, 32))
    (mine,), (theirs,) = load(out / "model", 2.0, 2.0).encode([image]), bagel.encode([image])
    # Both have 4x4 cells of 2x2 latent pixels with 16 channels each, in the same order.
    assert mine.shape == theirs.shape == (4, 4, 64)
    assert off(mine, theirs) <= 1e-5


def test_the_preset_trains_it_on_what_the_bundled_bagel_judges(out: Path, tmp_path: Path) -> None:
    again = load(trained_by_its_preset("omnigen2", out / "model", tmp_path / "run"), shift=2.0, guidance=2.0)
    assert again.generate(["a red circle"], [0])[0].image.size == (32, 32)


def test_the_same_command_resumes(out: Path) -> None:
    main(["--out", str(out), *FEW, "--steps", "3"])
    assert torch.load(out / "transformer.pt", weights_only=True)["step"] == 3
    assert [json.loads(line)["step"] for line in (out / "transformer.jsonl").read_text().splitlines()] == [2, 3]
