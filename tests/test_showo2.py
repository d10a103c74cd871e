"""Show-o2 as a `UnifiedModel`, on the golden checkpoint (random weights, real layout)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from near import off
from PIL import Image
from showo2_layouts import CHECKPOINT, build
from torch import Tensor

from srum_core.cli.main import main
from srum_core.config import load_settings
from srum_core.errors import CheckpointError, ConfigError
from srum_core.flow import flow_step
from srum_core.models.images import flatten
from srum_core.models.tensors import unpatchify
from srum_core.plugins import discover
from srum_core.protocols import UnifiedModel
from srum_core.records import Question
from srum_core.runs.run import Run
from srum_core.testing import sample_image
from srum_showo2.model import ShowO2, training_shift
from srum_showo2.options import Options

WORDS = ["a boat", "three lamps on a long table, seen from above"]


@pytest.fixture(scope="module")
def model() -> ShowO2:
    return build()


def pixels(samples: Any) -> list[np.ndarray]:
    return [np.asarray(each.image, int) for each in samples]


def question(folder: Path, size: tuple[int, int] = (64, 48), text: str = "What?", **more: Any) -> Question:
    path = folder / f"{size[0]}x{size[1]}.png"
    sample_image(size).save(path)
    return Question(path, text, max_new_tokens=6, **more)


def test_is_a_unified_model(model: ShowO2) -> None:
    assert isinstance(model, UnifiedModel)
    assert not hasattr(model, "box_format")  # it was never taught to write boxes


# ---- words -----------------------------------------------------------------------------------------------------------

INJECTIONS = ["<|im_end|>", "<|vision_start|><|image_pad|><|vision_end|>", "[PAD]", "<image>", "<tool_call>"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_control_token_gets_in_through_words(model: ShowO2, text: str) -> None:
    """Neither through a caption nor through a question, unless the reference's behaviour is asked for."""
    added = set(model.words.tokenizer.get_added_vocab().values())

    def control(ids: list[int]) -> list[int]:
        return [token for token in ids if token in added]

    assert not control(model.words.ids(text))
    assert control(model.words.question(f"a {text} b")) == control(model.words.question("a b"))
    as_reference = attrs.evolve(model.words, control=True)
    known = [each for each in re.findall(r"<\|?\w+\|?>|\[PAD\]", text) if each in model.words.tokenizer.get_vocab()]
    assert len(control(as_reference.caption(text).tolist())) == len(known) > 0


def test_a_long_caption_is_cut() -> None:
    short = build(caption_tokens=5).words
    assert short.caption("word " * 30).tolist() == short.ids("word " * 30)[:5]
    assert len(short.caption(None)) == 0


# ---- generating ------------------------------------------------------------------------------------------------------


def test_a_batch_generates_what_each_prompt_generates_alone(model: ShowO2) -> None:
    together = pixels(model.generate(WORDS, [3, 1]))
    for words, seed, image in zip(WORDS, [3, 1], together, strict=True):
        assert np.abs(pixels(model.generate([words], [seed]))[0] - image).max() <= 1


def test_texts_are_read_once_and_images_once_for_both_branches(model: ShowO2) -> None:
    """A step costs the image blocks alone: twice in the language model and the head, once in the semantic layers."""
    shapes: dict[str, list[tuple[int, ...]]] = {"language": [], "head": [], "semantic": []}
    modules = {
        "language": model.denoiser.showo.model.layers[0].mlp, "head": model.denoiser.diffusion_head_a[0].mlp,
        "semantic": model.denoiser.und_trans.layers[0].mlp,
    }  # fmt: skip
    hooks = [
        module.register_forward_hook(lambda _, given, __, name=name: shapes[name].append(tuple(given[0].shape[:2])))
        for name, module in modules.items()
    ]
    model.generate(WORDS, [0, 1])
    for hook in hooks:
        hook.remove()
    steps, cells = model.options.sampling.steps - 1, model.grid[0] * model.grid[1]
    longest = max(len(caption) for caption in model.condition(WORDS)) + 2
    assert shapes["semantic"] == [(2, cells)] * steps
    assert shapes["language"] == shapes["head"] == [(4, longest), *[(4, 1 + cells)] * steps]


