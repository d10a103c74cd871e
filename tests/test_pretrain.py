"""The bundled model's recipe, in a few tiny steps: it resumes, and what it writes is a BAGEL directory that runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pretraining import measure, pretrain, self_labelling
from pretraining.curriculum import Recipe, Steps
from pretraining.scenes import compose, draw, random_prompt
from pretraining.self_labelling import Anchor, text_weights
from pretraining.vision_pretraining import BACKGROUND
from srum_bagel.model import Bagel
from srum_bagel.options import Options, Sampling
from srum_benchmarks.shapes import world
from srum_benchmarks.shapes.checker import check, look
from srum_core.config import Lora
from srum_core.records import Question
from srum_core.training import lora

pytestmark = pytest.mark.slow

TEMPLATES = Path(__file__).parent.parent / "judges" / "srum_judges" / "prompts"
CROWDED = tuple((TEMPLATES / f"{name}.txt").read_text() for name in ("crowded-layout", "short-regions"))
WORDS = tuple((TEMPLATES / f"short-{name}.txt").read_text() for name in ("layout", "regions"))


ARGUMENTS = [
    "--layout-template", str(TEMPLATES / "short-layout.txt"),
    "--regions-template", str(TEMPLATES / "short-regions.txt"),
]  # fmt: skip
SIDES = {"size": (32, 32), "generation_sides": (32, 32), "vision_sides": (32, 32)}


def run(out: Path, steps: int, *more: str) -> None:
    pretrain.main([
        "--out", str(out), "--device", "cpu", "--measure", "0", *ARGUMENTS, "--autoencoder-steps", "2",
        "--autoencoder-batch", "2", "--eye-steps", "2", "--eye-batch", "2", "--steps", str(steps), "--turn", "3",
        "--drawings", "4", "--lessons", "2", "--late-drawings", "2", "--late-lessons", "2", *more,
    ])  # fmt: skip


def load(checkpoint: Path | str, **more: Any) -> Bagel:
    few = Sampling(steps=3)
    return Bagel(Options(checkpoint=str(checkpoint), device="cpu", dtype="float32", sampling=few, **SIDES, **more))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four steps, made in two goes, leave behind."""
    out = tmp_path_factory.mktemp("pretrained")
    run(out, 2)
    states = [(out / f"{phase}.pt").read_bytes() for phase in ("autoencoder", "eye")]
    run(out, 4)
    assert [(out / f"{phase}.pt").read_bytes() for phase in ("autoencoder", "eye")] == states, (
        "a finished phase is not made again"
    )
    return out


@pytest.mark.slow
def test_pretraining_resumes_and_writes_a_checkpoint_that_runs(pretrained: Path, tmp_path: Path) -> None:
    steps = [json.loads(line)["step"] for line in (pretrained / "both.jsonl").read_text().splitlines()]
    assert steps == [2, 4], "the second call goes on after the first"
    eye = [json.loads(line) for line in (pretrained / "eye.jsonl").read_text().splitlines()]
    assert [line["step"] for line in eye] == [2]
    assert {"loss", "right"} < set(eye[0])
    model = load(pretrained / "model")
    sample = model.generate(["a red circle and a blue square"], [0])[0]
    sample.image.save(tmp_path / "a.png")
    assert sample.image.size == (32, 32)
    assert isinstance(model.answer([Question(tmp_path / "a.png", "what?", max_new_tokens=3)])[0], str)


@pytest.mark.slow
def test_pretraining_can_go_on_from_a_checkpoint_and_keeps_its_autoencoder(pretrained: Path, tmp_path: Path) -> None:
    run(tmp_path, 1, "--start", str(pretrained / "model"))
    assert not (tmp_path / "autoencoder.pt").exists()
    assert (tmp_path / "eye.pt").is_file()
    old, new = (folder / "model" for folder in (pretrained, tmp_path))
    assert (old / "tokenizer.json").read_bytes() == (new / "tokenizer.json").read_bytes()
    ours, theirs = (load_file(folder / "ae.safetensors") for folder in (old, new))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (old / "ema.safetensors").read_bytes() != (new / "ema.safetensors").read_bytes()


@pytest.mark.slow
def test_generating_alone_leaves_looking_as_it_was_and_looking_alone_leaves_generating(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pretrained, tmp_path / "out")
    more = ["--drawing-steps", "2", "--drawing-batch", "2", "--looking-batch", "3", "--looking-images", "2"]
    run(tmp_path / "out", 4, *more, "--looking-steps", "2")
    monkeypatch.setattr(self_labelling, "draw_all", None)  # what was drawn once is not drawn again
    run(tmp_path / "out", 4, *more, "--looking-steps", "3")
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "looking.jsonl").read_text().splitlines()]
    assert steps == [2, 3]
    joint, drawing, last = (
        load_file(tmp_path / "out" / name / "ema.safetensors") for name in ("model", "model-drawing", "model-looking")
    )
    drawn = {key for key in joint if not torch.equal(joint[key], drawing[key])}
    seen = {key for key in joint if not torch.equal(drawing[key], last[key])}
    assert drawn
    assert not any(key.startswith(("vit_model", "connector")) for key in drawn)
    assert {key.split(".")[0] for key in seen} == {"vit_model", "connector"}
    samples = [
        load(tmp_path / "out" / name).generate(["a red circle"], [0])[0] for name in ("model-drawing", "model-looking")
    ]
    assert samples[0].image.tobytes() == samples[1].image.tobytes()


