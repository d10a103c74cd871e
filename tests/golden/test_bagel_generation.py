"""Training forward, sampling and the autoencoder against the reference implementation's tensors."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from bagel_goldens import Goldens, close, folder
from einops import rearrange
from safetensors import safe_open
from torch import Tensor

from srum_bagel.options import Sampling
from srum_bagel.sampling import Contexts, sample, time_grid
from srum_core.flow import Schedule, flow_step
from srum_core.models.tensors import to_image, to_tensor, unpatchify
from srum_losses import SrumOptions
from srum_losses.objectives import SrumLoss

pytestmark = pytest.mark.golden
SHIFTS = (1, 4)


class Batch:
    """The packed training batch as lists of grids."""

    def __init__(self, bagel: Goldens) -> None:
        self.model = bagel.model()
        self.facts, self.tensors = bagel.json("train_forward"), bagel.tensors("train_forward")
        samples = self.facts["samples"]
        self.grids = [(each["grid_h"], each["grid_w"]) for each in samples]
        patch = self.model.patch
        names = range(len(samples))
        self.clean = [
            rearrange(self.tensors[f"sample{i}.latent"], "c (h p) (w q) -> h w (p q c)", p=patch, q=patch)
            for i in names
        ]
        self.reference = [
            rearrange(self.tensors[f"sample{i}.ref_latent"], "c (h p) (w q) -> h w (p q c)", p=patch, q=patch)
            for i in names
        ]
        self.noise = self.split(self.tensors["noise"])
        self.weight = [self.tensors[f"sample{i}.reward_tokens"].reshape(grid) for i, grid in enumerate(self.grids)]
        self.texts = [None if each["text_dropped"] else each["text"] for each in samples]
        self.condition = self.model.condition(self.texts)

    def split(self, packed: Tensor) -> list[Tensor]:
        sizes = [h * w for h, w in self.grids]
        return [part.reshape(*grid, -1) for part, grid in zip(packed.split(sizes), self.grids, strict=True)]

    def time(self, shift: int) -> Tensor:
        firsts = torch.tensor([0, *[h * w for h, w in self.grids[:-1]]]).cumsum(0)
        return Schedule("logit-normal", shift).warp(torch.sigmoid(self.tensors["packed.raw_timesteps"][firsts]))

    def step(self, shift: int, weight: list[Tensor], paired: bool = False):
        return flow_step(
            self.model.denoiser, self.clean, self.condition, self.time(shift), weight, noise=self.noise,
            reference=self.reference if paired else None,
        )  # fmt: skip

    def packed(self, und: Tensor, gen: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per sample: the text-side rows and the latent rows, in the reference's order of each kind."""
        out = []
        for row, (grid, ids) in enumerate(zip(self.grids, self.condition, strict=True)):
            text = und[row, 2 : 2 + len(ids)]
            out.append((torch.cat([text, und[row, :2]]), gen[row, : grid[0] * grid[1]]))
        return out


@pytest.fixture(scope="module")
def batch(bagel: Goldens) -> Batch:
    return Batch(bagel)


def assert_packed(batch: Batch, und: Tensor, gen: Tensor, name: str, skip_text: bool = False) -> None:
    expected = batch.tensors[name]
    parts = batch.packed(und, gen)
    close(
        torch.cat([cells for _, cells in parts]),
        expected[batch.tensors["packed.vae_token_indexes"]],
        f"{name}, latent cells",
    )
    if not skip_text:
        close(torch.cat([text for text, _ in parts]), expected[batch.tensors["packed.text_indexes"]], f"{name}, text")


def test_captions_are_tokenised_and_framed(batch: Batch) -> None:
    for row, ids in enumerate(batch.condition):
        assert ids.tolist() == batch.tensors[f"sample{row}.text_ids"].tolist()


@pytest.mark.parametrize("shift", SHIFTS)
def test_times(batch: Batch, shift: int) -> None:
    per_cell = torch.cat([t.repeat(h * w) for t, (h, w) in zip(batch.time(shift), batch.grids, strict=True)])
    close(per_cell, batch.tensors[f"shift{shift}.timesteps"])


@pytest.mark.parametrize("shift", SHIFTS)
def test_velocities(batch: Batch, shift: int) -> None:
    with torch.no_grad():
        velocity = batch.step(shift, batch.weight).velocity
    close(torch.cat([v.flatten(0, 1) for v in velocity]), batch.tensors[f"shift{shift}.v_theta"])


