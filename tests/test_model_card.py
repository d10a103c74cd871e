"""`srum export` of a model, and `--push`: what is written, what a model says about itself, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import toy
import yaml
from attrs import evolve
from near import off
from peft import PeftModel
from training import clean, make  # noqa: F401 - a fixture

from srum_core.cli.main import main
from srum_core.config import to_toml
from srum_core.evaluation.run import Evaluation
from srum_core.evaluation.scoring import model_name
from srum_core.interchange.trained_model import model_card
from srum_core.options import Use
from srum_core.runs.run import Run
from srum_core.runs.store import to_json
from srum_core.training.trainer import train


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has trained LoRA weights."""
    run = make(tmp_path / "run", steps=1, method="lora")
    train(run, 1)
    run.write_settings()
    return run


def export(run: Run, to: Path, *arguments: str) -> int:
    return main(["export", str(run.folder), "--out", str(to), *arguments])


def test_lora_weights_are_exported_as_peft_loads_them(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    toy.ToyModel().save(base, {})
    run.settings = evolve(run.settings, adapter=Use("toy:ToyModel", {"checkpoint": str(base), "mumbles": False}))
    shutil.rmtree(run.stage_folder("train", 1))
    (run.stage_folder("generate", 1) / "settings.json").write_text(to_json(run.stage_settings("generate", 1)), "utf-8")
    train(run, 1)
    run.write_settings()
    assert export(run, tmp_path / "out", "--to", "peft") == 0
    assert f"names {base}, a local folder, as the base" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    loaded = PeftModel.from_pretrained(toy.ToyModel().denoiser, str(tmp_path / "out")).merge_and_unload()
    for name, parameter in run.model(1).denoiser.named_parameters():
        assert off(loaded.get_parameter(name), parameter) <= 1e-5


def test_a_card_names_base_data_tables_and_settings(run: Run) -> None:
    table = {
        "benchmark": "toy",
        "split": "test",
        "model": "toy",
        "rows": [{"name": "green", "value": 0.25, "count": 4}],
    }
    path = run.stage_folder("evaluate", 1) / "tables/rules/table.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(table), "utf-8")
    options = {**run.settings.adapter.options, "checkpoint": "me/base"}
    run.settings = evolve(run.settings, adapter=Use("toy:ToyModel", options))
    same = Run(run.folder, run.settings, run.registry, checked=False)
    same.write_settings()
    card = model_card(same, 1, "LoRA weights for", "PeftModel.from_pretrained of peft")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "me/base", "library_name": "peft", "pipeline_tag": "text-to-image", "tags": ["srum"],
    }  # fmt: skip
    assert "LoRA weights for `me/base`" in text
    assert "Its licence applies to these weights too." in text
    assert "* Round 1: 6 images, prompts `starter`, of which 5 were trained on; lora, loss `srum_losses.obj" in text
    assert "green" in text
    assert to_toml(run.settings, run.registry.versions()).strip() in text
    whole = model_card(same, 1, "The whole model trained from", "")
    assert "library_name" not in whole
    assert "The whole model trained from `me/base`" in whole


WHOLE = ("The whole model trained from", "")


def table(run: Run, round: int, model: str) -> None:
    path = run.stage_folder("evaluate", round) / "tables/rules/table.json"
    path.parent.mkdir(parents=True)
    rows = [{"name": "green", "value": 0.25, "count": 4}]
    path.write_text(json.dumps({"benchmark": "toy", "split": "test", "model": model, "rows": rows}), "utf-8")


def test_a_card_has_no_table_of_a_later_round(run: Run) -> None:
    table(run, 1, "the first")
    table(run, 2, "the second")
    assert "the first" in model_card(run, 1, *WHOLE)
    assert "the second" not in model_card(run, 1, *WHOLE)
    assert "the second" in model_card(run, 2, *WHOLE)


def test_a_card_has_the_rounds_of_the_run_that_its_run_started_from(run: Run, tmp_path: Path) -> None:
    new = make(tmp_path / "new", steps=1, method="lora")
    new.settings = evolve(new.settings, start=str(run.folder))
    card = model_card(Run(new.folder, new.settings, new.registry, checked=False), 1, *WHOLE)
    assert "after 2 rounds of post-training" in card
    assert "* Round 1 of run: 6 images" in card
    assert "* Round 1 of new: 6 images" in card


def test_the_base_of_a_run_that_started_from_another_is_called_by_that(run: Run, tmp_path: Path) -> None:
    new = make(tmp_path / "new")
    assert model_name(Evaluation.after(new, None)) == "toy:ToyModel, before any training"
    new = Run(new.folder, evolve(new.settings, start=str(run.folder)), new.registry, checked=False)
    assert model_name(Evaluation.after(new, None)) == f"toy:ToyModel, trained in {run.folder} to the end of round 1"