@pytest.mark.slow
def test_the_crowded_world_is_taught_from_another_worlds_weights_and_resumes(pretrained: Path, tmp_path: Path) -> None:
    words = ["--layout-template", str(TEMPLATES / "crowded-layout.txt")]
    more = [*words, "--world", "crowded", "--start", str(pretrained / "model"), "--alike", "2", "--drawing-batch", "4"]
    few = ["--looking-batch", "3", "--looking-images", "2"]
    run(tmp_path, 2, *more, "--drawing-steps", "2", *few, "--looking-steps", "0")
    run(tmp_path, 2, *more, "--drawing-steps", "3", *few, "--looking-steps", "2")
    steps = {
        phase: [json.loads(line)["step"] for line in (tmp_path / f"{phase}.jsonl").read_text().splitlines()]
        for phase in ("autoencoder", "eye", "both", "drawing", "looking")
    }
    assert steps == {"autoencoder": [2], "eye": [2], "both": [2], "drawing": [2, 3], "looking": [2]}
    old, new = (load_file(folder / "ae.safetensors") for folder in (pretrained / "model", tmp_path / "model-looking"))
    assert any(not torch.equal(old[name], new[name]) for name in old), "smaller things need another autoencoder"
    found = measure.measure(load(tmp_path / "model-looking"), CROWDED, count=2, lessons=2, world="crowded")
    assert {"correct", "fidelity", "objects"} < found["drawing"]["all"].keys()
    assert found["lessons"]["layout_readable"]["count"] == 2


