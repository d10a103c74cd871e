"""BAGEL as a `UnifiedModel`, on the golden checkpoint (random weights, real layout)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from near import off
from PIL import Image
from rows import each_row
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from srum_bagel.attention import Context, attend
from srum_bagel.layers import RMSNorm
from srum_bagel.model import Bagel
from srum_bagel.options import Options, Sampling
from srum_bagel.vision import size_rule
from srum_core.errors import CheckpointError
from srum_core.flow import flow_step
from srum_core.models.images import flatten
from srum_core.models.tensors import to_tensor
from srum_core.protocols import UnifiedModel
from srum_core.records import Question

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"


def build(**options) -> Bagel:
    fixed = {
        "generation_sides": (160, 64),
        "vision_sides": (112, 56),
        "size": (64, 96),
        "device": "cpu",
        "dtype": "float32",
    }
    return Bagel(Options(checkpoint=str(GOLDEN), **{**fixed, "sampling": Sampling(steps=4), **options}))


@pytest.fixture(scope="module")
def model() -> Bagel:
    return build()


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def test_is_a_unified_model(model: Bagel) -> None:
    assert isinstance(model, UnifiedModel)


# ---- drawing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 64), (64, 64), (0, 0), (160, 96)])
@pytest.mark.parametrize("sides", [(160, 64), (1024, 512), (96, 32)])
def test_an_image_is_trained_on_the_grid_that_it_was_generated_on(
    model: Bagel, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], sides: tuple[int, int]
) -> None:
    monkeypatch.setattr(model, "options", evolve(model.options, size=size))
    monkeypatch.setattr(model, "generated_size", size_rule(sides, model.stride, model.denoiser.side))
    rows, columns = model.grid(size)
    image = noise_image(columns * model.stride, rows * model.stride)
    assert [tuple(each.shape[:2]) for each in model.encode([image, image])] == [(rows, columns)] * 2
    other = noise_image(columns * model.stride + 1, rows * model.stride)  # the reference's rule
    width, height = model.generated_size(*other.size)
    assert model.encode([other])[0].shape[:2] == (height // model.stride, width // model.stride)


def test_a_batch_draws_what_each_prompt_draws_alone(model: Bagel) -> None:
    prompts, seeds = ["a", "a much longer prompt about a red boat", "three lamps"], [3, 1, 2]
    together = model.generate(prompts, seeds)
    assert together[0].image.size == (64, 96)
    for prompt, seed, sample in zip(prompts, seeds, together, strict=True):
        alone = np.asarray(model.generate([prompt], [seed])[0].image, int)
        assert np.abs(alone - np.asarray(sample.image, int)).max() <= 1


@each_row("trained", [(True, True), (True, False), (False, True)])
def test_norms_are_those_of_transformers_in_one_step(trained: tuple[bool, bool]) -> None:
    """Values and gradients, whichever are asked for; only the input and one number a row are kept."""
    torch.manual_seed(0)
    theirs, ours = Qwen2RMSNorm(16, eps=1e-3), RMSNorm(16, eps=1e-3)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(16))
        ours.load_state_dict(theirs.state_dict())
    x, g = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 5, 16)
    found, kept = [], list[torch.Tensor]()
    for norm in (theirs, ours):
        given = x.clone().requires_grad_(trained[0])
        norm.weight.requires_grad_(trained[1])
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
            y = norm(given)
        y.backward(g)
        found.append((y, given.grad, norm.weight.grad))
    for ours_, theirs_, asked in zip(found[1], found[0], (True, *trained), strict=True):
        assert (ours_ is not None) == (theirs_ is not None) == asked
        assert ours_ is None or off(ours_, theirs_) <= 1e-5
    assert sorted(each.numel() for each in kept) == [16, x.numel() // 16, x.numel()]


def test_norms_of_other_types_are_left_to_transformers() -> None:
    x, ours, theirs = torch.randn(3, 16).bfloat16(), RMSNorm(16), Qwen2RMSNorm(16)
    for each in (x, x.float()):
        assert torch.equal(ours.bfloat16()(each), theirs.bfloat16()(each))
    assert torch.equal(ours.float()(x), theirs.float()(x))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_cpu_s_training_in_bfloat16_attends_in_float32(autocast: bool) -> None:
    """torch's kernel is many times slower backwards in bfloat16; the answer is rounded once, at the end."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 8).bfloat16().requires_grad_() for heads in (4, 2, 2))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attend(q, k, v, causal=True)
    assert torch.equal(found, attend(q.float(), k.float(), v.float(), causal=True).bfloat16())
    found.float().sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.bfloat16


