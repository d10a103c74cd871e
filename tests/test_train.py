"""Training a toy on judged pictures: what is learnt from, what is logged, and that an interruption changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import toy
from accelerate.state import AcceleratorState
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from srum_core import packing, plugins, trackers
from srum_core.cli import launch_command
from srum_core.config import load_settings
from srum_core.errors import ConfigError, RecordError, TrainingError
from srum_core.latents import Latents
from srum_core.records import Candidate, Judgement, Prompt, Region, Score, Unreadable
from srum_core.run import Run
from srum_core.stages import Step
from srum_core.stages.train import train

SIZES = [(8, 8), (8, 4), (6, 8), (8, 8), (4, 4)]  # pixels; 16, 8, 12, 16 and 4 latent cells
LEFT = (1.0, -1.0, 1.0, -0.5)  # scores of the left halves, in turn
TRAIN: dict[str, Any] = {
    "lr": 1e-2, "warmup": 2, "steps": 5, "max_cells": 24, "accumulation": 2, "save_every": 2, "mixed_precision": "no",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate remembers its precision for the whole process; and collecting garbage takes longer than a training."""
    monkeypatch.setattr("srum_core.run.gc.collect", lambda: 0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(
    folder: Path, map: str = "srum_losses.maps:Paper", seed: int = 0, lora_dropout: float = 0.2, **settings: Any
) -> Run:
    """A run whose pictures are drawn and judged; one more has an unreadable answer."""
    file = folder.with_suffix(".toml")
    data = {
        "seed": seed,
        "adapter": "toy:ToyModel",
        "grounder": "toy:ToyGrounder",
        "judges": ["toy:ToyJudge"],
        "map": map,
        "loss": "srum_losses.objectives:SrumLoss",
        "train": {**TRAIN, "method": "full", **settings},
        "lora": {"rank": 2, "dropout": lora_dropout},
    }
    file.write_text(tomli_w.dumps(data))
    registry = plugins.discover()
    run = Run.create(folder, load_settings(None, (), file, (), registry), registry)
    candidates, judgements = run.candidates(0), run.judgements(0)
    (candidates.folder / "images").mkdir(parents=True)
    for number, size in enumerate([*SIZES, (8, 8)]):
        noise = torch.Generator().manual_seed(number)
        path = candidates.folder / "images" / f"{number}.png"
        pixels = torch.randint(256, (size[0] * size[1] * 3,), generator=noise).tolist()
        Image.frombytes("RGB", size, bytes(pixels)).save(path)
        candidates.append(Candidate(f"c{number}", Prompt(f"p{number}", f"text {number}"), path, size, number))
        regions = (Region("1", (0.0, 0.0, 0.5, 1.0)),)
        scores = (Score(0.8), Score(LEFT[number % 4], "1"))
        failures = (Unreadable(0, "there is no score"),) if number == len(SIZES) else ()
        judgements.append(Judgement(f"c{number}", regions, scores, (), failures))
    candidates.mark_done()
    judgements.mark_done()
    return run


class Hostile:
    """Every cell is to be drawn otherwise: with lambda 0.5 the loss has no lower bound."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> torch.Tensor:
        return torch.full(grid, -1.0)


def metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.round_folder(0) / "metrics.jsonl").read_text().splitlines()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    (path,) = run.stage_folder("train", 0).glob("*.safetensors")
    return load_file(path)


# ---- what is learnt from, and how it is logged ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_lowers_the_error_and_leaves_a_checkpoint(tmp_path: Path, method: str) -> None:
    run = make(tmp_path / "run", "srum_losses.maps:Uniform", method=method, steps=60, save_every=100)
    assert train(run, 0) == run.stage_folder("train", 0)
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 61))
    first, last = (sum(row["error"] for row in part) for part in (rows[:15], rows[-15:]))
    assert last < 0.9 * first
    assert {(row["judged"], row["unjudged"]) for row in rows} == {(5, 1)}
    assert run.done("train", 0)
    assert not (run.round_folder(0) / "training").exists()
    speed = [json.loads(line) for line in (run.round_folder(0) / "speed.jsonl").read_text().splitlines()]
    assert len(speed) == 60
    assert all(row["seconds"] > 0 and row["cells_per_second"] > 0 and row["memory"] > 0 for row in speed)

    again = run.model(1)  # the next round's model has these weights
    plain = toy.ToyModel()
    assert again.denoiser is not plain.denoiser
    if method == "lora":
        merged = PeftModel.from_pretrained(plain.denoiser, str(run.stage_folder("train", 0))).merge_and_unload()
        for name, parameter in merged.named_parameters():
            torch.testing.assert_close(again.denoiser.get_parameter(name), parameter)
    else:
        stored = weights(run)
        assert all(torch.equal(again.denoiser.get_parameter(name), tensor) for name, tensor in stored.items())
        assert any(not torch.equal(plain.denoiser.get_parameter(name), tensor) for name, tensor in stored.items())


def test_every_cell_counts_once_however_they_are_packed(tmp_path: Path) -> None:
    """An epoch in one step: the same loss and gradient as one batch or as five, of different sizes."""
    rows = []
    for cells, accumulation in ((1000, 1), (1, 9)):
        run = make(tmp_path / str(cells), steps=1, clip=0.0, max_cells=cells, accumulation=accumulation)
        train(run, 0)
        rows += metrics(run)
    whole, parts = rows
    assert whole["cells"] == parts["cells"] == sum(width * height // 4 for width, height in SIZES)
    for key, value in whole.items():
        assert parts[key] == pytest.approx(value, rel=1e-5), key
    assert 0 < whole["negative_share"] < 1
    assert whole["loss"] == pytest.approx(whole["loss_reward"] + 0.5 * whole["loss_reference"], rel=1e-5)


def test_net_negative_cells_are_measured(tmp_path: Path) -> None:
    """With alpha = 0.9 and boxes over the left halves: a weight of -0.9 there in one picture, -0.45 in another (with
    lambda = 0.5 its net coefficient is positive), 0.9 in the rest; 0 in the right halves."""
    run = make(tmp_path / "run", steps=1, max_cells=1000)
    train(run, 0)
    (row,) = metrics(run)
    left = [width * height // 8 for width, height in SIZES]
    total = sum(cells * LEFT[number % 4] for number, cells in enumerate(left))
    assert row["negative_share"] == pytest.approx(left[1] / row["cells"])
    assert row["mean_weight"] == pytest.approx(0.9 * total / row["cells"])
    never = make(tmp_path / "never", "srum_losses.maps:Released", steps=1)
    train(never, 0)
    assert metrics(never)[0]["negative_share"] == 0
    assert metrics(never)[0]["negative_error"] is None  # no cell, no error: not 0


def test_the_rate_warms_up_and_stays(tmp_path: Path) -> None:
    run = make(tmp_path / "run", warmup=4, steps=6)
    train(run, 0)
    assert [row["lr"] for row in metrics(run)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_epochs_see_every_picture_once_and_each_in_its_own_order(tmp_path: Path) -> None:
    run = make(tmp_path / "run", steps=0, epochs=3, max_cells=1, accumulation=1)
    train(run, 0)
    cells = [row["cells"] for row in metrics(run)]
    epochs = [cells[start : start + 5] for start in (0, 5, 10)]
    assert len(cells) == 15
    assert all(sorted(each) == [4, 8, 12, 16, 16] for each in epochs)
    assert len({tuple(each) for each in epochs}) > 1


@pytest.mark.parametrize(("dropout", "dropped"), [(0.0, 0), (1.0, 5), (0.5, None)])
def test_texts_are_dropped_picture_by_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, dropped: int | None
) -> None:
    heard: list[str | None] = []
    condition = toy.ToyModel.condition
    monkeypatch.setattr(toy.ToyModel, "condition", lambda self, texts: heard.extend(texts) or condition(self, texts))
    run = make(tmp_path / "run", steps=0, epochs=1 if dropped is not None else 8, text_dropout=dropout)
    train(run, 0)
    if dropped is not None:
        assert heard.count(None) == dropped
        assert sorted(filter(None, heard)) == [f"text {i}" for i in range(5 - dropped)]
    else:
        assert 10 < heard.count(None) < 30  # of 40


def test_a_picture_over_the_budget_is_a_batch_of_its_own_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path / "run", max_cells=10, accumulation=1, steps=0, epochs=2)
    train(run, 0)
    assert [record.getMessage() for record in caplog.records if record.name == "srum"] == [
        "A picture of 16 latent cells is larger than train.max_cells=10: such pictures are trained on one by one. "
        "Raise train.max_cells if memory allows."
    ]
    assert max(row["cells"] for row in metrics(run)) == 16


def test_the_average_is_what_is_saved(tmp_path: Path) -> None:
    runs = [make(tmp_path / str(ema), ema=ema) for ema in (0.0, 0.9)]
    for run in runs:
        train(run, 0)
    assert metrics(runs[0]) == metrics(runs[1])
    start = toy.ToyModel().denoiser.state_dict()
    for name, last in weights(runs[0]).items():
        assert (weights(runs[1])[name] - start[name]).norm() < (last - start[name]).norm()


def test_mixed_precision_keeps_float32_weights(tmp_path: Path) -> None:
    runs = [make(tmp_path / precision, mixed_precision=precision) for precision in ("no", "bf16")]
    for run in runs:
        train(run, 0)
        AcceleratorState._reset_state(reset_partial_state=True)
    full, mixed = (metrics(run) for run in runs)
    assert full[0]["loss"] != mixed[0]["loss"]
    assert full[-1]["error"] == pytest.approx(mixed[-1]["error"], rel=0.02)
    change = [weights(runs[1])[name] - tensor for name, tensor in toy.ToyModel().denoiser.state_dict().items()]
    # lr is far below bfloat16's resolution of weights of about 0.3: in bfloat16 most would not have moved.
    assert all((delta != 0).any() for delta in change)


def test_the_seed_and_the_step_say_what_is_random(tmp_path: Path) -> None:
    """Weights that do not move, and every picture in every step: what differs is noise, times and dropped texts."""
    still: dict[str, Any] = {"lr": 1e-30, "max_cells": 1000, "accumulation": 1}
    runs = [make(tmp_path / str(number), seed=seed, **still) for number, seed in enumerate((0, 0, 1))]
    for run in runs:
        train(run, 0)
    once, again, other = ([row["error"] for row in metrics(run)] for run in runs)
    assert once == again
    assert len({*once, *other}) == 10


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_nothing_readable_to_train_on(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    shutil.rmtree(run.stage_folder("judge", 0))
    with pytest.raises(RecordError, match="not finished"):
        train(run, 0)
    for number in range(4):
        run.judgements(0).append(Judgement(f"c{number}", failures=(Unreadable(0, "no words"),)))
    run.judgements(0).mark_done()
    with pytest.raises(TrainingError, match=r'of 6 pictures, 4 had answers .* 2 have no judgement.*use="scripted"'):
        train(run, 0)


def test_cells_that_run_away_stop_the_run_after_saving(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "test_train:Hostile", lr=0.05, steps=400, guard=10.0, save_every=1000)
    with pytest.raises(TrainingError, match=r"run away: .* Raise loss.constraint, lower train.lr, or use map=released"):
        train(run, 0)
    rows = metrics(run)
    assert 5 < len(rows) < 100
    errors = [row["negative_error"] for row in rows if row["negative_error"] is not None]
    usual = sum(errors[:5]) / 5
    assert errors[-1] > 10 * usual
    assert max(errors[:-1]) <= 10 * usual
    assert torch.load(run.round_folder(0) / "training" / "state.pt", weights_only=True)["step"] == len(rows)
    assert not run.done("train", 0)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run", lr=1e30, warmup=0, guard=0.0)
    with pytest.raises(TrainingError, match=r"loss .*no finite number"):
        train(run, 0)


def test_other_settings_and_other_numbers_of_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run")
    interrupt(monkeypatch, run, after=5)
    settings = evolve(run.settings, train=evolve(run.settings.train, lr=1.0))
    other = Run(run.folder, settings, run.registry)
    with pytest.raises(RecordError, match=r"train.lr was 0.01 and is now 1.0.*--redo train"):
        train(other, 0)
    train(run, 0)
    with pytest.raises(RecordError, match=r"train.lr was 0.01 and is now 1.0.*--redo train"):
        train(other, 0)


def test_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    run = make(tmp_path / "run", trackers=["tensorboard"], steps=2)
    train(run, 0)
    assert list((run.round_folder(0) / "logs").rglob("events.out.tfevents*"))
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package wandb is not installed.*pip install 'srum\[wandb\]'"):
        trackers.check(["wandb"])
    with pytest.raises(ConfigError, match="there are tensorboard, wandb"):
        trackers.check(["excel"])


# ---- packing --------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    budget=st.integers(1, 40),
    world=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_every_picture_is_in_one_batch_that_counts(
    sizes: list[int], budget: int, world: int, accumulation: int, seed: int
) -> None:
    steps = packing.epoch(sizes, budget, world * accumulation, seed)
    assert steps == packing.epoch(sizes, budget, world * accumulation, seed)
    seen: list[int] = []
    for step in steps:
        shares = [packing.share(step, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1  # or the processes would wait for each other for ever
        assert len(shares[0]) <= accumulation
        for batch, counts in (each for share in shares for each in share):
            assert len(batch) == 1 or sum(sizes[index] for index in batch) <= budget
            seen += batch if counts else ()
    assert sorted(seen) == list(range(len(sizes)))


def test_a_number_of_steps_goes_on_over_epochs() -> None:
    every = list(packing.steps([1, 1, 1], 1, 2, lambda epoch: epoch, epochs=1, limit=5))
    assert [sum(map(len, step)) for step in every] == [2, 1, 2, 1, 2]
    assert list(packing.steps([1, 1, 1], 1, 2, lambda epoch: epoch, epochs=2, limit=0)) == every[:4]


# ---- latents --------------------------------------------------------------------------------------------------------


def test_latents_are_encoded_once_and_again_when_the_picture_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run")
    candidates = list(run.candidates(0))
    model, seen = run.model(0), list[int]()
    encode = toy.ToyModel.encode
    monkeypatch.setattr(toy.ToyModel, "encode", lambda self, images: seen.append(len(images)) or encode(self, images))
    latents = Latents(tmp_path / "latents", "adapter")
    latents.prepare(model, candidates)
    assert sum(seen) == 6
    clean, reference = latents.load(candidates[1])
    assert reference is None
    assert torch.equal(clean, encode(model, [Image.open(candidates[1].image)])[0])  # type: ignore[arg-type]
    assert latents.grid(candidates[1]) == (2, 4)
    latents.prepare(model, candidates)
    assert sum(seen) == 6
    Image.new("RGB", (8, 8)).save(candidates[0].image)
    latents.prepare(model, candidates)
    assert sum(seen) == 12  # a chunk is encoded whole
    assert latents.load(candidates[0])[0].unique().tolist() == [-1.0]
    Latents(tmp_path / "latents", "other settings").prepare(model, candidates)
    assert sum(seen) == 18


def test_a_reference_is_what_the_constraint_pulls_towards(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "srum_losses.maps:Uniform", steps=1)
    alone = list(run.candidates(0))
    picture = tmp_path / "good.png"
    Image.new("RGB", (8, 8), "white").save(picture)
    paired = [evolve(each, reference=picture) if each.id == "c0" else each for each in alone]
    (run.stage_folder("generate", 0) / "part-0.jsonl").unlink()
    run.candidates(0).extend(paired)
    train(run, 0)
    (row,) = metrics(run)
    assert row["loss_reference"] != pytest.approx(row["loss_reward"], rel=1e-3)
    Image.new("RGB", (4, 4)).save(picture)
    run.redo("train")
    with pytest.raises(TrainingError, match=r"Candidate c0 .* \(4, 4\) cells, its reference .* \(2, 2\)"):
        train(run, 0)


# ---- interruptions --------------------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, run: Run, after: int) -> None:
    """Train until the denoiser has run `after` times."""
    calls = count()

    def called(what: str) -> None:
        if what == "train" and next(calls) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy, "called", called)
        with pytest.raises(KeyboardInterrupt):
            train(run, 0)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_interrupted_anywhere_and_resumed_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Byte for byte, with dropout, momentum and a moving average at work, saved every second step."""
    whole = make(tmp_path / "whole", method=method, ema=0.9, text_dropout=0.3)
    calls = count()
    with monkeypatch.context() as patch:
        patch.setattr(toy, "called", lambda what: next(calls) if what == "train" else None)
        train(whole, 0)
    log = (whole.round_folder(0) / "metrics.jsonl").read_bytes()
    total = next(calls)
    assert total > 5
    for after in range(total):
        run = make(tmp_path / str(after), method=method, ema=0.9, text_dropout=0.3)
        interrupt(monkeypatch, run, after)
        torch.manual_seed(after)  # whatever the generators are at
        train(run, 0)
        assert (run.round_folder(0) / "metrics.jsonl").read_bytes() == log, after
        assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())


