"""Training forward of BLIP3-o against the reference implementation's tensors: words, targets, velocities, gradients."""

from __future__ import annotations

import re

import pytest
import torch
from blip3o_goldens import close, image, model, need, read_json, tensors
from einops import rearrange
from torch import Tensor

from srum_blip3o import eva
from srum_blip3o.model import stored_name
from srum_core.flow import FlowStep, flow_step
from srum_losses import SrumOptions
from srum_losses.objectives import SrumLoss

pytestmark = pytest.mark.golden
CASES = ("case_a", "case_b")


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    need()
    return tensors("train_forward")


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return read_json("train_forward")["captions"]


def grids(features: Tensor) -> list[Tensor]:
    return list(rearrange(features, "n c h w -> n h w c"))


def stacked(cells: list[Tensor]) -> Tensor:
    return rearrange(torch.stack(cells), "n h w c -> n c h w")


def message(stored: dict[str, Tensor], captions: list[str], case: str) -> list[str | None]:
    dropped = stored[f"{case}.drop_mask"].bool().tolist()
    return [None if drop else caption for caption, drop in zip(captions, dropped, strict=True)]


def step(stored: dict[str, Tensor], captions: list[str], case: str, weight: list[Tensor] | None = None) -> FlowStep:
    """One training step of the core on the set's own targets, noise and noise levels."""
    return flow_step(
        model().denoiser, grids(stored["target_features"]), model().condition(message(stored, captions, case)),
        stored[f"{case}.sigmas"], weight, noise=grids(stored[f"{case}.noise"]),
    )  # fmt: skip


def gradients(loss: Tensor) -> dict[str, Tensor]:
    """By stored name, of everything that full training changes."""
    denoiser, patterns = model().denoiser, model().recipe.full
    named = {n: p for n, p in denoiser.named_parameters() if any(re.fullmatch(each, n) for each in patterns)}
    found = torch.autograd.grad(loss, list(named.values()))
    return {stored_name(name): grad for name, grad in zip(named, found, strict=True)}


@pytest.fixture
def trained():
    model().denoiser.requires_grad_(True)
    yield
    model().denoiser.requires_grad_(False)


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_captions_are_framed_and_tokenised(stored: dict[str, Tensor], captions: list[str]) -> None:
    frame = model().words
    for row, caption in enumerate(captions):
        ids = model().read(caption, "closed")
        start = int(stored["query_start"][row])
        assert [*ids, frame.special["[IMG]"]] == stored["input_ids"][row, :start].tolist()
        assert ids == frame.tokenizer(read_json("train_forward")["training_text"][row])["input_ids"]


def test_queries_take_their_places_and_are_read(stored: dict[str, Tensor], captions: list[str]) -> None:
    reader, queries = model().denoiser.reader, model().denoiser.latent_queries
    rows = [model().read(caption, "closed") for caption in captions]
    with torch.no_grad():
        embeds, mask, places = reader.prepare(queries, rows, reader.text_model().embed_tokens)
        hidden = reader.hidden(embeds, mask)
    assert torch.equal(mask, stored["attention_mask"])
    assert places[:, 0].tolist() == stored["query_start"].tolist()
    assert places.shape == (len(rows), queries.shape[1])
    real = stored["attention_mask"].bool()
    close(embeds[real], stored["inputs_embeds"][real], "inputs_embeds")
    close(hidden[real], stored["last_hidden_state"][real], "last_hidden_state")


