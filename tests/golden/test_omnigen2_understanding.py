"""Answering with OmniGen2's language model against the reference implementation's tensors."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from omnigen2_goldens import close, folder, image, model, need, read_json, tensors, user_text
from torch import Tensor

from srum_core.models.generation import Reply, speak
from srum_core.models.qwen_vl import IMAGE, PAD, ask

pytestmark = pytest.mark.golden
SEEN = ("native", "official")


@pytest.fixture(scope="module", autouse=True)
def _set() -> None:
    need()


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return tensors("understanding")


@pytest.fixture(scope="module")
def about() -> dict:
    return read_json("understanding")


def asked(stored: dict[str, Tensor], *kinds: str) -> dict[str, Tensor]:
    """The set's questions, about the image or about nothing, side by side."""
    rows = [stored[f"{kind}.input_ids"][0].tolist() for kind in kinds]
    count = sum(kind in SEEN for kind in kinds)
    images = model().image_input.patches([image("understand.png")] * count) if count else None
    return ask(model().chat, rows, images, model().device)


def test_the_question_is_framed(stored: dict[str, Tensor], about: dict) -> None:
    cells = model().image_input.cells(stored["image_grid_thw"][0])
    assert model().chat.question(about["question"], cells) == stored["native.input_ids"][0].tolist()
    assert model().chat.question(about["text_only_question"], 0) == stored["text.input_ids"][0].tolist()
    assert user_text(about["native_text"]) == about["question"]
    for kind in SEEN:  # the text that the set states, its placeholder as long as the image
        text = about[f"{kind}_text"].replace(IMAGE, IMAGE * cells)
        assert model().chat.tokenizer(text)["input_ids"] == stored[f"{kind}.input_ids"][0].tolist()


def test_special_tokens_are_known_by_name() -> None:
    found = read_json("token_ids")
    assert model().chat.special.items() <= found.items()
    vocabulary = model().chat.tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in found} == found


def test_patches(stored: dict[str, Tensor], about: dict) -> None:
    patches, grid = model().image_input.patches([image("understand.png")])
    assert torch.equal(grid, stored["image_grid_thw"])
    close(patches, stored["pixel_values"], "pixel_values")
    side = about["image_processor"]["patch_size"]
    assert model().image_input.seen(image("understand.png").size) == (side * int(grid[0, 2]), side * int(grid[0, 1]))
    settings = json.loads((folder() / "checkpoint" / "processor" / "preprocessor_config.json").read_text())
    assert settings == about["image_processor"]


@pytest.mark.parametrize("kind", SEEN)
def test_embeddings_positions_and_logits(stored: dict[str, Tensor], kind: str) -> None:
    language, question = model().parts["language model"], asked(stored, kind)
    assert torch.equal(question["input_ids"], stored[f"{kind}.input_ids"])
    with torch.no_grad():
        seen = language.model.get_image_features(question["pixel_values"], question["image_grid_thw"], return_dict=True)
        close(torch.cat(list(seen.pooler_output)), stored["vision_embeddings"], "vision_embeddings")
        places, _ = language.model.get_rope_index(
            question["input_ids"],
            question["mm_token_type_ids"],
            question["image_grid_thw"],
            attention_mask=question["attention_mask"],
        )
        assert torch.equal(places, stored[f"{kind}.position_ids"])
        close(language(**question).logits, stored[f"{kind}.prefill_logits"], "prefill_logits")
        if f"{kind}.text_states" in stored:
            hidden = language.model(**question).last_hidden_state[question["mm_token_type_ids"] == 0]
            close(hidden, stored[f"{kind}.text_states"], "text_states")


def test_without_the_token_types_positions_are_wrong(stored: dict[str, Tensor]) -> None:
    """The trap itself: no error, only other logits."""
    arguments = asked(stored, "native")
    del arguments["mm_token_type_ids"]
    with torch.no_grad():
        logits = model().parts["language model"](**arguments).logits
    assert float((logits - stored["native.prefill_logits"]).abs().max()) > 0.1


def spoken(
    arguments: dict[str, Tensor], replies: list[Reply], watch: Callable[[Tensor], None] | None = None
) -> list[list[int]]:
    chat = model().chat
    return speak(model().parts["language model"], arguments, replies, chat.stops, chat.special[PAD], watch)


@pytest.mark.parametrize("kind", [*SEEN, "text"])
def test_answers(stored: dict[str, Tensor], about: dict, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model().chat), "stops", [])  # the set was made without a token that stops
    steps: list[Tensor] = []
    question = asked(stored, kind)
    said = spoken(
        question, [Reply(about["new_tokens"])],
        lambda logits: steps.append(logits.clone()),
    )  # fmt: skip
    start = stored[f"{kind}.input_ids"].shape[1]
    assert said[0] == stored[f"{kind}.generated_ids"][0, start:].tolist()
    close(torch.stack(steps, dim=1), stored[f"{kind}.step_logits"], "step_logits")
    decode = model().chat.tokenizer.decode
    assert about[f"{kind}_answer"] in {decode(said[0]), decode(said[0], skip_special_tokens=True)}


def test_answers_of_different_lengths_share_a_batch(
    stored: dict[str, Tensor], about: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model().chat), "stops", [])
    kinds, count = ("text", *SEEN), about["new_tokens"]
    counts = [count, count - 1, count - 2]
    said = spoken(asked(stored, *kinds), [Reply(n) for n in counts])
    for kind, ids, most in zip(kinds, said, counts, strict=True):
        start = stored[f"{kind}.input_ids"].shape[1]
        assert ids == stored[f"{kind}.generated_ids"][0, start : start + most].tolist()