def test_without_guidance_there_is_one_branch() -> None:
    plain, rows = build(), list[int]()
    plain.options = attrs.evolve(plain.options, sampling=attrs.evolve(plain.options.sampling, guidance=0.0))
    hook = plain.denoiser.diffusion_head_b.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    plain.generate(WORDS, [0, 1])
    hook.remove()
    assert rows == [2] * (plain.options.sampling.steps - 1)


@pytest.mark.parametrize("change", [{"guidance": 1.0}, {"shift": 1.0}, {"steps": 3}], ids=str)
def test_every_setting_of_generating_matters(model: ShowO2, change: dict[str, Any]) -> None:
    before = model.options
    plain = pixels(model.generate(["a boat"], [1]))[0]
    try:
        model.options = attrs.evolve(before, sampling=attrs.evolve(before.sampling, **change))
        assert (pixels(model.generate(["a boat"], [1]))[0] != plain).any()
    finally:
        model.options = before


def test_the_size_is_the_tables_or_as_set(model: ShowO2) -> None:
    assert model.generate(["a boat"], [1])[0].image.size == (80, 80)
    assert build(size=(96, 32)).generate(["a boat"], [1])[0].image.size == (96, 32)
    with pytest.raises(ConfigError, match=r"adapter\.size 100x80 .*multiples of 16"):
        build(size=(100, 0))
    with pytest.raises(CheckpointError, match=r"adapter\.vision_size=50 .*multiple of 16"):
        build(vision_size=50)


def test_an_image_that_is_not_finite_is_a_failure() -> None:
    one = build()
    assert one.generate(["a boat"], [1])[0].failure == ""
    one.denoiser.diffusion_head_b.linear.bias.data.fill_(torch.nan)
    assert "not finite" in one.generate(["a boat"], [1])[0].failure


def test_estimates_on_the_way_end_with_what_is_generated(model: ShowO2) -> None:
    times = model.sampling_times()
    assert (times[0], times[-1], len(times)) == (1.0, 0.0, model.options.sampling.steps)
    ((*_, last),) = model.trace(["a boat"], [1], range(len(times) - 1))
    assert np.abs(np.asarray(last, int) - pixels(model.generate(["a boat"], [1]))[0]).max() <= 1


# ---- the denoiser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (3, 3)])
def test_a_token_answers_for_latent_pixels_in_a_line(model: ShowO2, rows: int, columns: int) -> None:
    """Four that follow one another row by row, not the square that it reads; in a grid with an odd number of columns
    the middle one's are in two rows."""
    channels = model.denoiser.sizes.channels
    for token in range(rows * columns):
        answers = torch.zeros(rows * columns, 4 * channels)
        answers[token] = 1
        latent = unpatchify(model.denoiser.assemble(answers, rows, columns)[None], 2)[0, 0]
        assert latent.flatten().nonzero().flatten().tolist() == list(range(4 * token, 4 * token + 4))


def velocity(model: ShowO2, grids: list[Tensor], times: list[float], texts: list[str | None]) -> list[Tensor]:
    with torch.no_grad():
        return model.denoiser(grids, torch.tensor(times), model.condition(texts))


def test_grids_and_captions_of_all_sizes_share_a_batch(model: ShowO2) -> None:
    rng = torch.Generator().manual_seed(0)
    grids = [torch.randn(*size, 64, generator=rng) for size in ((5, 5), (2, 6), (7, 3), (1, 1))]
    times, texts = [0.2, 0.9, 0.5, 0.7], [*WORDS, None, "a cup"]
    together = velocity(model, grids, times, texts)
    for row, grid in enumerate(grids):
        (alone,) = velocity(model, [grid], [times[row]], [texts[row]])
        assert off(together[row], alone) <= 1e-5, row


