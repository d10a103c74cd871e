"""OmniGen2 as a `UnifiedModel`, on the golden checkpoint (random weights, published layout)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from diffusers import Lumina2Transformer2DModel
from near import off
from omnigen2_layouts import CHECKPOINT, build, copied, other_sizes
from PIL import Image
from torch import Tensor, nn

from srum_core.errors import ConfigError
from srum_core.flow import flow_step
from srum_core.models.qwen_vl import END
from srum_core.models.tensors import unpatchify
from srum_core.plugins import discover
from srum_core.protocols import UnifiedModel
from srum_core.records import BoxFormat, Candidate, Prompt, Question
from srum_core.testing import sample_image
from srum_core.training.lora import make_optimizer, tune
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options, Sampling
from srum_omnigen2.sampling import READ_AT_ONCE, prompt_ids, training_shift

WORDS = ["a boat", "three lamps on a long table, seen from above"]


@pytest.fixture(scope="module")
def model() -> OmniGen2:
    return build()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> OmniGen2:
    """A checkpoint whose sizes are all others."""
    return build(other_sizes(copied(tmp_path_factory.mktemp("other"))))


def pixels(samples) -> list[np.ndarray]:
    return [np.asarray(each.image, int) for each in samples]


def noisy(model: OmniGen2, *grids: tuple[int, int]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(*grid, model.configs.transformer.cell, generator=rng) for grid in grids]


def test_is_a_unified_model(model: OmniGen2) -> None:
    assert isinstance(model, UnifiedModel)


# ---- texts -----------------------------------------------------------------------------------------------------------

INJECTIONS = ["<|im_end|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|img|>", "<tool_call>", "<|endoftext|>"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_t15_no_special_token_gets_in_through_words(model: OmniGen2, text: str) -> None:
    added = set(model.chat.tokenizer.get_added_vocab().values())
    assert added & set(model.chat.tokenizer(text)["input_ids"])  # the tokenizer itself lets it in
    assert not added & set(model.chat.ids(text))

    def framing(ids: list[int]) -> list[int]:
        return [token for token in ids if token in added]

    assert framing(prompt_ids(model.chat, f"a {text} b", 888)) == framing(prompt_ids(model.chat, "a b", 888))
    assert framing(model.chat.question(f"a {text} b", 3)) == framing(model.chat.question("a b", 3))


def test_t11_a_long_prompt_is_cut_and_its_frame_is_not(model: OmniGen2) -> None:
    long, short = (prompt_ids(model.chat, text, 120) for text in ("word " * 500, "word"))
    assert len(long) == 120
    tail = 1 + len(model.chat.ids("\n"))
    assert long[-tail:] == short[-tail:]
    assert long[-tail] == model.chat.special[END]
    assert long[:20] == short[:20]
    assert build(text_tokens=60).condition(["word " * 500])[0].shape[0] == 60


def test_t12_a_text_may_be_longer_than_the_references_table_of_positions(model: OmniGen2) -> None:
    (states,) = model.condition(["word " * 200])
    longest = json.loads((CHECKPOINT / "transformer" / "config.json").read_text())["axes_lens"][1]
    assert len(states) > longest
    assert model.denoiser(noisy(model, (3, 4)), torch.tensor([0.5]), [states])[0].isfinite().all()


def test_many_texts_are_read_as_if_alone(model: OmniGen2) -> None:
    texts = [" ".join(["boat"] * count) for count in range(READ_AT_ONCE + 2)]
    together = model.read(texts)
    for number in (0, READ_AT_ONCE - 1, READ_AT_ONCE + 1):
        assert off(together[number], model.read([texts[number]])[0]) <= 1e-5


def test_no_assistant_turn_follows(model: OmniGen2) -> None:
    """What is read ends with the user's turn."""
    assert prompt_ids(model.chat, "a boat", 888)[-8:] == model.chat.turn("user", "a boat")[-8:]


# ---- generating ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["model", "other"])
def test_a_batch_gives_what_each_prompt_gives_alone(which: str, request: pytest.FixtureRequest) -> None:
    one: OmniGen2 = request.getfixturevalue(which)
    together = pixels(one.generate(WORDS, [3, 1]))
    assert together[0].shape == (48, 64, 3)
    assert (together[0] != together[1]).any()
    for words, seed, image in zip(WORDS, [3, 1], together, strict=True):
        assert np.abs(pixels(one.generate([words], [seed]))[0] - image).max() <= 1


