"""The recipe of a tiny model that draws features: every phase runs, and repeating the command goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pretraining.curriculum import Recipe, Steps
from pretraining.measure_head import rebuilt
from pretraining.pretrain_head import main
from srum_blip3o.text_encoder import Reader
from srum_core.plugins import discover

pytestmark = pytest.mark.slow

STEPS = ["--features-steps", "2", "--autoencoder-steps", "2", "--unet-steps", "2", "--measure", "0"]
BATCHES = ["--features-batch", "4", "--autoencoder-batch", "4", "--unet-batch", "4", "--head-batch", "4"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    main(["--out", str(folder), *STEPS, *BATCHES, "--head-steps", "1"])
    return folder


def load(folder: Path) -> Any:
    few = {"steps": 2, "decoder_steps": 2, "decoder_guidance": 1.0}
    made = {"use": "blip3o", "checkpoint": str(folder), "device": "cpu", "dtype": "float32", "sampling": few}
    return discover().create("adapter", made)


def test_what_it_writes_is_a_checkpoint_in_the_published_layout(out: Path) -> None:
    drawn = load(out / "model").generate(["a red circle and a blue square"], [0])
    assert drawn[0].image.size == (32, 32)


def test_the_same_command_goes_on(out: Path) -> None:
    before = torch.load(out / "features.pt", weights_only=True)["weights"]
    main(["--out", str(out), *STEPS, *BATCHES, "--head-steps", "2"])
    after = torch.load(out / "features.pt", weights_only=True)["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.load(out / "head.pt", weights_only=True)["step"] == 2
    steps = [json.loads(line)["step"] for line in (out / "head.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_a_phase_says_which_one_it_needs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make the phase `features` first"):
        main(["--out", str(tmp_path), *STEPS, *BATCHES, "--phase", "head"])


def test_captions_are_read_once_for_all_their_images(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images a step are two captions', which the language model reads; all parts of the head learn."""
    read: list[int] = []
    states = Reader.states
    monkeypatch.setattr(
        Reader, "states", lambda self, queries, rows: read.append(len(rows)) or states(self, queries, rows)
    )
    before = torch.load(out / "head.pt", weights_only=True)
    main(["--out", str(out), *STEPS, *BATCHES, "--head-steps", str(before["step"] + 1), "--dropped", "0"])
    assert read == [2]
    after = torch.load(out / "head.pt", weights_only=True)["weights"]
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before["weights"][name])}
    assert moved == {"denoiser", "language", "guess"}


def test_images_of_one_caption_lie_together() -> None:
    plan = Recipe(drawing_steps=1, drawing_batch=6, alike=3, dropped=0.0)
    drawn, captions = Steps(plan, ("", ""), 0, "drawing")[0]
    assert [captions[0]] * 3 + [captions[3]] * 3 == captions
    assert captions[0] != captions[3]
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("keeps", [True, False])
def test_the_ceiling_is_what_tower_and_decoder_keep(keeps: bool) -> None:
    """With a stand-in whose features are the pixels: all images stay right, or none does."""
    decoder = SimpleNamespace(
        size=(32, 32),
        noise=lambda size, rng: torch.zeros(1),
        latents=lambda features, *_: features,
        pixels=lambda latents: latents.unflatten(1, (32, 32)).permute(0, 3, 1, 2) * keeps,
    )
    model = SimpleNamespace(
        parts={"decoder": decoder},
        options=SimpleNamespace(sampling=None),
        encode=lambda images: [torch.from_numpy(np.array(image)) / 255 for image in images],
    )
    assert rebuilt(model, 12)["all"]["correct"]["value"] == float(keeps)
