"""The main job with BLIP3-o: `srum-train --adapter blip3o --checkpoint DIR`, from drawing to drawing otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapter_runs import answer_by_script, generated, same, stored_images
from blip3o_layouts import BESIDE, CHECKPOINT, build, copied, sharded, tied, tower_inside
from near import off
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from pretraining.measure_head import generated as measured
from srum_blip3o.checkpoint import BASE, TRAINED
from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options
from srum_core.cli.main import main, train_main
from srum_core.errors import CheckpointError
from srum_core.options import Use
from srum_core.plugins import discover
from srum_core.records import Question
from srum_core.runs.run import Run
from srum_core.training.latent_cache import Latents

TINY = [
    "adapter.device=cpu", "adapter.vision_pixels=[3136, 12544]", "adapter.sampling.steps=3",
    "adapter.sampling.decoder_steps=2", "generate.limit=3", "train.steps=2", "train.warmup=0", "train.lr=1e-2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage at every stage takes longer than the stages of so small a model."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def run(folder: Path, *arguments: str, checkpoint: Path = CHECKPOINT) -> Run:
    words = ["--adapter", "blip3o", "--checkpoint", str(checkpoint), *TINY, *arguments, "--out", str(folder)]
    assert train_main(words) == 0
    return Run.open(folder)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    return answer_by_script(monkeypatch, Blip3o)


def test_the_whole_loop(tmp_path: Path, questions: list[Question]) -> None:
    """generate, native ground, verify, judge, train, save, reload; then it draws something else."""
    done = run(tmp_path / "run", "verifier=verify-boxes")
    folder = done.round_folder(1)
    for stage in ("prompts.jsonl", "candidates", "regions", "judgements", "checkpoint", "metrics.jsonl"):
        assert (folder / stage).exists()
    # The image is 32x32 in the file and 56x56 for the model, which is what it was told and what its boxes count in.
    assert any("counts as 56 wide and 56 high" in question.text for question in questions)
    assert any("Verdict:" in question.text for question in questions)
    for grounding in done.groundings(1):
        assert [region.box for region in grounding.regions] == [(0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 1.0)]
    assert all(judged.scores and not judged.failures for judged in done.judgements(1))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in metrics] == [1, 2]
    assert {each["cells"] for each in metrics} == {3 * 64}
    result = folder / "checkpoint"
    before = stored_images(done)
    assert same(before, generated(done, CHECKPOINT))
    assert not same(before, generated(done, result))
    with safe_open(result / TRAINED, "pt") as trained, safe_open(CHECKPOINT / "model.safetensors", "pt") as base:
        names = set(trained.keys())
        assert names == {name for name in base.keys() if ".dit." in name or "latent_queries" in name}  # noqa: SIM118
        changed = {name for name in names if not trained.get_tensor(name).equal(base.get_tensor(name))}
        assert {"model.latent_queries", "model.dit.model.norm_out.linear_2.weight"} <= changed
    peaks = json.loads((folder / "memory.json").read_text())
    assert set(peaks) == {"generate", "ground", "judge", "train"}
    assert all(each["memory_peak"] > 0 for each in peaks.values())


def test_the_command_with_scripted_answers(tmp_path: Path) -> None:
    """What a person types who only has a checkpoint that cannot speak."""
    done = run(tmp_path / "run", "answerer=scripted")
    assert all(len(grounding.regions) == 2 for grounding in done.groundings(1))
    assert not same(stored_images(done), generated(done, tmp_path / "run/round-1/checkpoint"))


def test_another_form_of_the_layout(tmp_path: Path) -> None:
    """Sharded, tied, the tower among the weights."""
    checkpoint = sharded(tied(tower_inside(copied(tmp_path))))
    done = run(tmp_path / "run", "answerer=scripted", "generate.limit=2", "train.steps=1", checkpoint=checkpoint)
    after = generated(done, done.stage_folder("train", 1))
    assert not same(stored_images(done), after)


def test_two_rounds_and_an_export(tmp_path: Path) -> None:
    """Round 2 draws with round 1's weights; the export is a checkpoint by itself, frozen bytes as they were."""
    done = run(tmp_path / "run", "answerer=scripted", "rounds=2", "--preset", "head-only")
    for round in (1, 2):
        names = set(load_file(done.stage_folder("train", round) / TRAINED))
        assert "model.latent_queries" not in names
    out = tmp_path / "whole"
    assert main(["export", str(done.folder), "--out", str(out), "--to", "checkpoint", "--round", "2"]) == 0
    assert same(generated(done, out), generated(done, done.stage_folder("train", 2)))
    before, after = load_file(CHECKPOINT / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.dit.model.") for name in changed)
    assert {path.name for path in (out / BESIDE.name).iterdir()} == {path.name for path in BESIDE.iterdir()}


def test_low_rank_adapters(tmp_path: Path) -> None:
    done = run(tmp_path / "run", "answerer=scripted", "train.method=lora", "rounds=2", "lora.rank=2")
    assert (done.stage_folder("train", 1) / "adapter_config.json").is_file()
    assert main(["export", str(done.folder), "--out", str(tmp_path / "out"), "--to", "checkpoint"]) == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(CHECKPOINT / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed
    assert all(".attn" in name or ".feed_forward." in name for name in changed)


def test_what_it_learns_from_is_a_setting(tmp_path: Path) -> None:
    """x0: features of the image's pixels, or those that it was decoded from, which are stored beside it."""
    sampled = run(tmp_path / "sampled", "answerer=scripted", "adapter.x0=sampled")
    encoded = run(tmp_path / "encoded", "answerer=scripted")
    for candidate in sampled.candidates(1):
        assert candidate.latent == candidate.image.with_suffix(".safetensors")
        kept = load_file(candidate.latent)["latent"]
        read, _ = Latents(sampled.round_folder(1) / "latents", "").load(candidate)
        assert torch.equal(read, kept)
    for candidate in encoded.candidates(1):
        assert candidate.latent is None
        read, _ = Latents(encoded.round_folder(1) / "latents", "").load(candidate)
        (made,) = build().encode([Image.open(candidate.image)])
        assert off(read, made) <= 1e-5


def test_without_a_tower_it_learns_from_what_it_sampled(tmp_path: Path) -> None:
    """Nothing of the loop needs the tower then, where the preset says how large the grid is."""
    checkpoint = copied(tmp_path, tower=False)
    config = json.loads((checkpoint / "config.json").read_text())
    named = {"gen_vision_tower": "eva-clip-E-14-plus", "gen_pooling": "early_pool2d_4"}
    (checkpoint / "config.json").write_text(json.dumps({**config, **named}))
    run(tmp_path / "run", "answerer=scripted", "adapter.x0=sampled", "--preset", "head-only", checkpoint=checkpoint)


def test_training_goes_by_the_models_own_times(tmp_path: Path) -> None:
    """The preset that is applied by itself: no shift of BAGEL's, the official batch, boxes from the model."""
    settings = run(tmp_path / "run", "answerer=scripted", "train.steps=1").settings
    assert (settings.train.shift, settings.train.method, settings.train.max_cells) == (1.0, "full", 1024)
    assert settings.grounder.use == "native"


def test_a_model_that_cannot_speak_is_not_trained_on_guesses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--adapter", "blip3o", "--checkpoint", str(CHECKPOINT), *TINY, "generate.limit=1", "ground.retries=0"]
    more = ["grounder.max_new_tokens=4", "--out", str(tmp_path / "run")]
    assert train_main([*words, *more]) == 2
    assert "nothing to train on" in capsys.readouterr().err


def test_a_machine_that_cannot_hold_the_default_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert train_main(["--adapter", "blip3o", "--out", str(tmp_path / "run")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "BLIP3o/BLIP3o-Model-8B is 33 GB of weights and this machine has no accelerator" in message
    assert "srum-train --adapter blip3o --preset shapes" in message


def test_the_bundled_model_draws_what_is_asked() -> None:
    """As its card says, roughly: 16 development prompts are not many."""
    options = {"checkpoint": "bundled:shapes", "device": "cpu", "dtype": "float32", "offload": "none"}
    sampling = {"steps": 25, "guidance": 3.0, "shift": 2.0, "decoder_steps": 4, "decoder_guidance": 1.0}
    found = measured(discover().create("adapter", Use("blip3o", {**options, "sampling": sampling})), 16)["all"]
    assert found["correct"]["value"] >= 0.3
    assert found["fidelity"]["value"] >= 0.7


def test_the_bundled_models_work_together(tmp_path: Path) -> None:
    """`--preset shapes`: one draws and is trained, the other judges."""
    few = ["prompts=shapes:train:4", "generate.candidates=1", "benchmark=", "train.steps=1", "adapter.sampling.steps=8"]
    words = ["--adapter", "blip3o", "--preset", "shapes", *few, "map=paper", "loss.constraint=0.5"]
    assert train_main([*words, "--out", str(tmp_path / "run")]) == 0
    done = Run.open(tmp_path / "run")
    assert all(judged.scores for judged in done.judgements(1))
    assert json.loads((done.stage_folder("train", 1) / BASE).read_text())["checkpoint"] == "bundled:shapes"


def test_another_name_is_not_bundled() -> None:
    with pytest.raises(CheckpointError, match=r"bundled:squares: no such bundled model; there is bundled:shapes\."):
        Blip3o(Options(checkpoint="bundled:squares"))