def test_both_branches_of_guidance_go_in_one_forward(model: OmniGen2) -> None:
    counts: list[int] = []
    hook = model.denoiser.register_forward_hook(lambda _, given, __: counts.append(len(given[0])))
    model.generate(WORDS, [0, 1])
    build_drawing = attrs.evolve(model.options.sampling, guidance_range=(0.3, 0.4))
    other = build(sampling=build_drawing)
    hook.remove()
    other.denoiser.register_forward_hook(lambda _, given, __: counts.append(len(given[0])))
    other.generate(WORDS, [0, 1])
    assert counts == [4, 4, 4, 2, 4, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"guidance": 1.0}, {"shift": 3.0}, {"steps": 4}, {"negative_prompt": "blurry"}, {"guidance_range": (0.0, 0.5)},
        {"unconditional": "dropped_caption"},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_generating_matters(model: OmniGen2, change: dict[str, Any]) -> None:
    other = build(sampling=attrs.evolve(model.options.sampling, **change))
    assert (pixels(other.generate(["a boat"], [1]))[0] != pixels(model.generate(["a boat"], [1]))[0]).any()


def test_the_size_is_a_setting_and_must_be_whole_tokens(model: OmniGen2) -> None:
    assert model.generate(["a boat"], [1])[0].image.size == (64, 48)
    assert build(size=(0, 32)).size == (1024, 32)
    with pytest.raises(
        ConfigError, match=r"adapter\.size 60x48 cannot be generated: both sides must be multiples of 16"
    ):
        build(size=(60, 48))
    with pytest.raises(ConfigError, match=r"adapter\.size 60x48"):
        OmniGen2.preflight(Options(checkpoint=str(CHECKPOINT), size=(60, 48)))


def test_the_noise_is_of_latent_cells_and_of_the_seed(model: OmniGen2) -> None:
    """So that an official run with the same noise gives the same image."""
    seen: list[Tensor] = []
    hook = model.denoiser.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    model.generate(["a boat"], [7])
    hook.remove()
    expected = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(7))
    assert torch.equal(unpatchify(seen[0][None], 2)[0], expected)


def test_unfinished_images_can_be_seen(model: OmniGen2) -> None:
    """For srum analyze: the last estimate is what `generate` makes."""
    times = model.sampling_times()
    assert (times[0], times[-1], len(times)) == (1.0, 0.0, model.options.sampling.steps + 1)
    (views,) = model.trace(["a boat"], [1], range(len(times) - 1))
    assert len(views) == len(times) - 1
    last = np.asarray(views[-1], int) - pixels(model.generate(["a boat"], [1]))[0]
    assert np.abs(last).max() <= 1


def test_an_image_that_is_not_finite_is_a_failure() -> None:
    broken = build()
    assert broken.generate(["a boat"], [1])[0].failure == ""
    broken.parts["autoencoder"].decoder.conv_out.bias.data.fill_(torch.nan)
    assert "not finite" in broken.generate(["a boat"], [1])[0].failure


# ---- the transformer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["model", "other"])
def test_any_sizes_and_lengths_in_one_batch_equal_one_by_one(which: str, request: pytest.FixtureRequest) -> None:
    one: OmniGen2 = request.getfixturevalue(which)
    grids, time = noisy(one, (3, 4), (5, 2), (1, 6)), torch.tensor([0.2, 0.5, 0.9])
    texts = one.condition([*WORDS, None])
    together = one.denoiser(grids, time, texts)
    for row, velocity in enumerate(together):
        assert velocity.shape == grids[row].shape
        assert off(velocity, one.denoiser([grids[row]], time[row : row + 1], [texts[row]])[0]) <= 1e-5


