"""Sampling with Show-o2 against the reference implementation's tensors: times, steps, guidance, pixels."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from showo2_goldens import cases, close, grids, latents, model, need, part, read_json, same_levels, tensors
from torch import Tensor

from srum_showo2.options import Sampling
from srum_showo2.sampling import sample, time_grid

pytestmark = pytest.mark.golden
RUNS = cases("sampling")


def test_there_is_a_set() -> None:
    need()
    assert RUNS


def sampling(about: dict[str, Any]) -> Sampling:
    """As a file states it; no factor is no shift."""
    return Sampling(
        steps=about["num_steps"],
        guidance=about.get("guidance_scale", 0.0),
        shift=about["time_shifting_factor"] or 1.0,
    )


def test_schedules() -> None:
    assert read_json("schedules")["sampling"]
    for case in read_json("schedules")["sampling"]:
        times = time_grid(sampling(case))
        close(times, torch.tensor(case["time"]), "time")
        close(1 - times, torch.tensor(case["t_ref"]), "t_ref")


@pytest.mark.parametrize("run", RUNS)
def test_sampling(run: str) -> None:
    """Every step's state and velocities, with the texts read once."""
    stored, about = part(tensors("sampling"), run), read_json("sampling")[run]
    settings, seen = sampling(about), list[tuple[float, Tensor, Tensor, list[Tensor]]]()
    captions = model().condition(about["prompts"])
    start, image_start = model().words.markers
    for row, caption in enumerate(captions):
        begin = int(stored["image_start"][row])
        assert [start, *caption.tolist(), image_start] == stored["text_tokens"][row, :begin].tolist()
        if "text_tokens_null" in stored:
            assert [start, image_start] == stored["text_tokens_null"][row, :2].tolist()
    out = sample(
        model().denoiser, captions, grids(stored["initial_noise"]), settings,
        lambda time, x, velocity, branches: seen.append((time, x, velocity, list(branches))),
    )  # fmt: skip
    assert len(seen) == about["evaluations"] == settings.steps - 1
    times = time_grid(settings)
    assert [time for time, *_ in seen] == times[:-1].tolist()
    ours = {
        "times": times,
        "times_ref": 1 - times,
        "x": torch.stack([latents(list(each)) for each in [*(x for _, x, *_ in seen), torch.stack(out)]]),
        "velocity": torch.stack([latents(list(velocity)) for _, _, velocity, _ in seen]),
        "velocity_cond": torch.stack([latents(list(branches[0])) for *_, branches in seen]),
        "velocity_uncond": torch.stack([latents(list(branches[-1])) for *_, branches in seen]),
        "final": latents(out),
        "initial_noise": latents(list(seen[0][1])),
    }
    pixels = torch.stack(model().decode(out))
    for name, expected in stored.items():
        if name == "decoded_clamped":
            close(pixels[: len(expected)].clamp(-1, 1), expected, name)
        elif name == "image_uint8":
            same_levels(pixels, expected)
        elif not name.startswith(("text_tokens", "image_start")):
            close(ours[name], expected, name)


def test_captions_of_different_lengths_share_a_batch() -> None:
    """Each image of a batch is what it is alone."""
    for run in RUNS:
        stored, about = part(tensors("sampling"), run), read_json("sampling")[run]
        for row, prompt in enumerate(about["prompts"]):
            noise = grids(stored["initial_noise"][row : row + 1])
            (alone,) = sample(model().denoiser, model().condition([prompt]), noise, sampling(about))
            close(latents([alone]), stored["final"][row : row + 1], f"{run}, {prompt}")


@pytest.mark.parametrize("run", RUNS)
def test_texts_read_once_give_what_reading_them_at_every_step_gives(run: str) -> None:
    """The step with cached keys and values, and the training forward on the same state."""
    stored, about = part(tensors("sampling"), run), read_json("sampling")[run]
    one = model()
    captions = one.condition(about["prompts"])
    size = tuple(about["grid"])
    prefix = one.denoiser.prefix(captions, size)  # type: ignore[arg-type]
    for index in range(about["evaluations"]):
        x = grids(stored["x"][index])
        time = stored["times"][index].expand(len(x))
        with torch.no_grad():
            block, waves = one.denoiser.embed_images(x, time)
            cached = one.denoiser.step(prefix, block, waves, size)  # type: ignore[arg-type]
            whole = torch.stack(one.denoiser(x, time, captions))
        close(cached, whole, f"step {index}")


def test_the_adapter_generates_by_these_settings() -> None:
    """`generate` is this sampler from each seed's own noise."""
    one = model()
    prompts = read_json("sampling")[RUNS[0]]["prompts"]
    few = attrs.evolve(one.options.sampling, steps=3)
    shape = (*one.grid, one.denoiser.sizes.cell)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(len(prompts))]
    expected = one.decode(sample(one.denoiser, one.condition(prompts), noise, few))
    before, one.options = one.options, attrs.evolve(one.options, sampling=few)
    try:
        samples = one.generate(prompts, range(len(prompts)))
    finally:
        one.options = before
    same_levels(torch.stack(expected), torch.stack([_levels(each.image) for each in samples]))


def _levels(image: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(image).copy())