def test_time_and_sign_are_ours(model: ShowO2) -> None:
    """The network gets 1 - time, and its answer (clean - noise) is turned round."""
    given, out = list[Tensor](), list[Tensor]()
    hooks = [
        model.denoiser.time_embed.register_forward_hook(lambda _, args, __: given.append(args[0])),
        model.denoiser.diffusion_head_b.register_forward_hook(lambda _, __, answer: out.append(answer)),
    ]
    (found,) = velocity(model, [torch.ones(2, 2, 64)], [0.25], ["a boat"])
    for hook in hooks:
        hook.remove()
    assert given[0].tolist() == [0.75]
    assert torch.equal(found, -model.denoiser.assemble(out[0][0], 2, 2))


def test_what_follows_the_block_or_precedes_it_has_no_part_in_it(model: ShowO2) -> None:
    """Texts do not depend on the image or the time: so they may be read once for all steps."""
    states: list[Tensor] = []
    hook = model.denoiser.diffusion_head_a[-1].register_forward_hook(lambda _, __, out: states.append(out))
    for scale, time in ((1.0, 0.3), (-2.0, 0.8)):
        velocity(model, [scale * torch.ones(5, 5, 64)], [time], ["a boat"])
    hook.remove()
    text = len(model.condition(["a boat"])[0]) + 2
    assert torch.equal(states[0][:, :text], states[1][:, :text])
    assert off(states[0][:, text:], states[1][:, text:]) > 1e-3


# ---- training --------------------------------------------------------------------------------------------------------


def test_what_each_setting_trains_and_adapts(model: ShowO2) -> None:
    names = [name for name, _ in model.denoiser.named_parameters()]

    def matched(train: Any) -> set[str]:
        patterns = build(train=train).recipe.full
        return {name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)}

    head, first, everything = matched("head"), matched("stage-1"), matched("all")
    assert {name.split(".")[0] for name in head} == {"diff_proj", "diffusion_head_a", "diffusion_head_b"}
    added = {"image_embedder_gen", "fusion_proj", "time_embed", "time_embed_proj"}
    assert {name.split(".")[0] for name in first - head} == added
    assert set(names) - everything == {"showo.lm_head.weight"}
    layers = {"head": 2, "all": 5}
    for train, count in layers.items():
        pattern = build(train=train).recipe.lora
        assert sum(bool(re.fullmatch(pattern, name)) for name, _ in model.denoiser.named_modules()) == 7 * count


def test_the_shift_of_training_follows_the_size(model: ShowO2) -> None:
    assert model.recipe.schedule.shift == training_shift(26)
    assert build(size=(96, 64)).recipe.schedule.shift == training_shift(25)
    for preset, shift in (("default", 1.7865), ("hq-512", 1.8779), ("hq-1024", 3.1587)):
        settings = load_settings("showo2", [] if preset == "default" else [preset], None, (), discover())
        assert (settings.train.shift, settings.train.method) == (0, "full")  # the recipe's own shift
        width, height = settings.adapter.options["size"]
        tokens = (width or 432) * (height or 432) // 256 + 1
        assert training_shift(tokens) == pytest.approx(shift, abs=1e-4)


def test_training_the_head_leaves_every_other_byte_and_every_answer(tmp_path: Path) -> None:
    one = build()
    asked = [question(tmp_path, text="What is it?")]
    before, said = {n: each.clone() for n, each in one.denoiser.state_dict().items()}, one.answer(asked)
    trained = [each for n, each in one.denoiser.named_parameters() if re.fullmatch(one.recipe.full[0], n)]
    for each in trained:
        each.requires_grad_(True)
    optimizer, rng = torch.optim.AdamW(trained, 1e-2), torch.Generator().manual_seed(0)
    for _ in range(2):
        clean = [torch.randn(5, 5, 64, generator=rng) for _ in WORDS]
        step = flow_step(one.denoiser, clean, one.condition(WORDS), torch.tensor([0.3, 0.8]), None, rng)
        torch.stack(step.velocity).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, each in one.denoiser.state_dict().items() if not torch.equal(each, before[name])}
    assert changed
    assert all(name.startswith(("diff_proj.", "diffusion_head_")) for name in changed)
    assert one.answer(asked) == said


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_precision_runs(dtype: str, autocast: bool, tmp_path: Path, model: ShowO2) -> None:
    other = build(dtype=dtype)
    grid = [torch.randn(5, 5, 64, generator=torch.Generator().manual_seed(0))]
    time = torch.tensor([0.5])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        other.denoiser.requires_grad_(True)
        (found,) = other.denoiser(grid, time, other.condition(["a boat"]))
        found.float().square().mean().backward()
        other.denoiser.requires_grad_(False)
        assert other.generate(["a boat"], [1])
        assert other.encode([sample_image()])[0].dtype == torch.float32
        assert isinstance(other.answer([question(tmp_path)])[0], str)
    (exact,) = velocity(model, grid, [0.5], ["a boat"])
    error = (found.float() - exact).norm() / exact.norm()
    assert error < (1e-5 if dtype == "float32" and not autocast else 0.1)