def test_hidden_states_of_every_layer(batch: Batch) -> None:
    denoiser, seen = batch.model.denoiser, {}
    layers = denoiser.language_model.model.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.__setitem__("llm_input", args[0]))]
    for index, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(lambda _, __, out, i=index: seen.__setitem__(f"layer{i}_output", out)))
    noisy = [(1 - t) * x + t * e for x, e, t in zip(batch.clean, batch.noise, batch.time(1), strict=True)]
    with torch.no_grad():
        seen["last_hidden_state"] = denoiser.hidden(noisy, batch.time(1), batch.condition)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(layers) + 2
    for name, (*plain, gen) in seen.items():
        und = torch.cat(plain[::-1], dim=1)  # a text without a graph travels before its markers
        assert_packed(batch, und, gen, f"shift1.{name}")


@pytest.mark.parametrize("taught", [False, True])
def test_attention_pattern(batch: Batch, taught: bool) -> None:
    """A query sees exactly the tokens whose inputs its attention output has a gradient for, whether or not the text
    travels with the markers, as it does when its weights are trained."""
    attention = batch.model.denoiser.language_model.model.layers[0].self_attn
    for row, (grid, ids) in enumerate(zip(batch.grids, batch.condition, strict=True)):
        allowed = batch.tensors[f"sample{row}.attention_allowed"]
        streams, plan = layer_inputs(batch, row, taught)
        assert len(streams) == (2 if taught else 3)
        inputs = [stream.requires_grad_(True) for stream in streams]

        def in_order(streams):
            *plain, gen = streams
            und = plain[0] if len(plain) == 1 else torch.cat(plain[::-1], dim=1)
            return torch.cat([und[0, 2:], und[0, :1], gen[0], und[0, 1:2]])

        sides = list(zip(plan.angles, plan.experts, strict=True))
        asked = [attention.project(x, angles, expert, True) for x, (angles, expert) in zip(inputs, sides, strict=True)]
        seen = zip(plan.attend(0, asked), plan.experts, strict=True)
        queries = in_order([attention.out(x, expert) for x, expert in seen])
        assert len(queries) == len(ids) + 2 + grid[0] * grid[1] == len(allowed)
        for query, expected in zip(queries, allowed, strict=True):
            grads = torch.autograd.grad(query.abs().sum(), inputs, retain_graph=True)
            assert torch.equal(in_order(grads).abs().sum(1) > 0, expected)


def layer_inputs(batch: Batch, row: int, taught: bool):
    """The first layer's arguments for one sample on its own: streams and plan."""
    kept, denoiser = {}, batch.model.denoiser
    layers = denoiser.language_model.model.layers
    hook = layers[0].register_forward_pre_hook(lambda _, args: kept.update(args=args))
    layers.requires_grad_(taught)
    denoiser.hidden([batch.clean[row]], batch.time(1)[row : row + 1], [batch.condition[row]])
    layers.requires_grad_(False)
    hook.remove()
    streams, plan, _ = kept["args"]
    return [stream.detach().clone() for stream in streams], plan


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("mode", ["self", "pair"])
@pytest.mark.parametrize("signed", [False, True])
def test_losses(batch: Batch, shift: int, mode: str, signed: bool) -> None:
    expected, prefix = batch.facts["losses"][f"shift{shift}.{mode}"], "signed_" if signed else ""
    weight = [2 * w - 1 if signed else w for w in batch.weight]
    loss = SrumLoss(SrumOptions(constraint=batch.facts["lambda"]))
    with torch.no_grad():
        total, parts = loss(batch.step(shift, weight, paired=mode == "pair"))
    assert float(total) == pytest.approx(expected[f"{prefix}total_lambda_0p5"], rel=2e-5)
    assert float(parts["reward"]) == pytest.approx(expected[f"{prefix}loss_reward"], rel=2e-5)
    assert float(parts["reference"]) == pytest.approx(expected["loss_constraint"], rel=2e-5)


