"""Training a toy on judged images: what is learnt from, what is logged and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from accelerate.state import AcceleratorState
from attrs import evolve
from near import off
from peft import PeftModel
from training import LEFT, SIZES, clean, interrupt, make, metrics, weights  # noqa: F401  (clean is used by being here)

from srum_core.errors import ConfigError, RecordError, TrainingError
from srum_core.records import Judgement, Unreadable
from srum_core.runs.run import Run
from srum_core.training import trackers
from srum_core.training.metrics import Guard
from srum_core.training.trainer import Trainer, train

# ---- what is learnt from, and how it is logged ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_lowers_the_error_and_leaves_a_checkpoint(tmp_path: Path, method: str) -> None:
    run = make(tmp_path / "run", "srum_losses.maps:Uniform", method=method, steps=60, save_every=100)
    assert train(run, 1) == run.stage_folder("train", 1)
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 61))
    first, last = (sum(row["error"] for row in part) for part in (rows[:15], rows[-15:]))
    assert last < 0.9 * first
    assert {(row["judged"], row["unjudged"]) for row in rows} == {(5, 1)}
    assert run.done("train", 1)
    assert len({path.stat().st_mode for path in run.stage_folder("train", 1).iterdir()}) == 1
    assert not (run.round_folder(1) / "training").exists()
    speed = [json.loads(line) for line in (run.round_folder(1) / "speed.jsonl").read_text().splitlines()]
    assert len(speed) == 60
    assert all(row["seconds"] > 0 and row["cells_per_second"] > 0 and row["memory"] > 0 for row in speed)

    again = run.model(1)  # the next round's model has these weights
    plain = toy.ToyModel()
    assert again.denoiser is not plain.denoiser
    if method == "lora":
        merged = PeftModel.from_pretrained(plain.denoiser, str(run.stage_folder("train", 1))).merge_and_unload()
        for name, parameter in merged.named_parameters():
            assert off(again.denoiser.get_parameter(name), parameter) <= 1e-5
    else:
        stored = weights(run)
        assert all(torch.equal(again.denoiser.get_parameter(name), tensor) for name, tensor in stored.items())
        assert any(not torch.equal(plain.denoiser.get_parameter(name), tensor) for name, tensor in stored.items())


def test_every_cell_counts_once_however_they_are_packed(tmp_path: Path) -> None:
    """An epoch in one step: the same loss and gradient as one batch or as five, of different sizes."""
    rows = []
    for cells, accumulation in ((1000, 1), (1, 9)):
        run = make(tmp_path / str(cells), steps=1, clip=0.0, max_cells=cells, accumulation=accumulation)
        train(run, 1)
        rows += metrics(run)
    whole, parts = rows
    assert whole["cells"] == parts["cells"] == sum(width * height // 4 for width, height in SIZES)
    for key, value in whole.items():
        assert parts[key] == (value if value is None else pytest.approx(value, rel=1e-4)), key
    assert 0 < whole["negative_share"] < 1
    assert whole["loss"] == pytest.approx(whole["loss_reward"] + 0.5 * whole["loss_reference"], rel=1e-5)


def test_net_negative_cells_are_measured(tmp_path: Path) -> None:
    """With alpha = 0.9 and boxes over the left halves: a weight of -0.9 there in one image, -0.45 in another (with
    lambda = 0.5 its net coefficient is positive), 0.9 in the rest; 0 in the right halves."""
    run = make(tmp_path / "run", steps=1, max_cells=1000)
    train(run, 1)
    (row,) = metrics(run)
    left = [width * height // 8 for width, height in SIZES]
    total = sum(cells * LEFT[number % 4] for number, cells in enumerate(left))
    assert row["negative_share"] == pytest.approx(left[1] / row["cells"], rel=1e-5)
    assert row["mean_weight"] == pytest.approx(0.9 * total / row["cells"], rel=1e-5)
    never = make(tmp_path / "never", "srum_losses.maps:Released", steps=1)
    train(never, 1)
    assert metrics(never)[0]["negative_share"] == 0
    assert metrics(never)[0]["negative_error"] is None  # no cell, no error: not 0


class Nothing:
    """No cell is worth anything, as with map=sparse where no score is positive."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> torch.Tensor:
        return torch.zeros(grid)


