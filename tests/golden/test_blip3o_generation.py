"""Drawing with BLIP3-o against the reference implementation's tensors: features from noise, pixels from features."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from blip3o_goldens import close, model, need, read_json, tensors
from einops import rearrange
from torch import Tensor

from srum_blip3o.dit import sample
from srum_core.models.images import to_image

pytestmark = pytest.mark.golden
RUNS = ("six_steps", "thirty_steps", "empty_prompt")


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    need()
    return tensors("sampling")


def ids(stored: dict[str, Tensor], run: str) -> list[int]:
    return stored[f"{run}.prompt_ids"][0].tolist()


def caption() -> str:
    """Out of the prompt's text."""
    return read_json("sampling")["prompt_text"].split("following caption: ")[1].split("<|im_end|>")[0]


def test_the_prompt_is_framed_with_an_open_turn(stored: dict[str, Tensor]) -> None:
    for run in ("six_steps", "thirty_steps"):
        assert model().read(caption(), "open") == ids(stored, run)
    assert ids(stored, "empty_prompt") == []


@pytest.mark.parametrize("run", RUNS)
def test_what_is_read_of_the_prompt(stored: dict[str, Tensor], run: str) -> None:
    reader, queries = model().denoiser.reader, model().denoiser.latent_queries
    with torch.no_grad():
        embeds, _, _ = reader.prepare(queries, [ids(stored, run)], reader.text_model().embed_tokens)
        close(embeds, stored[f"{run}.inputs_embeds"], "inputs_embeds")
        close(reader.states(queries, [ids(stored, run)]), stored[f"{run}.query_states"], "query_states")


@pytest.mark.parametrize("run", RUNS)
def test_sampling(stored: dict[str, Tensor], run: str) -> None:
    """Every stored step's state and both velocities, the timesteps cut to whole numbers, and the features."""
    steps = len(stored[f"{run}.timesteps_given_to_head"])
    kept = read_json("sampling").get(f"{run}_stored_step_indices", list(range(steps)))
    seen: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        states = model().denoiser.reader.states(model().denoiser.latent_queries, [ids(stored, run)])
    sampling = attrs.evolve(model().options.sampling, steps=steps)
    out = sample(model().denoiser, states, stored[f"{run}.initial_noise"], sampling, lambda *each: seen.append(each))
    assert len(seen) == steps
    given = torch.stack([timestep for _, timestep, _, _ in seen])
    assert torch.equal(given, stored[f"{run}.timesteps_given_to_head"])
    for row, index in enumerate(kept):
        x, _, without, message = seen[index]
        close(x[0], stored[f"{run}.latents_before_step"][row], f"state {index}")
        close(without[0], stored[f"{run}.pred_uncond"][row], f"unconditional {index}")
        close(message[0], stored[f"{run}.pred_cond"][row], f"conditional {index}")
    close(rearrange(out, "n c h w -> n (h w) c"), stored[f"{run}.features"], "features")


def test_prompts_of_different_lengths_share_a_batch(stored: dict[str, Tensor]) -> None:
    runs = ("six_steps", "empty_prompt")
    noise = torch.cat([stored[f"{run}.initial_noise"] for run in runs])
    with torch.no_grad():
        states = model().denoiser.reader.states(model().denoiser.latent_queries, [ids(stored, run) for run in runs])
    sampling = attrs.evolve(model().options.sampling, steps=len(stored["six_steps.timesteps_given_to_head"]))
    out = rearrange(sample(model().denoiser, states, noise, sampling), "n c h w -> n (h w) c")
    close(out, torch.cat([stored[f"{run}.features"] for run in runs]), "features")


# ---- pixels ----------------------------------------------------------------------------------------------------------


def test_decoding(stored: dict[str, Tensor]) -> None:
    """Every call of the UNet, the latents and the image."""
    expected, decoder, calls = tensors("decoder"), model().parts["decoder"], list[tuple[object, ...]]()
    unet = decoder.pipeline.unet
    hook = unet.register_forward_hook(lambda _, given, kw, out: calls.append((given, kw, out)), with_kwargs=True)
    latents = decoder.latents(
        stored["six_steps.features"], stored["empty_prompt.features"], expected["initial_noise"],
        model().options.sampling,
    )  # fmt: skip
    hook.remove()
    assert len(calls) == len(expected["timesteps"])
    # diffusers stacks the negative half first; the set has it second.
    for index, (given, kw, out) in enumerate(calls):
        close(given[0].flip(0), expected["unet_input"][index], f"unet_input {index}")
        close(torch.as_tensor(given[1]).float(), expected["timesteps"][index], f"timestep {index}")
        close(kw["encoder_hidden_states"].flip(0), expected["context"], "context")
        close(kw["added_cond_kwargs"]["text_embeds"].flip(0), expected["pooled"], "pooled")
        assert kw["added_cond_kwargs"]["time_ids"].flatten().long().tolist() == expected["time_ids"].tolist()
        close(out[0].flip(0), expected["unet_pred"][index], f"unet_pred {index}")
    close(latents, expected["final_latents"], "final_latents")
    pixels = decoder.pixels(latents)
    close(rearrange(pixels, "n c h w -> n h w c"), expected["image"], "image")
    assert np.abs(np.asarray(to_image(pixels[0]), int) - expected["image_uint8"].numpy().astype(int)).max() <= 1


def test_features_are_decoded_side_by_side(stored: dict[str, Tensor]) -> None:
    """In a batch of two the first image is what it is alone."""
    expected, decoder = tensors("decoder"), model().parts["decoder"]
    features = torch.cat([stored["six_steps.features"], stored["empty_prompt.features"]])
    negative = stored["empty_prompt.features"].expand_as(features)
    noise = torch.cat([expected["initial_noise"], expected["initial_noise"].flip(-1)])
    latents = decoder.latents(features, negative, noise, model().options.sampling)
    close(latents[:1], expected["final_latents"], "final_latents")