def test_gradients(batch: Batch) -> None:
    """Every tensor's gradient norm, and whole gradients where they are given."""
    denoiser = batch.model.denoiser
    named = {k: v for k, v in denoiser.named_parameters() if k != "latent_pos_embed.pos_embed"}
    for parameter in named.values():
        parameter.requires_grad_(True)
    try:
        loss, _ = SrumLoss(SrumOptions(constraint=batch.facts["lambda"]))(batch.step(1, batch.weight))
        grads = dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))
    finally:
        denoiser.requires_grad_(False)
    scale = max(norm for norm in batch.facts["grad_l2_norm"].values() if norm)
    for key, norm in batch.facts["grad_l2_norm"].items():
        ours = 0.0 if grads.get(key) is None else float(grads[key].norm())
        assert ours == pytest.approx(norm or 0.0, rel=1e-4, abs=1e-5 * scale), key
    for name, expected in batch.tensors.items():
        if name.startswith("grad."):
            close(grads[name.removeprefix("grad.")], expected, name)


def test_full_training_covers_what_gets_a_gradient(batch: Batch) -> None:
    """`recipe.full` is exactly the tensors whose reference gradient is neither absent nor zero."""
    patterns = batch.model.recipe.full
    ours = {k for k, _ in batch.model.denoiser.named_parameters() if any(re.fullmatch(p, k) for p in patterns)}
    assert ours == {key for key, norm in batch.facts["grad_l2_norm"].items() if norm}


def sampling_cases() -> list[str]:
    return list(json.loads((folder() / "sampling.json").read_text())["cases"])


@pytest.mark.parametrize("name", sampling_cases())
def test_sampling(bagel: Goldens, name: str) -> None:
    model, facts, tensors = bagel.model(), bagel.json("sampling"), bagel.tensors("sampling")
    case = facts["cases"][name]
    contexts = Contexts(*(read(model, case[f"context_{kind}"]) for kind in ("cond", "cfg_text", "cfg_img")))
    assert int(contexts.full.position[0]) == case["image_rope_position_cond"]
    rows, columns = facts["image_height"] // model.stride, facts["image_width"] // model.stride
    noise = rearrange(tensors["initial_noise"], "(h w) c -> h w c", h=rows, w=columns)
    steps = []
    latent = sample(model.denoiser, contexts, [noise], sampling(case["settings"]), lambda *each: steps.append(each))[0]
    velocity = torch.stack([branches.used[0] for _, _, branches in steps])
    close(velocity, tensors[f"{name}.velocity"])
    close(torch.tensor([time for time, _, _ in steps]), tensors[f"{name}.timesteps"])
    close(unpatchify(latent[None], model.patch), tensors[f"{name}.final_latent_grid"])
    for step, (_, x, branches) in enumerate(steps):
        if f"{name}.x_per_step" in tensors:
            close(x[0], tensors[f"{name}.x_per_step"][step])
        if f"{name}.velocity_cond" in tensors:
            close(branches.full[0], tensors[f"{name}.velocity_cond"][step])
        for kind, ours in (("cfg_text", branches.textless), ("cfg_img", branches.imageless)):
            if f"{name}.step{step}.velocity_{kind}" in tensors:
                close(ours[0], tensors[f"{name}.step{step}.velocity_{kind}"])
        scales = case["effective_scales"][step]
        assert (branches.textless is not None) == (scales["text"] > 1)
        assert (branches.imageless is not None) == (scales["img"] > 1)
    if f"{name}.decoded" in tensors:
        image = model.decode([latent])[0]
        close(image[None], tensors[f"{name}.decoded"])
        levels = torch.tensor(np.asarray(to_image(image)).tolist()).reshape(tensors[f"{name}.image_uint8"].shape)
        assert (levels - tensors[f"{name}.image_uint8"].int()).abs().max() <= 1


def test_sampling_many_at_once_equals_one_by_one(bagel: Goldens) -> None:
    """All cases with the same settings in one batch (contexts of different lengths) draw what each draws alone."""
    model, facts, tensors = bagel.model(), bagel.json("sampling"), bagel.tensors("sampling")
    rows = facts["image_height"] // model.stride
    noise = rearrange(tensors["initial_noise"], "(h w) c -> h w c", h=rows)
    prompts = ["a", *(case["context_cond"][-1] for case in facts["cases"].values())][:4]
    settings = sampling(next(iter(facts["cases"].values()))["settings"])
    noises = [noise.roll(shift, 0) for shift in range(len(prompts))]
    together = sample(model.denoiser, model.generation_contexts(prompts, [""] * len(prompts)), noises, settings)
    for prompt, start, ours in zip(prompts, noises, together, strict=True):
        close(ours, sample(model.denoiser, model.generation_contexts([prompt], [""]), [start], settings)[0])


