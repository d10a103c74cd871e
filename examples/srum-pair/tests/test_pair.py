"""The adapter on three kinds of pipelines, and the whole loop on one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import diffusers
import pytest
import tiny
import torch
from attrs import evolve
from einops import rearrange

from srum_core.cli.main import main, train_main
from srum_core.errors import CheckpointError, TrainingError
from srum_core.plugins import discover
from srum_core.records import Question
from srum_core.runs.run import Run
from srum_core.testing import AdapterConformance, check_generates_like, sample_image
from srum_pair import PairOptions
from srum_pair.model import Pair

FAMILIES = {"sd3": (tiny.sd3, (48, 32)), "flux": (tiny.flux, (48, 32)), "lumina2": (tiny.lumina2, (96, 64))}


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """The adapter with a family's pipeline, made once; tests leave it as it was."""
    folder = tmp_path_factory.mktemp("tiny")
    eye = tiny.llava(folder / "llava")

    @cache
    def of(family: str) -> Pair:
        make, size = FAMILIES[family]
        hand = make(folder / family)
        return Pair(PairOptions(str(hand), str(eye), size, steps=3, guidance=2.0, device="cpu", dtype="float32"))

    return of


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, pair_of: Callable[[str], Pair]) -> Pair:
    return pair_of(request.param)


@pytest.fixture
def sd3(pair_of: Callable[[str], Pair]) -> Pair:
    return pair_of("sd3")


class _Conformance(AdapterConformance):
    family: str
    mixed_sizes = False
    sizes = ((48, 32), (32, 48), (32, 32))  # the first oblong one is what the pipelines draw here

    @pytest.fixture
    def adapter(self, pair_of: Callable[[str], Pair]) -> Pair:
        return pair_of(self.family)


class TestStableDiffusion3(_Conformance):
    family = "sd3"


class TestFlux(_Conformance):
    family = "flux"


class TestLumina2(_Conformance):
    family = "lumina2"
    sizes = ((96, 64), (64, 96), (64, 64))


def test_the_denoiser_draws_what_the_pipeline_draws(pair: Pair) -> None:
    """Time, sign, packing and text at once: three Euler steps of our own end where the pipeline's end."""
    width, height = pair.options.size
    how = {"prompt": ["a cat"], "width": width, "height": height, "output_type": "latent", "guidance_scale": 1.0}
    theirs = pair.hand(**how, num_inference_steps=3, generator=[torch.Generator().manual_seed(7)]).images
    rows, columns = height // pair.hand.vae_scale_factor, width // pair.hand.vae_scale_factor
    noise = torch.randn(1, 4, rows, columns, generator=torch.Generator().manual_seed(7))
    if theirs.ndim == 3:
        theirs = pair.hand._unpack_latents(theirs, height, width, pair.hand.vae_scale_factor)
    first, last = (rearrange(each, "1 c (h p) (w q) -> h w (c p q)", p=2, q=2) for each in (noise, theirs))
    check_generates_like(pair, "a cat", first, last, pair.hand.scheduler.sigmas)


def test_a_latent_is_what_the_pipeline_would_decode_from(pair: Pair) -> None:
    image = sample_image(pair.options.size)
    latent = rearrange(pair.encode([image])[0], "h w (c p q) -> 1 c (h p) (w q)", p=2, q=2)
    vae, config = pair.hand.vae, pair.hand.vae.config
    mean = vae.encode(pair.hand.image_processor.preprocess(image)).latent_dist.mode()
    torch.testing.assert_close(latent / config.scaling_factor + config.shift_factor, mean, rtol=0, atol=1e-4)


def test_full_training_takes_exactly_the_parameters_that_reach_the_velocity(pair: Pair) -> None:
    latents = pair.encode([sample_image(pair.options.size)])
    pair.denoiser.requires_grad_(True)
    pair.denoiser(latents, torch.tensor([0.5]), pair.condition(["a cat"]))[0].square().sum().backward()
    reached = {name for name, each in pair.denoiser.named_parameters() if each.grad is not None and each.grad.any()}
    pair.denoiser.requires_grad_(False).zero_grad()
    names = [name for name, _ in pair.denoiser.named_parameters()]
    assert reached == {name for name in names if any(re.fullmatch(pattern, name) for pattern in pair.recipe.full)}


def test_saving_leaves_the_model_as_it_was(pair: Pair, tmp_path: Path) -> None:
    before = {name: each.clone() for name, each in pair.denoiser.state_dict().items()}
    name = next(name for name, _ in pair.denoiser.named_parameters())
    pair.save(tmp_path, {name: torch.zeros_like(before[name])})
    assert all(torch.equal(each, before[name]) for name, each in pair.denoiser.state_dict().items())
    assert not Pair(evolve(pair.options, checkpoint=str(tmp_path))).denoiser.state_dict()[name].any()


