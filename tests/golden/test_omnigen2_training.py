"""Texts, targets, times, velocities and gradients of OmniGen2 against the reference implementation's tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from einops import rearrange
from omnigen2_goldens import (
    close,
    grid,
    image,
    latent,
    model,
    need,
    per_token,
    read_json,
    states,
    tensors,
    user_text,
    with_references,
)
from torch import Tensor, nn

from srum_core.flow import FlowStep, Schedule, flow_step
from srum_core.models.qwen_vl import PAD
from srum_losses import SrumOptions
from srum_losses.objectives import SrumLoss
from srum_omnigen2.sampling import SIDE_STEP, encode, fitted_size, prompt_ids, read, to_tensor, training_shift

pytestmark = pytest.mark.golden
CASES = ("case_a", "case_b", "case_r")


@pytest.fixture(scope="module", autouse=True)
def _set() -> None:
    need()


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return tensors("train_forward")


@pytest.fixture(scope="module")
def about() -> dict:
    return read_json("train_forward")


def each(stored: dict[str, Tensor], name: str) -> list[Tensor]:
    """A tensor that the images of a case have one of each, {} standing for the image."""
    found = []
    while (key := name.format(len(found))) in stored:
        found.append(stored[key])
    assert found, name
    return found


def message(about: dict, case: str) -> list[str | None]:
    dropped = about["dropped_in_case_b"] if case == "case_b" else None
    return [None if number == dropped else prompt for number, prompt in enumerate(about["prompts"])]


def references(stored: dict[str, Tensor], case: str) -> list[list[Tensor]]:
    count = len(each(stored, case + ".{}.clean"))
    named = [sorted(name for name in stored if name.startswith(f"{case}.{i}.reference.")) for i in range(count)]
    return [[grid(stored[name]) for name in names] for names in named]


def denoiser(case: str) -> nn.Module:
    return with_references() if case == "case_r" else model().denoiser


def step(stored: dict[str, Tensor], about: dict, case: str, weight: list[Tensor] | None = None) -> FlowStep:
    """One training step of the core on the set's own latents, noise and times."""
    more = (references(stored, case),) if case == "case_r" else ()
    return flow_step(
        lambda *given: denoiser(case)(*given, *more), [grid(x) for x in each(stored, case + ".{}.clean")],
        model().condition(message(about, case)), stored[f"{case}.time"], weight,
        [grid(x) for x in each(stored, case + ".{}.noise")],
    )  # fmt: skip


def errors(found: FlowStep) -> list[Tensor]:
    return [(v - goal).square() for v, goal in zip(found.velocity, found.target, strict=True)]


def mean(values: list[Tensor]) -> Tensor:
    """Over everything: a larger image weighs more."""
    return torch.cat([value.flatten() for value in values]).mean()


@pytest.fixture
def trained() -> Iterator[None]:
    for module in (model().denoiser, with_references()):
        module.requires_grad_(True)
    yield
    for module in (model().denoiser, with_references()):
        module.requires_grad_(False)


