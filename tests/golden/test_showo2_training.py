"""Show-o2's checkpoint, words and training forward against the reference implementation's tensors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from golden_sets import image
from showo2_goldens import (
    cases,
    close,
    folder,
    grids,
    latents,
    model,
    need,
    part,
    read_json,
    same_levels,
    tensors,
)
from torch import Tensor

from srum_core.flow import FlowStep, Schedule, flow_step
from srum_core.models.tensors import to_tensor
from srum_core.models.weights import read_tensors
from srum_losses import SrumOptions
from srum_losses.objectives import SrumLoss
from srum_showo2.autoencoder import converted
from srum_showo2.denoiser import attention_mask
from srum_showo2.model import training_shift

pytestmark = pytest.mark.golden
CASES = cases("train_forward")


def test_there_is_a_set() -> None:
    need()
    assert CASES


# ---- checkpoint ------------------------------------------------------------------------------------------------------


def test_every_key_and_shape() -> None:
    keys = read_json("keys")
    ours = {name: list(each.shape) for name, each in model().denoiser.state_dict().items()}
    assert ours == keys["state_dict"]
    original = {name: torch.empty(shape, device="meta") for name, shape in keys["vae"].items()}
    ours = {name: each.shape for name, each in model().autoencoder.net.state_dict().items()}
    assert ours == {name: each.shape for name, each in converted(original).items()}
    assert keys["vae"].keys() == read_tensors(folder() / "checkpoint" / "Wan2.1_VAE.pth").keys()


def test_sizes() -> None:
    stated, sizes = read_json("sizes"), model().denoiser.sizes
    language, semantic, head = sizes.language, sizes.semantic, sizes.head
    for config, said in ((language, stated["llm"]), (head, stated["flow_head"])):
        assert (config.hidden_size, config.num_hidden_layers) == (said["hidden"], said["layers"])
        assert (config.num_attention_heads, config.num_key_value_heads) == (
            said["heads"],
            said.get("kv_heads", said.get("kv")),
        )
        assert config.intermediate_size == said.get("mlp", said.get("inter"))
    assert language.vocab_size == stated["llm"]["vocab_rows"]
    assert head.head_dim == stated["flow_head"]["head_dim"]
    said = stated["semantic_layers"]
    assert (semantic.hidden_size, semantic.num_hidden_layers) == (said["hidden"], said["layers_in_checkpoint"])
    assert (semantic.num_attention_heads, semantic.intermediate_size) == (said["heads"], said["mlp"])
    assert sizes.side**2 == said["positions"]
    count = sum(each.numel() for each in model().denoiser.parameters())
    assert count == stated["parameters"]["model"]
    assert sum(each.numel() for each in model().autoencoder.parameters()) == stated["parameters"]["vae"]
    assert (sizes.channels, model().autoencoder.net.config.base_dim) == (stated["vae"]["z"], stated["vae"]["dim"])


# ---- words and rules -------------------------------------------------------------------------------------------------


def test_token_ids() -> None:
    words, ids = model().words, read_json("token_ids")
    vocabulary = words.tokenizer.get_vocab()
    names = {
        "bos_id": "<|im_start|>", "eos_id": "<|im_end|>", "boi_id": "<|vision_start|>", "eoi_id": "<|vision_end|>",
        "bov_id": "<|vid_start|>", "eov_id": "<|vid_end|>", "img_pad_id": "<|image_pad|>",
        "vid_pad_id": "<|video_pad|>", "img_id": "<image>", "pad_id": "[PAD]",
    }  # fmt: skip
    for name, expected in ids.items():
        found = len(words.tokenizer) if name == "len_tokenizer" else vocabulary[names[name]]
        assert found == expected, name


def test_tokenization() -> None:
    words = model().words
    assert read_json("tokenization")
    for case in read_json("tokenization"):
        assert words.ids(case["text"]) == case["ids"], case["text"]
        assert words.tokenizer.decode(case["ids"]) == case["decoded"]
        assert words.tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_without_special"]


def test_sequences() -> None:
    """What precedes the image block, and the block's length; no token attends to what follows it."""
    about = read_json("sequences")
    assert model().words.limit == about["max_text_len"]
    start, image_start = model().words.markers
    special = set(model().words.tokenizer.get_added_vocab().values())
    for case in about["generation"]:
        for text, ids, begin in (
            (case["prompt"], case["ids"], case["block_start"]),
            (None, case["ids_null"], case["block_start_null"]),
        ):
            caption = model().words.caption(text).tolist()
            assert [start, *caption, image_start] == ids[:begin], text
            assert len(set(ids[begin : begin + case["block_length"]])) == 1
            if text is not None and not special & set(caption):  # read without control tokens it is the same
                assert model(control_tokens=False).words.caption(text).tolist() == caption
        assert case["block_length"] == about["flow_tokens_with_time"]


