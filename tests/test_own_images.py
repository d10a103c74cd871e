"""`srum import --captions`: own images as candidates, judged like the model's or trained on as they are."""

from __future__ import annotations

import csv
import json
import shlex
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from PIL import Image
from test_interchange import message, paint
from test_reread import ARGUMENTS
from training import clean  # noqa: F401 - a fixture

from srum_core.cli import main
from srum_core.interchange.trained_model import model_card
from srum_core.records import Candidate
from srum_core.runs.run import Run
from srum_core.training.latent_cache import Latents

TOY = ["--adapter", "toy:ToyModel"]
SETTINGS = ARGUMENTS[1:]
SIZES = {"a.png": (8, 8), "b.jpg": (8, 4), "more/c.webp": (4, 8), "d.png": (6, 8)}
"""Pixels, of images that the toy adapter can train on."""


def photos(folder: Path) -> Path:
    """A folder of images with captions beside them, and of what cannot be used."""
    for name, size in SIZES.items():
        paint(folder / name, size, "teal").with_suffix(".txt").write_text(f" a picture of {name}\n", "utf-8")
    (folder / "damaged.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "damaged.txt").write_text("cut off", "utf-8")
    (folder / "other.png").write_text("no image", "utf-8")
    (folder / "other.txt").write_text("a page", "utf-8")
    paint(folder / "silent.png")
    (folder / "lost.txt").write_text("its image is gone", "utf-8")
    paint(folder / "empty.png").with_suffix(".txt").write_text(" \n", "utf-8")
    return folder


def bring(data: Path | str, out: Path, *arguments: str, code: int = 0) -> Run:
    given = ["import", str(data), "--captions", "--out", str(out), *TOY, *arguments, *SETTINGS]
    assert main.main(given) == code
    return Run.open(out) if code == 0 else None  # type: ignore[return-value]


def by_caption(run: Run) -> dict[str, Candidate]:
    return {candidate.prompt.text: candidate for candidate in run.candidates(1)}


# ---- what comes in ---------------------------------------------------------------------------------------------------


def test_a_folder_with_captions_beside_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "photos")
    run = bring(folder, tmp_path / "run")
    found = by_caption(run)
    assert {text: candidate.size for text, candidate in found.items()} == {
        f"a picture of {name}": size for name, size in SIZES.items()
    }
    for name in SIZES:  # the files themselves, neither resized nor compressed again
        candidate = found[f"a picture of {name}"]
        assert candidate.image.read_bytes() == (folder / name).read_bytes()
        assert candidate.image.suffix == Path(name).suffix
    said = message(capsys)
    assert "4 images with captions are in" in said
    assert "To have them judged and train on them: srum-train --adapter toy:ToyModel" in said
    for words in (
        "5 of 9 were left out",
        "damaged.png: damaged.png is not a readable image",
        "other.png: other.png is not a readable image (it is in no known format)",
        "silent.png: it has no caption: silent.txt is not beside it",
        "lost.txt: there is no image lost beside this caption",
        "empty.png: its \"caption\" is ' \\n', and should be a text",
    ):
        assert words in said
        assert words.partition(": ")[2] in (tmp_path / "run/import.log").read_text("utf-8")
    assert run.done("generate", 1)
    assert not run.stage_folder("judge", 1).exists()


def records(folder: Path) -> list[dict[str, Any]]:
    return [{"file_name": name, "text": f"a picture of {name}"} for name in SIZES if (folder / name).exists()]


def as_lines(folder: Path) -> Path:
    lines = [*map(json.dumps, records(folder)), "{", "[]", json.dumps({"file_name": "gone.png", "text": "gone"})]
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "metadata.jsonl"


def as_folder_with_metadata(folder: Path) -> Path:
    return as_lines(folder).parent