def gradients(loss: Tensor, case: str) -> dict[str, Tensor]:
    named = dict(denoiser(case).named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_framed_tokenised_and_read() -> None:
    """Whole, and with a longer text beside them; the empty one and the negative prompt too."""
    expected, about = tensors("conditions"), read_json("conditions")
    texts, limit = about["texts"], model().options.text_tokens
    together = states(texts)
    for number, (text, filled) in enumerate(zip(texts, about["filled"], strict=True)):
        ids = prompt_ids(model().chat, text, limit)
        assert ids == expected[f"{number}.input_ids"].tolist() == model().chat.tokenizer(filled)["input_ids"]
        close(together[number], expected[f"{number}.states"], f"states {number}")
        close(states([text])[0], expected[f"{number}.states"], f"states of {number} alone")


def test_a_dropped_caption_has_another_system_prompt() -> None:
    expected, about = tensors("conditions"), read_json("conditions")
    ids = prompt_ids(model().chat, None, model().options.text_tokens)
    assert ids == expected["dropped.input_ids"].tolist()
    assert ids == model().chat.tokenizer(about["dropped_text"])["input_ids"]
    close(states([None])[0], expected["dropped.states"], "dropped")


def test_the_batch_and_the_cut_text() -> None:
    expected, language = tensors("conditions"), model().parts["language model"].model.language_model
    for row, (mask, whole) in enumerate(zip(expected["batch.mask"], expected["batch.states"], strict=True)):
        length = int(mask.sum())
        close(states(read_json("conditions")["texts"][: len(expected["batch.mask"])])[row], whole[:length])
    (name,) = [name for name in expected if name.startswith("cut_to_")]
    kept = int(re.findall(r"\d+", name)[0])
    (found,) = read(language, [expected["2.input_ids"][:kept].tolist()], model().chat.special[PAD])
    close(found, expected[name], name)


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_what_training_reads(stored: dict[str, Tensor], about: dict, case: str) -> None:
    texts, mask = message(about, case), stored[f"{case}.attention_mask"].bool()
    found = model().condition(texts)
    for row, text in enumerate(texts):
        ids = prompt_ids(model().chat, text, model().options.text_tokens)
        assert ids == stored[f"{case}.input_ids"][row, mask[row]].tolist()
        close(found[row], stored[f"{case}.states"][row, mask[row]], f"states {row}")
        assert (text or "") == user_text(about[f"{case}_text"][row])


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_pixels_and_targets(stored: dict[str, Tensor]) -> None:
    """The prepared images, the posterior's mean, and what `encode` makes of it, one by one and together."""
    autoencoder, config = model().parts["autoencoder"], model().parts["autoencoder"].config
    images = [image(f"train_a_{i}.png") for i in range(len(each(stored, "case_a.{}.pixels")))]
    for i, (opened, pixels) in enumerate(zip(images, each(stored, "case_a.{}.pixels"), strict=True)):
        size = fitted_size(opened.size, model().options.encode_pixels, model().options.encode_side, SIDE_STEP)
        close(to_tensor(opened, size), pixels, f"pixels {i}")
        mean = encode(autoencoder, pixels[None])[0] / config.scaling_factor + config.shift_factor
        close(mean, stored[f"case_a.{i}.posterior_mean"], f"posterior_mean {i}")
    for i, (found, clean) in enumerate(zip(model().encode(images), each(stored, "case_a.{}.clean_mode"), strict=True)):
        close(latent(found), clean, f"clean_mode {i}")


@pytest.mark.parametrize("case", CASES)
def test_times(stored: dict[str, Tensor], about: dict, case: str) -> None:
    patch = model().configs.transformer.patch_size
    tokens = [x[0].numel() // patch**2 for x in each(stored, case + ".{}.clean")]
    version = "v1"
    if case == "case_b":
        fixed = about["case_b_shift"]
        tokens, version = [fixed["max_output_pixels"] // SIDE_STEP**2] * len(tokens), fixed["version"]
    for draw, count, time in zip(stored[f"{case}.normal_draw"], tokens, stored[f"{case}.time"], strict=True):
        schedule = Schedule("logit-normal", shift=training_shift(count, version))
        close(schedule.warp((-draw).sigmoid()), time, "time", 1e-5)
    close(1 - stored[f"{case}.time"], stored[f"{case}.t_reference"], "t_reference")


@pytest.mark.parametrize("case", CASES)
def test_velocities_and_losses(stored: dict[str, Tensor], about: dict, case: str) -> None:
    with torch.no_grad():
        found = step(stored, about, case)
    time = stored[f"{case}.time"]
    for i, (velocity, target) in enumerate(zip(found.velocity, found.target, strict=True)):
        clean, noise = stored[f"{case}.{i}.clean"], stored[f"{case}.{i}.noise"]
        close((1 - time[i]) * clean + time[i] * noise, stored[f"{case}.{i}.noisy"], f"noisy {i}")
        close(latent(velocity), stored[f"{case}.{i}.velocity"], f"velocity {i}")
        close(-latent(velocity), stored[f"{case}.{i}.pred_reference"], f"pred_reference {i}")
        close(latent(target), stored[f"{case}.{i}.target"], f"target {i}")
        cells = latent((velocity - target).square()).mean(0)
        close(cells, stored[f"{case}.{i}.sq_err_per_cell"], f"sq_err_per_cell {i}")
        close(per_token(cells), stored[f"{case}.{i}.sq_err_per_token"], f"sq_err_per_token {i}")
    close(errors(found)[0].mean(-1), stored[f"{case}.0.sq_err_per_token"], "a token's error")
    close(torch.stack([e.sum() for e in errors(found)]), stored[f"{case}.loss_sum_per_picture"], "sums")
    close(mean(errors(found)), stored[f"{case}.loss"], "loss")


@pytest.mark.parametrize("case", CASES)
def test_images_one_by_one(stored: dict[str, Tensor], about: dict, case: str) -> None:
    """The batch with its mixed sizes and lengths gives what each image gives alone."""
    noisy, texts = [grid(x) for x in each(stored, case + ".{}.noisy")], model().condition(message(about, case))
    few = references(stored, case)
    for i, expected in enumerate(each(stored, case + ".{}.velocity")):
        more = ([few[i]],) if case == "case_r" else ()
        with torch.no_grad():
            (found,) = denoiser(case)([noisy[i]], stored[f"{case}.time"][i : i + 1], [texts[i]], *more)
        close(latent(found), expected, f"velocity {i}")


@pytest.mark.parametrize("case", CASES)
def test_gradients(stored: dict[str, Tensor], about: dict, case: str, trained: None) -> None:
    """Those that are stored, the norm of every one, and the norm of all."""
    grads = gradients(mean(errors(step(stored, about, case))), case)
    prefix = f"{case}.grad."
    given = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    assert given.keys() == set(about["stored_gradients"].get(case, []))
    for name, expected in given.items():
        close(grads[name], expected, name)
    norms = read_json("train_forward_grad_norms")[case]
    unused = set() if case == "case_r" else set(about["unused_for_text_to_image"])
    assert grads.keys() == norms.keys() - unused
    assert not any(norms[name] for name in unused)
    total = torch.stack([gradient.norm() for gradient in grads.values()]).norm()
    close(total, stored[f"{case}.grad_norm"], "grad_norm")
    for name, gradient in grads.items():
        assert float(gradient.norm()) == pytest.approx(norms[name], rel=1e-4, abs=1e-6 * float(total)), name


def test_the_trained_parameters_are_those_of_text_to_image(about: dict) -> None:
    names = [name for name, _ in model().denoiser.named_parameters()]
    ours = {name for name in names if any(re.fullmatch(pattern, name) for pattern in model().recipe.full)}
    assert ours == set(about["trainable_for_text_to_image"])
    assert {name for name, _ in with_references().named_parameters()} - ours == set(about["unused_for_text_to_image"])


def test_the_weighted_loss_and_its_gradients(stored: dict[str, Tensor], about: dict, trained: None) -> None:
    """α·R + λ through the core's step and the losses' own code."""
    prefix = "case_b.weighted."
    weight = list(rearrange(stored[f"{prefix}alpha"], "n -> n 1 1") * stored[f"{prefix}reward_map"])
    loss, _ = SrumLoss(SrumOptions(constraint=float(stored[f"{prefix}lambda"])))(step(stored, about, "case_b", weight))
    close(loss, stored[f"{prefix}loss"], "weighted loss")
    grads = gradients(loss, "case_b")
    given = {name: value for name, value in stored.items() if name.startswith(f"{prefix}grad.")}
    assert {name.removeprefix(f"{prefix}grad.") for name in given} == set(about["stored_gradients"]["case_b_weighted"])
    for name, expected in given.items():
        close(grads[name.removeprefix(f"{prefix}grad.")], expected, name)
