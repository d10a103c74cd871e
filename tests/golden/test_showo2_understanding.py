"""Reading images and answering with Show-o2 against the reference implementation's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_sets import image
from showo2_goldens import cases, close, grids, latents, model, need, part, read_json, tensors
from torch import Tensor

from srum_core.models.generation import Reply, speak
from srum_core.models.tensors import to_tensor
from srum_showo2.denoiser import attention_mask
from srum_showo2.understanding import View, ask, cropped, padded

pytestmark = pytest.mark.golden
VARIANTS = cases("understanding")
LATENTS = {"script": "latent_sampled", "script_mean": "latent_mean", "trained": "latent_mean_pad"}
"""What each variant feeds; without one it is a question about no image."""


def test_there_is_a_set() -> None:
    need()
    assert VARIANTS
    assert {variant for variant in VARIANTS if "block_start" in read_json("understanding")[variant]} <= LATENTS.keys()


def test_images_are_prepared() -> None:
    stored, side = tensors("understanding"), read_json("understanding")["resolution"]
    raw = [name for name in stored if name.startswith("raw") and name.count("_") == 1]
    assert raw
    for name in raw:
        prefix = "" if name == "raw_uint8" else f"{name.removesuffix('_uint8')}_"
        original = image(stored[name])
        for made, kind in ((cropped(original, (side, side)), "crop"), (padded(original, side), "pad")):
            assert np.array_equal(np.asarray(made), stored[f"{prefix}pixels_{kind}_uint8"].numpy()), (name, kind)


def test_latents_of_what_is_seen() -> None:
    stored, one = tensors("understanding"), model()
    pixels = {kind: to_tensor(image(stored[f"pixels_{kind}_uint8"])) for kind in ("crop", "pad")}
    with torch.no_grad():
        close(latents(one.encode_pixels([pixels["crop"]])), stored["latent_mean"], "latent_mean")
        close(latents(one.encode_pixels([pixels["pad"]])), stored["latent_mean_pad"], "latent_mean_pad")
        sampled = one.autoencoder.encode(pixels["crop"][None], stored["vae_noise"])
    close(sampled, stored["latent_sampled"], "latent_sampled")


def asked(variant: str) -> tuple[View, list[int]]:
    """The image as a variant feeds it (or none), and the ids of the question behind it."""
    about, one, script = read_json("understanding"), model(), variant.startswith("script")
    question = one.words.question(about["question"], trained=not script, image=variant in LATENTS)
    if variant not in LATENTS:
        return View.nothing(one.denoiser, 1), [*one.words.before(image=False), *question]
    with torch.no_grad():
        view = View.of(one.denoiser, one.words.frame, grids(tensors("understanding")[LATENTS[variant]]), late=script)
    return view, question


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_row(variant: str) -> None:
    """Ids, what the language model receives, and who sees whom."""
    stored, about = part(tensors("understanding"), variant), read_json("understanding")[variant]
    one, (view, question) = model(), asked(variant)
    embed = one.denoiser.showo.model.embed_tokens
    with torch.no_grad():
        embeds = torch.cat([view.embeds, embed(torch.tensor([question]))], dim=1)
    sequence, columns = stored["sequence"].tolist(), view.real.shape[1]
    assert sequence[columns:] == question
    if "block_start" in about:
        assert sequence[: about["time_token"]] == one.words.before()
        assert sequence[columns - 1] == one.words.special["<|vision_end|>"]
        start, length = about["block_start"], about["block_length"]
        assert view.block[0].nonzero().flatten().tolist() == list(range(start, start + length))
        if "image_embeds" in stored:
            close(embeds[:, about["time_token"] + 1 : columns - 1], stored["image_embeds"], "image_embeds")
    if "inputs_embeds" in stored:
        close(embeds, stored["inputs_embeds"], "inputs_embeds")
    if "attention_allowed" in stored:
        block = torch.cat([view.block, torch.zeros(1, len(question), dtype=torch.long)], dim=1)
        mask = attention_mask(torch.ones_like(block).bool(), block)[0, 0]
        assert torch.equal(mask, stored["attention_allowed"])
    if "sequence_with_answer" in stored:  # the row of training goes on with an answer, and only that is learned
        assert stored["sequence_with_answer"][: len(sequence)].tolist() == sequence
        assert (stored["labels"][: len(sequence)] == -100).all()
    known = {"sequence", "inputs_embeds", "image_embeds", "attention_allowed", "logits", "prompt_logits",
             "greedy_tokens", "sequence_with_answer", "labels"}  # fmt: skip
    assert stored.keys() <= known


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers(variant: str) -> None:
    """Logits of the prompt and of every new token, with a cache, and the likeliest tokens."""
    stored, about = part(tensors("understanding"), variant), read_json("understanding")[variant]
    one, (view, question), steps = model(), asked(variant), list[Tensor]()
    with torch.no_grad():
        given, seen, received = ask(one.denoiser, view, [0], [question])
        prompt = one.denoiser.showo.lm_head(torch.cat([seen, received], dim=1))
    said = speak(  # the set was made without a token that stops
        one.denoiser.showo, given, [Reply(read_json("understanding")["new_tokens"])], [-1], 0,
        lambda logits: steps.append(logits.clone()),
    )  # fmt: skip
    if "prompt_logits" in stored:
        close(torch.cat([prompt[0], steps[0]]), stored["prompt_logits"], "prompt_logits")
    close(torch.cat(steps), stored["logits"], "logits")
    assert said[0] == stored["greedy_tokens"].tolist()
    assert one.words.tokenizer.decode(said[0], skip_special_tokens=True) == about["greedy_text"]


def test_questions_share_a_batch() -> None:
    """About two images, and two about one of them, of different lengths."""
    stored, one, count = tensors("understanding"), model(), read_json("understanding")["new_tokens"]
    expected = stored["trained.greedy_tokens"].tolist()
    # The set was made without a token that stops.
    unsaid = next(token for token in range(len(one.words.tokenizer)) if token not in expected)
    feeds = [stored[LATENTS[variant]] for variant in ("trained", "script_mean")]
    question = one.words.question(read_json("understanding")["question"])
    rows = [one.words.question("what?"), question, question]
    with torch.no_grad():
        view = View.of(one.denoiser, one.words.frame, grids(torch.cat(feeds)))
        given, _, _ = ask(one.denoiser, view, [0, 1, 0], rows)
    said = speak(one.denoiser.showo, given, [Reply(count), Reply(2), Reply(count)], [unsaid], unsaid)
    assert said[2] == expected
    assert len(said[1]) == 2


def test_the_settings_choose_the_variant() -> None:
    stored = tensors("understanding")
    original = image(stored["raw_uint8"])
    for setting, kind, variant in (("trained", "pad", "trained"), ("script", "crop", "script_mean")):
        one: Any = model(understanding=setting)
        assert np.array_equal(np.asarray(one.seen(original)), stored[f"pixels_{kind}_uint8"].numpy())
        with torch.no_grad():
            view = one.view([original])
        expected = stored[f"{variant}.inputs_embeds"][:, : view.real.shape[1]]
        close(view.embeds, expected, variant)
        assert int(view.block[0].argmax()) == read_json("understanding")[variant]["block_start"]