def as_table(folder: Path) -> Path:
    with (folder / "mine.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "text"])
        writer.writeheader()
        writer.writerows([*records(folder), {"file_name": "gone.png", "text": "gone"}])
        file.write("silent.png,too,many\r\nsilent.png,\r\n")
    return folder / "mine.csv"


def as_parquet(folder: Path) -> Path:
    rows = [{"image": (folder / each["file_name"]).read_bytes(), "text": each["text"]} for each in records(folder)]
    rows += [{"image": b"x", "text": "damaged"}, {"image": None, "text": "none"}, {"image": b"x", "text": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "x.parquet")
    return folder / "x.parquet"


def as_saved(folder: Path) -> Path:
    images = [str(folder / each["file_name"]) for each in records(folder)] + [str(folder / "other.png")] * 3
    texts = [each["text"] for each in records(folder)] + ["damaged"] * 3
    made = datasets.Dataset.from_dict({"text": texts, "image": images}).cast_column("image", datasets.Image())
    made.save_to_disk(folder / "saved")  # with the images in it
    return folder / "saved"


@pytest.mark.parametrize("write", [as_lines, as_folder_with_metadata, as_table, as_parquet, as_saved])
def test_every_format_gives_the_same_images(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "photos")
    run = bring(write(folder), tmp_path / "run")
    found = by_caption(run)
    assert set(found) == {f"a picture of {name}" for name in SIZES}
    for name in SIZES:
        assert found[f"a picture of {name}"].image.read_bytes() == (folder / name).read_bytes()
    assert "3 of 7 were left out" in message(capsys)


def test_ids_follow_from_captions_unless_there_are_some(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    lines = [{"image": "a.png", "caption": "a cat"}] * 2 + [{"image": "a.png", "caption": "a dog", "id": 7}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    run = bring(tmp_path / "x.jsonl", tmp_path / "run")
    first, second, third = (candidate.prompt.id for candidate in run.candidates(1))
    assert second == f"{first}-2"
    assert third == "7"


def test_a_photo_is_turned_as_the_camera_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (8, 4), "white")
    lying.paste("black", (0, 0, 4, 4))
    lying.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (tmp_path / "a.txt").write_text("a lamp", "utf-8")
    (candidate,) = bring(tmp_path, tmp_path / "run").candidates(1)
    assert candidate.size == (4, 8)
    with Image.open(candidate.image) as image:
        assert image.size == (4, 8)
        assert max(image.getpixel((2, 1))) < 60 < 200 < min(image.getpixel((2, 6)))  # type: ignore[arg-type,type-var]
    assert "a.jpg: it was rotated according to its EXIF data" in message(capsys)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_photo_without_an_orientation_is_copied_unchanged(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("a lamp", "utf-8")
    (candidate,) = bring(tmp_path, tmp_path / "run").candidates(1)
    assert candidate.image.read_bytes() == (tmp_path / "a.jpg").read_bytes()
    assert "EXIF" not in (tmp_path / "run/import.log").read_text("utf-8")


def test_images_in_hidden_folders_are_not_taken(tmp_path: Path) -> None:
    paint(tmp_path / "photos/a.png").with_suffix(".txt").write_text("a lamp", "utf-8")
    paint(tmp_path / "photos/.checkpoints/a.png").with_suffix(".txt").write_text("an older lamp", "utf-8")
    assert set(by_caption(bring(tmp_path / "photos", tmp_path / "run"))) == {"a lamp"}


def test_only_the_first_image_of_an_animation_is_used_and_that_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    (tmp_path / "a.txt").write_text("a lamp", "utf-8")
    bring(tmp_path, tmp_path / "run")
    assert "a.webp: only the first of its 2 images is used" in message(capsys)


def test_images_that_cannot_be_read_here_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(tmp_path / "a.png").with_suffix(".txt").write_text("a lamp", "utf-8")
    Image.new("F", (8, 8)).save(tmp_path / "depth.tif")
    (tmp_path / "phone.HEIC").write_bytes(b"ftypheic")
    for name in ("depth", "phone"):
        (tmp_path / f"{name}.txt").write_text(name, "utf-8")
    bring(tmp_path, tmp_path / "run")
    said = message(capsys)
    assert "depth.tif is not a readable image (its pixels have 32 bits, whose range is not known" in said
    assert "phone.HEIC is not a readable image (it is in no known format)" in said


def test_the_fields_of_image_and_caption_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(tmp_path / "a.png")
    line = {"jpg": "a.png", "text": "no", "alt": "a cat", "mood": "calm"}
    (tmp_path / "x.jsonl").write_text(json.dumps(line), "utf-8")
    named = ["--image-field", "jpg", "--caption-field", "alt"]
    assert set(by_caption(bring(tmp_path / "x.jsonl", tmp_path / "run", *named))) == {"a cat"}
    assert "x.jsonl: these fields are not read: text, mood." in message(capsys)


# ---- the hub ---------------------------------------------------------------------------------------------------------


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    paint(cache / "downloads/b.png")
    paint(tmp_path / "secret.png")
    stored = BytesIO()
    Image.new("RGB", (8, 4)).save(stored, format="PNG")
    names = [str(cache / "downloads/b.png"), str(tmp_path / "secret.png")]
    images = [{"bytes": stored.getvalue(), "path": None}, *({"bytes": None, "path": name} for name in names)]
    rows = {"image": images, "caption": ["in it", "downloaded", "elsewhere"], "url": ["x"] * 3}
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    asked = []

    def load_dataset(*names: str, split: str) -> datasets.Dataset:
        asked.append((*names, split))
        return made

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert set(by_caption(bring("me/photos", tmp_path / "run"))) == {"in it", "downloaded"}
    bring("me/photos/large", tmp_path / "two", "--split", "test[:3]")
    assert asked == [("me/photos", "train"), ("me/photos", "large", "test[:3]")]
    log = (tmp_path / "run/import.log").read_text("utf-8")
    assert "photos, row 3: its image" in log
    assert "secret.png leads out of" in log


def test_a_data_set_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_dataset(*names: str, split: str) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    bring("me/photos", tmp_path / "run", code=2)
    assert "me/photos is not a file or folder, and cannot be read as a data set of the hub (split train)" in message(
        capsys
    )
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    bring("me/photos", tmp_path / "run", code=2)
    assert "reading it from the hub needs the package datasets" in message(capsys)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "arguments", "sentence"),
    [
        ("gone.csv", [], "gone.csv does not exist."),
        ("gone", [], "gone does not exist."),
        ("x.txt", [], "x.txt: images with captions are read from .jsonl, .csv and .parquet files, from a folder, or"),
        ("none", [], "There is no image in it that can be used."),
        ("odd.csv", [], "odd.csv, after line 1: this is not CSV"),
        (
            "x.jsonl",
            [],
            "x.jsonl:1: it has no caption, only image, mood; name the field of the caption with --caption-field",
        ),
        ("x.jsonl", ["--caption-field", "alt"], "x.jsonl:1: it has no alt, only image, mood"),
        ("out.jsonl", [], "out.jsonl:1: its image ../secret.png leads out of"),
        ("edit.jsonl", [], "edit.jsonl:1: images are generated from a text alone, so mask would be ignored"),
        ("x.parquet", [], "x.parquet: it has no image, only caption; name the field of the image with --image-field"),
        ("x.jsonl", ["generate.candidates=2"], "Add generate.candidates=1, here and for srum-train."),
        ("x.jsonl", ["--candidates", "x.jsonl"], "--candidates is for judged images"),
        ("x.jsonl", ["--unjudged", "map=paper"], "--unjudged gives every image the weight 1, but the map is paper"),
    ],
)
def test_what_cannot_be_imported(
    data: str,
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    paint(Path("a.png"))
    paint(tmp_path.parent / "secret.png")
    Path("none").mkdir()
    Path("x.txt").write_text("a", "utf-8")
    Path("odd.csv").write_text('image,caption\n"a.png,x\n', "utf-8")
    for name, record in {
        "x": {"image": "a.png", "mood": "calm"},
        "out": {"image": "../secret.png", "caption": "x"},
        "edit": {"image": "a.png", "caption": "x", "mask": "m.png"},
    }.items():
        Path(f"{name}.jsonl").write_text(json.dumps(record), "utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"caption": ["x"]}), "x.parquet")
    given = ["import", data, "--captions", "--out", "run", *TOY, *SETTINGS, *arguments]
    assert main.main(given) == 2
    assert sentence in message(capsys)
    assert not Path("run").exists()


@pytest.mark.parametrize("option", [["--unjudged"], ["--caption-field", "x"], ["--split", "test"]])
def test_options_of_captions_need_it(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["import", str(tmp_path), "--out", str(tmp_path / "run"), *TOY, *option, *SETTINGS]
    assert main.main(given) == 2
    assert f"{option[0]} needs --captions" in message(capsys)


def test_without_the_option_a_folder_of_images_is_told_about_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["import", str(photos(tmp_path / "photos")), "--out", str(tmp_path / "run"), *TOY, *SETTINGS]
    assert main.main(given) == 2
    assert "Images with captions alone are read with --captions." in message(capsys)


# ---- and then --------------------------------------------------------------------------------------------------------


def test_own_images_are_grounded_judged_and_trained_on(tmp_path: Path) -> None:
    run = bring(photos(tmp_path / "photos"), tmp_path / "run")
    assert main.train_main([*TOY, "--out", str(run.folder), *SETTINGS]) == 0
    ids = {candidate.id for candidate in run.candidates(1)}
    assert len(ids) == 4
    judgements = list(run.judgements(1))
    assert {judgement.candidate for judgement in judgements} == ids
    assert all(len(judgement.regions) == 2 and judgement.scores for judgement in judgements)
    (metrics,) = map(json.loads, (run.round_folder(1) / "metrics.jsonl").read_text("utf-8").splitlines())
    assert metrics["judged"] == 4
    assert (run.stage_folder("train", 1) / "DONE").exists()


def test_unjudged_images_are_trained_on_with_weight_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photos(tmp_path / "photos"), tmp_path / "run"
    settings = [each for each in SETTINGS if not each.startswith(("map=", "loss="))]
    assert main.main(["import", str(folder), "--captions", "--unjudged", "--out", str(out), *TOY, *settings]) == 0
    run = Run.open(out)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[0] == "srum-train"
    assert command[command.index("--only") + 1] == "train"
    assert {"map=uniform", "loss=sft"} <= set(command)
    assert [use.use for use in (run.settings.map, run.settings.loss)] == ["uniform", "sft"]
    assert main.train_main(command[1:]) == 0
    (metrics,) = map(json.loads, (run.round_folder(1) / "metrics.jsonl").read_text("utf-8").splitlines())
    assert metrics["mean_weight"] == 1
    assert metrics["cells"] == sum(width * height // 4 for width, height in SIZES.values())
    assert not any(judgement.scores or judgement.exchanges for judgement in run.judgements(1))
    card = model_card(run, 1, "The whole model trained from", "")
    assert "* Round 1: 4 imported images with their prompts; lora, loss `sft`" in card
    assert main.main(["report", str(run.folder)]) == 0


@pytest.mark.slow
def test_bagel_judges_and_trains_on_images_of_any_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled model: each image keeps its shape within what the model trains on."""
    monkeypatch.chdir(tmp_path)
    for number, size in enumerate([(32, 32), (64, 32), (20, 60), (300, 200)]):
        paint(tmp_path / f"photos/{number}.png", size, "red").with_suffix(".txt").write_text("a red square", "utf-8")
    bagel = ["--adapter", "bagel", "--preset", "shapes"]
    settings = ["generate.candidates=1", "train.steps=2", "evaluate.before=false", "evaluate.limit=1"]
    assert main.main(["import", "photos", "--captions", "--out", "run", *bagel, *settings]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main.train_main(command[1:]) == 0
    run = Run.open(Path("run"))
    assert all(judgement.exchanges for judgement in run.judgements(1))
    latents = Latents(run.round_folder(1) / "latents", "")
    grids = {candidate.size: latents.grid(candidate) for candidate in run.candidates(1)}
    # Cells of 8 pixels, the longer side at most 32.
    assert grids == {(32, 32): (4, 4), (64, 32): (2, 4), (20, 60): (4, 1), (300, 200): (3, 4)}
    assert len((run.round_folder(1) / "metrics.jsonl").read_text("utf-8").splitlines()) == 2