@pytest.mark.parametrize("checkpoint", ["../base", "models/a--b", ""])
def test_a_base_without_a_card_has_no_licence(
    run: Run, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of a README of the working directory, nor an error of the hub's library."""
    (tmp_path / "README.md").write_text("---\nlicense: gpl-3.0\n---\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    use = Use("toy:ToyModel", {"checkpoint": checkpoint} if checkpoint else {})
    same = Run(run.folder, evolve(run.settings, adapter=use), run.registry, checked=False)
    assert "Its licence applies to these weights too." in model_card(same, 1, *WHOLE)


def test_the_base_of_lora_weights_is_what_they_are_loaded_onto(run: Run, tmp_path: Path) -> None:
    """Not what the run started from, where a round before them trained the whole model."""
    full = make(tmp_path / "full", steps=1, method="full", rounds=2)
    train(full, 1)
    shutil.copytree(run.stage_folder("train", 1), full.stage_folder("train", 2))
    assert f"LoRA weights for `{full.stage_folder('train', 1)}`" in model_card(full, 2, "LoRA weights for", "x of peft")
    assert "The whole model trained from `toy:ToyModel`" in model_card(full, 2, *WHOLE)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# base\n", {"license": "apache-2.0"}),
        ("---\nlicense: other\nlicense_name: 'mine: 2'\n---\n", {"license": "other", "license_name": "mine: 2"}),
        ("---\nlicense: [\n---\n", {}),
        ("# base\n", {}),
        (None, {}),
    ],
)
def test_a_card_has_the_licence_that_the_card_of_the_base_names(
    text: str | None, licence: dict[str, str], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    if text is not None:
        (tmp_path / "base/README.md").write_text(text, "utf-8")
    run.settings = evolve(run.settings, adapter=Use("toy:ToyModel", {"checkpoint": str(tmp_path / "base")}))
    card = model_card(Run(run.folder, run.settings, run.registry, checked=False), 1, *WHOLE)
    front = yaml.safe_load(card.split("---\n", 2)[1])
    assert {key: value for key, value in front.items() if key.startswith("license")} == licence
    named = f" ({licence['license']})" if licence else ""
    assert f"Its licence{named} applies to these weights too." in card


def test_weights_that_are_no_lora_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = make(tmp_path / "full", steps=1, method="full")
    train(full, 1)
    full.write_settings()
    assert export(full, tmp_path / "out", "--to", "peft") == 2
    assert "trained whole weights, not LoRA. Write the whole model with --to checkpoint." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "elsewhere"], "elsewhere is none of srum, parquet, checkpoint, peft, diffusers. The folder is given"),
        (["--to", "pefd"], 'Did you mean "peft"?'),
        (["--format", "peft"], 'Did you mean "--to peft"? The folder is given with --out.'),
    ],
)
def test_an_unknown_format_is_refused(
    arguments: list[str], sentence: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(run.folder), *arguments])
    assert sentence in capsys.readouterr().err


class Hub:
    """Remembers what it is asked for, in the place of the hub's client."""

    asked: list[Any]
    fails = False

    def create_repo(self, name: str, **how: Any) -> None:
        self.asked.append((name, how))

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
        if self.fails:
            raise ConnectionError("no route")
        self.asked.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
        return f"https://hub/{repo_id}"


def test_a_model_is_uploaded_as_a_private_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "x")
    monkeypatch.setattr(Hub, "asked", [], raising=False)
    push = ["--to", "peft", "--push", "me/mine"]
    assert export(run, tmp_path / "out", *push) == 0
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert Hub.asked == [("me/mine", {"private": True, "exist_ok": True}), ("me/mine", files)]
    assert "Uploaded to https://hub/me/mine" in capsys.readouterr().out
    monkeypatch.setattr(Hub, "fails", True)
    assert export(run, tmp_path / "again", *push) == 2
    said = capsys.readouterr().err
    assert "again is complete, but could not be uploaded to me/mine: no route" in said
    assert "hf upload me/mine" in said
    assert (tmp_path / "again/README.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "token", "sentence"),
    [
        (["--push", "me/mine"], "x", "--push is for models: add --to checkpoint or peft or diffusers."),
        (["--to", "peft", "--push", "me/mine/too"], "x", "--push me/mine/too: "),
        (["--to", "peft", "--push", "me/mine"], None, "--push needs a token of the hub"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_it_is_written(
    arguments: list[str],
    token: str | None,
    sentence: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    assert export(run, tmp_path / "out", *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
