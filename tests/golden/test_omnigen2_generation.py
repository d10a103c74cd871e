"""Sampling, times and pixels of OmniGen2 against the reference implementation's tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from omnigen2_goldens import (
    close,
    folder,
    grid,
    image,
    latent,
    model,
    need,
    read_json,
    states,
    tensors,
    with_references,
)
from torch import Tensor

from srum_core.flow import Schedule
from srum_core.models.images import to_image
from srum_omnigen2.options import Sampling
from srum_omnigen2.sampling import (
    SIDE_STEP,
    decode,
    encode,
    fitted_size,
    sample,
    sampling_shift,
    time_grid,
    to_tensor,
    training_shift,
)

pytestmark = pytest.mark.golden


def runs(edited: bool) -> list[str]:
    """Names of the runs, with reference images or without; none where there is no set (`_set` says so)."""
    if not folder().is_dir():
        return []
    return [name for name, run in read_json("sampling").items() if bool(run["reference_files"]) == edited]


@pytest.fixture(scope="module", autouse=True)
def _set() -> None:
    need()


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return tensors("sampling")


def sampling(run: dict[str, Any]) -> Sampling:
    return Sampling(
        steps=run["steps"],
        guidance=run["text_guidance_scale"],
        guidance_range=tuple(run["cfg_range"]),
        shift=run["time_shift"],
        negative_prompt=run["negative_prompt"],
    )


def test_there_are_runs() -> None:
    assert runs(False)
    assert runs(True)


@pytest.mark.parametrize("name", [*runs(False), *runs(True)])
def test_sizes_and_times_of_a_run(stored: dict[str, Tensor], name: str) -> None:
    run, noise = read_json("sampling")[name], stored[f"{name}.initial_noise"]
    factor = model().configs.factor
    assert noise.shape[-2:] == (run["height"] // factor, run["width"] // factor)
    assert sampling_shift(*noise.shape[-2:]) == pytest.approx(run["time_shift"])
    times = time_grid(run["steps"], run["time_shift"])
    close(times.float(), stored[f"{name}.time"], "time", 1e-5)
    close((1 - times).float(), stored[f"{name}.t_reference"], "t_reference", 1e-5)


@pytest.mark.parametrize("name", runs(False))
def test_a_run(stored: dict[str, Tensor], name: str) -> None:
    """Every step's state and predictions, which steps are guided, the latents, and the image."""
    run, seen = read_json("sampling")[name], list[tuple[Any, ...]]()
    *prompts, negative = states([*run["prompts"], run["negative_prompt"]])
    noise = [grid(each) for each in stored[f"{name}.initial_noise"]]
    out = sample(
        model().denoiser, prompts, negative, noise, sampling(run), run["time_shift"], lambda *each: seen.append(each)
    )
    assert len(seen) == run["steps"]
    assert [step for step, each in enumerate(seen) if each[-1] is not None] == run["steps_with_guidance"]
    guided = iter(stored.get(f"{name}.pred_uncond", ()))
    for step, (_, x, used, message, without) in enumerate(seen):
        for row in range(len(noise)):
            close(latent(x[row]), stored[f"{name}.latents_before_step"][step, row], f"state {step}")
            close(-latent(message[row]), stored[f"{name}.pred_cond"][step, row], f"pred_cond {step}")
            close(-latent(used[row]), stored[f"{name}.pred_reference"][step, row], f"pred_reference {step}")
        if without is not None:
            close(torch.stack([-latent(each) for each in without]), next(guided), f"pred_uncond {step}")
    assert not list(guided)
    close(torch.stack([latent(each) for each in out]), stored[f"{name}.final_latents"], "final_latents")
    close(model().decode(out), stored[f"{name}.image"], "image")


@pytest.mark.parametrize("name", runs(False))
def test_prompts_one_by_one(stored: dict[str, Tensor], name: str) -> None:
    run = read_json("sampling")[name]
    (negative,) = states([run["negative_prompt"]])
    for row, text in enumerate(run["prompts"]):
        noise = [grid(stored[f"{name}.initial_noise"][row])]
        (out,) = sample(model().denoiser, states([text]), negative, noise, sampling(run), run["time_shift"])
        close(latent(out), stored[f"{name}.final_latents"][row], "final_latents")


@pytest.mark.parametrize("name", runs(True))
def test_a_run_with_reference_images(stored: dict[str, Tensor], name: str) -> None:
    """The transformer's three predictions at the stored states, and that guidance and steps of the two scales are made
    of them. (The adapter itself generates from texts alone.)"""
    run = read_json("sampling")[name]
    *prompts, negative = states([*run["prompts"], run["negative_prompt"]])
    few = [grid(stored[f"{name}.reference.{i}"]) for i in range(len(run["reference_files"]))]
    times = time_grid(run["steps"], run["time_shift"])
    text, image = run["text_guidance_scale"], run["image_guidance_scale"]
    expected = {kind: iter(stored.get(f"{name}.pred_{kind}", ())) for kind in ("ref", "uncond")}
    x = stored[f"{name}.initial_noise"][0]
    for step in range(run["steps"]):
        close(x, stored[f"{name}.latents_before_step"][step, 0], f"state {step}")
        with torch.no_grad():
            found = with_references()(
                [grid(x)] * 3, times[step].expand(3), [prompts[0], negative, negative], [few, few, []]
            )
        message, referred, without = (-latent(each) for each in found)
        close(message, stored[f"{name}.pred_cond"][step, 0], f"pred_cond {step}")
        used = message
        if step in run["steps_with_guidance"]:
            close(without, next(expected["uncond"])[0], f"pred_uncond {step}")
            used = without + text * (message - without)
        if step in run["steps_with_guidance"] and image > 1:  # else the negative prompt is read without references
            close(referred, next(expected["ref"])[0], f"pred_ref {step}")
            used = without + image * (referred - without) + text * (message - referred)
        close(used, stored[f"{name}.pred_reference"][step, 0], f"pred_reference {step}")
        x = x + float(times[step] - times[step + 1]) * used
    assert not [each for kind in expected.values() for each in kind]
    close(x, stored[f"{name}.final_latents"][0], "final_latents")
    close(model().decode([grid(x)]), stored[f"{name}.image"], "image")