@pytest.mark.parametrize(("constraint", "warned"), [(0.0, 1), (0.5, 0)])
def test_steps_that_teach_nothing_are_said_to_be_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, constraint: float, warned: int
) -> None:
    loss: Any = {"use": "srum", "constraint": constraint}
    train(make(tmp_path / "run", map="test_train:Nothing", loss=loss, steps=3), 1)
    assert caplog.text.count("has no gradient, so it changes nothing") == warned


def test_the_rate_warms_up_and_stays(tmp_path: Path) -> None:
    run = make(tmp_path / "run", warmup=4, steps=6)
    train(run, 1)
    assert [row["lr"] for row in metrics(run)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


@pytest.mark.parametrize(
    ("warmup", "steps", "rates", "said"),
    [
        (-1, 3, [0.01, 0.01, 0.01], "3 steps, peak learning rate 0.01 after 0 steps of warm-up."),
        (-1, 20, [0.005, 0.01, 0.01], "20 steps, peak learning rate 0.01 after 2 steps of warm-up."),
        (4, 3, [0.0025, 0.005, 0.0075], "peak learning rate 0.0075 after 3 steps of warm-up. train.lr=0.01 is never"),
    ],
)
def test_a_short_run_reaches_its_rate_and_says_so_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], warmup: int, steps: int, rates: list[float], said: str
) -> None:
    run = make(tmp_path / "run", warmup=warmup, steps=steps)
    train(run, 1)
    assert [row["lr"] for row in metrics(run)][:3] == pytest.approx(rates)
    shown = capsys.readouterr().err
    count = sum(tensor.numel() for name, tensor in weights(run).items())
    assert f"{count:,} trained parameters (full), 5 images, " in shown
    assert said in shown
    assert shown.index(said) < shown.index("train round 1: 0/")
    last = metrics(run)[-1]
    assert f"loss {last['loss']:.3g}, lr {last['lr']:.3g}, gradient norm {last['gradient_norm']:.3g}\n" in shown


def test_a_long_run_warms_up_as_long_as_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Trainer, "update", lambda self, step: seen.append(self.warmup) or interrupt_now())
    with pytest.raises(KeyboardInterrupt):
        train(make(tmp_path / "run", warmup=-1, steps=6000), 1)
    assert seen == [500]


def interrupt_now() -> None:
    raise KeyboardInterrupt


def test_epochs_see_every_image_once_and_each_in_its_own_order(tmp_path: Path) -> None:
    run = make(tmp_path / "run", steps=0, epochs=3, max_cells=1, accumulation=1)
    train(run, 1)
    cells = [row["cells"] for row in metrics(run)]
    epochs = [cells[start : start + 5] for start in (0, 5, 10)]
    assert len(cells) == 15
    assert all(sorted(each) == [4, 8, 12, 16, 16] for each in epochs)
    assert len({tuple(each) for each in epochs}) > 1


@pytest.mark.parametrize(("dropout", "dropped"), [(0.0, 0), (1.0, 5), (0.5, None)])
def test_texts_are_dropped_image_by_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, dropped: int | None
) -> None:
    received: list[str | None] = []
    condition = toy.ToyModel.condition
    monkeypatch.setattr(toy.ToyModel, "condition", lambda self, texts: received.extend(texts) or condition(self, texts))
    run = make(tmp_path / "run", steps=0, epochs=1 if dropped is not None else 8, text_dropout=dropout)
    train(run, 1)
    if dropped is not None:
        assert received.count(None) == dropped
        assert sorted(filter(None, received)) == [f"text {i}" for i in range(5 - dropped)]
    else:
        assert 10 < received.count(None) < 30  # of 40


def test_an_image_over_the_budget_is_a_batch_of_its_own_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path / "run", max_cells=10, accumulation=1, steps=0, epochs=2)
    train(run, 1)
    assert [record.getMessage() for record in caplog.records if record.name == "srum"] == [
        "An image of 16 latent cells is larger than train.max_cells=10: such images are trained on one by one. "
        "Raise train.max_cells if memory allows."
    ]
    assert max(row["cells"] for row in metrics(run)) == 16


def test_the_average_is_what_is_saved(tmp_path: Path) -> None:
    runs = [make(tmp_path / str(ema), ema=ema) for ema in (0.0, 0.9)]
    for run in runs:
        train(run, 1)
    assert metrics(runs[0]) == metrics(runs[1])
    start = toy.ToyModel().denoiser.state_dict()
    for name, last in weights(runs[0]).items():
        assert (weights(runs[1])[name] - start[name]).norm() < (last - start[name]).norm()