def test_branches_that_have_read_equally_much_look_without_a_mask(
    model: Bagel, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = []
    look = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, **more):
        masks.append((q.shape[0], attn_mask is not None))
        return look(q, k, v, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model.generate(["two cups", "a tall cup"], [1, 2])
    assert not any(masked for _, masked in masks)
    masks.clear()
    model.generate(["a" * count for count in range(1, 7)], [1] * 6)
    assert (12, True) in masks, "many lengths: one call with a mask"


def test_seed_and_words_matter(model: Bagel) -> None:
    a, again, other_seed, other_words = (
        np.asarray(s.image) for s in model.generate(["x", "x", "x", "y"], [0, 0, 1, 0])
    )
    assert (a == again).all()
    assert (a != other_seed).any()
    assert (a != other_words).any()


def test_thinking_returns_the_plan_and_draws_from_it(model: Bagel) -> None:
    thinking = build(think=True, think_tokens=5)
    sample = thinking.generate(["a boat", "b"], [0, 0])
    assert all(each.thought for each in sample)
    contexts = thinking.generation_contexts(["a boat"], [sample[0].thought])
    system, prompt, thought = (len(thinking.chat.frame(t)) for t in (thinking.plan, "a boat", sample[0].thought))
    assert [int(c.position[0]) for c in (contexts.full, contexts.textless, contexts.imageless)] == [
        system + prompt + thought,
        system,
        system + prompt,
    ]
    assert (np.asarray(sample[0].image) != np.asarray(model.generate(["a boat"], [0])[0].image)).any()


def test_a_think_template_replaces_the_wording(tmp_path: Path) -> None:
    (tmp_path / "plan.txt").write_text("Plan it.")
    assert build(think_template=str(tmp_path / "plan.txt")).plan == "Plan it."


@pytest.mark.parametrize("size", [(100, 64), (16 * 17, 64)])
def test_a_size_that_cannot_be_generated_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CheckpointError, match=r"multiples of 16 up to 256"):
        build(size=size).generate(["x"], [0])


def test_no_special_token_gets_in_through_a_prompt(model: Bagel) -> None:
    ids = model.condition(["<|im_end|><|vision_start|>"])[0].tolist()
    assert ids.count(model.chat.eos) == 1
    assert model.chat.markers[0] not in ids


def test_a_grid_beyond_the_position_table_is_refused(model: Bagel) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        model.denoiser.places(model.denoiser.side + 1, 1)


# ---- training side -------------------------------------------------------------------------------------------------


def test_encoding_is_repeatable_and_blind_to_the_batch(model: Bagel) -> None:
    images = [noise_image(96, 64), noise_image(64, 64, 1), noise_image(96, 64, 2)]
    together, again = model.encode(images), model.encode(images)
    assert [tuple(x.shape) for x in together] == [(4, 6, 64), (4, 4, 64), (4, 6, 64)]
    for image, latent, repeated in zip(images, together, again, strict=True):
        assert torch.equal(latent, repeated)
        assert off(latent, model.encode([image])[0]) <= 1e-5


def test_sampled_latents_depend_on_the_image_alone(model: Bagel) -> None:
    sampling, image = build(sample_latents=True), noise_image(64, 64)
    first, other = sampling.encode([image, noise_image(64, 64, 1)])[0], sampling.encode([image])[0]
    assert off(first, other) <= 1e-5
    assert off(first, model.encode([image])[0]) > 1e-2


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert float(to_tensor(flatten(clear)).min()) == 1.0


def test_each_block_runs_once_for_ragged_images(model: Bagel) -> None:
    calls = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
        for i, layer in enumerate(model.denoiser.language_model.model.layers)
    ]
    grids = [torch.randn(2, 3, 64), torch.randn(4, 4, 64), torch.randn(1, 1, 64)]
    out = model.denoiser(grids, torch.tensor([0.1, 0.5, 0.9]), model.condition(["a", None, "some longer words"]))
    for hook in hooks:
        hook.remove()
    assert calls == list(range(len(hooks)))
    assert [v.shape for v in out] == [g.shape for g in grids]
    for row in range(3):
        alone = model.denoiser(
            grids[row : row + 1],
            torch.tensor([0.1, 0.5, 0.9])[row : row + 1],
            model.condition([["a", None, "some longer words"][row]]),
        )
        assert off(alone[0], out[row]) <= 1e-5, "an image saw its neighbour's padding"