@pytest.mark.parametrize("name", [*runs(False), *runs(True)])
def test_what_the_decoder_gets(stored: dict[str, Tensor], name: str) -> None:
    given: list[Tensor] = []
    autoencoder = model().parts["autoencoder"]
    hook = autoencoder.decoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    decode(autoencoder, stored[f"{name}.final_latents"])
    hook.remove()
    close(given[0], stored[f"{name}.latents_given_to_decoder"], "latents_given_to_decoder")


# ---- schedules -------------------------------------------------------------------------------------------------------


def test_the_tables_of_times() -> None:
    for row in read_json("schedules")["drawing"]:
        by_size = sampling_shift(row["latent_rows"], row["latent_columns"])
        assert row["shift"] == pytest.approx(by_size) or row["shift"] == 1.0, row  # 1: a scheduler that does not shift
        times = time_grid(row["steps"], row["shift"])
        close(times.float(), torch.tensor(row["time"]), str(row), 1e-5)
        close((1 - times).float(), torch.tensor(row["t_reference"]), str(row), 1e-5)
    for row in read_json("schedules")["training"]:
        tokens = row["latent_rows"] * row["latent_columns"] // 2**2  # independent of the checkpoint: real patches
        assert training_shift(tokens, row["version"]) == pytest.approx(row["shift"]), row
        schedule = Schedule("logit-normal", shift=row["shift"])
        times = schedule.warp((-torch.tensor(row["normal_draw"])).sigmoid())
        close(times, torch.tensor(row["time"]), str(row), 1e-5)
        close(1 - times, torch.tensor(row["t_reference"]), str(row), 1e-5)


# ---- pixels ----------------------------------------------------------------------------------------------------------


def steps_of_sides() -> set[int]:
    """What the sides of prepared images are multiples of: written out in some places of the reference, a token's
    side in others."""
    return {SIDE_STEP, model().configs.stride}


def test_the_table_of_sizes() -> None:
    table = read_json("vae")["resize_table"]
    step = math.gcd(*(row[side] for row in table for side in ("new_width", "new_height")))
    assert step in steps_of_sides()
    for row in table:
        found = fitted_size((row["width"], row["height"]), row["max_pixels"], row["max_side_length"], step)
        # A side below a step is 0 in the reference, which fails; here it is one step.
        assert found == (max(row["new_width"], step), max(row["new_height"], step)), row


def test_the_autoencoder() -> None:
    """Prepared pixels, moments, latents drawn and from the mean, and decoded images."""
    expected, about, autoencoder = tensors("vae"), read_json("vae"), model().parts["autoencoder"]
    scale, shift = about["scaling_factor"], about["shift_factor"]
    assert (autoencoder.config.scaling_factor, autoencoder.config.shift_factor) == (scale, shift)
    for i, (name, size) in enumerate(zip(about["files"], about["sizes"], strict=True)):
        opened, pixels = image(name), expected[f"{i}.pixels"]
        assert opened.size == tuple(size)
        fitted = {fitted_size(opened.size, model().options.encode_pixels, 1024, step) for step in steps_of_sides()}
        assert (pixels.shape[2], pixels.shape[1]) in fitted
        close(to_tensor(opened, (pixels.shape[2], pixels.shape[1])), pixels, "pixels")
        with torch.no_grad():
            posterior = autoencoder.encode(pixels[None]).latent_dist
        close(posterior.mean[0], expected[f"{i}.posterior_mean"], "posterior_mean")
        close(posterior.logvar[0], expected[f"{i}.posterior_logvar"], "posterior_logvar")
        generated = posterior.mean[0] + posterior.std[0] * expected[f"{i}.posterior_noise"]
        close((generated - shift) * scale, expected[f"{i}.latent"], "latent")
        found = encode(autoencoder, pixels[None])
        close(found[0], expected[f"{i}.latent_mode"], "latent_mode")
        plain = expected[f"{i}.decoded"]
        decoded = decode(autoencoder, expected[f"{i}.latent_mode"][None])[0]
        close(decoded, (plain / 2 + 0.5).clamp(0, 1), "decoded")
        with torch.no_grad():
            unclipped = autoencoder.decode(expected[f"{i}.latent_mode"][None] / scale + shift).sample[0]
        close(unclipped, plain, "unclipped")
        levels = np.asarray(to_image(decoded), int) - expected[f"{i}.decoded_uint8"].numpy().astype(int)
        assert np.abs(levels).max() <= 1