class Diagonal(nn.Module):
    """Rotations for the stock transformer: text token i at (i, i, i), the image behind it."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.inner = stock.rope_embedder

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Any, ...]:
        tokens, text, image, both, *lengths = self.inner(hidden, mask)
        count = mask.shape[1]
        diagonal = torch.arange(count).repeat(3, 1).T[None].expand(len(hidden), -1, -1)
        text = self.inner._get_freqs_cis(diagonal)
        return tokens, text, image, torch.cat([text, both[:, count:]], dim=1), *lengths


@pytest.mark.parametrize("which", ["model", "other"])
def test_t1_the_librarys_transformer_is_the_same_with_other_positions(
    which: str, request: pytest.FixtureRequest
) -> None:
    """It takes the weights strictly and puts text elsewhere without a word; with these positions it is the same, on
    images of one size and texts of one length."""
    one: OmniGen2 = request.getfixturevalue(which)
    sizes = one.configs.transformer
    stock: Any = Lumina2Transformer2DModel(
        patch_size=sizes.patch_size, in_channels=sizes.in_channels, hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers, num_refiner_layers=sizes.num_refiner_layers, multiple_of=sizes.multiple_of,
        num_attention_heads=sizes.num_attention_heads, num_kv_heads=sizes.num_kv_heads, norm_eps=sizes.norm_eps,
        ffn_dim_multiplier=sizes.ffn_dim_multiplier, axes_dim_rope=sizes.axes_dim_rope, axes_lens=(300, 300, 300),
        cap_feat_dim=sizes.text_feat_dim,
    ).eval()  # fmt: skip
    stock.load_state_dict(one.denoiser.state_dict(), strict=True)
    stock.time_caption_embed.time_proj.scale = sizes.timestep_scale
    grids, texts = noisy(one, (3, 4), (3, 4)), one.condition(["a boat", "a boat"])
    time = torch.tensor([0.25, 0.75])
    given: dict[str, Any] = {
        "hidden_states": unpatchify(torch.stack(grids), sizes.patch_size), "timestep": 1 - time,
        "encoder_hidden_states": torch.stack(texts), "return_dict": False,
        "encoder_attention_mask": torch.ones(2, len(texts[0]), dtype=torch.long),
    }  # fmt: skip
    ours = unpatchify(torch.stack(one.denoiser(grids, time, texts)), sizes.patch_size)
    with torch.no_grad():
        assert off(-stock(**given)[0], ours) > 1e-3
        stock.rope_embedder = Diagonal(stock)
        assert off(-stock(**given)[0], ours) <= 1e-5


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_precision_runs(dtype: str, autocast: bool, tmp_path: Path, model: OmniGen2) -> None:
    other = build(dtype=dtype)
    sample_image().save(tmp_path / "a.png")
    grid, time = noisy(model, (3, 4)), torch.tensor([0.5])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        other.denoiser.requires_grad_(True)
        velocity = other.denoiser(grid, time, other.condition(["a boat"]))[0]
        velocity.float().square().mean().backward()
        other.denoiser.requires_grad_(False)
        assert velocity.dtype == torch.float32
        assert other.generate(["a boat"], [1])
        assert other.encode([sample_image()])[0].dtype == torch.float32
        assert isinstance(other.answer([Question(tmp_path / "a.png", "What?", max_new_tokens=2)])[0], str)
    exact = model.denoiser(grid, time, model.condition(["a boat"]))[0]
    error = (velocity - exact).norm() / exact.norm()
    assert error < (1e-5 if dtype == "float32" and not autocast else 0.1)


# ---- training side ---------------------------------------------------------------------------------------------------


def test_images_are_fitted_and_those_of_the_generated_size_are_not() -> None:
    model = build(size=(64, 48), encode_pixels=2048, encode_side=64)
    for size, grid in (
        ((64, 48), (3, 4)),
        ((48, 64), (3, 2)),
        ((200, 20), (1, 4)),
        ((30, 40), (2, 1)),
        ((9, 9), (1, 1)),
    ):
        assert tuple(model.encode([sample_image(size)])[0].shape) == (*grid, 16)


def test_images_of_several_sizes_are_encoded_as_if_alone(model: OmniGen2) -> None:
    images = [sample_image(size, seed) for seed, size in enumerate(((64, 48), (48, 64), (64, 48)))]
    for image, grid in zip(images, model.encode(images), strict=True):
        assert off(grid, model.encode([image])[0]) <= 1e-5
    clear = Image.new("RGBA", (64, 48), (255, 0, 0, 0))  # transparency is white
    assert off(model.encode([clear])[0], model.encode([Image.new("RGB", (64, 48), "white")])[0]) <= 1e-5


def test_training_times_follow_the_size_that_is_generated() -> None:
    """The official recipe's shift for 1024x1024 is 3.16, for 512x512 1.88."""
    for size, shift in (((1024, 1024), 3.158), ((512, 512), 1.878)):
        schedule = build(size=size).recipe.schedule
        assert (schedule.density, schedule.shift) == ("logit-normal", pytest.approx(shift, abs=1e-3))
    assert build(size=(1024, 1024), time_shift="v2").recipe.schedule.shift == pytest.approx(3.2)
    assert training_shift(4096, "v1") == pytest.approx(3.158, abs=1e-3)