@pytest.mark.parametrize("train_queries", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_conditions(stored: dict[str, Tensor], captions: list[str], case: str, train_queries: bool) -> None:
    one = model(train_queries)
    with torch.no_grad():
        close(one.denoiser.conditions(one.condition(captions)), stored[f"{case}.condition_before_drop"])
        close(one.denoiser.conditions(one.condition(message(stored, captions, case))), stored[f"{case}.condition"])


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_targets(stored: dict[str, Tensor], captions: list[str]) -> None:
    found = model().parts["feature tower"]
    images = [image(f"train_{row}") for row in range(len(captions))]
    pixels = torch.stack([eva.preprocess(each.convert("RGB"), found.sizes.image) for each in images])
    close(pixels, stored["gen_pixel_values"], "gen_pixel_values")
    with torch.no_grad():
        close(found(pixels), stored["eva_features_raw"], "eva_features_raw")
    close(stacked(model().encode(images)), stored["target_features"], "target_features")


@pytest.mark.parametrize("case", CASES)
def test_noise_levels(stored: dict[str, Tensor], case: str) -> None:
    """Uniform over the scheduler's thousand levels; the head gets a thousand times the level."""
    schedule = model().recipe.schedule
    levels = schedule.warp(schedule.whole(1 - stored[f"{case}.u"]))
    close(levels, stored[f"{case}.sigmas"], "sigmas", 1e-5)
    seen: list[Tensor] = []
    hook = model().denoiser.head.time_caption_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        step(stored, read_json("train_forward")["captions"], case)
    hook.remove()
    close(seen[0], stored[f"{case}.timesteps"], "timesteps")


@pytest.mark.parametrize("case", CASES)
def test_velocities_and_losses(stored: dict[str, Tensor], captions: list[str], case: str) -> None:
    noisy: list[Tensor] = []
    hook = model().denoiser.register_forward_pre_hook(lambda _, given: noisy.extend(given[0]))
    with torch.no_grad():
        found = step(stored, captions, case)
    hook.remove()
    close(stacked(noisy), stored[f"{case}.noisy_features"], "noisy_features")
    close(stacked(found.velocity), stored[f"{case}.velocity_pred"], "velocity_pred")
    close(stacked(found.target), stored[f"{case}.velocity_target"], "velocity_target")
    error = (torch.stack(found.velocity) - torch.stack(found.target)).square().mean(-1)
    close(error.flatten(1), stored[f"{case}.sq_err_per_token"], "sq_err_per_token")
    close(error.mean(), stored[f"{case}.loss"], "loss")


@pytest.mark.parametrize("case", CASES)
def test_gradients(stored: dict[str, Tensor], captions: list[str], case: str, trained: None) -> None:
    found = step(stored, captions, case)
    grads = gradients((torch.stack(found.velocity) - torch.stack(found.target)).square().mean())
    given = {name: value for name, value in stored.items() if name.startswith(f"{case}.grad.")}
    assert given
    for name, expected in given.items():
        close(grads[name.removeprefix(f"{case}.grad.")], expected, name)
    total = torch.stack([grad.norm() for grad in grads.values()]).norm()
    assert float(total) == pytest.approx(float(stored[f"{case}.grad_norm_all_trainable"]), rel=1e-5)


def test_every_gradient_norm(stored: dict[str, Tensor], captions: list[str], trained: None) -> None:
    found = step(stored, captions, "case_a")
    grads = gradients((torch.stack(found.velocity) - torch.stack(found.target)).square().mean())
    norms = read_json("train_forward_case_a_grad_norms")
    norms = norms.get("grad_norms", norms)
    assert grads.keys() == norms.keys()
    for name, norm in norms.items():
        assert float(grads[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-5), name


def test_the_trained_parameters_are_the_official_ones(stored: dict[str, Tensor]) -> None:
    names = [name for name, _ in model().denoiser.named_parameters()]
    ours = {stored_name(n) for n in names if any(re.fullmatch(each, n) for each in model().recipe.full)}
    assert ours == set(read_json("train_forward")["trainable_parameters"])


def test_the_weighted_loss_and_its_gradients(stored: dict[str, Tensor], captions: list[str], trained: None) -> None:
    """α·R + λ through the core's step and the losses' own code."""
    prefix = "case_b.weighted."
    weight = list(stored[f"{prefix}alpha"][:, None, None] * stored[f"{prefix}reward_map"])
    loss, _ = SrumLoss(SrumOptions(constraint=float(stored[f"{prefix}lambda"])))(
        step(stored, captions, "case_b", weight)
    )
    close(loss, stored[f"{prefix}loss"], "weighted loss")
    grads = gradients(loss)
    given = {name: value for name, value in stored.items() if name.startswith(f"{prefix}grad.")}
    assert given
    for name, expected in given.items():
        close(grads[name.removeprefix(f"{prefix}grad.")], expected, name)
