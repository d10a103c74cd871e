"""`srum export` and `srum import`: what survives the way out and back, what is refused, and in which words."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs
import datasets
import pyarrow.parquet
import pytest
from attrs import evolve
from PIL import Image
from rows import each_row
from test_reread import ARGUMENTS, files, open_with
from training import clean  # noqa: F401 - a fixture

from srum_core.cli import main
from srum_core.interchange.incoming import Bad, Incoming
from srum_core.interchange.official import pixels, read_official
from srum_core.interchange.parquet import features
from srum_core.records import (
    BoxFormat,
    Candidate,
    Exchange,
    Grounding,
    Judgement,
    Mask,
    Prompt,
    Question,
    Region,
    Score,
    Unreadable,
)
from srum_core.runs.run import Run
from srum_core.runs.store import write_list
from srum_losses.maps import Paper, Released

PROMPTS = (
    Prompt("1", "a red cat", {"category": "colour", "n": [1, {"x": None}]}),
    Prompt("zwei/2", "ein Bär 🐻 neben “zwei” Häusern"),
    Prompt("3", "the sea"),
    Prompt("4", "a failure"),
)
SETTINGS = ARGUMENTS[1:]  # without the adapter


def paint(path: Path, size: tuple[int, int] = (8, 8), colour: str = "teal") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def made(folder: Path) -> Run:
    """A judged run with something of everything in it."""
    (folder.parent / "words.txt").write_text("unused\n")
    run = open_with(folder)
    write_list(run.round_folder(1) / "prompts.jsonl", PROMPTS)
    for number, item in enumerate(run.planned(1)):
        image = paint(
            run.stage_folder("generate", 1) / f"images/{item.id}.png", (8 + number, 6), "#%06x" % (number * 99)
        )
        reference = paint(image.with_name(f"{item.id}-other.png"), (8, 6), "red") if number == 0 else None
        candidate = Candidate(item.id, item.prompt, image, (8 + number, 6), item.seed, "hm, ‘ja’", reference)
        candidate = evolve(candidate, model="served", note="The server ignores seeds.")
        regions = (
            Region("1", (0.1, 0.0, 0.51, 0.5), "links", Mask((2, 2), (0, 1, 3))),
            Region("b", (0.0, 1 / 3, 1.0, 1.0)),
            Region("unscored", (0.0, 0.0, 0.5, 0.5)),
        )
        scores = (
            Score(-1 / 3 * (number != 2), None, "Grund: 好", "global-layout", votes=(0.1, -0.5), spread=0.25),
            Score(0.8, "1", "crisp\nand so on", "toy", "a cat 🐈", 0.9, ("Rule.",)),
            Score(-1.0, "b", "", "toy"),
        )
        asked = Exchange("toy", Question(image, "Wie?", (0.0, 0.0, 0.5, 1.0), 99, True, 0.5, 7), "Ä: 1", 2, 1)
        both = (asked, evolve(asked, question=Question(reference or image, "Which?")))
        failures = (Unreadable(0, "no score", "1", "toy"), Unreadable(1, "nothing")) if number == 3 else ()
        judgement = Judgement(item.id, regions, scores, both, failures, BoxFormat("pixels", (9, 9)) if number else None)
        run.candidates(1).append(candidate)
        run.groundings(1).append(Grounding(item.id, regions))
        run.judgements(1).append(judgement)
    for records in (run.candidates(1), run.groundings(1), run.judgements(1)):
        records.mark_done()
    return run


def export(run: Run, *arguments: str, code: int = 0) -> None:
    assert main.main(["export", str(run.folder), *arguments]) == code


def bring(data: Path, out: Path, *arguments: str, code: int = 0) -> Run:
    given = ["import", str(data), "--out", str(out), "--adapter", "toy:ToyModel", *arguments, *SETTINGS]
    assert main.main(given) == code
    return Run.open(out) if code == 0 else None  # type: ignore[return-value]


def message(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    return " ".join(f"{said.out} {said.err}".split())


def line(**changes: Any) -> dict[str, Any]:
    """A training record of the image 7.png, 20x10."""
    entries = [
        {"object": "global_layout_reward", "bbox": [0, 0, 20, 10], "score": 0.5, "reason": "good"},
        {"object": "cup", "bbox": [0, 0, 10, 5], "score": -0.25},
    ]
    record = {"bad_image_file": "7.png", "good_image_file": "7.png", "prompt": "a cup", "vlm_rewards": entries}
    return {key: value for key, value in {**record, **changes}.items() if value is not ...}


def regional(*entries: Any) -> dict[str, Any]:
    """The same with other regions."""
    return line(vlm_rewards=[line()["vlm_rewards"][0], *entries])


def write(path: Path, *records: Any) -> Path:
    paint(path.parent / "7.png", (20, 10))
    text = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"".join(each + b"\n" for each in text))
    return path


def odd_files(folder: Path) -> None:
    """What no record may name."""
    paint(folder.parent / "secret.png", (20, 10))
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")


def read(path: Path, **more: Any) -> Incoming:
    (found,) = read_official(path, **more)
    assert isinstance(found, Incoming), found
    return found


# ---- the official format --------------------------------------------------------------------------------------------


def test_what_is_written_in_the_official_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run")
    export(run, "--out", str(tmp_path / "out"))
    said = message(capsys)
    assert "3 images, judged." in said
    assert "1 images left out: answers about them could not be read." in said
    assert "1 images have a global score of exactly 0" in said
    assert "3 regions without a score are not written." in said
    lines = {
        name: [json.loads(each) for each in (tmp_path / f"out/{name}.jsonl").read_text().splitlines()]
        for name in ("output", "judge", "train")
    }
    first = next(iter(run.candidates(1)))
    assert lines["output"][0] == {
        "prompt_id": "1",
        "image_file": f"{first.id}.png",
        "original_prompt": "a red cat",
        "detailed_prompt": "hm, ‘ja’",
        "think_output": "hm, ‘ja’",
    }
    assert lines["judge"][0] == {
        "image_file": f"{first.id}.png",
        "prompt": "a red cat",
        "vlm_rewards": [
            {
                "identified_object": "a cat 🐈",
                "score": 0.8,
                "bbox": [1, 0, 4, 3],
                "area": 1,
                "reason": "crisp\nand so on",
            },
            {"identified_object": "region b", "score": -1.0, "bbox": [0, 2, 8, 6], "area": 32},
        ],
        "global_layout_reward": {
            "global_layout_score": -1 / 3,
            "reason": "Grund: 好",
            "bbox": [0, 0, 8, 6],
            "area": 48,
        },
        "vlm_raw_output": "Ä: 1",
    }
    assert lines["train"][0] == {
        "bad_image_file": f"{first.id}.png",
        "good_image_file": f"{first.id}-reference.png",
        "prompt": "a red cat",
        "vlm_rewards": [
            {"object": "global_layout_reward", "bbox": [0, 0, 8, 6], "score": -1 / 3, "reason": "Grund: 好"},
            {"object": "a cat 🐈", "bbox": [1, 0, 4, 3], "score": 0.8},
            {"object": "region b", "bbox": [0, 2, 8, 6], "score": -1.0},
        ],
    }
    assert lines["train"][2]["vlm_rewards"][0]["score"] == 0.0
    assert [len(each) for each in lines.values()] == [3, 3, 3]
    for candidate in list(run.candidates(1))[:3]:
        assert (tmp_path / f"out/images/{candidate.id}.png").read_bytes() == candidate.image.read_bytes()


@pytest.mark.parametrize("name", ["judge", "train"])
def test_out_and_back_keeps_scores_and_boxes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run")
    export(run, "--out", str(tmp_path / "out"))
    more = ("--candidates", str(tmp_path / "out/output.jsonl"))
    back = bring(tmp_path / f"out/{name}.jsonl", tmp_path / "back", *more)
    assert "1 images have a global score of exactly 0" in message(capsys)
    before, after = list(run.candidates(1))[:3], list(back.candidates(1))
    for was, now in zip(before, after, strict=True):
        assert (now.id, now.prompt.id, now.prompt.text, now.size, now.seed, now.thought) == (
            was.id, was.prompt.id, was.prompt.text, was.size, was.seed, was.thought,
        )  # fmt: skip
        assert now.image.read_bytes() == was.image.read_bytes()
        assert now.image == back.stage_folder("generate", 1) / f"images/{now.id}.png"
    reference = after[0].reference
    assert (reference is None) == (name == "judge")
    assert [now.reference for now in after[1:]] == [None, None]
    assert reference is None or reference.read_bytes() == before[0].reference.read_bytes()  # type: ignore[union-attr]
    for was, now in zip(run.judgements(1), back.judgements(1), strict=False):
        assert [score.value for score in now.scores] == [score.value for score in was.scores]
        assert [score.region for score in now.scores] == [None, "1", "2"]
        (size,) = [candidate.size for candidate in after if candidate.id == now.candidate]
        for old, new in zip(was.regions[:2], now.regions, strict=True):
            assert pixels(old.box, size) == pixels(new.box, size)
            assert all(abs(a - b) <= 1 / 6 for a, b in zip(old.box, new.box, strict=True))
    assert [each.regions for each in back.groundings(1)] == [each.regions for each in back.judgements(1)]


def test_boxes_are_never_empty_in_pixels() -> None:
    assert pixels((0.0, 0.0, 1.0, 1.0), (9, 7)) == [0, 0, 9, 7]
    assert pixels((0.5, 0.999, 0.501, 1.0), (10, 10)) == [5, 9, 6, 10]
    assert pixels((0.999, 0.0, 1.0, 0.001), (3, 3)) == [2, 0, 3, 1]


BAD_LINES: list[tuple[Any, str]] = [
    (b'{"bad_image_file": "7.png"', "it is not JSON (Expecting ',' delimiter, character 27)"),
    (b'{"prompt": "\xff"}', "it is not UTF-8 text (invalid start byte)"),
    (b"[" * 100_000, "it is not JSON (maximum recursion depth exceeded"),
    (b"[1, 2]", "it is no JSON object but a list; a line should hold one record"),
    (b"null", "it is no JSON object but a NoneType"),
    ({"a": 1}, "it is neither a judge record (image_file) nor a training record (bad_image_file)"),
    ({"image_file": "7.png", "original_prompt": "x"}, "it holds no scores: an output.jsonl is not judged"),
    (line(bad_image_file="8.png"), "its image 8.png is not in "),
    (line(bad_image_file="x" * 5000), "(say where with --images)"),
    (line(bad_image_file="7\0.png"), "(say where with --images)"),
    (line(bad_image_file=None), 'its "bad_image_file" is None, and should be a text'),
    (line(good_image_file=...), 'its "good_image_file" is None, and should be a text'),
    (
        line(good_image_file="small.png"),
        "two images must be of one size, but 7.png is 20x10 and small.png is 5x5",
    ),
    (line(bad_image_file="text.png", good_image_file="text.png"), "text.png is not a readable image ("),
    (line(bad_image_file="cut.png", good_image_file="cut.png"), "cut.png is not a readable image ("),
    (line(bad_image_file="images", good_image_file="images"), "its image images in "),
    (line(good_image_file="../secret.png"), "its image ../secret.png leads out of "),
    (line(bad_image_file="/etc/passwd"), "its image /etc/passwd leads out of "),
    (line(good_image_file="link.png"), "its image link.png leads out of "),
    (line(bad_image_file="zero.png"), "its image zero.png leads out of "),
    (line(good_image_file="pipe.png"), "is no regular file"),
    (line(source_image="8.png"), "so source_image would be ignored. Editing"),
    (line(negative_prompt="blurry"), "so negative_prompt would be ignored"),
    (line(prompt=...), 'its "prompt" is None, and should be a text'),
    (line(prompt=" "), "its \"prompt\" is ' ', and should be a text"),
    (line(vlm_rewards=...), 'its "vlm_rewards" is None, and should be a list'),
    (line(vlm_rewards={}), 'its "vlm_rewards" is {}, and should be a list'),
    (line(vlm_rewards=[]), "it holds no score that can be used"),
    (
        line(vlm_rewards=[{"object": "x", "score": 1}]),
        "it holds no score that can be used; entry 1 (x) was left out",
    ),
    (regional({"bbox": [0, 0, 1, 1], "score": 8}), "entry 1 has the score 8, which is not a number in [-1, 1]"),
    (regional({"bbox": [0, 0, 1, 1], "score": -1.0001}), "entry 1 has the score -1.0001, which is not"),
    (regional({"object": "cup", "bbox": [0, 0, 1, 1], "score": None}), "entry 1 (cup) has the score None, which"),
    (regional({"bbox": [0, 0, 1, 1], "score": "0.5"}), "entry 1 has the score '0.5', which is not a number"),
    (regional({"bbox": [0, 0, 1, 1], "score": True}), "entry 1 has the score True, which is not a number"),
    (regional({"bbox": [0, 0, 1, 1], "score": float("nan")}), "entry 1 has the score nan, which is not a number"),
    (regional({"bbox": [0, 0, 1, 1], "score": 10**400}), "entry 1 has the score 1000"),
    (line(vlm_rewards=[{"object": "global_layout_reward", "score": 2}]), "its global entry has the score 2, which"),
    (
        regional({"bbox": [0, 0, float("inf"), 1], "score": 0}),
        "entry 1 has a box that is not finite: [0, 0, inf, 1]",
    ),
    (regional({"bbox": [0, 0, 10**400, 1], "score": 0}), "entry 1 has a box that is not finite: [0, 0, inf, 1]"),
]


@each_row("record, why", BAD_LINES, ids=[f"{n} {why[:30]}" for n, (_, why) in enumerate(BAD_LINES)])
def test_a_line_that_cannot_be_used(record: Any, why: str, tmp_path: Path) -> None:
    paint(tmp_path / "small.png", (5, 5))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "images").mkdir()
    noise = Image.effect_noise((64, 64), 99)
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    odd_files(tmp_path)
    found = list(read_official(write(tmp_path / "train.jsonl", record)))
    assert [type(each) for each in found] == [Bad]
    assert why in str(found[0])
    assert str(found[0]).startswith("train.jsonl:1: ")


@each_row(
    "entry, note, box",
    [
        ({"bbox": ["4", "5", "20", "8"], "score": 1}, None, (4, 5, 20, 8)),
        ({"bbox": [0.5, 0, 9.75, 5], "score": 1}, None, (0.5, 0, 9.75, 5)),
        ({"bbox": [-3, -1, 10, 5], "score": 1}, "was clipped to the image: [-3, -1, 10, 5] in 20x10", (0, 0, 10, 5)),
        ({"bbox": [5, 5, 999, 11], "score": 1}, "was clipped to the image: [5, 5, 999, 11] in 20x10", (5, 5, 20, 10)),
        ({"bbox": [20, 0, 30, 5], "score": 1}, "its box [20, 0, 30, 5] lies outside the 20x10 image", None),
        ({"bbox": [-9, 0, 0, 5], "score": 1}, "its box [-9, 0, 0, 5] lies outside the 20x10 image", None),
        ({"bbox": [9, 0, 3, 5], "score": 1}, "its box [9, 0, 3, 5] is reversed", None),
        ({"bbox": [3, 5, 9, 5], "score": 1}, "its box [3, 5, 9, 5] is empty", None),
        ({"bbox": ["4.5", 5, 20, 8], "score": 1}, "its box ['4.5', 5, 20, 8] does not hold four numbers", None),
        ({"bbox": [None, 5, 20, 8], "score": 1}, "its box [None, 5, 20, 8] does not hold four numbers", None),
        ({"bbox": [True, 5, 20, 8], "score": 1}, "its box [True, 5, 20, 8] does not hold four numbers", None),
        ({"bbox": [5, 20, 8], "score": 1}, "its box is [5, 20, 8], and should be four numbers", None),
        ({"bbox": "0 0 1 1", "score": 1}, "its box is '0 0 1 1', and should be four numbers", None),
        ({"score": 1}, "its box is None, and should be four numbers", None),
        ({"bbox": [0, 0, 5, 5]}, "it has no score", None),
        ("a cup", "it is no object but 'a cup'", None),
        ({"object": "global_layout_reward", "score": -1}, "a second global score was left out: the first counts", None),
    ],
)
def test_an_odd_entry_is_left_out_or_cut_and_named(entry: Any, note: str | None, box: Any, tmp_path: Path) -> None:
    last = {"object": "dog", "bbox": [1, 1, 2, 2], "score": -0.5}
    found = read(write(tmp_path / "train.jsonl", regional(entry, last)))
    assert len(found.notes) == (note is not None)
    assert note is None or note in found.notes[0]
    kept = [*([box] if box else []), (1, 1, 2, 2)]
    assert [region.box for region in found.regions] == [
        pytest.approx([x / 20, y / 10, u / 20, v / 10]) for x, y, u, v in kept
    ]
    assert [score.value for score in found.scores] == [0.5, *([1.0] if box else []), -0.5]
    assert {score.region for score in found.scores} == {None, *(region.id for region in found.regions)}


@pytest.mark.parametrize("whole", [None, {}, {"reason": "no score"}])
def test_without_a_global_score_there_is_none(whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"identified_object": "cup", "score": 1.0, "bbox": [0, 0, 20, 10], "area": 200}
    record = {"image_file": "7.png", "prompt": "a cup", "vlm_rewards": [entry], "global_layout_reward": whole}
    run = bring(write(tmp_path / "judge.jsonl", record), tmp_path / "run")
    said = message(capsys)
    assert "1 images have no global score. The map released weighs them with the factor 0.5" in said
    (judgement,) = run.judgements(1)
    assert [(score.value, score.region, score.label) for score in judgement.scores] == [(1.0, "1", "cup")]
    assert Released()(judgement, (1, 1)).item() == 0.5
    with pytest.raises(Exception, match="no score for the whole image"):
        Paper()(judgement, (1, 1))


def test_images_are_found_beside_the_file_in_images_or_where_one_says(tmp_path: Path) -> None:
    path = write(tmp_path / "data/train.jsonl".replace("/", "-"), line())
    (tmp_path / "images").mkdir()
    assert read(path).image.size == (20, 10)
    (tmp_path / "7.png").rename(tmp_path / "images/7.png")
    assert read(path).image.size == (20, 10)
    shutil.move(tmp_path / "images", tmp_path / "there")
    assert isinstance(next(iter(read_official(path))), Bad)
    assert read(path, images=tmp_path / "there").image.size == (20, 10)


def test_an_image_is_not_its_own_reference_under_another_name(tmp_path: Path) -> None:
    paint(tmp_path / "good.png", (20, 10), "red")
    assert read(write(tmp_path / "a.jsonl", line(good_image_file="./7.png"))).reference is None
    reference = read(write(tmp_path / "b.jsonl", line(good_image_file="good.png"))).reference
    assert reference is not None
    assert reference.data == (tmp_path / "good.png").read_bytes()


def test_prompts_can_come_from_the_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "judge.jsonl", line(), line(bad_image_file="8.png", good_image_file="8.png"))
    paint(tmp_path / "8.png", (20, 10))
    generated = {"prompt_id": 12, "image_file": "7.png", "original_prompt": "two cups", "think_output": "let me see"}
    output = tmp_path / "output.jsonl"
    output.write_text(json.dumps(generated) + "\n")
    first, second = read_official(path, candidates=output)
    assert isinstance(first, Incoming)
    assert (first.prompt, first.thought) == (Prompt("12", "two cups"), "let me see")
    assert str(second) == "judge.jsonl:2: 8.png is not in the file of --candidates"
    output.write_text('{"image_file": "7.png"}\n')
    bring(path, tmp_path / "run", "--candidates", str(output), code=2)
    assert 'output.jsonl:1: its "original_prompt" is None, and should be a text. It should be the official' in message(
        capsys
    )


# ---- into a run -----------------------------------------------------------------------------------------------------


def test_bad_lines_stop_an_import_unless_they_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [regional({"bbox": [0, 0, 1, 1], "score": number}) for number in range(2, 25)]
    odd = regional({"object": "cup", "bbox": [3, 3, 1, 5], "score": 1})
    path = write(tmp_path / "train.jsonl", line(), *bad, b"", odd)
    bring(path, tmp_path / "run", code=2)
    said = message(capsys)
    assert "23 of 25 lines cannot be used, and nothing was imported" in said
    assert "train.jsonl:2: entry 1 has the score 2, which is not a number in [-1, 1]" in said
    assert "train.jsonl:21: entry 1 has the score 21" in said
    assert "train.jsonl:22: " not in said
    assert "… and 3 more" in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["7.png", "train.jsonl"]

    run = bring(path, tmp_path / "run", "--skip-bad")
    said = message(capsys)
    assert (
        "1 entries were left out or changed: train.jsonl:26: entry 1 (cup) was left out: its box [3, 3, 1, 5]" in said
    )
    assert "23 lines were skipped:" in said
    assert [each.prompt.id for each in run.candidates(1)] == ["7", "7-2"]
    log = (run.folder / "import.log").read_text(encoding="utf-8").splitlines()
    assert len(log) == 1 + 23 + 2
    assert log[0].startswith("train.jsonl:26: entry 1 (cup) was left out")
    assert log[1] == "train.jsonl:2: entry 1 has the score 2, which is not a number in [-1, 1] (skipped)"
    ids = [candidate.id for candidate in run.candidates(1)]
    assert log[-2:] == [f"train.jsonl:1: is image {ids[0]}", f"train.jsonl:26: is image {ids[1]}"]


def test_an_imported_run_is_as_if_it_had_been_judged(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", line(), line(prompt="two cups"))
    run = bring(path, tmp_path / "run")
    assert [item.id for item in run.planned(1)] == [candidate.id for candidate in run.candidates(1)]
    assert [item.seed for item in run.planned(1)] == [candidate.seed for candidate in run.candidates(1)]
    assert all(run.done(stage, 1) for stage in ("generate", "ground", "judge"))
    assert str(tmp_path) not in (run.stage_folder("generate", 1) / "part-0.jsonl").read_text()
    run.check()


@pytest.mark.parametrize("name", ["official", "parquet"])
def test_an_imported_run_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made(tmp_path / "run")
    small = [evolve(each, reference=None) for each in source.candidates(1)]
    shutil.rmtree(source.stage_folder("generate", 1) / "part-0.jsonl", ignore_errors=True)
    (source.stage_folder("generate", 1) / "part-0.jsonl").unlink()
    for each in small:
        paint(each.image, (8, 8))
        source.candidates(1).append(evolve(each, size=(8, 8)))
    export(source, "--out", str(tmp_path / "out"), *(["--to", "parquet"] if name == "parquet" else []))
    data = tmp_path / ("out/train.jsonl" if name == "official" else "out/round-1.parquet")
    run = bring(data, tmp_path / "back")
    command = capsys.readouterr().out.splitlines()[-1].split()
    assert command[:5] == ["srum-train", "--adapter", "toy:ToyModel", "--out", str(tmp_path / "back")]
    arguments = ["--adapter", "toy:ToyModel", "--out", str(tmp_path / "back"), "--only", "train", *SETTINGS]
    assert main.train_main(arguments) == 0
    assert run.done("train", 1)
    (metrics,) = (run.round_folder(1) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics)["judged"] == 3
    assert json.loads(metrics)["unjudged"] == (name == "parquet")
    assert main.train_main([*arguments[:6], *SETTINGS]) == 0  # the rest of the round is there


def test_judging_an_imported_run_again_goes_over_its_images(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", line())
    paint(tmp_path / "7.png", (20, 10))
    bring(path, tmp_path / "run")
    arguments = ["--adapter", "toy:ToyModel", "--out", str(tmp_path / "run"), "--redo", "ground", "--only", "ground"]
    assert main.train_main([*arguments, *SETTINGS]) == 0
    (grounding,) = Run.open(tmp_path / "run").groundings(1)
    assert [region.id for region in grounding.regions] == ["1", "2"]
    assert main.train_main([*arguments[:4], "--only", "judge", *SETTINGS]) == 0
    (judgement,) = Run.open(tmp_path / "run").judgements(1)
    assert len(judgement.scores) == 6


def test_nothing_is_read_again_without_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(write(tmp_path / "train.jsonl", line()), tmp_path / "run")
    assert main.main(["reread", str(tmp_path / "run")]) == 2
    assert "not the answers behind them, as after srum import" in message(capsys)


@each_row(
    "data, arguments, sentence",
    [
        ("train.jsonl", ["generate.candidates=2"], "generate.candidates is 2, but every imported image is the one"),
        ("train.jsonl", ["train.lrr=2"], "train.lrr"),
        ("train.jsonl", ["--out", "there"], "there is there already. Choose another folder"),
        ("train.jsonl", ["--images", "nowhere"], "--images nowhere is not a folder"),
        ("train.jsonl", ["--candidates", "nowhere.jsonl"], "nowhere.jsonl cannot be read: No such file or directory"),
        ("nowhere.jsonl", [], "nowhere.jsonl does not exist"),
        ("7.png", [], "7.png: judged images are read from files named .jsonl or .parquet, or from a folder"),
        ("odd/pipe.jsonl", [], "pipe.jsonl is not a file: devices and pipes are not read"),
        ("odd/zero.parquet", [], "zero.parquet is not a file: devices and pipes are not read"),
        ("train.jsonl", ["--candidates", "/dev/zero"], "/dev/zero is not a file: devices and pipes are not read"),
        ("linked", [], "x.parquet leads out of linked"),
        ("state-out", [], "../x.arrow leads out of state-out"),
        ("state-deep", [], "state-deep cannot be read as a saved data set"),
        ("state-odd", [], "state-odd cannot be read as a saved data set"),
        (".", [], ". is a folder. Name the file in it: empty.jsonl, train.jsonl."),
        ("there", [], "there holds neither Parquet files nor a data set that was saved"),
        ("empty.jsonl", [], "There is no image in it that can be used."),
        ("broken.parquet", [], "broken.parquet cannot be read as Parquet"),
        ("other.parquet", [], "other.parquet has no column image and no column scores; it has prompt, regions."),
        ("splits", [], "splits is a data set in several splits (test, train). Name the folder of one of them."),
        ("saved", [], "saved has no column image and no column prompt and no column regions and no column scores"),
    ],
)
def test_what_an_import_refuses(
    data: str,
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", line())
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine.txt").write_text("keep")
    if "parquet" in data:
        (tmp_path / "broken.parquet").write_bytes(b"PAR1")
        table = pyarrow.table({"prompt": ["x"], "regions": [None]})
        pyarrow.parquet.write_table(table, tmp_path / "other.parquet")
    if data in ("splits", "saved"):
        some = datasets.Dataset.from_dict({"a": [1]})
        datasets.DatasetDict(train=some, test=some).save_to_disk("splits")
        some.save_to_disk("saved")
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    for name, state in {
        "state-out": {"_data_files": [{"filename": "../x.arrow"}]},
        "state-odd": [],
        "state-deep": deep,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(json.dumps(state))
    (tmp_path / "x.arrow").write_text("")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/x.parquet").symlink_to("../x.arrow")
    before = files(tmp_path)
    Path("odd").mkdir()
    os.mkfifo("odd/pipe.jsonl")
    Path("odd/zero.parquet").symlink_to("/dev/zero")
    given = ["--out", "run", *arguments]
    assert main.main(["import", data, "--adapter", "toy:ToyModel", *SETTINGS, *given]) == 2
    assert sentence in message(capsys)
    shutil.rmtree("odd")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "there"], "there is there already. Choose another folder"),
        (["--out", "out", "--round", "3"], "There are no judgements of round 3"),
        (["--out", "out", "--to", "parquet"], "cannot be read"),
        (["--out", "out"], "cannot be read (No such file or directory). Restore it"),
    ],
)
def test_what_an_export_refuses(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = made(tmp_path / "run")
    list(run.candidates(1))[1].image.unlink()
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("mine")
    before = files(tmp_path)
    export(run, *arguments, code=2)
    assert sentence in message(capsys)
    assert files(tmp_path) == before
    assert not Path("out").exists()


def test_an_unfinished_round_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run")
    (run.stage_folder("judge", 1) / "DONE").unlink()
    export(run, "--out", str(tmp_path / "out"))
    assert "Judging of round 1 is not finished: 4 images are planned." in message(capsys)


# ---- Parquet --------------------------------------------------------------------------------------------------------


def same_image(one: Candidate, other: Candidate) -> bool:
    moved = evolve(one, image=other.image, reference=other.reference, sha256="")
    return moved == evolve(other, sha256="") and all(
        (a is None) == (b is None) and (a is None or b is None or a.read_bytes() == b.read_bytes())
        for a, b in ((one.image, other.image), (one.reference, other.reference))
    )


def test_parquet_and_back_gives_equal_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run")
    export(run, "--out", str(tmp_path / "out"), "--to", "parquet")
    assert "4 images in round-1.parquet." in message(capsys)
    back = bring(tmp_path / "out/round-1.parquet", tmp_path / "back")
    assert "1 images have answers that could not be read. They are not trained on." in message(capsys)
    equal(run, back)
    again = bring(tmp_path / "out", tmp_path / "again")  # the folder
    equal(run, again)


def equal(run: Run, back: Run) -> None:
    pairs = list(zip(run.candidates(1), back.candidates(1), strict=True))
    assert all(same_image(one, other) for one, other in pairs)
    assert all((one.thought, one.model, one.note) == (other.thought, other.model, other.note) for one, other in pairs)
    moved = {one.image: other.image for one, other in pairs} | {one.reference: other.reference for one, other in pairs}
    for was, now in zip(run.judgements(1), back.judgements(1), strict=True):
        there = tuple(
            evolve(each, question=evolve(each.question, image=moved[each.question.image])) for each in was.exchanges
        )
        assert evolve(was, exchanges=there) == now


def test_the_library_opens_it_and_what_it_saves_comes_back(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    export(run, "--out", str(tmp_path / "out"), "--to", "parquet")
    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out/round-1.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["prompt"] for row in data] == [prompt.text for prompt in PROMPTS]
    assert data[1]["image"].size == (9, 6)
    assert data[0]["reference"].getpixel((0, 0)) == (255, 0, 0)
    assert data[1]["scores"][1]["reason"] == "crisp\nand so on"
    assert data[1]["regions"][0]["box"] == [0.1, 0.0, 0.51, 0.5]
    data.save_to_disk(str(tmp_path / "saved"))
    equal(run, bring(tmp_path / "saved", tmp_path / "back"))
    some = data.filter(lambda row: row["prompt"] == "the sea")
    some.save_to_disk(str(tmp_path / "some"))
    (one,) = bring(tmp_path / "some", tmp_path / "one").candidates(1)
    assert one.prompt == PROMPTS[2]


def test_every_field_of_every_record_has_a_column() -> None:
    columns = features(datasets)
    for name, kind in {"regions": Region, "scores": Score, "failures": Unreadable, "exchanges": Exchange}.items():
        assert set(columns[name].feature) == set(attrs.fields_dict(kind)), name
    assert set(columns["exchanges"].feature["question"]) == set(attrs.fields_dict(Question))
    assert set(columns["regions"].feature["mask"]) == set(attrs.fields_dict(Mask))
    assert set(columns["boxes"]) == set(attrs.fields_dict(BoxFormat))
    assert {*attrs.fields_dict(Judgement), "image", "reference", "seed", "thought"} <= {*columns, "candidate"}
    written = {"id", "prompt", "image", "seed", "thought", "reference", "size", "boxes", "model", "note"}
    # `size` is the image's; `latent` stays behind, and the image is encoded instead (docs/data.md); the hash of the
    # files is made again with them, and a failed image is among the judgement's failures.
    assert attrs.fields_dict(Candidate).keys() - {"latent", "failure", "sha256"} == written


def test_what_parquet_cannot_hold_is_replaced_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run")
    (run.stage_folder("judge", 1) / "part-0.jsonl").unlink()
    ids = [item.id for item in run.planned(1)]
    others = [Judgement(each, scores=(Score(1.0),)) for each in ids[1:]]
    run.judgements(1).extend([Judgement(ids[0], scores=(Score(0.5, None, "so \ud83d"),)), *others])
    export(run, "--out", str(tmp_path / "out"), "--to", "parquet")
    assert "In 1 of them, characters that Parquet cannot hold" in message(capsys)
    back = bring(tmp_path / "out", tmp_path / "back")
    assert next(iter(back.judgements(1))).scores[0].reason == "so �"
    export(run, "--out", str(tmp_path / "official"))
    bring(tmp_path / "official/train.jsonl", tmp_path / "third")
    assert next(iter(Run.open(tmp_path / "third").judgements(1))).scores[0].reason == "so \ud83d"


def rows(tmp_path: Path, **changes: Any) -> Path:
    """A Parquet file of one row, by somebody else."""
    paint(tmp_path / "7.png", (20, 10))
    row = {
        "image": {"bytes": (tmp_path / "7.png").read_bytes(), "path": None},
        "prompt": "a cup",
        "regions": [{"id": "1", "box": [0.0, 0.0, 0.5, 0.5]}],
        "scores": [{"value": 0.5, "region": None}, {"value": 1.0, "region": "1"}],
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**row, **changes}]), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


def test_four_columns_are_enough(tmp_path: Path) -> None:
    run = bring(rows(tmp_path), tmp_path / "run")
    (candidate,), (judgement,) = run.candidates(1), run.judgements(1)
    assert candidate.prompt == Prompt("x.parquet, row 1", "a cup")
    assert judgement.regions == (Region("1", (0.0, 0.0, 0.5, 0.5)),)
    assert judgement.scores == (Score(0.5), Score(1.0, "1"))
    bring(rows(tmp_path, image={"path": "7.png"}), tmp_path / "named")
    bring(rows(tmp_path, image=(tmp_path / "7.png").read_bytes()), tmp_path / "bare")


def test_columns_and_fields_that_are_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(rows(tmp_path, mask=b"x"), tmp_path / "run", code=2)
    assert "x.parquet: images are generated from a text alone, so mask would be ignored" in message(capsys)
    bring(rows(tmp_path, mood="calm", step=1), tmp_path / "run")
    assert "x.parquet: these columns are not read: mood, step." in message(capsys)
    paint(tmp_path / "7.png", (20, 10))
    list(read_official(write(tmp_path / "train.jsonl", line(mood="calm"), line(mood="cross"))))
    assert capsys.readouterr().err.count("train.jsonl: these fields are not read: mood.") == 1


@each_row(
    "changes, why",
    [
        ({"prompt": None}, 'its "prompt" is None, and should be a text'),
        ({"image": None}, "it has no image"),
        ({"image": {"path": "8.png"}}, "its image 8.png is not in "),
        ({"image": {"path": "../secret.png"}}, "its image ../secret.png leads out of "),
        ({"image": {"path": "/etc/passwd"}}, "its image /etc/passwd leads out of "),
        ({"image": {"path": "link.png"}}, "its image link.png leads out of "),
        ({"image": {"path": "zero.png"}}, "its image zero.png leads out of "),
        ({"image": {"path": "pipe.png"}}, "its image pipe.png in "),
        ({"reference": {"path": "/dev/zero"}}, "its image /dev/zero leads out of "),
        ({"image": {"bytes": b"x"}}, "image.png is not a readable image"),
        ({"image": {"bytes": b"%!PS-Adobe", "path": "a.eps"}}, "a.eps is not a readable image"),
        ({"image": {"bytes": None, "path": None}}, "it has no image"),
        ({"image": "7.png"}, "its image is '7.png', and should be bytes, or a struct"),
        ({"image": 7}, "its image is 7, and should be bytes"),
        ({"image": [1, 2]}, "its image is [1, 2], and should be bytes"),
        ({"image": {"bytes": [1], "path": None}}, "its image is {'bytes': [1], 'path': None}, and should be bytes"),
        ({"image": {"path": {"a": 1}}}, "its image is {'path': {'a': 1}}, and should be bytes"),
        ({"prompt": {"text": "a cup"}}, "its \"prompt\" is {'text': 'a cup'}, and should be a text"),
        ({"prompt_id": {"a": "b"}}, "its id is {'a': 'b'}, and should be a text"),
        ({"tags": {"a": "b"}}, "its tags are not JSON"),
        ({"tags": "[" * 100_000}, "its tags are not JSON"),
        ({"tags": '{"a":' * 900 + "1" + "}" * 900}, "its tags are not JSON (it is nested more than"),
        ({"thought": {"a": "b"}}, "its thought is {'a': 'b'}"),
        ({"scores": "0.5"}, "its scores are '0.5', and should be a list of structs"),
        ({"scores": [0.5]}, "its scores are [0.5], and should be a list of structs"),
        ({"scores": [None]}, "its scores are [None], and should be a list of structs"),
        ({"scores": [{"value": 0.5, "reason": {"a": "b"}}]}, "its scores cannot be used: "),
        ({"scores": [{"value": 0.5, "spread": float("inf")}]}, "its scores cannot be used: "),
        ({"regions": {"id": "1"}}, "its regions are {'id': '1'}, and should be a list of structs"),
        ({"regions": [{"id": {"a": "b"}, "box": [0.0, 0.0, 0.5, 0.5]}]}, "its regions cannot be used: "),
        ({"regions": [{"id": "1", "box": ["0", "0", "1", "1"]}]}, "its regions cannot be used: "),
        ({"regions": [{"id": "1", "box": [float("nan"), 0.0, 0.5, 0.5]}]}, "its regions cannot be used: "),
        ({"boxes": "pixels"}, "its boxes are ['pixels'], and should be"),
        ({"exchanges": [{"asked_by": "x"}]}, "its exchanges cannot be used: "),
        ({"scores": [{"value": 1.5}]}, "score 1 has the score 1.5, which is not a number in [-1, 1]"),
        ({"scores": [{"value": None}]}, "score 1 has the score None"),
        ({"scores": [{"value": "0.5"}]}, "score 1 has the score '0.5'"),
        ({"scores": [{"value": 0.5, "region": "9"}]}, "it scores region '9', which it does not list"),
        ({"scores": None}, "it holds no score"),
        ({"regions": [{"id": "1", "box": [0.5, 0.0, 0.2, 0.5]}]}, "its regions cannot be used: "),
        ({"regions": [{"id": "1", "box": [0.5, 0.0]}]}, "its regions cannot be used: "),
        ({"regions": [{"id": "1", "box": [0, 0, 40, 40]}]}, "its regions cannot be used: "),
        ({"regions": [{"id": "1", "box": [0.0, 0.0, 1.0, 1.0]}] * 2}, "two of its regions have the same id"),
        ({"tags": "{"}, "its tags are not JSON"),
        ({"tags": "[1]"}, "its tags are [1], and should be a JSON object"),
        ({"seed": "x"}, "its seed is 'x'"),
    ],
)
def test_a_row_that_cannot_be_used(
    changes: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd_files(tmp_path)
    bring(rows(tmp_path, **changes), tmp_path / "run", code=2)
    said = message(capsys)
    assert "1 of 1 lines cannot be used" in said
    assert "x.parquet, row 1: " in said
    assert why in said


def test_no_exchange_leads_to_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [
        {"asked_by": "x", "question": {"image": name, "text": "?"}, "answer": "!", "index": 0, "vote": 0}
        for name in ("/etc/passwd", "image")
    ]
    run = bring(rows(tmp_path, exchanges=both), tmp_path / "run")
    assert "exchanges about /etc/passwd, neither its image nor its reference, were left out" in message(capsys)
    (judgement,), (candidate,) = run.judgements(1), run.candidates(1)
    assert [each.question.image for each in judgement.exchanges] == [candidate.image]


def test_without_the_library_a_sentence_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = made(tmp_path / "run"), rows(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    export(run, "--out", str(tmp_path / "out"), "--to", "parquet", code=2)
    bring(path, tmp_path / "back", code=2)
    assert message(capsys).count('pip install "srum[data]"') == 2
    assert not (tmp_path / "out").exists()