def test_editing(bagel: Goldens) -> None:
    """An image in the context: as clean latent, as looked-at image, then the request."""
    if not bagel.has("sampling_edit.json"):
        return
    facts, tensors = bagel.json("sampling_edit"), bagel.tensors("sampling_edit")
    model = bagel.model(facts["vae_transform"], facts["vit_transform"])
    image = bagel.image(tensors["image_resized_uint8"])
    latent = model.autoencoder.encode(to_tensor(image)[None], tensors["vae_encode_noise"])
    grid = rearrange(latent[0], "c (h p) (w q) -> h w (p q c)", p=model.patch, q=model.patch)

    def context(images: bool, text: bool):
        out = model.denoiser.context(1)
        if images:
            clean = model.denoiser.block(out, [grid])  # as latent cells at time 0
            model.denoiser.velocity(clean, [grid], torch.zeros(1))
            clean.keep(torch.ones_like(out.position))
            model.denoiser.read_image(out, model.look([image]))
        if text:
            model.denoiser.read_text(out, [model.chat.frame(facts["text"])])
        return out

    with torch.no_grad():
        contexts = Contexts(context(True, True), context(True, False), context(False, True))
    assert model.chat.frame(facts["text"]).tolist() == facts["ids"]
    assert int(contexts.full.position[0]) == facts["rope_position"]
    noise = rearrange(tensors["initial_noise"], "(h w) c -> h w c", h=facts["height"] // model.stride)
    steps = []
    out = sample(model.denoiser, contexts, [noise], sampling(facts["settings"]), lambda *each: steps.append(each))[0]
    first = steps[0][2]
    for kind, ours in (("cond", first.full), ("cfg_text", first.textless), ("cfg_img", first.imageless)):
        close(ours[0], tensors[f"step0.velocity_{kind}"], kind)
    close(torch.stack([branches.used[0] for _, _, branches in steps]), tensors["velocity"])
    close(unpatchify(out[None], model.patch), tensors["final_latent_grid"])
    close(model.decode([out])[0][None], tensors["decoded"])


def test_time_grids(bagel: Goldens) -> None:
    for case in bagel.json("schedules"):
        grid = time_grid(case["num_timesteps"], case["shift"])
        close(grid[:-1], torch.tensor(case["evaluated"]))
        close(grid[:-1] - grid[1:], torch.tensor(case["step_sizes"]), tolerance=1e-5)


def autoencoder_cases() -> list[str]:
    with safe_open(folder() / "vae.safetensors", framework="pt") as file:
        return sorted({re.split(r"\.", key)[0] for key in file.keys()})  # noqa: SIM118


@pytest.mark.parametrize("name", autoencoder_cases())
@torch.no_grad()
def test_autoencoder(bagel: Goldens, name: str) -> None:
    net, tensors = bagel.model().autoencoder, bagel.tensors("vae")
    image = tensors[f"{name}.image"]
    close(torch.cat(net.posterior(image), dim=1), tensors[f"{name}.encoder_output"])
    close(net.encode(image), tensors[f"{name}.latent_mean"])
    close(net.encode(image, tensors[f"{name}.noise"]), tensors[f"{name}.latent_sampled"])
    close(net.decode(tensors[f"{name}.latent_mean"]), tensors[f"{name}.decoded_from_mean"])


def test_sizes_read_from_the_weights(bagel: Goldens) -> None:
    """What the published layout leaves to code is found in the shapes of the weights."""
    stated, generated = bagel.json("bagel_config"), bagel.json("vae_config")
    model = bagel.model()
    sizes = model.autoencoder.sizes
    assert sizes.widths == tuple(generated["ch"] * m for m in generated["ch_mult"])
    assert (sizes.blocks, sizes.channels, sizes.factor) == (
        generated["num_res_blocks"],
        generated["z_channels"],
        generated["downsample"],
    )
    assert (model.patch, model.denoiser.side) == (stated["latent_patch_size"], stated["max_latent_size"])
    assert model.eye.side == stated["vit_max_num_patch_per_side"]


def read(model, texts: list[str]):
    return model.read(*[[text] for text in texts]) if texts else model.denoiser.context(1)


def sampling(settings: dict) -> Sampling:
    return Sampling(
        steps=settings["num_timesteps"],
        shift=settings["timestep_shift"],
        guidance=settings["cfg_text_scale"],
        image_guidance=settings["cfg_img_scale"],
        interval=tuple(settings["cfg_interval"]),
        renorm=settings["cfg_renorm_type"],
        renorm_min=settings["cfg_renorm_min"],
    )
