"""`srum eval`: images, records, prompts and settings that are not what they should be; each gets its sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from rows import each_row
from test_evaluation import Generates, evaluated, made, made_up, model, srum, until_killed, use

from srum_core.records import Sample


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def judged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluated(data, tmp_path_factory.mktemp("judged") / "run")


@pytest.fixture
def run(judged: Path, tmp_path: Path) -> Path:
    """A copy: an evaluation can be moved."""
    return Path(shutil.copytree(judged, tmp_path / "run"))


def image_of(run: Path) -> Path:
    return sorted(run.glob("images/images/*.png"))[0]


def test_a_missing_image_gets_its_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = image_of(run)
    path.unlink()
    for words in (["judge", run], ["score", run], ["layout", run, "--target", "compbench-srum", "--to", run / "out"]):
        assert srum(*words) == 2
        assert (
            f"{path} cannot be read (No such file or directory). Restore it, or run once with --redo images"
            in capsys.readouterr().err
        )


def test_an_extra_file_between_the_images_gets_its_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "images/images/.DS_Store").touch()
    assert srum("score", run) == 0
    extra = run / "images/images/mine.png"
    shutil.copy(image_of(run), extra)
    lay_out = ["layout", run, "--target", "compbench-srum", "--to", run / "out"]
    for words in (["judge", run], ["score", run, "--partial"], lay_out):
        assert srum(*words) == 2
        assert f"{extra} is not an image of this evaluation" in capsys.readouterr().err
    extra.rename(extra.with_name(f"{image_of(run).name}.bak"))
    assert srum("score", run) == 2


def test_a_changed_image_is_not_scored_with_an_old_answer(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image_of(run)
    Image.new("RGB", (32, 32), "red").save(path)
    assert srum("score", run) == 2
    said = capsys.readouterr().err
    assert f"{path} is not the file that candidate {path.stem} was made with" in said
    assert "--redo images" in said
    lines = (run / "images/part-0.jsonl").read_text().splitlines(keepends=True)
    (run / "images/part-0.jsonl").write_text("".join(each for each in lines if path.stem not in each.split(",")[0]))
    assert srum("score", run) == 2
    assert "1 of 20 images" in capsys.readouterr().err
    monkeypatch.setattr(
        Generates, "generate", lambda self, prompts, seeds: [Sample(Image.new("RGB", (9, 9), "red"))] * len(prompts)
    )
    assert srum("generate", "--config", run / "run.toml", "--out", run) == 0
    assert srum("score", run) == 2  # it is another image, whatever its name is
    assert "1 of 20 images" in capsys.readouterr().err
    assert srum("score", run, "--partial") == 0
    assert "19 of 20 images" in capsys.readouterr().out


def test_images_of_an_older_version_are_to_be_generated_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "images/settings.json"
    path.write_text(path.read_text().replace('"layout": 2,', ""))
    assert srum("score", run) == 2
    assert "layout was '(nothing)' and is now 2" in (said := " ".join(capsys.readouterr().err.split()))
    assert "run once with --redo images to make it again" in said


def test_half_a_record_gets_its_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "answers/j/part-0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0][:40] + "\n", *lines[1:]]))
    assert srum("score", run) == 2
    assert f"Line 1 of {path} cannot be read" in capsys.readouterr().err
    before = made(run)
    path.write_text("".join([*lines[:-1], lines[-1][:40]]))  # the last line is what a killed writer leaves
    assert srum("score", run) == 0
    assert "1 unreadable answers have retries left" in capsys.readouterr().out  # it was asked for twice
    path.write_text("".join([*lines[:12], lines[12][:40]]))
    assert srum("score", run) == 2
    assert "are not judged yet" in capsys.readouterr().err
    assert srum("judge", run) == 0
    assert srum("score", run) == 0
    assert made(run) == before


def test_prompts_that_are_all_gone_get_their_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "prompts.jsonl").write_text("")
    for words in (["judge", run], ["score", run]):
        assert srum(*words) == 2
        assert "prompts.jsonl holds no prompt. Restore it" in capsys.readouterr().err
    again = ["generate", "--config", run / "run.toml", "--out", run]
    assert srum(*again) == 2
    assert "prompts.jsonl holds 0 prompts" in capsys.readouterr().err
    assert srum(*again, "--redo", "images") == 0
    assert srum("judge", run) == srum("score", run) == 0


def test_a_wrong_number_of_prompts_gets_its_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data/val_comp.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    strict = f'{{use="compbench", data="{tmp_path / "data"}"}}'
    assert srum("generate", *model(strict, tmp_path / "run")) == 2
    assert "holds 2669 prompts; the release has 2670" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_prompts_that_change_in_between_are_noticed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    words = model(use("compbench", tmp_path / "data"), tmp_path / "run")
    until_killed(lambda: srum("generate", *words), draw=2)
    path = tmp_path / "data/val_comp.json"
    path.write_text(path.read_text().replace("3d_spatial prompt 0", "something else"))
    assert srum("generate", *words) == 2
    assert "now gives 20, which are not the same" in capsys.readouterr().err


def test_other_settings_are_refused_with_the_way_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert srum("generate", "--config", run / "run.toml", "--out", run, "seed=7") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "seed was 42 and is now 7" in said
    assert "--redo images" in said
    assert srum("score", run, "evaluate.limit=3") == 2
    assert "evaluate.limit=3 cannot be set once images are generated" in capsys.readouterr().err
    assert srum("generate", "--config", run / "run.toml", "--out", run, "seed=7", "--redo", "images") == 0
    assert srum("score", run) == 2
    assert "20 of 20 images" in capsys.readouterr().err


@each_row("words", [["score"], ["judge"], ["layout", "--to", "x"]])
def test_a_folder_that_is_none_is_told(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert srum(words[0], tmp_path, *words[1:]) == 2
    assert "is not the folder of an evaluation" in capsys.readouterr().err
