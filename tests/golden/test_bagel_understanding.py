"""Tokenisation, image sizes, the image tower and text generation against the reference implementation."""

from __future__ import annotations

import json

import pytest
import torch
from bagel_goldens import Goldens, close, folder

from srum_bagel.attention import Context, Segment
from srum_bagel.sampling import next_logits, speak
from srum_bagel.vision import SizeRule
from srum_core.models.generation import Reply
from srum_core.models.tensors import to_tensor
from srum_core.records import Question

pytestmark = pytest.mark.golden


def test_tokenisation(bagel: Goldens) -> None:
    chat = bagel.model().chat
    special = [chat.tokenizer.decode([i]) for i in (chat.bos, chat.eos, *chat.markers)]
    for case in bagel.json("tokenization"):
        ids = chat.tokenizer(case["text"], add_special_tokens=False)["input_ids"]
        assert ids == case["ids"]
        assert chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == case["decoded"]
        if not any(token in case["text"] for token in special):
            assert chat.ids(case["text"]) == case["ids"]
        else:
            assert not {chat.bos, chat.eos, *chat.markers} & set(chat.ids(case["text"])), (
                "a prompt must not inject control tokens"
            )


def test_special_ids(bagel: Goldens) -> None:
    info, chat = bagel.json("info"), bagel.model().chat
    stated = info["special_token_ids"]
    assert (chat.bos, chat.eos, *chat.markers) == tuple(
        stated[k] for k in ("bos_token_id", "eos_token_id", "start_of_image", "end_of_image")
    )
    assert chat.size == info["tokenizer_len"]


NOWHERE = (torch.empty(0), torch.empty(0))
"""Angles: attention itself needs none."""


def test_attention_patterns(bagel: Goldens) -> None:
    """Zero queries and keys make attention a mean; one-hot values then show which tokens it is over."""
    cases = bagel.json("masks_and_sizes")["attention_masks"]
    assert cases
    for case in cases:
        total = sum(length for _, length in case["splits"])
        cpu = torch.device("cpu")
        context = Context.empty([cpu], 1, 1, total, torch.float32, cpu)
        values, rows = torch.eye(total)[None, None], []
        order = []
        for mode, length in case["splits"]:
            own = slice(len(rows), len(rows) + length)
            plan = Segment(context, [("", NOWHERE)], torch.ones(1, length, dtype=torch.bool), mode == "causal", [True])
            zero = torch.zeros(1, 1, length, total)
            (seen,) = plan.attend(0, [(zero, zero, values[:, :, own])])
            rows += ["".join("01"[bool(x > 0)] for x in row) for row in seen[0, 0]]
            order.append(mode)
            if mode != "noise":
                plan.keep(torch.ones(1, dtype=torch.long))
        assert rows == case["allowed"], order


def test_image_sizes(bagel: Goldens) -> None:
    cases = bagel.json("masks_and_sizes")["image_sizes"]
    assert cases
    for case in cases:
        rule = SizeRule(case["max"], case["min"], case["stride"], case["max_pixels"])
        assert rule(case["width"], case["height"]) == (case["out_width"], case["out_height"]), case


def test_resizes_and_patches(bagel: Goldens) -> None:
    model, tensors = bagel.model(), bagel.tensors("understanding")
    first = model.generated_size.resize(bagel.image(tensors["raw_image_uint8"]))
    close(to_tensor(first), to_tensor(bagel.image(tensors["resized_image_uint8"])), tolerance=0)
    pixels = to_tensor(model.seen_size.resize(first))
    close(pixels, tensors["pixel_values"], tolerance=1e-5)
    patches, positions = model.eye.patches(pixels)
    close(patches, tensors["vit_patches"], tolerance=1e-5)
    assert positions.tolist() == tensors["vit_position_ids"].tolist()


@torch.no_grad()
def test_tower_and_connector(bagel: Goldens) -> None:
    eye, tensors = bagel.model().eye, bagel.tensors("understanding")
    patches, positions = eye.patches(tensors["pixel_values"])
    tower = eye.vit_model(patches[None], positions[None], torch.ones(1, len(patches), dtype=torch.bool))
    close(tower[0], tensors["vit_output"])
    close(eye.connector(tower)[0], tensors["connector_output"])
    close(eye([tensors["pixel_values"]])[0], tensors["vit_tokens_in_llm"])


def conversations() -> list[str]:
    facts = json.loads((folder() / "understanding.json").read_text())
    return [name for name, value in facts.items() if "fed_tokens" in value]


def read(bagel: Goldens, name: str):
    model, facts = bagel.model(), bagel.json("understanding")[name]
    context = model.denoiser.context(1)
    for text in facts["context_text_before"]:
        model.denoiser.read_text(context, [model.chat.frame(text)])
    if facts["has_image"]:
        raw = bagel.image(bagel.tensors("understanding")["raw_image_uint8"])
        model.denoiser.read_image(context, model.look([raw]))
    for text in facts["context_text_after"]:
        model.denoiser.read_text(context, [model.chat.frame(text)])
    return model, facts, context


@pytest.mark.parametrize("name", conversations())
@torch.no_grad()
def test_logits(bagel: Goldens, name: str) -> None:
    model, facts, context = read(bagel, name)
    assert int(context.valid[0, : context.used].sum()) == facts["kv_len_before_generation"]
    assert int(context.position[0]) == facts["rope_position_of_start_token"]
    logits = torch.cat([next_logits(model.denoiser, context, [token]) for token in facts["fed_tokens"]])
    tensors = bagel.tensors("understanding")
    close(logits, tensors[f"{name}.logits"])
    assert logits.argmax(-1).tolist() == tensors[f"{name}.greedy_tokens"].tolist()


@pytest.mark.parametrize("name", conversations())
@torch.no_grad()
def test_greedy_text(bagel: Goldens, name: str) -> None:
    model, facts, context = read(bagel, name)
    # The reference returns what it fed, so the token sampled in the last step is not part of its text.
    said = speak(model.denoiser, model.chat, lambda _: context, [Reply(len(facts["fed_tokens"]) - 1)])[0]
    assert model.chat.text(said) == facts["reference_text"]


def test_answers_many_at_once_equal_one_by_one(bagel: Goldens, tmp_path) -> None:
    """Questions and images of different sizes in one batch, each row stopping on its own."""
    model, tensors = bagel.model(), bagel.tensors("understanding")
    raw = bagel.image(tensors["raw_image_uint8"])
    raw.save(tmp_path / "a.png")
    raw.resize((raw.width // 2, raw.height)).save(tmp_path / "b.png")
    asked = [text for name in conversations() for text in bagel.json("understanding")[name]["context_text_after"]]
    questions = [
        Question(tmp_path / "a.png", asked[0], max_new_tokens=8),
        Question(tmp_path / "b.png", "short?", max_new_tokens=3),
        Question(tmp_path / "a.png", "Which colour is it?", max_new_tokens=6, think=True),
        Question(tmp_path / "a.png", asked[0], crop=(0.1, 0.2, 0.7, 0.9), max_new_tokens=5),
    ]
    assert model.answer(questions) == [model.answer([question])[0] for question in questions]