@pytest.mark.parametrize(
    ("family", "sizes"), [("sd3", [(48, 32), (32, 48)]), ("flux", [(48, 32), (32, 48)]), ("flux", [(32, 48)])]
)
def test_images_that_cannot_be_in_a_call_are_refused(
    pair_of: Callable[[str], Pair], family: str, sizes: list[tuple[int, int]]
) -> None:
    """Packed latents of another shape could have as many tokens, and would get the wrong places."""
    pair = pair_of(family)
    latents = pair.encode([sample_image(size) for size in sizes])
    with pytest.raises(TrainingError, match=r"takes images of .* cells in a call"):
        pair.denoiser(latents, torch.full((len(sizes),), 0.5), pair.condition(["a cat"] * len(sizes)))


def test_a_pipeline_of_another_kind_is_refused(sd3: Pair, tmp_path: Path) -> None:
    other = diffusers.DiffusionPipeline.from_pretrained(sd3.options.checkpoint)
    other.register_modules(scheduler=diffusers.DDIMScheduler())
    other.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no flow-matching pipeline"):
        Pair(evolve(sd3.options, checkpoint=str(tmp_path)))


def test_sampled_answers_follow_their_seed_and_nobody_elses(sd3: Pair, tmp_path: Path) -> None:
    sample_image((64, 48)).save(tmp_path / "picture.png")
    question = Question(tmp_path / "picture.png", "What is it?", max_new_tokens=8, temperature=1.0)
    torch.manual_seed(0)
    one, other = sd3.answer([question, evolve(question, seed=1)])
    assert one != other
    assert torch.initial_seed() == 0


def test_a_crop_and_thinking_change_what_the_eye_is_shown(
    sd3: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_image((128, 96)).save(tmp_path / "picture.png")
    shown: list[tuple[tuple[int, int], str]] = []
    template = sd3.eye[1].apply_chat_template

    def watch(said: list[dict[str, list[dict[str, str]]]], **how: object) -> object:
        image, text = said[0]["content"]
        shown.append((image["image"].size, text["text"]))
        return template(said, **how)

    monkeypatch.setattr(sd3.eye[1], "apply_chat_template", watch)
    plain = Question(tmp_path / "picture.png", "What is it?", max_new_tokens=2)
    sd3.answer([plain, evolve(plain, crop=(0.5, 0.0, 1.0, 0.5), think=True)])
    assert shown == [((128, 96), "What is it?"), ((64, 48), "Think step by step first.\n\nWhat is it?")]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_whole_loop_twice(sd3: Pair, tmp_path: Path, method: str) -> None:
    """Round 2 draws with what round 1 has trained: LoRA on top of the pipeline, or a pipeline of its own."""
    (tmp_path / "words.txt").write_text("a red cup\ntwo dogs\n")
    hand = sd3.options.checkpoint
    adapter = [f"adapter.checkpoint={hand}", "adapter.size=[48, 32]", "adapter.steps=2", "adapter.device=cpu"]
    train = [f"train.method={method}", "train.steps=2", "train.lr=1e-2", "train.warmup=0", "lora.rank=2"]
    where = ["--adapter", "pair", "--out", str(tmp_path / "run"), f"prompts={tmp_path / 'words.txt'}", "rounds=2"]
    how = ["adapter.dtype=float32", "answerer=scripted", "grounder=grid", "train.mixed_precision=no"]
    assert train_main([*where, *adapter, *how, *train]) == 0

    rounds = [tmp_path / "run" / f"round-{k}" for k in (1, 2)]
    for folder in rounds:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert all(line["judged"] == 2 and line["gradient_norm"] > 0 for line in lines)
    if method == "lora":
        assert (rounds[0] / "checkpoint" / "adapter_model.safetensors").is_file()
        assert main(["export", str(tmp_path / "run"), "--to", "diffusers", "--out", str(tmp_path / "lora")]) == 0
        loaded = diffusers.DiffusionPipeline.from_pretrained(hand)
        loaded.load_lora_weights(tmp_path / "lora")  # of both rounds
        loaded.fuse_lora()
        loaded.unload_lora_weights()
        expected = Run.open(tmp_path / "run", discover()).model(2).denoiser.transformer.state_dict()
        for name, tensor in loaded.transformer.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)
        return
    trained = diffusers.DiffusionPipeline.from_pretrained(rounds[1] / "checkpoint").transformer.state_dict()
    untrained = diffusers.DiffusionPipeline.from_pretrained(hand).transformer.state_dict()
    assert {name for name in untrained if torch.equal(trained[name], untrained[name])} == {
        "pos_embed.pos_embed",
        "transformer_blocks.1.attn.add_q_proj.weight",
        "transformer_blocks.1.attn.add_q_proj.bias",
        "transformer_blocks.1.attn.norm_added_q.weight",
    }