def test_mixed_precision_keeps_float32_weights(tmp_path: Path) -> None:
    runs = [make(tmp_path / precision, mixed_precision=precision) for precision in ("no", "bf16")]
    for run in runs:
        train(run, 1)
        AcceleratorState._reset_state(reset_partial_state=True)
    full, mixed = (metrics(run) for run in runs)
    assert full[0]["loss"] != mixed[0]["loss"]
    assert full[-1]["error"] == pytest.approx(mixed[-1]["error"], rel=0.02)
    change = [weights(runs[1])[name] - tensor for name, tensor in toy.ToyModel().denoiser.state_dict().items()]
    # lr is far below bfloat16's resolution of weights of about 0.3: in bfloat16 most would not have moved.
    assert all((delta != 0).any() for delta in change)


def test_the_seed_and_the_step_say_what_is_random(tmp_path: Path) -> None:
    """Weights that do not move, and every image in every step: what differs is noise, times and dropped texts."""
    still: dict[str, Any] = {"lr": 1e-30, "max_cells": 1000, "accumulation": 1}
    runs = [make(tmp_path / str(number), seed=seed, **still) for number, seed in enumerate((0, 0, 1))]
    for run in runs:
        train(run, 1)
    once, again, other = ([row["error"] for row in metrics(run)] for run in runs)
    assert once == again
    assert len({*once, *other}) == 10


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_lost_its_mark_is_trained_again(tmp_path: Path) -> None:
    run = make(tmp_path / "run", steps=1)
    result = train(run, 1)
    before = weights(run)
    (result / "DONE").unlink()
    assert train(run, 1) == result
    assert run.done("train", 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())


def test_nothing_readable_to_train_on(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    shutil.rmtree(run.stage_folder("judge", 1))
    with pytest.raises(RecordError, match="not finished"):
        train(run, 1)
    for number in range(6):
        run.judgements(1).append(Judgement(f"c{number}", failures=(Unreadable(0, "no words"),)))
    run.judgements(1).mark_done()
    with pytest.raises(TrainingError, match=r'all of 6 images had answers .*use="scripted"'):
        train(run, 1)


def test_cells_that_run_away_stop_the_run_after_saving(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "training:Hostile", lr=0.05, steps=400, guard=10.0, save_every=1000)
    with pytest.raises(TrainingError, match=r"run away: .* Raise loss.constraint, lower train.lr, or use map=released"):
        train(run, 1)
    rows = metrics(run)
    assert 5 < len(rows) < 100
    errors = [row["negative_error"] for row in rows if row["negative_error"] is not None]
    usual = sum(errors[:5]) / 5
    assert errors[-1] > 10 * usual
    assert max(errors[:-1]) <= 10 * usual
    assert torch.load(run.round_folder(1) / "training" / "state.pt", weights_only=True)["step"] == len(rows)
    assert not run.done("train", 1)
    with pytest.raises(TrainingError, match=f"after step {len(rows)}. .*run away"):
        train(run, 1)  # and stays stopped
    assert len(metrics(run)) == len(rows)


def test_a_guard_of_0_never_stops() -> None:
    guard = Guard(0.0)
    for error in range(10):
        guard.watch(float(error))
    assert not guard.warning


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run", lr=1e30, warmup=0, guard=0.0)
    with pytest.raises(TrainingError, match=r"loss .*no finite number"):
        train(run, 1)


def test_other_settings_and_other_numbers_of_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run")
    interrupt(monkeypatch, run, after=5)
    settings = evolve(run.settings, train=evolve(run.settings.train, lr=1.0))
    other = Run(run.folder, settings, run.registry)
    with pytest.raises(RecordError, match=r"train.lr was 0.01 and is now 1.0.*--redo train"):
        train(other, 1)
    train(run, 1)
    with pytest.raises(RecordError, match=r"train.lr was 0.01 and is now 1.0.*--redo train"):
        train(other, 1)


def test_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    run = make(tmp_path / "run", trackers=["tensorboard"], steps=2)
    train(run, 1)
    assert list((run.round_folder(1) / "logs").rglob("events.out.tfevents*"))
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'package wandb is not installed.*pip install "srum\[wandb\]"'):
        trackers.check(["wandb"])