@pytest.mark.parametrize("train", ["head", "all"])
def test_float32_master_weights_beside_bfloat16(train: str, model: ShowO2) -> None:
    """As a run trains on an accelerator: what is trained in float32, the rest in bfloat16, under autocast."""
    other = build(dtype="bfloat16", train=train)
    for name, each in other.denoiser.named_parameters():
        if any(re.fullmatch(pattern, name) for pattern in other.recipe.full):
            each.data = each.data.float()
            each.requires_grad_(True)
    grid = [torch.randn(5, 5, 64, generator=torch.Generator().manual_seed(0))]
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = other.denoiser(grid, torch.tensor([0.5]), other.condition(["a boat"]))
    found.float().square().mean().backward()
    assert all(each.grad is not None for each in other.denoiser.parameters() if each.requires_grad)
    (exact,) = velocity(model, grid, [0.5], ["a boat"])
    assert (found.float() - exact).norm() / exact.norm() < 0.1


# ---- what is encoded -------------------------------------------------------------------------------------------------


def test_the_middle_of_an_image_is_encoded(model: ShowO2) -> None:
    assert model.window((80, 80)) == model.window((64, 64)) == (0.0, 0.0, 1.0, 1.0)
    assert model.window((120, 80)) == pytest.approx((1 / 6, 0.0, 5 / 6, 1.0))
    assert model.window((160, 320)) == pytest.approx((0.0, 0.25, 1.0, 0.75))
    wide = sample_image((120, 80))
    assert off(model.encode([wide])[0], model.encode([wide.crop((20, 0, 100, 80))])[0]) <= 1e-5
    same = wide.copy()
    same.paste("red", (0, 0, 20, 80))
    assert torch.equal(model.encode([wide])[0], model.encode([same])[0])


def test_or_all_of_it_at_its_own_proportions() -> None:
    whole = build(crop=False)
    assert whole.window((120, 80)) == (0.0, 0.0, 1.0, 1.0)
    shapes = [tuple(each.shape) for each in whole.encode([sample_image(s) for s in ((160, 80), (80, 80), (30, 90))])]
    assert shapes == [(4, 7, 64), (5, 5, 64), (9, 3, 64)]


def test_images_become_pixels_as_for_the_reference(model: ShowO2) -> None:
    """Transparency is white; an image of the generated size is not resampled."""
    clear = Image.new("RGBA", (80, 80), (255, 0, 0, 0))
    assert model.fitted(flatten(clear)).getpixel((3, 3)) == (255, 255, 255)
    plain = sample_image((80, 80))
    assert model.fitted(plain) is plain


# ---- answering -------------------------------------------------------------------------------------------------------


def test_an_image_is_read_once_for_all_its_questions(model: ShowO2, tmp_path: Path) -> None:
    rows: list[int] = []
    hook = model.denoiser.und_trans.register_forward_hook(lambda _, __, out: rows.append(len(out.last_hidden_state)))
    asked = [
        question(tmp_path, text="What?"), question(tmp_path, (40, 60), "How many cups are on the table?"),
        question(tmp_path, text="Is there a dog in it?"), question(tmp_path, crop=(0.0, 0.0, 0.5, 0.5)),
    ]  # fmt: skip
    together = model.answer(asked)
    hook.remove()
    assert rows == [3]
    assert together == [model.answer([each])[0] for each in asked]