def test_logs_that_were_tampered_with_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run")
    interrupt(monkeypatch, run, after=6)
    (run.round_folder(0) / "metrics.jsonl").write_text("")
    with pytest.raises(RecordError, match=r"metrics.jsonl has 0 bytes.*--redo train"):
        train(run, 0)


def process(run: Run, processes: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """The stage as a process of its own, or as several as `--launch ddp` starts them."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), *sys.path])
    command = [sys.executable, "-m", "srum_core.stages", "train", str(run.folder), "0"]
    if processes > 1:
        command = launch_command("ddp", processes, run.folder, Step("train", 0))
        command[3:3] = ["--main_process_port", str(20000 + os.getpid() % 20000)]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return subprocess.run(command, cwd=here.parent, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_killed_for_real_and_resumed_is_the_same_run(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", method="lora")
    train(whole, 0)
    run = make(tmp_path / "run", method="lora")
    assert process(run, SRUM_TOY_KILL="train:7").returncode == -signal.SIGKILL
    assert (run.round_folder(0) / "training" / "state.pt").exists()
    assert metrics(run)
    train(run, 0)
    names = ("metrics.jsonl", "checkpoint/adapter_model.safetensors")
    for name in names:
        assert (run.round_folder(0) / name).read_bytes() == (whole.round_folder(0) / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_make_the_same_steps_as_one(tmp_path: Path, method: str) -> None:
    """One batch each is one process's two; at the end of the epoch one of them has nothing left and weighs nothing."""
    settings: dict[str, Any] = {"method": method, "steps": 0, "epochs": 2, "max_cells": 12, "clip": 0.5}
    settings["eps"] = 1e-3  # with the paper's 1e-15 a gradient of rounding errors alone makes a whole step
    one = make(tmp_path / "one", lora_dropout=0.0, accumulation=2, **settings)
    two = make(tmp_path / "two", lora_dropout=0.0, accumulation=1, **settings)
    train(one, 0)
    assert any(row["cells"] < 20 for row in metrics(one))
    done = process(two, processes=2)
    assert done.returncode == 0, done.stderr
    assert len(metrics(one)) == len(metrics(two))
    for mine, theirs in zip(metrics(one), metrics(two), strict=True):
        for key, value in mine.items():
            assert theirs[key] == (value if value is None else pytest.approx(value, rel=1e-4)), key
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-5)
