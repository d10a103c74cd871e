"""The main job with OmniGen2: `srum-train --adapter omnigen2 --checkpoint DIR`, from images to other images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from adapter_runs import answer_by_script, generated, same, stored_images
from omnigen2_layouts import CHECKPOINT, HEAD, copied, sharded, weights
from safetensors.torch import load_file

from srum_core.cli.main import main, train_main
from srum_core.plugins import discover
from srum_core.records import Question
from srum_core.runs.run import Run
from srum_core.training.trainer import Trainer
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options

TINY = [
    "adapter.device=cpu", "adapter.size=[64, 48]", "adapter.sampling.steps=2", "generate.limit=3", "train.steps=2",
    "train.warmup=0", "train.lr=1e-2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage at every stage takes longer than the stages of so small a model."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def words(folder: Path, *arguments: str, checkpoint: Path = CHECKPOINT) -> list[str]:
    return ["--adapter", "omnigen2", "--checkpoint", str(checkpoint), *TINY, *arguments, "--out", str(folder)]


def run(folder: Path, *arguments: str, checkpoint: Path = CHECKPOINT) -> Run:
    assert train_main(words(folder, *arguments, checkpoint=checkpoint)) == 0
    return Run.open(folder)


def trained(folder: Path) -> set[str]:
    """Names of the transformer's tensors that are not the golden checkpoint's."""
    before, after = load_file(weights(CHECKPOINT, HEAD)), load_file(weights(folder, HEAD))
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    return answer_by_script(monkeypatch, OmniGen2)


@pytest.mark.slow
def test_the_whole_loop_with_full_training(tmp_path: Path, questions: list[Question]) -> None:
    """generate, native ground, verify, judge, train, save, reload; then it generates something else."""
    done = run(tmp_path / "run", "verifier=verify-boxes", "train.method=full")
    folder = done.round_folder(1)
    for stage in ("prompts.jsonl", "candidates", "regions", "judgements", "checkpoint", "metrics.jsonl"):
        assert (folder / stage).exists()
    # The image is 64x48 in the file and 56x56 for the model, which is what it was told and what its boxes count in.
    assert any("counts as 56 wide and 56 high" in question.text for question in questions)
    assert any("Verdict:" in question.text for question in questions)
    for grounding in done.groundings(1):
        assert [region.box for region in grounding.regions] == [(0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 1.0)]
    assert all(judged.scores and not judged.failures for judged in done.judgements(1))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {each["cells"] for each in metrics} == {3 * 3 * 4}
    result = folder / "checkpoint"
    before = stored_images(done)
    assert same(before, generated(done, CHECKPOINT))
    assert not same(before, generated(done, result))
    names = trained(result)
    assert not [name for name in names if name.startswith(("ref_image", "image_index"))]
    assert {"x_embedder.weight", "norm_out.linear_2.weight", "context_refiner.0.attn.to_q.weight"} <= names
    for file in CHECKPOINT.rglob("*"):
        if file.is_file() and HEAD not in file.parts:
            assert (result / file.relative_to(CHECKPOINT)).read_bytes() == file.read_bytes(), file
    assert set(json.loads((folder / "memory.json").read_text())) == {"generate", "ground", "judge", "train"}


@pytest.mark.slow
def test_low_rank_adapters_in_two_rounds_and_an_export(tmp_path: Path) -> None:
    """What a person types who only has a checkpoint that cannot speak; from shards."""
    checkpoint = sharded(copied(tmp_path))
    done = run(tmp_path / "run", "answerer=scripted", "rounds=2", "lora.rank=2", checkpoint=checkpoint)
    assert done.settings.train.method == "lora"
    assert (done.stage_folder("train", 1) / "adapter_config.json").is_file()
    out = tmp_path / "out"
    assert main(["export", str(done.folder), "--out", str(out), "--to", "checkpoint"]) == 0
    assert not same(stored_images(done), generated(done, out))
    assert len(list((out / HEAD).glob("*-of-00003.safetensors"))) == 3
    before, after = (
        {name: tensor for file in (where / HEAD).glob("*.safetensors") for name, tensor in load_file(file).items()}
        for where in (checkpoint, out)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".attn.to_" in name or ".feed_forward." in name for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_interrupted_and_resumed_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Byte for byte, and what it writes; a repeat is the same too."""
    more = ("answerer=scripted", f"train.method={method}", "train.steps=4", "train.save_every=2", "generate.limit=2")
    whole = run(tmp_path / "whole", *more)
    step = Trainer.flow
    calls: list[int] = []

    def stumble(self: Trainer, batch: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "flow", stumble)
        assert train_main(words(tmp_path / "run", *more)) != 0
    assert (Run.open(tmp_path / "run").round_folder(1) / "training").is_dir()
    again = run(tmp_path / "run", *more)
    files = [
        "metrics.jsonl",
        "checkpoint/adapter_model.safetensors"
        if method == "lora"
        else f"checkpoint/{HEAD}/diffusion_pytorch_model.safetensors",
    ]
    for name in files:
        assert (again.round_folder(1) / name).read_bytes() == (whole.round_folder(1) / name).read_bytes(), name
    for one, two in zip(stored_images(whole), stored_images(again), strict=True):
        assert (one == two).all()


