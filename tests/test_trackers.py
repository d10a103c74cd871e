"""What TensorBoard and W&B get: numbers, sample images with boxes and scores, tables, tags and the project."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rows import each_row
from toy import COMPONENTS

from srum_core.cli import main
from srum_core.errors import ConfigError
from srum_core.runs.run import Run
from srum_core.training import trackers

KINDS = ("tensorboard", "wandb")
INSTALLED = find_spec("wandb") is not None


class Stub:
    """wandb, as far as it is used: what its runs get is kept."""

    def __init__(self, mode: str = "online", login: bool | str = True) -> None:
        self.runs: list[SimpleNamespace] = []
        self.mode, self.answer = mode, login
        self.module = ModuleType("wandb")
        self.module.__spec__ = ModuleSpec("wandb", None)
        self.module.__dict__.update(setup=self.setup, login=self.login, init=self.init, Image=Kept, Table=Kept)

    def setup(self) -> SimpleNamespace:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, prompt: bool) -> bool:
        assert not prompt
        if isinstance(self.answer, str):
            raise RuntimeError(self.answer)
        return self.answer

    def init(self, **given: Any) -> SimpleNamespace:
        run = SimpleNamespace(**given, logged=[], config={}, finished=False)
        run.log = lambda values, step=None: run.logged.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        run.config = SimpleNamespace(update=lambda values, allow_val_change: vars(run.config).update(values))
        self.runs.append(run)
        return run


class Kept:
    def __init__(self, *data: Any, **given: Any) -> None:
        self.data = data
        self.__dict__.update(given)


def train_toy(folder: Path, *more: str) -> Run:
    (folder / "words.txt").write_text("a cat\na dog\n")
    small = [f'prompts="{folder / "words.txt"}"', "train.steps=2", "train.mixed_precision=no", "generate.candidates=2"]
    track = [f"train.trackers={list(KINDS)}", "train.project=mine", "train.tags=['one', 'two']", "train.samples=2"]
    assert main.train_main([*COMPONENTS, *small, *track, *more, "--out", str(folder / "run")]) == 0
    return Run.open(folder / "run")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Stub]]:
    """A toy run, with TensorBoard as it is and W&B as a stub."""
    pytest.importorskip("tensorboard")
    with pytest.MonkeyPatch.context() as patch:
        stub = Stub()
        patch.setitem(sys.modules, "wandb", stub.module)
        yield train_toy(tmp_path_factory.mktemp("tracked")), stub


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "logs" / "mine"), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    return found


def text(found: Any, name: str) -> str:
    return str(found.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode())


def test_tensorboard_gets_every_step(tracked: tuple[Run, Stub]) -> None:
    found = events(tracked[0].round_folder(1))
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [
        (row["step"], pytest.approx(row["loss"], rel=1e-5))
        for row in map(json.loads, (tracked[0].round_folder(1) / "metrics.jsonl").read_text().splitlines())
    ]
    assert len(found.Scalars("seconds")) == 2
    assert text(found, "tags") == "one, two"


def test_tensorboard_gets_images_with_their_boxes(tracked: tuple[Run, Stub]) -> None:
    run, _ = tracked
    found = events(run.round_folder(1))
    first, second = trackers.examples(run, 1)
    assert [first.caption.split("\n")[0], second.caption.split("\n")[0]] == ["a cat", "a dog"]  # one of each prompt
    (logged,) = found.Images("candidates/1")
    assert logged.step == 0  # what a resumed training does not purge
    image = Image.open(BytesIO(logged.encoded_image_string))
    assert image.size == (512, 512)
    for (x0, y0, _, y1), *_ in first.boxes:
        red, green, blue = image.getpixel((round(512 * x0), round(256 * (y0 + y1))))
        assert red > 250 > 5 >= max(green, blue)  # on the left side of the box
    captions = text(found, "candidates")
    assert captions.startswith("1. a cat")
    assert all(f"{score:+.2f}" in captions for *_, score in first.boxes if score is not None)


def test_tensorboard_gets_the_table_of_every_evaluation(tracked: tuple[Run, Stub]) -> None:
    run, _ = tracked
    for round, head in ((None, "measure | n | base"), (1, "measure | n | base | round 1 | change")):
        found = events(run.round_folder(round))
        assert text(found, "evaluation").startswith(f"{head}\n---")
        ((step, value),) = [(each.step, each.value) for each in found.Scalars("evaluation/green")]
        assert step == (round or 0)
        assert f"{100 * value:.1f}".replace("-", "−") in text(found, "evaluation")
        assert len(found.Images("evaluation/1")) == 1


def test_wandb_gets_the_same(tracked: tuple[Run, Stub]) -> None:
    run, stub = tracked
    base, training, evaluation = stub.runs
    for each, name in ((base, "base"), (training, "round-1"), (evaluation, "round-1")):
        assert (each.project, each.group, each.name) == ("mine", "run", f"run/{name}")
        assert (each.tags, each.resume, each.finished) == (["one", "two"], "allow", True)
    assert training.id == evaluation.id != base.id  # one run, continued
    assert vars(training.config)["train.lr"] == 2.5e-5
    (start, first), *steps = training.logged
    assert start == 0  # what W&B ignores when a training begins again
    assert [(step, values["step"]) for step, values in steps] == [(1, 1), (2, 2)]
    expected = trackers.examples(run, 1)[0]
    image = first["candidates"][0]
    assert (len(first["candidates"]), image.caption) == (2, expected.caption)
    assert image.boxes["regions"]["box_data"] == [
        {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "class_id": int((score or 0) >= 0),
            "box_caption": label,
            "scores": {"score": score},
        }
        for box, label, score in expected.boxes
    ]
    for again in (base, evaluation):  # an evaluation that is made again replaces its images
        assert [step for step, values in again.logged if "evaluation" in values] == [None, None]
    (_, images), (_, table) = evaluation.logged
    assert images["evaluation"][0].caption.startswith("a leaf number 0\ngreen ")
    assert table["evaluation"].columns == ["measure", "n", "base", "round 1", "change"]
    assert table["evaluation"].data[0][0] == "green"
    assert table["evaluation/green"] == pytest.approx(events(run.round_folder(1)).Scalars("evaluation/green")[0].value)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="the package wandb is not installed")
def test_the_real_wandb_keeps_all_of_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    run = train_toy(tmp_path)
    base, training, evaluation = (
        sorted((run.round_folder(k) / "wandb").glob("offline-run-*"))[place] for k, place in ((None, 0), (1, 0), (1, 1))
    )
    boxes = [json.loads(path.read_text()) for path in (training / "files").rglob("*.boxes2D.json")]
    labels = {each["box_caption"] for kept in boxes for each in kept["box_data"]}
    assert labels == {label for example in trackers.examples(run, 1) for _, label, _ in example.boxes}
    assert len(list((training / "files").rglob("candidates_*.png"))) == 2
    (table,) = (json.loads(path.read_text()) for path in (evaluation / "files").rglob("*.table.json"))
    assert table["columns"] == ["measure", "n", "base", "round 1", "change"]
    assert len(list((base / "files").rglob("evaluation_*.png"))) == 2


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tracked: tuple[Run, Stub]
) -> None:
    def fails(**given: Any) -> None:
        raise OSError("the disk is full")

    stub = Stub()
    stub.module.__dict__["init"] = fails
    monkeypatch.setitem(sys.modules, "wandb", stub.module)
    monkeypatch.setattr(tracked[0], "folder", tmp_path)
    with caplog.at_level(logging.WARNING, "srum"):
        used = trackers.Trackers(tracked[0], 1, "train", 0)
    assert "wandb failed and is not used again: the disk is full" in caplog.text
    assert list(used.active) == ["tensorboard"]
    used.numbers(1, {"loss": 1.0, "unknown": None})
    used.close()
    assert events(tmp_path / "round-1").Tags()["scalars"] == ["loss"]


def test_images_are_there_once_after_a_training_that_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: tuple[Run, Stub]
) -> None:
    """It was interrupted before it saved a state."""
    run = tracked[0]
    examples = trackers.examples(run, 1)
    monkeypatch.setitem(sys.modules, "wandb", Stub().module)
    monkeypatch.setattr(run, "folder", tmp_path)
    for _ in range(2):
        used = trackers.Trackers(run, 1, "train", 0)
        used.images("candidates", lambda: examples)
        used.numbers(1, {"loss": 1.0})
        used.close()
    found = events(tmp_path / "round-1")
    assert [len(found.Images(f"candidates/{number}")) for number in (1, 2)] == [1, 1]
    assert len(found.Scalars("loss")) == 1


@each_row(
    "mode, login, words",
    [
        ("online", False, "no account is logged in. Run `wandb login`, set WANDB_API_KEY"),
        ("online", "the key is wrong", "cannot log in: the key is wrong"),
        ("online", True, ""),
        ("offline", False, ""),
    ],
)
def test_wandb_is_asked_for_an_account_before_anything_is_generated(mode: str, login: bool | str, words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", Stub(mode, login).module)
        if not words:
            return trackers.check(["wandb"])
        with pytest.raises(ConfigError) as caught:
            trackers.check(["wandb"])
    assert words in str(caught.value)
    return None


def test_project_tags_and_samples_may_change_when_a_training_is_resumed(tracked: tuple[Run, Stub]) -> None:
    assert not {"project", "tags", "samples"} & tracked[0].stage_settings("train", 1)["train"].keys()
