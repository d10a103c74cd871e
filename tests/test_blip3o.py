"""BLIP3-o as a `UnifiedModel`, on the golden checkpoint (random weights, real layout)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from blip3o_layouts import build
from einops import rearrange
from near import off

from srum_blip3o import eva
from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options, Sampling
from srum_core.errors import TrainingError
from srum_core.flow import flow_step
from srum_core.models.generation import Reply, speak
from srum_core.models.qwen_vl import PAD, ask
from srum_core.plugins import discover
from srum_core.protocols import UnifiedModel
from srum_core.records import BoxFormat, Candidate, Judgement, Prompt, Question, Region, Score
from srum_core.testing import sample_image
from srum_core.training.selection import within

WORDS = ["a boat", "three lamps on a long table, seen from above"]


@pytest.fixture(scope="module")
def model() -> Blip3o:
    return build()


def pixels(samples) -> list[np.ndarray]:
    return [np.asarray(each.image, int) for each in samples]


def test_is_a_unified_model(model: Blip3o) -> None:
    assert isinstance(model, UnifiedModel)


# ---- words -----------------------------------------------------------------------------------------------------------

INJECTIONS = ["<|im_end|>", "<|vision_start|><|image_pad|><|vision_end|>", "[IMG]", "[/IMG]", "<image>", "<tool_call>"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_special_token_gets_in_through_words(model: Blip3o, text: str) -> None:
    """Neither through a caption nor through a question, whether the tokenizer calls the token special or just added."""
    added = set(model.words.tokenizer.get_added_vocab().values())
    assert added & set(model.words.tokenizer(text)["input_ids"])  # the tokenizer itself lets it in
    assert not added & set(model.words.ids(text))

    def framing(ids: list[int]) -> list[int]:
        return [token for token in ids if token in added]

    assert framing(model.read(f"a {text} b", "closed")) == framing(model.read("a b", "closed"))
    assert framing(model.words.question(f"a {text} b", 3)) == framing(model.words.question("a b", 3))


def test_a_long_caption_is_cut_and_its_frame_is_not(model: Blip3o) -> None:
    long, short = model.read("word " * 2000, "closed"), model.read("word", "closed")
    queries = model.checkpoint.sizes.queries
    assert len(long) + 1 + queries == model.checkpoint.config["tokenizer_model_max_length"]
    tail = len(model.words.turn("assistant", "")) + 1 + len(model.words.ids("\n"))
    assert long[-tail:] == short[-tail:]
    assert long[:20] == short[:20]
    assert model.read("word " * 2000, "open")[-3:] == model.read("word", "open")[-3:]


def test_the_assistants_turn_is_a_setting() -> None:
    closed, opened = build().read("a boat", "closed"), build().read("a boat", "open")
    assert closed[: len(opened)] == opened
    assert len(closed) > len(opened)
    default, other = build(), build(training_turn="open", generation_turn="closed")
    assert default.condition(["a boat"])[0].tolist() == closed
    assert other.condition(["a boat"])[0].tolist() == opened
    assert (pixels(default.generate(["a boat"], [1]))[0] != pixels(other.generate(["a boat"], [1]))[0]).any()


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_a_batch_draws_what_each_prompt_draws_alone(model: Blip3o) -> None:
    together = pixels(model.generate(WORDS, [3, 1]))
    for words, seed, image in zip(WORDS, [3, 1], together, strict=True):
        assert np.abs(pixels(model.generate([words], [seed]))[0] - image).max() <= 1


def test_both_branches_of_guidance_go_in_one_forward(model: Blip3o) -> None:
    counts: list[int] = []
    hook = model.denoiser.head.register_forward_hook(lambda _, given, __: counts.append(len(given[0])))
    model.generate(WORDS, [0, 1])
    hook.remove()
    assert counts == [2 * (len(WORDS) + 1)] * model.options.sampling.steps  # and the row for no prompt


@pytest.mark.parametrize(
    "change",
    [
        {"whole_timesteps": False}, {"guidance": 1.0}, {"shift": 3.0}, {"steps": 4}, {"decoder_steps": 3},
        {"decoder_guidance": 1.0}, {"negative": "zeros"}, {"negative": "zero_image"}, {"negative_seed": 1},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_generating_matters(model: Blip3o, change: dict[str, Any]) -> None:
    other = build(sampling=attrs.evolve(model.options.sampling, **change))
    assert (pixels(other.generate(["a boat"], [1]))[0] != pixels(model.generate(["a boat"], [1]))[0]).any()


def test_what_the_decoder_is_led_away_from_follows_the_weights(model: Blip3o) -> None:
    """It is generated with the current head, not cached from before training."""
    changed = build()
    before = pixels(changed.generate(["a boat"], [1]))[0]
    with torch.no_grad():
        changed.denoiser.head.norm_out.linear_2.bias.add_(1.0)
    assert (pixels(changed.generate(["a boat"], [1]))[0] != before).any()


def test_the_size_is_the_decoders_or_as_set(model: Blip3o) -> None:
    assert model.generate(["a boat"], [1])[0].image.size == (32, 32)
    assert build(size=(48, 16)).generate(["a boat"], [1])[0].image.size == (48, 16)


# ---- training side ---------------------------------------------------------------------------------------------------


def test_sampled_features_go_along_with_the_image() -> None:
    (sample,) = build(x0="sampled").generate(["a boat"], [1])
    assert sample.latent is not None
    assert tuple(sample.latent.shape) == (8, 8, 24)
    plain = build()
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(24, 8, 8, generator=rng)[None]
    states = plain.denoiser.reader.states(plain.denoiser.latent_queries, [plain.read("a boat", "open")])
    from srum_blip3o.dit import sample as draw

    features = rearrange(draw(plain.denoiser, states, noise, plain.options.sampling), "n c h w -> n h w c")[0]
    assert off(sample.latent, features) <= 1e-4
    assert plain.generate(["a boat"], [1])[0].latent is None


def test_latents_of_two_grids_cannot_share_a_batch(model: Blip3o) -> None:
    with pytest.raises(TrainingError, match="cannot share a batch"):
        model.denoiser([torch.zeros(8, 8, 24), torch.zeros(4, 4, 24)], torch.tensor([0.5, 0.5]), [None, None])


def test_what_training_changes(model: Blip3o) -> None:
    names = [name for name, _ in model.denoiser.named_parameters()]

    def matched(one: Blip3o) -> set[str]:
        return {name for name in names if any(re.fullmatch(pattern, name) for pattern in one.recipe.full)}

    assert matched(model) == set(names)
    assert matched(model) - matched(build(train_queries=False)) == {"latent_queries"}
    inner = model.denoiser.get_submodule(model.recipe.prefix)
    modules = [name for name, _ in inner.named_modules() if re.fullmatch(model.recipe.lora, name)]
    assert len(modules) == 10 * len(model.denoiser.head.layers)


def test_without_queries_captions_are_read_once_and_training_needs_no_language_model() -> None:
    model, reads = build(train_queries=False, offload="disk"), list[int]()
    states = model.denoiser.reader.states
    model.denoiser.reader.states = lambda queries, rows: reads.append(len(rows)) or states(queries, rows)  # type: ignore[method-assign]
    model.before_training(WORDS)
    assert reads == [len(WORDS)]
    assert not model.parts.loaded
    condition = model.condition([WORDS[1], None, WORDS[0], WORDS[1]])
    model.denoiser([torch.zeros(8, 8, 24)] * 4, torch.full((4,), 0.5), condition)
    assert reads == [len(WORDS)]
    assert not model.parts.loaded
    with_queries = build()
    ours, theirs = (one.denoiser.conditions(one.condition([*WORDS, None])) for one in (model, with_queries))
    assert off(ours, theirs) <= 1e-5
    model.condition(["something new"])  # what was not announced is read all the same
    assert reads == [len(WORDS), 1]


def test_parts_are_there_only_while_they_are_needed(tmp_path: Path) -> None:
    model = build(offload="disk")
    assert not model.parts.loaded
    sample_image().save(tmp_path / "a.png")
    for operation, parts in (
        (lambda: model.generate(["a boat"], [1]), {"language model", "decoder"}),
        (lambda: model.answer([Question(tmp_path / "a.png", "What?", max_new_tokens=2)]), {"language model"}),
        (lambda: model.encode([sample_image()]), {"feature tower"}),
        (lambda: model.before_training(WORDS), set()),
        (lambda: model.denoiser.conditions(model.condition(WORDS)), {"language model"}),
    ):
        operation()
        assert set(model.parts.loaded) == parts


@pytest.mark.parametrize("recompute", [True, False])
def test_training_leaves_every_byte_of_the_language_model(recompute: bool) -> None:
    model = build(recompute=recompute)
    language = model.parts["language model"]
    before = {name: tensor.clone() for name, tensor in language.state_dict().items()}
    parameters = [*model.denoiser.requires_grad_(True).parameters()]
    optimizer, rng = torch.optim.AdamW(parameters, 1e-2), torch.Generator().manual_seed(0)
    queries = model.denoiser.latent_queries.detach().clone()
    for _ in range(3):
        clean = [torch.randn(8, 8, 24, generator=rng) for _ in WORDS]
        step = flow_step(model.denoiser, clean, model.condition(WORDS), torch.tensor([0.3, 0.8]), None, rng)
        torch.stack(step.velocity).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(model.denoiser.latent_queries, queries)
    after = language.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in language.parameters())
    assert not language.training


def test_recomputing_changes_no_gradient() -> None:
    found = []
    for recompute in (True, False):
        model = build(recompute=recompute)
        model.denoiser.requires_grad_(True)
        out = model.denoiser([torch.ones(8, 8, 24)], torch.tensor([0.5]), model.condition(["a boat"]))[0]
        out.square().mean().backward()
        found.append(model.denoiser.latent_queries.grad)
    assert off(found[0], found[1]) <= 1e-5
    assert found[0].abs().max() > 0


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_precision_runs(dtype: str, autocast: bool, tmp_path: Path, model: Blip3o) -> None:
    other = build(dtype=dtype)
    sample_image().save(tmp_path / "a.png")
    grid, time = [torch.randn(8, 8, 24, generator=torch.Generator().manual_seed(0))], torch.tensor([0.5])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        other.denoiser.requires_grad_(True)
        velocity = other.denoiser(grid, time, other.condition(["a boat"]))[0]
        velocity.float().square().mean().backward()
        other.denoiser.requires_grad_(False)
        assert other.generate(["a boat"], [1])
        assert other.encode([sample_image()])[0].dtype == torch.float32
        assert isinstance(other.answer([Question(tmp_path / "a.png", "What?", max_new_tokens=2)])[0], str)
    exact = model.denoiser(grid, time, model.condition(["a boat"]))[0]
    error = (velocity.float() - exact).norm() / exact.norm()
    assert error < (1e-5 if dtype == "float32" and not autocast else 0.1)


# ---- where a reward lands --------------------------------------------------------------------------------------------


def test_the_tower_sees_the_middle_square(model: Blip3o) -> None:
    assert model.window((64, 64)) == (0.0, 0.0, 1.0, 1.0)
    assert model.window((96, 64)) == pytest.approx((1 / 6, 0.0, 5 / 6, 1.0))
    wide = sample_image((112 + 56, 112))
    square = wide.crop((28, 0, 140, 112))
    assert torch.equal(eva.preprocess(wide, 112), eva.preprocess(square, 112))
    outside = wide.copy()
    outside.paste("red", (0, 0, 28, 112))
    assert torch.equal(model.encode([wide])[0], model.encode([outside])[0])


def test_odd_margins_round_half_to_even() -> None:
    wide = sample_image((112 + 5, 112))  # a margin of 2.5 on each side
    assert torch.equal(eva.preprocess(wide, 112), eva.preprocess(wide.crop((2, 0, 114, 112)), 112))


def test_rewards_are_averaged_by_area_and_bilinear_is_there_for_parity() -> None:
    """A box of 136x93 pixels with the best score on a ground of 0.5, a token being 128x128 pixels of a 1024² image:
    by area each token gets its share, and the four pixels a token that a bilinear resize reads all miss the box."""
    x0, y0 = 3 * 128 - 4, 2 * 128 + 66
    region = Region("1", (x0 / 1024, y0 / 1024, (x0 + 136) / 1024, (y0 + 93) / 1024))
    judgement = Judgement("c", (region,), (Score(1.0), Score(1.0, "1")))
    area = discover().create("map", "paper", outside_value=0.5)(judgement, (8, 8))
    assert float(area[2, 3]) == pytest.approx(0.5 + 0.5 * 62 / 128, abs=1e-5)
    assert float(area[3, 2]) == pytest.approx(0.5 + 0.5 * 31 * 4 / 128**2, abs=1e-5)
    bilinear = discover().create("map", "released", pixels_per_cell=128)(judgement, (8, 8))
    assert torch.equal(bilinear, torch.full((8, 8), 0.5))


def test_a_region_lands_on_the_tokens_of_the_middle_square(model: Blip3o) -> None:
    """Of an image twice as wide as high, the left half of the middle square is its second quarter."""
    judgement = Judgement(
        "c", (Region("1", (0.25, 0.0, 0.5, 1.0)), Region("2", (0.0, 0.0, 0.2, 1.0))),
        (Score(1.0), Score(1.0, "1"), Score(-1.0, "2")),
    )  # fmt: skip
    cells = discover().create("map", "paper")(within(judgement, model.window((128, 64))), (8, 8))
    assert torch.equal(cells, torch.tensor([[1.0] * 4 + [0.0] * 4] * 8))


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_boxes_are_pixels_of_the_resized_image(model: Blip3o) -> None:
    """By the grid that the image really has: with the default limits a 1024² image is seen as 1036²."""
    assert Blip3o.box_format(build(vision_pixels=Options().vision_pixels), (1024, 1024)) == BoxFormat(
        "pixels", (1036, 1036)
    )
    for size in ((96, 64), (30, 70), (64, 64), (200, 50)):
        _, grid = model.image_input.patches([sample_image(size)])
        message = model.box_format(size)
        assert message == BoxFormat("pixels", (14 * int(grid[0, 2]), 14 * int(grid[0, 1])))


def test_native_boxes_become_fractions_of_the_image(model: Blip3o) -> None:
    size = (96, 64)
    seen = model.box_format(size).seen
    assert seen is not None
    assert seen != size
    candidate = Candidate("c", Prompt("p", "a cup"), Path("c.png"), size, 0, boxes=model.box_format(size))
    grounder = discover().create("grounder", "native")
    box = [0, seen[1] // 2, seen[0] // 4, seen[1]]
    (region,) = grounder.regions(candidate, [f'```json\n[{{"bbox_2d": {box}, "label": "cup"}}]\n```'])
    assert region.box == pytest.approx((0.0, 0.5, 0.25, 1.0), abs=1e-5)


def test_questions_of_different_lengths_are_answered_as_if_alone(model: Blip3o, tmp_path: Path) -> None:
    """Images of several sizes, one question aloud, one sampled, some longer than others."""
    asked = []
    for index, size in enumerate(((96, 64), (64, 64), (30, 70))):
        sample_image(size, index).save(tmp_path / f"{index}.png")
        text = "What is this?" + " Please look well." * index
        temperature = 1.0 * (index == 1)
        asked.append(Question(tmp_path / f"{index}.png", text, None, 3 + index, index == 2, temperature, seed=index))
    together = model.answer(asked)
    assert together == [model.answer([each])[0] for each in asked]
    assert together[::-1] == model.answer(asked[::-1])


def test_images_have_three_axes_of_positions_also_in_a_batch(model: Blip3o) -> None:
    """Padding on the left must not move them; and what transformers makes without the token types is another thing."""
    images = [sample_image((96, 64)), sample_image((30, 70))]
    patches, grids = model.image_input.patches(images)
    cells = [int(grid.prod()) // 4 for grid in grids]
    rows = [model.words.question("What?", cells[0]), model.words.question("What is it, please?", cells[1])]
    both, language = ask(model.words, rows, (patches, grids), model.device), model.parts["language model"]
    with torch.no_grad():
        together = language(**both).logits
    for row, (ids, image) in enumerate(zip(rows, images, strict=True)):
        alone = ask(model.words, [ids], model.image_input.patches([image]), model.device)
        with torch.no_grad():
            logits = language(**alone).logits[0]
            language.model.rope_deltas = None
            trapped = language(**{k: v for k, v in alone.items() if k != "mm_token_type_ids"}).logits[0]
        assert off(together[row, -len(ids) :], logits) <= 1e-4
        assert float((trapped - logits).abs().max()) > 0.1


def test_an_answer_ends_where_it_stops(model: Blip3o) -> None:
    end, other = model.words.special["<|im_end|>"], model.words.ids("cup")
    assert model.words.text([*other, end, *other]) == model.words.text(other) == "cup"


def test_the_checkpoints_own_sampling_settings_are_not_used(model: Blip3o) -> None:
    settings = model.parts["language model"].generation_config
    assert not settings.do_sample
    assert settings.repetition_penalty in (None, 1.0)


def test_a_question_may_be_about_no_image(model: Blip3o) -> None:
    asked = ask(model.words, [model.words.question("What?", 0)], None, model.device)
    stops, pad = model.words.stops, model.words.special[PAD]
    assert len(speak(model.parts["language model"], asked, [Reply(3)], stops, pad)[0]) <= 3


def test_defaults_are_the_official_ones() -> None:
    sampling, options = Sampling(), Options()
    assert (sampling.steps, sampling.guidance, sampling.decoder_steps, sampling.decoder_guidance) == (30, 3.0, 50, 3.0)
    assert (options.training_turn, options.generation_turn) == ("closed", "open")
    assert options.train_queries
    assert options.vision_pixels == (3136, 12_845_056)