@pytest.mark.parametrize("taught", [False, True])
def test_text_has_a_graph_only_where_its_weights_are_trained(taught: bool) -> None:
    """And the last layer computes of text and markers only what the cells look at."""
    model = build()
    model.denoiser.requires_grad_(True)
    if not taught:
        for name, weight in model.denoiser.named_parameters():
            weight.requires_grad_("_moe_gen" in name)
    seen: dict[str, list[tuple[int, bool]]] = {}
    layers = model.denoiser.language_model.model.layers
    for index, layer in enumerate(layers):
        for name in ("q_proj", "k_proj"):
            kept = seen.setdefault(f"{index}.{name}", [])
            layer.self_attn.get_submodule(name).register_forward_hook(
                lambda _, __, out, kept=kept: kept.append((out.shape[1], out.requires_grad))
            )
    (out,) = model.denoiser([torch.ones(2, 2, 64)], torch.ones(1), model.condition(["a cup"]))
    out.sum().backward()
    words = len(model.condition(["a cup"])[0])
    assert seen["1.k_proj"] == ([(2 + words, True)] if taught else [(words, False), (2, True)])
    assert seen["0.q_proj"]
    assert not seen[f"{len(layers) - 1}.q_proj"]
    assert (layers[0].self_attn.k_proj.weight.grad is not None) is taught


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_precision_runs(dtype: str, autocast: bool, tmp_path: Path) -> None:
    model, exact = build(dtype=dtype), build()
    noise_image(80, 64).save(tmp_path / "a.png")
    grid, words = [torch.randn(3, 2, 64)], ["a boat"]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model.denoiser.requires_grad_(True)
        step = flow_step(
            model.denoiser, grid, model.condition(words), torch.tensor([0.5]), None, torch.Generator().manual_seed(0)
        )
        step.velocity[0].float().square().mean().backward()
        model.denoiser.requires_grad_(False)
        model.generate(words, [0])
        assert isinstance(model.answer([Question(tmp_path / "a.png", "what?", max_new_tokens=3)])[0], str)
    reference = flow_step(
        exact.denoiser, grid, exact.condition(words), torch.tensor([0.5]), None, torch.Generator().manual_seed(0)
    )
    error = (step.velocity[0].float() - reference.velocity[0]).norm() / reference.velocity[0].norm()
    assert error < (1e-5 if dtype == "float32" and not autocast else 0.05)


def matched(model: Bagel) -> set[str]:
    names = [name for name, _ in model.denoiser.named_parameters()]
    return {name for name in names if any(re.fullmatch(pattern, name) for pattern in model.recipe.full)}


def test_generation_experts_only_leave_understanding_bit_identical(tmp_path: Path) -> None:
    model = build(experts="generation")
    noise_image(80, 64).save(tmp_path / "a.png")
    ask = [Question(tmp_path / "a.png", "what is this?", max_new_tokens=8)]
    before, generated = model.answer(ask), np.asarray(model.generate(["x"], [0])[0].image)
    trained = matched(model)
    assert {name.rsplit(".", 1)[0] for name in trained} >= {"vae2llm", "llm2vae", "time_embedder.mlp.0"}
    with torch.no_grad():
        for name in trained:
            model.denoiser.get_parameter(name).add_(0.1)
    assert model.answer(ask) == before
    assert (np.asarray(model.generate(["x"], [0])[0].image) != generated).any()
    assert matched(build()) > trained


def test_lora_adapts_the_seven_generation_projections(model: Bagel) -> None:
    modules = [n for n, _ in model.denoiser.named_modules() if re.fullmatch(model.recipe.lora, n)]
    layers = len(model.denoiser.language_model.model.layers)
    assert len(modules) == 7 * layers
    assert all("moe_gen" in name for name in modules)
    from peft import LoraConfig, inject_adapter_in_model

    other = build()
    grid, condition = [torch.randn(2, 2, 64)], other.condition(["a"])
    plain = other.denoiser(grid, torch.tensor([0.5]), condition)[0]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=other.recipe.lora), other.denoiser)
    assert off(other.denoiser(grid, torch.tensor([0.5]), condition)[0], plain) <= 1e-5, "LoRA starts neutral"


# ---- looking -------------------------------------------------------------------------------------------------------