def test_the_models_own_times_and_presets() -> None:
    """What is applied by itself, and the two published recipes."""
    from srum_core.config import load_settings

    registry = discover()

    def settings(*presets: str):
        return load_settings("omnigen2", presets, None, (), registry)

    plain, full, lora = settings(), settings("ft"), settings("ft_lora")
    assert (plain.train.shift, plain.grounder.use, plain.train.text_dropout) == (0.0, "native", 1e-4)
    for each in (full.train, lora.train):
        assert (each.lr, each.warmup, each.steps, each.weight_decay, each.eps) == (8e-7, 500, 4000, 0.01, 1e-8)
        assert (each.beta1, each.beta2, each.clip, each.ema, each.shift) == (0.9, 0.95, 1.0, 0.0, 0.0)
        assert (each.mixed_precision, each.checkpointing, each.max_cells) == ("bf16", True, 2 * 64 * 64)
    assert (full.train.method, lora.train.method, lora.lora.rank, lora.lora.alpha) == ("full", "lora", 8, 8.0)
    assert lora.adapter.options["lora_modules"] == "attention"


@pytest.mark.slow
def test_training_draws_its_times_with_the_models_own_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.shift=0` is the adapter's; another number takes its place."""
    from srum_core.flow import Schedule

    shifts: list[float] = []
    sample = Schedule.sample
    monkeypatch.setattr(Schedule, "sample", lambda self, *given: shifts.append(self.shift) or sample(self, *given))
    few = ("answerer=scripted", "train.steps=1", "generate.limit=1")
    run(tmp_path / "own", *few)
    run(tmp_path / "told", *few, "train.shift=2.5")
    own = OmniGen2(Options(checkpoint=str(CHECKPOINT), device="cpu", size=(64, 48))).recipe.schedule.shift
    assert set(shifts[: len(shifts) // 2]) == {own}
    assert set(shifts[len(shifts) // 2 :]) == {2.5}


@pytest.mark.slow
def test_the_doctor_finds_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Of what random weights can show: they cannot speak, and their velocity has no sign."""
    few = [
        "generate.batch=2",
        "judge.batch=1",
        "train.max_cells=24",
        'judges=[{use="global-layout", max_new_tokens=8}]',
    ]
    words = ["doctor", "--adapter", "omnigen2", "--checkpoint", str(CHECKPOINT), *TINY[:3], *few]
    assert main(words) == 0
    message = capsys.readouterr().out
    for check in ("shape of latents", "place in latents", "encode again", "seeds", "words", "neighbours", "gradients"):
        assert re.search(rf"{check} +│ fine", message), check


def test_only_generating_for_an_evaluation(tmp_path: Path) -> None:
    """Its row of Table 1: `srum eval run --adapter omnigen2`."""
    model = ["--adapter", "omnigen2", "--checkpoint", str(CHECKPOINT), *TINY[:3], "adapter.size=[32, 32]"]
    where = ["--benchmark", "shapes", "--out", str(tmp_path / "run"), "evaluate.limit=2"]
    assert main(["eval", "run", *model, *where]) == 0
    assert len(list((tmp_path / "run" / "images" / "images").glob("*.png"))) == 2
    (table,) = (tmp_path / "run" / "tables").glob("*/table.json")
    assert "omnigen2" in json.loads(table.read_text())["model"]


def test_a_model_that_cannot_speak_is_not_trained_on_guesses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["ground.retries=0", "grounder.max_new_tokens=4", "generate.limit=1"]
    assert train_main(words(tmp_path / "run", *more)) == 2
    assert "nothing to train on" in capsys.readouterr().err
