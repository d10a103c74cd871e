"""The recipe of the tiny Show-o2: what it writes is a checkpoint, both phases learn, the same command resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from near import off
from safetensors.torch import load_file
from tiny_models import trained_by_its_preset

from pretraining.fit import as_tensor
from pretraining.measure_head import rendered
from pretraining.showo2 import load, main, normalise, use_last_slices
from srum_showo2.autoencoder import Autoencoder

pytestmark = pytest.mark.slow

FEW = ["--autoencoder-steps", "2", "--autoencoder-batch", "4", "--batch", "4", "--measure", "0"]
WEIGHTS, VAE = "diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("showo2")
    main(["--out", str(folder), *FEW, "--steps", "3"])
    return folder


@pytest.fixture
def images() -> torch.Tensor:
    return as_tensor(np.stack([np.asarray(image) for image in rendered(8, "train")[1]]))


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(8).requires_grad_(False)


def test_what_it_writes_generates_with_the_adapter(out: Path) -> None:
    generated = load(out / "model", shift=1.5, guidance=2.0).generate(["a red circle", "two blue squares"], [0, 1])
    assert [each.image.size for each in generated] == [(32, 32)] * 2
    assert (np.asarray(generated[0].image) != np.asarray(generated[1].image)).any()


def test_all_that_reaches_a_velocity_learns(out: Path) -> None:
    """Before they are rounded: 16 bits do not show three steps of the warm-up."""
    before = {name: tensor.float() for name, tensor in load_file(out / "fresh" / WEIGHTS).items()}
    stored = torch.load(out / "transformer.pt", weights_only=True)["weights"]
    learnt = {name.removeprefix("denoiser.").replace("_a.layers.", "_a."): each for name, each in stored.items()}
    assert {name for name in before if not torch.equal(learnt[name], before[name])} == set(before)


def test_the_model_has_the_autoencoder_that_was_trained(out: Path) -> None:
    fresh, written = ((out / stage / VAE).read_bytes() for stage in ("fresh", "model"))
    assert fresh == written


def test_images_need_the_last_slice_of_a_kernel_alone(autoencoder: Autoencoder, images: torch.Tensor) -> None:
    before = autoencoder.encode(images)
    decoded = autoencoder.decode(before)
    use_last_slices(autoencoder.net)
    assert off(autoencoder.encode(images), before) <= 1e-5
    assert off(autoencoder.decode(before), decoded) <= 1e-5


def test_normalising_changes_the_latents_and_not_the_images(autoencoder: Autoencoder, images: torch.Tensor) -> None:
    before = autoencoder.decode(autoencoder.encode(images))
    normalise(autoencoder, images)
    latents = autoencoder.encode(images)
    assert latents.mean((0, 2, 3)).abs().max() <= 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() <= 1e-4
    assert off(autoencoder.decode(latents), before) <= 1e-4
    assert (autoencoder.moments(images)[:, 16:] == -30).all()  # the reference samples: the noise is nothing


def test_the_preset_trains_it_on_what_the_bundled_bagel_judges(out: Path, tmp_path: Path) -> None:
    again = load(trained_by_its_preset("showo2", out / "model", tmp_path / "run"), shift=1.5, guidance=2.0)
    assert again.generate(["a red circle"], [0])[0].image.size == (32, 32)


def test_the_same_command_resumes(out: Path) -> None:
    vae = (out / "fresh" / VAE).read_bytes()
    main(["--out", str(out), *FEW, "--steps", "4"])
    assert torch.load(out / "transformer.pt", weights_only=True)["step"] == 4
    assert [json.loads(line)["step"] for line in (out / "transformer.jsonl").read_text().splitlines()] == [3, 4]
    assert (out / "fresh" / VAE).read_bytes() == vae
