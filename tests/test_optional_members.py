"""What an adapter may have besides the protocol: a window, kept latents, preparation, an export."""

from __future__ import annotations

import json
import shutil
from typing import ClassVar

import pytest
import torch
import toy
from attrs import evolve
from safetensors.torch import load_file, save_file
from training import clean, make  # noqa: F401  (clean is used by being here)

from srum_core.cli import main
from srum_core.config import load_settings, to_toml
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.plan import read_settings
from srum_core.options import Use
from srum_core.plugins import discover
from srum_core.records import Judgement, Mask, Region, Score
from srum_core.runs.run import started_from
from srum_core.runs.store import to_json
from srum_core.stages.order import perform
from srum_core.training.latent_cache import Latents
from srum_core.training.selection import WHOLE, within
from srum_core.training.trainer import train

MIDDLE = (0.25, 0.0, 0.75, 1.0)
"""The middle square of an image twice as wide as high."""


def judged(*regions: Region) -> Judgement:
    scores = [Score(0.5), *(Score(1.0 / (2 + n), region.id) for n, region in enumerate(regions))]
    return Judgement("c", regions, tuple(scores))


def test_the_whole_window_changes_nothing() -> None:
    judgement = judged(Region("1", (0.1, 0.2, 0.9, 0.8)))
    assert within(judgement, WHOLE) is judgement


def test_regions_are_cut_to_the_window_and_counted_in_it() -> None:
    left, across, outside = (
        Region("1", (0.25, 0.0, 0.5, 0.5), "cup"), Region("2", (0.0, 0.5, 1.0, 1.0)), Region("3", (0.8, 0.0, 1.0, 1.0)),
    )  # fmt: skip
    seen = within(judged(left, across, outside), MIDDLE)
    assert [(region.id, region.box) for region in seen.regions] == [
        ("1", (0.0, 0.0, 0.5, 0.5)), ("2", (0.0, 0.5, 1.0, 1.0)),
    ]  # fmt: skip
    assert seen.regions[0].label == "cup"
    assert [score.region for score in seen.scores] == [None, "1", "2"]


def test_a_mask_is_cut_with_its_box() -> None:
    """Of a 4x2 image with its left half and one more pixel, the middle has two columns: a full one and a half."""
    mask = Mask((4, 2), (0, 5, 3))
    (region,) = within(judged(Region("1", (0.0, 0.0, 0.75, 1.0), "", mask)), MIDDLE).regions
    assert region.mask == Mask((2, 2), (0, 3, 1))
    cells = discover().create("map", "no-global", outside_value=0.0)(judged(region), (2, 2))
    assert torch.equal(cells, torch.tensor([[0.5, 0.5], [0.5, 0.0]]))


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy that sees the left half only, as far as judgements go."""
    monkeypatch.setattr(toy.ToyModel, "window", lambda self, size: (0.0, 0.0, 0.5, 1.0), raising=False)


def test_training_weighs_what_the_model_sees(half: None, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are the left halves; in the window they are the whole of it."""
    seen = []
    run = make(tmp_path / "run", "test_optional_members:Spy", steps=1)
    monkeypatch.setattr(Spy, "seen", seen)
    train(run, 1)
    assert seen
    assert {judgement.regions[0].box for judgement in seen} == {(0.0, 0.0, 1.0, 1.0)}
    latents = Latents(run.round_folder(1) / "latents", "")
    assert latents.window(next(iter(run.candidates(1)))) == (0.0, 0.0, 0.5, 1.0)


class Spy:
    """A map that remembers what it is asked about."""

    seen: ClassVar[list[Judgement]] = []

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> torch.Tensor:
        self.seen.append(judgement)
        return torch.ones(grid)


def test_a_kept_latent_takes_the_place_of_encoding(half: None, tmp_path) -> None:
    """And covers the whole image, whatever the encoder sees; a change of the file makes it stale."""
    run = make(tmp_path / "run")
    first, second, *_ = run.candidates(1)
    path = first.image.with_suffix(".safetensors")
    model, latents = run.model(0), Latents(tmp_path / "latents", "")
    (plain,) = model.encode([toy_image(first)])
    save_file({"latent": plain + 1}, path)
    kept = evolve(first, latent=path)
    latents.prepare(model, [kept, second])
    assert torch.equal(latents.load(kept)[0], plain + 1)
    assert latents.window(kept) == WHOLE
    assert latents.window(second) == (0.0, 0.0, 0.5, 1.0)
    save_file({"latent": plain + 2}, path)
    latents.prepare(model, [kept, second])
    assert torch.equal(latents.load(kept)[0], plain + 2)


def toy_image(candidate):
    from PIL import Image

    return Image.open(candidate.image)


