"""`srum generate`: images for a few prompts, from an adapter or from what a run has trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import each_row
from toy import COMPONENTS, ToyModel

from srum_core.cli.main import main, train_main

TOY = ("--adapter", "toy:ToyModel")


def generate(folder: Path, *words: str) -> dict[str, bytes]:
    """The images that a command writes, by name."""
    assert main(["generate", *words, "--out", str(folder)]) == 0
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_prompts_and_seeds_name_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = generate(
        tmp_path, *TOY, "a red cup", "two/three birds!", "--seed", "3", "--count", "2", "generate.batch=3"
    )
    assert list(images) == [
        "000-a-red-cup-3.png", "000-a-red-cup-4.png", "001-two-three-birds-3.png", "001-two-three-birds-4.png",
    ]  # fmt: skip
    assert len(set(images.values())) == 4
    assert [Path(line).name for line in capsys.readouterr().out.split()] == list(images)


def test_the_same_prompt_and_seed_give_the_same_image_in_any_batch(tmp_path: Path) -> None:
    both = generate(tmp_path / "both", *TOY, "a red cup", "a bird", "--seed", "5")
    alone = generate(tmp_path / "alone", *TOY, "a bird", "--seed", "5")
    assert alone["000-a-bird-5.png"] == both["001-a-bird-5.png"]


def test_a_trained_model_generates_something_else_and_an_unfinished_run_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("a red cup\na bird\n")
    made = ["train.steps=3", "train.lr=0.01", "benchmark=''", f"prompts='{tmp_path / 'words.txt'}'"]
    assert train_main([*COMPONENTS, *made, "--out", str(tmp_path / "run")]) == 0
    trained = generate(tmp_path / "trained", "--trained", str(tmp_path / "run"), "a bird")
    assert trained != generate(tmp_path / "base", *TOY, "a bird")
    assert main(["generate", "--trained", f"{tmp_path / 'run'}:2", "a bird"]) == 2
    assert "Finish that run first" in capsys.readouterr().err


def test_values_that_are_not_finite_are_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ToyModel.__init__

    def broken(self: ToyModel, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        for parameter in self.denoiser.parameters():
            parameter.data.fill_(float("nan"))

    monkeypatch.setattr(ToyModel, "__init__", broken)
    assert main(["generate", *TOY, "a bird", "--out", str(tmp_path / "out")]) == 1
    assert "a bird (seed 0): no image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@each_row(
    "words, message",
    [
        ((*TOY, "seed=1"), "at least one prompt"),
        ((*TOY, "a bird", "--count", "0"), "--count of at least 1"),
        (("a bird",), "No adapter is named"),
        ((*TOY, "a bird", "generate.bach=3"), 'Did you mean "batch"?'),
        (("--trained", "nowhere", "a bird"), "nowhere is not the folder of a run"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("srum 0.")