def test_without_the_schedulers_flag_sampling_is_not_shifted(tmp_path: Path) -> None:
    from omnigen2_layouts import configure

    fixed = build(configure(copied(tmp_path), "scheduler", dynamic_time_shift=False))
    assert fixed.shift == 1.0
    assert build().shift == pytest.approx(48**0.5 / 40)
    assert build(sampling=Sampling(steps=3, shift=2.0)).shift == 2.0


@pytest.mark.parametrize(("modules", "kinds"), [("all", 7), ("attention", 4)])
def test_what_training_changes(modules: str, kinds: int) -> None:
    """All of the transformer; LoRA on every block's projections. The official LoRA of the published size has 4,838,400
    parameters without the refiner of reference images."""
    model = build(lora_modules=modules)
    names = {name for name, _ in model.denoiser.named_parameters()}
    assert {name for name in names if any(re.fullmatch(pattern, name) for pattern in model.recipe.full)} == names
    adapted = [name for name, _ in model.denoiser.named_modules() if re.fullmatch(model.recipe.lora, name)]
    blocks = sum(type(each).__name__ in model.recipe.blocks for each in model.denoiser.modules())
    assert len(adapted) == kinds * blocks
    if modules == "attention":
        published = OmniGen2.outline(Options(lora_modules="attention"), "cuda")
        linear = [m for name, m in published.denoiser.named_modules() if re.fullmatch(published.recipe.lora, name)]
        assert sum(8 * (each.in_features + each.out_features) for each in linear) == 4_838_400  # type: ignore[operator]


def test_t16_what_only_reference_images_use_has_neither_gradient_nor_state(model: OmniGen2) -> None:
    from srum_core.config import Lora, Train

    copy = build()
    stored = set(copy.checkpoint.transformer.shapes)
    tuned = tune(copy, "full", Lora(), checkpointing=False)
    left_out = {name for name in stored if name.startswith(("ref_image", "image_index"))}
    assert left_out
    assert stored - set(tuned.parameters) == left_out
    optimizer = make_optimizer([*tuned.parameters.values()], Train(method="full"))
    step = flow_step(
        tuned.module, noisy(copy, (3, 4)), copy.condition(["a boat"]), torch.tensor([0.5]), None, torch.Generator()
    )
    step.velocity[0].square().mean().backward()
    optimizer.step()
    assert all(each.grad is not None and each.grad.any() for each in tuned.parameters.values())
    assert len(optimizer.state) == len(stored) - len(left_out)


def test_captions_are_read_once_and_training_needs_no_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, reads = build(offload="disk"), list[int]()
    read = model.read
    monkeypatch.setattr(model, "read", lambda texts: reads.append(len(texts)) or read(texts))
    model.before_training(WORDS)
    assert reads == [len(WORDS) + 1]  # and the dropped caption
    assert not model.parts.loaded
    condition = model.condition([WORDS[1], None, WORDS[0], WORDS[1]])
    model.denoiser(noisy(model, *[(3, 4)] * 4), torch.full((4,), 0.5), condition)
    assert reads == [len(WORDS) + 1]
    assert not model.parts.loaded
    for ours, theirs in zip(condition, build().condition([WORDS[1], None, WORDS[0], WORDS[1]]), strict=True):
        assert off(ours, theirs) <= 1e-5
    model.condition(["something new"])  # what was not announced is read all the same
    assert reads == [len(WORDS) + 1, 1]


def test_parts_are_there_only_while_they_are_needed(tmp_path: Path) -> None:
    model = build(offload="disk")
    assert not model.parts.loaded
    sample_image().save(tmp_path / "a.png")
    for operation, parts in (
        (lambda: model.generate(["a boat"], [1]), {"language model", "autoencoder"}),
        (lambda: model.answer([Question(tmp_path / "a.png", "What?", max_new_tokens=2)]), {"language model"}),
        (lambda: model.encode([sample_image()]), {"autoencoder"}),
        (lambda: model.before_training(WORDS), set()),
    ):
        operation()
        assert set(model.parts.loaded) == parts


# ---- answering -------------------------------------------------------------------------------------------------------