def test_masks() -> None:
    assert read_json("masks")
    for case in read_json("masks"):
        block = torch.zeros(1, case["length"], dtype=torch.long)
        for number, (start, length) in enumerate(case["blocks"], 1):
            block[:, start : start + length] = number
        mask = attention_mask(torch.ones_like(block).bool(), block)[0, 0]
        assert ["".join(str(int(each)) for each in row) for row in mask] == case["allowed"]


def test_training_times() -> None:
    assert read_json("schedules")["training"]
    for case in read_json("schedules")["training"]:
        shift = training_shift(case["flow_tokens_with_time"])
        assert shift == pytest.approx(case["shift"], rel=1e-5)
        times = Schedule("logit-normal", shift).warp(1 - torch.tensor(case["u"]).sigmoid())
        close(times, torch.tensor(case["time"]), "time")
        close(1 - times, torch.tensor(case["t_ref"]), "t_ref")


def test_position_tables_and_the_order_of_answers() -> None:
    stored, sizes = tensors("tables"), model().denoiser.sizes
    names = {name for name in stored if name.startswith("positions_")}
    assert stored.keys() == names | {"order.latent", "order.tokens"}
    for name in names:
        rows, columns = map(int, name.removeprefix("positions_").split("x"))
        close(model().denoiser.positions(rows, columns).detach(), stored[name], name)
    expected = stored["order.latent"]
    rows, columns = (side // sizes.patch for side in expected.shape[-2:])
    ours = latents([model().denoiser.assemble(each, rows, columns) for each in stored["order.tokens"]])
    assert torch.equal(ours, expected)


# ---- the training forward --------------------------------------------------------------------------------------------


def step(case: str, train: str = "head", weight: list[Tensor] | None = None) -> FlowStep:
    """One training step of the core on the set's own latents, noise and times."""
    stored, one = part(tensors("train_forward"), case), model(train)
    prompts = [prompt or None for prompt in read_json("train_forward")[case]["prompts"]]
    return flow_step(
        one.denoiser, grids(stored["latent"]), one.condition(prompts), stored["time"], weight,
        noise=grids(stored["noise"]),
    )  # fmt: skip


def watched(case: str) -> tuple[FlowStep, dict[str, Any]]:
    """A step, and what its modules were given and gave."""
    found: dict[str, Any] = {}
    denoiser = model().denoiser

    def keep(name: str) -> Any:
        def hook(_: Any, given: Any, out: Any) -> None:
            found[name] = getattr(out, "last_hidden_state", out)

        return hook

    modules = {
        "gen_tokens": denoiser.image_embedder_gen, "und_tokens": denoiser.und_trans,
        "image_embeds": denoiser.fusion_proj, "time_embed": denoiser.time_embed,
        "time_embed_proj": denoiser.time_embed_proj, "llm_hidden": denoiser.showo.model,
        "head_input": denoiser.diff_proj, "head_output_tokens": denoiser.diffusion_head_b,
        **{f"head_block{index}": block for index, block in enumerate(denoiser.diffusion_head_a)},
    }  # fmt: skip
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    hooks.append(
        denoiser.showo.model.register_forward_pre_hook(
            lambda _, given, kw: found.update(inputs_embeds=kw["inputs_embeds"], mask=kw["attention_mask"]),
            with_kwargs=True,
        )
    )
    with torch.no_grad():
        done = step(case)
    for hook in hooks:
        hook.remove()
    return done, found


def columns(case: str) -> list[list[int]]:
    """Our columns of each row of the reference up to the image block's end: our texts are padded before the block."""
    stored, about = part(tensors("train_forward"), case), read_json("train_forward")[case]
    starts, block = stored["image_start"].tolist(), about["flow_tokens_with_time"]
    text = max(starts)
    return [[*range(start), *range(text, text + block)] for start in starts]


@pytest.mark.parametrize("case", CASES)
def test_pixels_become_latents(case: str) -> None:
    stored = part(tensors("train_forward"), case)
    one = model()
    encoded = one.encode_pixels([to_tensor(image(each)) for each in stored["pictures_uint8"]])
    close(latents(encoded), stored["latent"], "latent")


@pytest.mark.parametrize("case", CASES)
def test_every_intermediate(case: str) -> None:
    """All tensors of the file: rows up to the end of the image block, or what each step gives."""
    stored, about = part(tensors("train_forward"), case), read_json("train_forward")[case]
    done, found = watched(case)
    rows, block = columns(case), about["flow_tokens_with_time"]
    starts = stored["image_start"].tolist()
    velocity, target = torch.stack(done.velocity), torch.stack(done.target)
    error = (velocity - target).square()
    per_pixel = (latents(done.velocity) - latents(done.target)).square().mean(1)
    times = stored["time"][:, None, None, None]
    ours = {
        "velocity": latents(done.velocity), "velocity_ref": -latents(done.velocity), "velocity_cells": velocity,
        "target": latents(done.target), "target_ref": -latents(done.target),
        "noisy": (1 - times) * stored["latent"] + times * stored["noise"],
        "sq_err": per_pixel, "sq_err_cells": error.mean(-1), "loss": error.mean(),
        "t_ref": 1 - stored["time"],
        "time": Schedule("logit-normal", training_shift(block)).warp(1 - stored["u"].sigmoid()),
        "positions_added": model().denoiser.positions(*about["grid"]).detach(),
        **{name: found[name] for name in ("gen_tokens", "und_tokens", "image_embeds", "time_embed", "time_embed_proj",
                                          "head_output_tokens") if name in found},
    }  # fmt: skip
    by_row = {name: each for name, each in found.items() if name in ("inputs_embeds", "llm_hidden", "head_input")}
    by_row |= {name: each for name, each in found.items() if name.startswith("head_block")}
    # Given to the step, or compared elsewhere.
    other = {"latent", "noise", "u", "pictures_uint8", "real_length", "image_start", "text_tokens", "text_mask",
             "image_mask", "attention_allowed"}  # fmt: skip
    compared = set()
    for name, expected in stored.items():
        if name.startswith(("grad.", "weighted.")):
            continue
        compared.add(name)
        if name in by_row:
            for row, (place, start) in enumerate(zip(rows, starts, strict=True)):
                close(by_row[name][row, place], expected[row, : start + block], f"{name} of row {row}")
        elif name not in other:
            close(ours[name], expected, name)
    assert {"velocity", "velocity_cells", "loss", "noisy"} <= compared
    for row, (place, start) in enumerate(zip(rows, starts, strict=True)):
        allowed = stored["attention_allowed"][row, : start + block, : start + block]
        assert torch.equal(found["mask"][row, 0][place][:, place], allowed)
        assert start + block <= stored["real_length"][row]
        marked = stored["image_mask"][row].bool()
        assert marked.nonzero().flatten().tolist() == list(range(start, start + block))
        assert stored["text_mask"][row, :start].all()
        prompt = read_json("train_forward")[case]["prompts"][row]
        first, second = model().words.markers
        caption = model().words.caption(prompt or None).tolist()
        assert [first, *caption, second] == stored["text_tokens"][row, :start].tolist()
    assert error.mean().item() == pytest.approx(about["loss"], rel=1e-5)
    assert training_shift(block) == pytest.approx(about["shift_of_training_times"], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_an_image_alone_has_the_same_velocity(case: str) -> None:
    stored, one = part(tensors("train_forward"), case), model()
    prompts = read_json("train_forward")[case]["prompts"]
    for row, grid in enumerate(grids(stored["noisy"])):
        with torch.no_grad():
            (alone,) = one.denoiser([grid], stored["time"][row : row + 1], one.condition([prompts[row] or None]))
        close(alone, stored["velocity_cells"][row], f"row {row}")


def test_all_cases_share_a_batch() -> None:
    """Grids of all shapes and captions of all lengths at once."""
    one, noisy, times, prompts, expected = model(), [], [], [], []
    for case in CASES:
        stored = part(tensors("train_forward"), case)
        noisy += grids(stored["noisy"])
        times.append(stored["time"])
        prompts += [prompt or None for prompt in read_json("train_forward")[case]["prompts"]]
        expected += list(stored["velocity_cells"])
    with torch.no_grad():
        found = one.denoiser(noisy, torch.cat(times), one.condition(prompts))
    for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        close(ours, theirs, f"row {row}")


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradients(loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that the velocity depends on."""
    named = dict(model("all").denoiser.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}


@pytest.fixture
def trained() -> Any:
    model("all").denoiser.requires_grad_(True)
    yield
    model("all").denoiser.requires_grad_(False)


def check_gradients(grads: dict[str, Tensor], norms: dict[str, float | None], tensors: dict[str, Tensor]) -> None:
    """Every norm and every stored gradient; names without one are not reached here either."""
    assert {name for name, norm in norms.items() if norm is not None} == grads.keys()
    for name, norm in norms.items():
        if norm is not None:
            # A key bias without rotation changes nothing: its gradient is rounding (the set's own words).
            rounding = re.fullmatch(r"und_trans\..*k_proj\.bias", name) is not None
            assert float(grads[name].norm()) == pytest.approx(norm, rel=2e-5, abs=1e-5 if rounding else 0), name
    for name, expected in tensors.items():
        close(grads[name], expected, name)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case: str, trained: None) -> None:
    about = read_json("train_forward")[case]
    done = step(case, "all")
    grads = gradients((torch.stack(done.velocity) - torch.stack(done.target)).square().mean())
    check_gradients(grads, about["grad_norms"], part(tensors("train_forward"), f"{case}.grad"))
    total = torch.stack([grad.norm() for grad in grads.values()]).norm()
    assert float(total) == pytest.approx(about["grad_norm_total"], rel=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_weighted_loss_and_its_gradients(case: str, trained: None) -> None:
    """α·R + λ through the core's step and the losses' own code."""
    stored, about = part(tensors("train_forward"), f"{case}.weighted"), read_json("train_forward")[case]["weighted"]
    weight = list(stored["alpha"][:, None, None] * stored["reward_map"])
    loss, _ = SrumLoss(SrumOptions(constraint=float(stored["lambda"])))(step(case, "all", weight))
    close(loss, stored["loss"], "weighted loss")
    assert loss.item() == pytest.approx(about["loss"], rel=2e-5)
    check_gradients(gradients(loss), about["grad_norms"], part(stored, "grad"))


def test_what_each_setting_trains() -> None:
    """All that gets a gradient; what the first published stage does not freeze; or the head alone."""
    about = read_json("train_forward")
    names = about[CASES[0]]["grad_norms"]

    def trained(train: str) -> set[str]:
        patterns = model(train).recipe.full
        return {name for name in names if any(re.fullmatch(each, name) for each in patterns)}

    assert trained("all") == {name for name, norm in names.items() if norm is not None}
    assert trained("stage-1") == {
        name for name in names if not any(frozen in name for frozen in about["frozen_in_stage_1"])
    }
    assert trained("head") == {name for name in names if name.startswith(("diff_proj", "diffusion_head_"))}


# ---- the autoencoder -------------------------------------------------------------------------------------------------


VAE_CASES = sorted({name.split(".")[0] for name in tensors("vae") if "." in name}) if CASES else []


@pytest.mark.parametrize("case", VAE_CASES)
def test_autoencoder(case: str) -> None:
    stored, vae = part(tensors("vae"), case), model().autoencoder
    pixels = to_tensor(image(stored["image_uint8"]))[None]
    with torch.no_grad():
        ours = {
            "encoder_output": vae.net.encoder(pixels[:, :, None])[:, :, 0],
            "moments": vae.moments(pixels),
            "latent_mean": vae.encode(pixels),
            "latent_sampled": vae.encode(pixels, stored["noise"]),
            "decoded_from_mean": vae.decode(stored["latent_mean"]),
        }
        for name, found in ours.items():
            close(found, stored[name], name)
    same_levels(ours["decoded_from_mean"], stored["decoded_uint8"])
    assert stored.keys() == {*ours, "noise", "image_uint8", "decoded_uint8"}


def test_constants_of_the_latents() -> None:
    stored, config = tensors("vae"), model().autoencoder.net.config
    close(torch.tensor(config.latents_mean), stored["mean"], "mean")
    close(torch.tensor(config.latents_std), stored["std"], "std")
