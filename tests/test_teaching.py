"""The loss that the understanding side is pretrained with: exchanges share an image, and nothing else."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from pretraining.bagel import answer_loss
from srum_bagel.model import Bagel
from srum_bagel.options import Options

SIDES = {"size": (32, 32), "generation_sides": (32, 32), "vision_sides": (32, 32)}
LONG = ("Prompt: a red circle\nRate each region. " * 4, "Region ID: 1\nIdentified Object: red circle\nScore: 1.0")
SHORT = ("Is there a red circle?", "yes")
OTHER = ("Prompt: a blue square\nRate the layout.", "red circle 2 5\nScore: -0.6")


@pytest.fixture(scope="module")
def model() -> Bagel:
    return Bagel(Options(checkpoint="bundled:shapes", device="cpu", **SIDES))


def images() -> list[Image.Image]:
    red, blue = Image.new("RGB", (32, 32), (232, 232, 232)), Image.new("RGB", (32, 32), (232, 232, 232))
    red.paste((220, 40, 40), (4, 4, 14, 14))
    blue.paste((40, 60, 220), (16, 18, 26, 28))
    return [red, blue]


def said(model: Bagel, pair: tuple[str, str]) -> int:
    """Tokens that count: the answer's and the end."""
    return len(model.chat.ids(pair[1])) + 1


def test_together_is_the_mean_of_alone_weighted_by_tokens(model: Bagel) -> None:
    red, blue = images()
    pairs = [(red, LONG), (red, SHORT), (blue, OTHER), (blue, SHORT)]
    with torch.no_grad():
        alone = [answer_loss(model, [image], [[pair]]).item() for image, pair in pairs]
        together = answer_loss(model, [red, blue], [[LONG, SHORT], [OTHER, SHORT]]).item()
    counts = [said(model, pair) for _, pair in pairs]
    expected = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together == pytest.approx(expected, abs=1e-4)
    assert len({round(loss, 4) for loss in alone}) == 4, "or the test could not tell them apart"


def test_images_of_different_sizes_do_not_disturb_each_other() -> None:
    model = Bagel(Options(checkpoint="bundled:shapes", device="cpu", generation_sides=(16, 32), vision_sides=(16, 32)))
    red = images()[0]
    wide = red.crop((0, 0, 32, 16))
    with torch.no_grad():
        alone = [answer_loss(model, [image], [[OTHER]]).item() for image in (red, wide)]
        together = answer_loss(model, [red, wide], [[OTHER], [OTHER]]).item()
    assert together == pytest.approx(sum(alone) / 2, abs=1e-4)
    assert abs(alone[0] - alone[1]) > 1e-3


def test_the_answer_is_learnt_from_the_image_and_the_question(model: Bagel) -> None:
    """A few steps of descent on one answer; every part that reads takes part."""
    named = {**dict(model.denoiser.named_parameters()), **dict(model.eye.named_parameters())}
    kept = {key: parameter.detach().clone() for key, parameter in named.items()}
    for parameter in named.values():
        parameter.requires_grad_(True)
    try:
        first = answer_loss(model, [images()[0]], [[OTHER]])
        first.backward()
        reached = {key for key, parameter in named.items() if parameter.grad is not None and parameter.grad.any()}
        assert any("vit_model" in key for key in reached)
        assert any("connector" in key for key in reached)
        assert any("lm_head" in key for key in reached)
        assert not any("_moe_gen" in key for key in reached)
        with torch.no_grad():
            for parameter in named.values():
                if parameter.grad is not None:
                    parameter -= 0.02 * parameter.grad
            assert answer_loss(model, [images()[0]], [[OTHER]]) < first
    finally:
        with torch.no_grad():
            for key, parameter in named.items():
                parameter.copy_(kept[key]).requires_grad_(False)
                parameter.grad = None