def test_an_image_is_looked_at_once_however_often_it_is_asked_about(model: Bagel, tmp_path: Path) -> None:
    noise_image(80, 64).save(tmp_path / "a.png")
    seen = []
    hook = model.eye.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    model.answer([Question(tmp_path / "a.png", text, max_new_tokens=2) for text in ("a", "b", "c")])
    hook.remove()
    assert seen == [1]


def test_waiting_questions_take_the_places_of_answered_ones(model: Bagel, tmp_path: Path) -> None:
    """Few places give the same answers in fewer words than batch after batch, and never more rows than places."""
    for name, size in (("a", (80, 64)), ("b", (64, 96))):
        noise_image(*size).save(tmp_path / f"{name}.png")
    lengths = [1, 9, 2, 3, 1, 8, 0, 2]
    asked = [
        Question(
            tmp_path / f"{'ab'[i % 2]}.png",
            "what " * (i % 3 + 1),
            max_new_tokens=count,
            temperature=float(i % 2),
            seed=i,
            think=i == 3,
        )
        for i, count in enumerate(lengths)
    ]
    together = model.answer(asked)
    assert len(set(together)) > 3
    rows = []
    hook = model.denoiser.language_model.lm_head.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    few = build(rows=3)
    few.denoiser = model.denoiser
    assert few.answer(asked) == together
    hook.remove()
    assert max(rows) == 3
    assert len(rows) < sum(max(lengths[start : start + 3]) for start in range(0, len(lengths), 3))


def test_stacking_forgets_columns_that_nobody_has_read(model: Bagel) -> None:
    both = model.read(["a long text about two boats", "a"])
    left = Context.stack([both.select([1])], room=0)
    assert left.used == len(model.chat.frame("a")) < both.used
    assert left.valid.all()
    assert torch.equal(left.keys[1][0], both.keys[1][1, :, : left.used])


def test_an_image_is_read_once_for_all_questions_that_are_asked_together(model: Bagel, tmp_path: Path) -> None:
    noise_image(80, 64).save(tmp_path / "a.png")
    rows = []
    hook = model.denoiser.language_model.model.layers[0].register_forward_hook(
        lambda _, a, __: rows.append(a[0][0].shape)
    )
    model.answer([Question(tmp_path / "a.png", "what?", max_new_tokens=1)] * 3)
    hook.remove()
    image, question, word = rows
    assert [len(shape) and shape[0] for shape in rows] == [1, 3, 3]
    assert image[1] > question[1] > word[1] == 1


def test_sampling_follows_the_questions_own_seed(model: Bagel, tmp_path: Path) -> None:
    noise_image(80, 64).save(tmp_path / "a.png")

    def ask(seed: int, beside: int = 0) -> str:
        extra = [Question(tmp_path / "a.png", "other?", max_new_tokens=4, temperature=1.0, seed=9)] * beside
        asked = Question(tmp_path / "a.png", "what?", max_new_tokens=8, temperature=1.0, seed=seed)
        return model.answer([*extra, asked])[-1]

    assert ask(1) == ask(1) == ask(1, beside=2)
    assert len({ask(seed) for seed in range(5)}) > 1


def test_a_crop_is_what_is_looked_at(model: Bagel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = Image.new("RGB", (64, 64), "red"), noise_image(64, 64)
    both = Image.new("RGB", (128, 64))
    both.paste(left, (0, 0)), both.paste(right, (64, 0))
    both.save(tmp_path / "both.png")
    look, seen = model.look, list[Image.Image]()
    monkeypatch.setattr(model, "look", lambda images: look(seen.extend(images) or images))
    crop = (0.5, 0.0, 1.0, 1.0)
    model.answer([Question(tmp_path / "both.png", "what?", crop, 2), Question(tmp_path / "both.png", "how?", crop, 2)])
    (image,) = seen  # looked at once, for both questions
    assert np.array_equal(np.asarray(image), np.asarray(right))


def test_encoding_resizes_and_encodes_an_image_once(model: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    resized, encoded = list[tuple[int, int]](), list[int]()
    resize, encode = Image.Image.resize, model.autoencoder.encode
    monkeypatch.setattr(Image.Image, "resize", lambda self, *how: resized.append(self.size) or resize(self, *how))
    monkeypatch.setattr(model.autoencoder, "encode", lambda x, *more: encoded.append(len(x)) or encode(x, *more))
    sizes = [(200, 100), (320, 160), (100, 200)]
    model.encode([noise_image(*size) for size in sizes])
    assert resized == sizes
    assert sum(encoded) == len(sizes)
    assert len(encoded) == 2, "images that end up at one size share a batch"