def test_how_images_are_read_is_a_setting(model: ShowO2, tmp_path: Path) -> None:
    image = sample_image((120, 60))
    assert np.asarray(model.seen(image))[0].max() == 0  # black above
    script = build(understanding="script")
    assert np.asarray(script.seen(image)).any(axis=-1).all()
    ours, theirs = model.view([image]), script.view([image])
    assert int(theirs.block[0].argmax()) == int(ours.block[0].argmax()) + 1
    assert model.words.question("What?") != model.words.question("What?", trained=False)
    assert build(vision_size=32).seen(image).size == (32, 32)
    long = sample_image((400, 1))
    assert model.seen(long).size == script.seen(long).size == (80, 80)


def test_each_question_has_its_own_temperature_and_seed(model: ShowO2, tmp_path: Path) -> None:
    greedy = question(tmp_path)
    hot = [question(tmp_path, temperature=5.0, seed=seed) for seed in (1, 2, 1)]
    said = model.answer([greedy, *hot])
    assert said[0] == model.answer([greedy])[0]
    assert said[1] == said[3] != said[2]
    assert model.answer([hot[1]])[0] == said[2]
    assert model.answer([attrs.evolve(greedy, think=True)]) != [said[0]]


# ---- the command line ------------------------------------------------------------------------------------------------


def test_presets_are_the_published_recipes() -> None:
    registry = discover()

    def read(*presets: str) -> dict[str, Any]:
        return load_settings("showo2", presets, None, (), registry).adapter.options

    assert {key: read()[key] for key in ("checkpoint", "size", "train")} == {
        "checkpoint": "showlab/show-o2-1.5B", "size": [0, 0], "train": "head",
    }  # fmt: skip
    assert read("7b")["checkpoint"] == "showlab/show-o2-7B"
    for preset, side in (("hq-512", 512), ("hq-1024", 1024)):
        found = read(preset)
        assert found["checkpoint"] == "showlab/show-o2-1.5B-HQ"
        assert (tuple(found["size"]), found["caption_tokens"]) == ((side, side), 251)
        assert found["sampling"] == {"steps": 20, "guidance": 5.0, "shift": 3.0}
    assert read("7b", "command-lines")["sampling"] == {"steps": 50, "guidance": 7.5, "shift": 3.0}
    assert read("geneval")["sampling"]["steps"] == 100
    assert read("dpg")["sampling"]["guidance"] == 10.0


@pytest.mark.slow
def test_the_doctor_examines_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights cannot tell the sign or answer a judge; all else is as it should be."""
    short = ["judges.0.max_new_tokens=5", "judges.1.max_new_tokens=5", "train.max_cells=50"]
    given = ["--adapter", "showo2", "--checkpoint", str(CHECKPOINT), "adapter.sampling.steps=3", *short]
    assert main(["doctor", *given, "generate.batch=2", "judge.batch=2"]) == 0
    shown = capsys.readouterr().out
    assert "a gradient reaches all of them" in shown
    assert "wrong" not in shown


def test_defaults_are_those_of_the_published_configuration() -> None:
    sampling = Options().sampling
    assert (sampling.steps, sampling.guidance, sampling.shift) == (50, 5.0, 3.0)
    assert (Options().caption_tokens, Options().understanding, Options().control_tokens) == (290, "trained", False)


def test_options_that_only_sample_may_differ_between_rounds() -> None:
    registry = discover()
    settings = load_settings("showo2", (), None, ["rounds=[['adapter.sampling.guidance=1.5'], []]"], registry)
    assert Run(Path(), settings, registry).at("generate", 1).settings.adapter.options["sampling"]["guidance"] == 1.5
    for option in ("size=[64,64]", "train=all", "understanding=script", "caption_tokens=3"):
        with pytest.raises(ConfigError, match="cannot differ between rounds"):
            load_settings("showo2", (), None, [f"rounds=[['adapter.{option}'], []]"], registry)