@pytest.mark.slow
def test_with_an_anchor_the_text_weights_learn_too(pretrained: Path, tmp_path: Path) -> None:
    shutil.copytree(pretrained, tmp_path / "out")
    run(
        tmp_path / "out",
        4,
        "--looking-steps",
        "2",
        "--looking-images",
        "2",
        "--looking-batch",
        "4",
        "--looking-anchor",
        "1",
    )
    before, after = (load_file(tmp_path / "out" / name / "ema.safetensors") for name in ("model", "model-looking"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"language_model.lm_head.weight", "language_model.model.layers.0.self_attn.k_proj.weight"} < changed
    assert not any("moe_gen" in key or "embed" in key for key in changed - set(load_eye(changed)))
    assert {"moved"} < set(json.loads((tmp_path / "out" / "looking.jsonl").read_text().splitlines()[-1]))


def load_eye(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(("vit_model", "connector"))]


def test_an_anchor_pulls_what_is_generated_back_to_what_it_was() -> None:
    model = load("bundled:shapes", experts="generation")
    rng = np.random.default_rng(0)
    prompts = [random_prompt(rng, "train") for _ in range(4)]
    drawn = np.stack([draw(compose(prompt.tags, rng)) for prompt in prompts])
    weights = text_weights(model)
    anchor = Anchor(model, weights, Recipe(looking_batch=8), drawn, prompts)
    assert anchor(0).item() == 0
    for weight in weights.values():
        weight.requires_grad_(True)
    keys = weights["language_model.model.layers.2.self_attn.k_proj.weight"]
    with torch.no_grad():
        keys += 0.1 * torch.randn(keys.shape, generator=torch.Generator().manual_seed(0))
    moved = anchor(0)
    moved.backward()
    assert moved.item() > 1e-5
    with torch.no_grad():
        keys -= 0.5 * moved.item() / keys.grad.square().sum() * keys.grad
    assert anchor(0).item() < moved.item()
    with torch.no_grad():
        model.eye.connector.fc1.weight.zero_()
    assert anchor(0).item() < moved.item(), "what looks is not asked"


def test_a_generated_image_is_moved_a_little_and_judged_as_it_is_then() -> None:
    prompt = world.binding(("red", "circle"), ("blue", "cross"))
    image = draw(compose(prompt.tags, np.random.default_rng(0)))
    recipe = Recipe(looking_steps=1, looking_batch=60)
    images, labels, asked = self_labelling.Glances(recipe, WORDS, 0, 4, np.stack([image]), [prompt])[0]
    ours = [{thing.kind for thing in look(each)} for each in images]
    own = [i for i, kinds in enumerate(ours) if kinds == {("blue", "cross"), ("red", "circle")}]
    assert len({images[i].tobytes() for i in own}) > 20
    assert labels.shape == (60, 64)
    for (question, answer), each in zip((pairs[0] for pairs in asked), images, strict=True):
        if question.startswith(f"Prompt: {prompt.text}\n") and question.endswith("Rate the layout."):
            assert ("Score: 1.0" in answer) == check(each, prompt.tags).correct


@pytest.mark.slow
def test_what_training_wrote_is_measured_like_any_checkpoint(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(*arguments: str) -> dict:
        small = ["--count", "4", "--images", "1", "--steps", "3", "--only", "drawing"]
        capsys.readouterr()
        measure.main([*ARGUMENTS, *small, "--markdown", str(tmp_path / "table.md"), *arguments])
        return json.loads(capsys.readouterr().out)

    for method in ("full", "lora"):
        model = load(pretrained / "model")
        lora.save(model, lora.tune(model, method, Lora(), False), tmp_path / method, {})
    base = figures("--checkpoint", str(pretrained / "model"))
    assert base["drawing"]["all"]["correct"]["count"] == 4
    assert figures("--checkpoint", str(tmp_path / "full")) == base, "not trained, so it draws the same"
    assert figures("--checkpoint", str(pretrained / "model"), "--lora", str(tmp_path / "lora")) == base
    assert "| generation | correct |" in (tmp_path / "table.md").read_text()
    with pytest.raises(SystemExit):
        figures("--checkpoint", str(tmp_path / "lora"))
    assert "this folder with --lora" in capsys.readouterr().err


def test_every_step_has_its_own_lessons_and_looking_comes_late() -> None:
    recipe = Recipe(turn=1, drawings=3, lessons=1, late_drawings=2, late_lessons=2)
    early, late = Steps(recipe, WORDS, 0, "both"), Steps(recipe, WORDS, 1, "both")[0]
    again = Steps(recipe, WORDS, 0, "both")[0]
    assert (early[0][0] == again[0]).all()
    assert (len(early[0][0]), len(early[0][2])) == (3, 1)
    assert (len(late[0]), len(late[2])) == (2, 2)
    assert not np.array_equal(early[0][0][:2], late[0])


def test_an_image_is_judged_for_three_prompts_and_each_judgement_is_the_checkers() -> None:
    known = {p.text: p for category in world.CATEGORIES for p in world.every_prompt("train", category)}
    _, _, images, asked = Steps(Recipe(turn=0, late_drawings=1, late_lessons=40), WORDS, 0, "both")[0]
    both = 0
    for image, pairs in zip(images, asked, strict=True):
        whole = [(question, answer) for question, answer in pairs if question.endswith("Rate the layout.")]
        regional = [question for question, _ in pairs if question.endswith("Rate each region.")]
        played = [answer for question, answer in pairs if answer in ("yes", "no")]
        written = [question for question, _ in pairs if question.endswith("Write questions.")]
        assert len(whole) == 3
        assert len(played) == 2
        assert len(pairs) == 5 + len(written) + len(regional)
        assert len(regional) <= 1
        assert len(written) <= 1
        verdicts = set()
        for question, answer in whole:
            prompt = known[question.removeprefix("Prompt: ").splitlines()[0]]
            right = check(image, prompt.tags).correct
            assert ("Score: 1.0\n" in answer) == right, (prompt.text, answer)
            verdicts.add(right)
        both += len(verdicts) == 2
    assert both > 10, "often the same image is right for one prompt and wrong for another"


def test_generatings_miss_their_captions_as_often_as_the_recipe_says() -> None:
    known = {p.text: p for category in world.CATEGORIES for p in world.every_prompt("train", category)}

    def missed(share: float) -> float:
        recipe = Recipe(turn=0, late_drawings=200, late_lessons=0, missed_captions=share)
        drawn, captions, _, _ = Steps(recipe, WORDS, 0, "both")[0]
        named = [(image, text) for image, text in zip(drawn, captions, strict=True) if text is not None]
        assert 160 < len(named) < 195, "a tenth has no caption"
        return float(np.mean([not check(image, known[text].tags).correct for image, text in named]))

    assert missed(0.0) == 0
    assert missed(0.4) == pytest.approx(0.35, abs=0.1)  # half as often for three objects


def test_the_eye_is_shown_fresh_images_with_a_label_for_every_patch() -> None:
    steps = Steps(Recipe(eye_steps=5, eye_batch=3), WORDS, 1, "eye", patch=4)
    assert len(steps) == 4
    images, labels = steps[0]
    assert images.shape == (3, 32, 32, 3)
    assert labels.shape == (3, 64)
    assert 0 <= labels.min() < labels.max() <= BACKGROUND
    assert not np.array_equal(images, steps[1][0])
