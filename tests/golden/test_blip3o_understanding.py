"""Looking and answering with BLIP3-o against the reference implementation's tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from blip3o_goldens import close, image, model, need, read_json, tensors
from torch import Tensor

from srum_core.models.generation import Reply, speak
from srum_core.models.qwen_vl import PAD, ImageInput, ask

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    need()
    return tensors("understanding")


def asked(stored: dict[str, Tensor], *kinds: str) -> dict[str, Tensor]:
    """The set's questions, about the image or about nothing, side by side."""
    rows = [stored[f"{kind}.input_ids"][0].tolist() for kind in kinds]
    images = model().image_input.patches([image("understand_0").convert("RGB")]) if "image" in kinds else None
    return ask(model().words, rows, images, model().device)


def test_the_question_is_framed(stored: dict[str, Tensor]) -> None:
    message = read_json("understanding")["prompt_text"].split("<|vision_end|>")[1].split("<|im_end|>")[0]
    ids = model().words.question(message, model().image_input.cells(stored["image.image_grid_thw"][0]))
    assert ids == stored["image.input_ids"][0].tolist()
    text = model().words.tokenizer.decode(stored["text.input_ids"][0].tolist())
    plain = text.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    assert model().words.question(plain, 0) == stored["text.input_ids"][0].tolist()


def test_sizes_follow_the_table() -> None:
    need()
    table = read_json("understanding")["smart_resize"]
    assert table
    for row in table:
        seen = ImageInput.within(row["min_pixels"], row["max_pixels"]).seen((row["width"], row["height"]))
        assert seen == (row["resized_width"], row["resized_height"]), row


def test_patches(stored: dict[str, Tensor]) -> None:
    patches, grid = model().image_input.patches([image("understand_0").convert("RGB")])
    assert torch.equal(grid, stored["image.image_grid_thw"])
    close(patches, stored["image.pixel_values"], "pixel_values")
    width, height = model().image_input.seen(image("understand_0").size)
    assert (height, width) == tuple(14 * int(n) for n in grid[0, 1:])


def test_embeddings_positions_and_logits(stored: dict[str, Tensor]) -> None:
    language, question = model().parts["language model"], asked(stored, "image")
    assert torch.equal(question["input_ids"], stored["image.input_ids"])
    assert torch.equal(question["attention_mask"], stored["image.attention_mask"])
    with torch.no_grad():
        seen = language.model.get_image_features(question["pixel_values"], question["image_grid_thw"], return_dict=True)
        close(torch.cat(list(seen.pooler_output)), stored["image.vision_embeddings"], "vision_embeddings")
        places, _ = language.model.get_rope_index(
            question["input_ids"],
            question["mm_token_type_ids"],
            question["image_grid_thw"],
            attention_mask=question["attention_mask"],
        )
        assert torch.equal(places, stored["image.position_ids"])
        logits = language(**question).logits
    close(logits, stored["image.prefill_logits"], "prefill_logits")


def test_without_the_token_types_positions_are_wrong(stored: dict[str, Tensor]) -> None:
    """The trap itself: no error, only other logits."""
    arguments = asked(stored, "image")
    del arguments["mm_token_type_ids"]
    with torch.no_grad():
        logits = model().parts["language model"](**arguments).logits
    assert float((logits - stored["image.prefill_logits"]).abs().max()) > 0.1


def spoken(
    arguments: dict[str, Tensor], replies: list[Reply], watch: Callable[[Tensor], None] | None = None
) -> list[list[int]]:
    chat = model().words
    return speak(model().parts["language model"], arguments, replies, chat.stops, chat.special[PAD], watch)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_answers(stored: dict[str, Tensor], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model().words), "stops", [])  # the set was made without a token that stops
    steps: list[Tensor] = []
    count = stored[f"{kind}.step_logits"].shape[1]
    said = spoken(
        asked(stored, kind), [Reply(count)],
        lambda logits: steps.append(logits.clone()),
    )  # fmt: skip
    start = stored[f"{kind}.input_ids"].shape[1]
    assert said[0] == stored[f"{kind}.generated_ids"][0, start:].tolist()
    close(torch.stack(steps, dim=1), stored[f"{kind}.step_logits"], "step_logits")


def test_answers_of_different_lengths_share_a_batch(stored: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model().words), "stops", [])
    kinds = ("text", "image")
    counts = [stored[f"{kind}.step_logits"].shape[1] for kind in kinds]
    both = asked(stored, *kinds)
    said = spoken(both, [Reply(counts[0]), Reply(counts[1] - 2)])
    for kind, ids, count in zip(kinds, said, (counts[0], counts[1] - 2), strict=True):
        start = stored[f"{kind}.input_ids"].shape[1]
        assert ids == stored[f"{kind}.generated_ids"][0, start : start + count].tolist()