def test_boxes_are_pixels_of_the_resized_image(model: OmniGen2) -> None:
    """By the grid that the image really has, with the limits of the checkpoint's own processor or the setting's."""
    for one in (model, build(vision_pixels=(3136, 12544))):
        for size in ((96, 64), (30, 70), (640, 640), (200, 50)):
            _, grid = one.image_input.patches([sample_image(size)])
            assert one.box_format(size) == BoxFormat("pixels", (14 * int(grid[0, 2]), 14 * int(grid[0, 1])))
    assert build(vision_pixels=(3136, 12544)).box_format((640, 640)).seen == (112, 112)
    assert model.box_format((640, 640)).seen == (448, 448)


def test_native_boxes_become_fractions_of_the_image(model: OmniGen2) -> None:
    size = (96, 64)
    seen = model.box_format(size).seen
    assert seen is not None
    candidate = Candidate("c", Prompt("p", "a cup"), Path("c.png"), size, 0, boxes=model.box_format(size))
    box = [0, seen[1] // 2, seen[0] // 4, seen[1]]
    grounder = discover().create("grounder", "native")
    (region,) = grounder.regions(candidate, [f'```json\n[{{"bbox_2d": {box}, "label": "cup"}}]\n```'])
    assert region.box == pytest.approx((0.0, 0.5, 0.25, 1.0), abs=1e-5)


@pytest.mark.parametrize("which", ["model", "other"])
def test_questions_of_different_lengths_are_answered_as_if_alone(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    one: OmniGen2 = request.getfixturevalue(which)
    asked = []
    for index, size in enumerate(((96, 64), (64, 64), (30, 70))):
        sample_image(size, index).save(tmp_path / f"{index}.png")
        text = "What is this?" + " Please look well." * index
        asked.append(
            Question(tmp_path / f"{index}.png", text, None, 3 + index, index == 2, 1.0 * (index == 1), seed=index)
        )
    together = one.answer(asked)
    assert together == [one.answer([each])[0] for each in asked]
    assert together[::-1] == one.answer(asked[::-1])


def test_the_checkpoints_own_sampling_settings_are_not_used(model: OmniGen2) -> None:
    """It carries a repetition penalty, which changes greedy answers."""
    assert '"repetition_penalty": 1.05' in (CHECKPOINT / "mllm" / "generation_config.json").read_text()
    settings = model.parts["language model"].generation_config
    assert not settings.do_sample
    assert settings.repetition_penalty in (None, 1.0)


def test_defaults_are_the_official_ones() -> None:
    sampling, options = Sampling(), Options()
    assert (sampling.steps, sampling.guidance, sampling.guidance_range) == (50, 4.0, (0.0, 1.0))
    assert (sampling.negative_prompt, sampling.unconditional) == ("", "negative_prompt")
    assert (options.text_tokens, options.encode_pixels, options.encode_side) == (888, 1024**2, 2048)


# ---- LoRA elsewhere --------------------------------------------------------------------------------------------------


def test_peft_loads_a_lora_folder_onto_the_transformer_of_diffusers(model: OmniGen2, tmp_path: Path) -> None:
    from peft import PeftModel

    from srum_core.config import Lora

    copy = build()
    before = {name: tensor.clone() for name, tensor in copy.denoiser.state_dict().items()}
    torch.manual_seed(0)
    tuned = tune(copy, "lora", Lora(rank=2, alpha=6.0), checkpointing=False)
    for parameter in tuned.parameters.values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tuned.module.save_pretrained(tmp_path)  # type: ignore[operator]
    sizes = model.configs.transformer

    def stock() -> Any:
        made: Any = Lumina2Transformer2DModel(
            patch_size=sizes.patch_size, in_channels=sizes.in_channels, hidden_size=sizes.hidden_size,
            num_layers=sizes.num_layers, num_refiner_layers=sizes.num_refiner_layers, multiple_of=sizes.multiple_of,
            num_attention_heads=sizes.num_attention_heads, num_kv_heads=sizes.num_kv_heads,
            axes_dim_rope=sizes.axes_dim_rope, cap_feat_dim=sizes.text_feat_dim,
        )  # fmt: skip
        made.load_state_dict(before)
        return made

    merged = tuned.module.merge_and_unload().state_dict()  # type: ignore[operator]
    name = "layers.0.attn.to_q.weight"
    assert off(merged[name], before[name]) > 1e-3
    by_peft = PeftModel.from_pretrained(stock(), tmp_path).merge_and_unload().state_dict()
    assert off(by_peft[name], merged[name]) <= 1e-5