def test_a_model_is_told_what_it_will_be_asked_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    message, asked, condition = [], set(), toy.ToyModel.condition
    monkeypatch.setattr(toy.ToyModel, "before_training", lambda self, texts: message.append(texts), raising=False)
    monkeypatch.setattr(toy.ToyModel, "condition", lambda self, texts: asked.update(texts) or condition(self, texts))
    train(make(tmp_path / "run", steps=6), 1)
    assert len(message) == 1
    assert asked - {None} <= set(message[0])
    assert len(message[0]) == 5  # of the six images one has an answer that could not be read


def test_a_model_whose_saving_is_whole_is_exported_by_it(tmp_path) -> None:
    run = make(tmp_path / "run", steps=2)
    train(run, 1)
    arguments = ["export", str(run.folder), "--to", "checkpoint", "--out"]
    assert main.main([*arguments, str(tmp_path / "whole")]) == 0
    expected = load_file(next(run.stage_folder("train", 1).glob("*.safetensors")))
    written = load_file(next((tmp_path / "whole").glob("*.safetensors")))
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert main.main([*arguments, str(tmp_path / "other"), "--round", "2"]) == 2  # there is no such round
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("asked", "finished", "meant"), [(None, 3, 3), (None, 2, 2), (1, 3, 1)])
def test_without_a_round_everything_means_the_last_finished_one(tmp_path, capsys, asked, finished, meant) -> None:
    """Export of a model and of judgements, `start` and `--trained`; each names the round."""
    run = make(tmp_path / "run", steps=1)
    train(run, 1)
    first = load_file(run.stage_folder("train", 1) / "toy.safetensors")
    for round in (2, 3):
        shutil.copytree(run.round_folder(1), run.round_folder(round))
        changed = {name: tensor + (round - 1) for name, tensor in first.items()}
        save_file(changed, run.stage_folder("train", round) / "toy.safetensors")
    for round in range(finished + 1, 4):
        (run.stage_folder("train", round) / "DONE").unlink()
        (run.stage_folder("judge", round) / "DONE").unlink()
    which = [] if asked is None else ["--round", str(asked)]
    arguments = ["export", str(run.folder), *which, "--out"]
    assert main.main([*arguments, str(tmp_path / "whole"), "--to", "checkpoint"]) == 0
    assert f"The model after round {meant} of " in capsys.readouterr().out
    written = load_file(tmp_path / "whole/toy.safetensors")
    assert all(torch.equal(written[name], tensor + (meant - 1)) for name, tensor in first.items())
    start = str(run.folder) if asked is None else f"{run.folder}:{asked}"
    assert started_from(start, run.registry)[1] == meant
    assert main.main([*arguments, str(tmp_path / "judged")]) == 0
    assert f"Round {meant} of " in capsys.readouterr().out
    read_settings(None, [], None, ["benchmark=shapes"], run.registry, start)
    assert f"The model after round {meant} of " in capsys.readouterr().err


def test_a_folder_of_lora_weights_is_recognised_or_explained(tmp_path) -> None:
    (tmp_path / "base").mkdir()
    run = make(tmp_path / "run", steps=1, method="lora")
    toy.ToyModel().save(tmp_path / "base", {})
    options = {**run.settings.adapter.options, "checkpoint": str(tmp_path / "base")}
    run.settings = evolve(run.settings, adapter=Use("toy:ToyModel", options))
    (run.stage_folder("generate", 1) / "settings.json").write_text(to_json(run.stage_settings("generate", 1)))
    train(run, 1)
    lora = run.stage_folder("train", 1)
    assert json.loads((lora / "adapter_config.json").read_text())["base_model_name_or_path"] == options["checkpoint"]
    shutil.copytree(run.round_folder(1), run.round_folder(2), ignore=shutil.ignore_patterns("checkpoint", "training"))
    train(run, 2)
    about = json.loads((run.stage_folder("train", 2) / "srum.json").read_text())
    assert about["on_top_of"] == ["../../round-1/checkpoint"]  # to be merged into the base before these
    assert "on_top_of" not in json.loads((lora / "srum.json").read_text())
    (run.folder / "run.toml").write_text(to_toml(run.settings))
    assert [each if isinstance(each, int) else each.folder for each in started_from(str(lora), run.registry)] == [
        run.folder, 1,
    ]  # fmt: skip
    answerer = f'answerer={{use="toy:ToyModel", checkpoint="{lora}"}}'
    with pytest.raises(ConfigError, match=rf"answerer.checkpoint .*LoRA weights.*start={run.folder}:1 .*srum export"):
        load_settings("toy:ToyModel", (), None, [answerer], run.registry)
    moved = tmp_path / "moved"
    shutil.copytree(lora, moved)
    with pytest.raises(RecordError, match="moved holds LoRA weights"):
        started_from(str(moved), run.registry)


def test_every_stage_leaves_its_peak_memory(tmp_path) -> None:
    run = make(tmp_path / "run", steps=1)
    perform(run, "train", 1)
    found = json.loads((run.round_folder(1) / "memory.json").read_text())
    assert found["train"]["memory_peak"] > 10
    assert set(found) == {"train"}
