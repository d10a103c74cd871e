"""The grounder `file`: boxes that somebody wrote down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rows import each_row

from srum_core.errors import ConfigError
from srum_core.records import Candidate, Prompt, Region
from srum_judges.grounders.file import BoxesFromFile
from srum_judges.options import FileOptions

BOX = [20, 10, 100, 50]


def candidate(identity: str = "c1", image: str = "cat.v2.png", prompt: str = "7") -> Candidate:
    return Candidate(identity, Prompt(prompt, "a cat"), Path("folder") / image, (200, 100), 0)


def grounder(folder: Path, *entries: Any, lines: bool = False, **options: Any) -> BoxesFromFile:
    path = folder / ("boxes.jsonl" if lines else "boxes.json")
    path.write_text("\n".join(json.dumps(entry) for entry in entries) if lines else json.dumps(entries))
    return BoxesFromFile(FileOptions(path=str(path), **options))


@pytest.mark.parametrize("lines", [False, True])
def test_boxes_come_in_the_files_order_with_their_labels(tmp_path: Path, lines: bool) -> None:
    entry = {"image": "c1", "boxes": [BOX, {"box": [0, 0, 200, 100.0], "label": "all"}], "source": "by hand"}
    file = grounder(tmp_path, entry, {"image": "c2", "boxes": []}, lines=lines)
    assert list(file.questions(candidate())) == []
    expected = [Region("1", (0.1, 0.1, 0.5, 0.5)), Region("2", (0.0, 0.0, 1.0, 1.0), "all")]
    assert file.regions(candidate(), ()) == expected
    assert file.regions(candidate("c2"), ()) == []


@each_row("unit, box", [("pixels", BOX), ("thousand", [100, 100, 500, 500]), ("fraction", [0.1, 0.1, 0.5, 0.5])])
def test_units(tmp_path: Path, unit: str, box: list[float]) -> None:
    (region,) = grounder(tmp_path, {"prompt_id": "7", "boxes": [box]}, boxes=unit).regions(candidate(), ())
    assert region.box == pytest.approx((0.1, 0.1, 0.5, 0.5))


def test_an_images_id_comes_before_its_file_name_and_that_before_its_prompt(tmp_path: Path) -> None:
    names = [("prompt_id", "7"), ("image", "cat.v2"), ("image", "cat.v2.png"), ("image", "c1")]
    for count in range(1, 5):
        entries = [{key: name, "boxes": [{"box": BOX, "label": name}]} for key, name in names[:count]]
        (region,) = grounder(tmp_path, *entries).regions(candidate(), ())
        assert region.label == names[count - 1][1]


def test_an_image_is_no_prompt_and_a_prompt_no_image(tmp_path: Path) -> None:
    file = grounder(tmp_path, {"image": "7", "boxes": []}, {"prompt_id": "c1", "boxes": []})
    with pytest.raises(ConfigError, match="no boxes for image c1"):
        file.regions(candidate(), ())


def test_an_image_without_an_entry_is_a_mistake(tmp_path: Path) -> None:
    file = grounder(tmp_path, {"image": "other", "boxes": [BOX]})
    with pytest.raises(
        ConfigError, match=r'boxes\.json has no boxes for image c1 \(cat\.v2\.png, prompt "7"\)\. If .*"boxes": \[\]'
    ):
        file.regions(candidate(), ())


def test_a_box_beyond_the_image_is_a_mistake(tmp_path: Path) -> None:
    file = grounder(tmp_path, {"image": "other", "boxes": []}, {"image": "c1", "boxes": [BOX, [0, 0, 201, 100]]})
    with pytest.raises(ConfigError, match=r"entry 2: box 2 reaches to \(201, 100\), but image c1 ends at \(200, 100"):
        file.regions(candidate(), ())


SHAPE = r'should be \{"image": "…" \(or "prompt_id": "…"\), "boxes": \[\[x0'
FOUR = r"should be four numbers, \[x0, y0, x1, y1\]"
BAD = {
    "a number": (7, SHAPE),
    "an image without boxes": ({"image": "a"}, SHAPE),
    "boxes without an image": ({"boxes": [BOX]}, SHAPE),
    "an image and a prompt": ({"image": "a", "prompt_id": "7", "boxes": []}, SHAPE),
    "a number for an id": ({"prompt_id": 7, "boxes": []}, SHAPE),
    "one bare box": ({"image": "a", "boxes": BOX}, rf"box 1: 20 {FOUR}"),
    "three numbers": ({"image": "a", "boxes": [[1, 2, 3]]}, rf"box 1: \[1, 2, 3\] {FOUR}"),
    "a number as a string": ({"image": "a", "boxes": [[0, 0, "9", 9]]}, FOUR),
    "true": ({"image": "a", "boxes": [[0, 0, True, 9]]}, FOUR),
    "infinity": ({"image": "a", "boxes": [[0, 0, float("inf"), 9]]}, FOUR),
    "NaN": ({"image": "a", "boxes": [[0, 0, float("nan"), 9]]}, FOUR),
    "another name for box": ({"image": "a", "boxes": [{"bbox": BOX}]}, FOUR),
    "a label that is no text": ({"image": "a", "boxes": [{"box": BOX, "label": 7}]}, "box 1: the label 7 is no text"),
    "swapped corners": ({"image": "a", "boxes": [BOX, [100, 10, 20, 50]]}, r"box 2: \[100.*0 <= x0 < x1 and 0 <= y0"),
    "no width": ({"image": "a", "boxes": [[10, 10, 10, 50]]}, "0 <= x0 < x1"),
    "left of the image": ({"image": "a", "boxes": [[-1, 10, 20, 50]]}, "0 <= x0 < x1"),
}


@each_row("entry, message", BAD.values(), ids=BAD.keys())
def test_bad_entries_are_named_by_their_place(tmp_path: Path, entry: Any, message: str) -> None:
    good = {"image": "good", "boxes": [BOX]}
    with pytest.raises(ConfigError, match=f"entry 2.*{message}"):
        grounder(tmp_path, good, entry)
    with pytest.raises(ConfigError, match=f"line 2.*{message}"):
        grounder(tmp_path, good, entry, lines=True)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    entries = [{"image": "a", "boxes": [[1, 2, 3], BOX, "x"]}, 5, {"image": "a", "boxes": []}]
    with pytest.raises(ConfigError) as caught:
        grounder(tmp_path, *entries)
    text = str(caught.value)
    for part in ("entry 1, box 1:", "entry 1, box 3:", "entry 2 should", 'entry 3 is about image "a" again; entry 1'):
        assert part in text
    with pytest.raises(ConfigError, match="and 30 more"):
        grounder(tmp_path, *range(50))


def test_boxes_are_checked_against_the_unit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x1 <= 1 and 0 <= y0 < y1 <= 1\."):
        grounder(tmp_path, {"image": "a", "boxes": [BOX]}, boxes="fraction")
    with pytest.raises(ConfigError, match=r"x1 <= 1000 and"):
        grounder(tmp_path, {"image": "a", "boxes": [[0, 0, 1001, 9]]}, boxes="thousand")


@each_row(
    "name, content, message",
    [
        ("a.json", b"[\n{]", "a.json, line 2: this is no JSON"),
        ("a.json", b"", "a.json, line 1: this is no JSON"),
        ("a.json", b'{"image": "a", "boxes": []}', "should hold a list of entries.*jsonl"),
        ("a.jsonl", b'{"image": "a", "boxes": []}\n\n{"image"', "a.jsonl, line 3: this is no JSON"),
        ("a.jsonl", b'[{"image": "a", "boxes": []}]', "line 1 should be"),
        ("a.json", b"\xff\xfe", "is not UTF-8"),
        ("a.json", b"[" * 100_000, "line 1: this JSON cannot be read"),
        ("a.json", b"[" + b"9" * 5000 + b"]", "line 1: this JSON cannot be read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        BoxesFromFile(FileOptions(path=str(tmp_path / name)))


def test_blank_lines_windows_line_ends_and_byte_order_marks_do_no_harm(tmp_path: Path) -> None:
    text = '\ufeff\r\n{"image": "c1", "boxes": []}\r\n\r\n{"image": "u\u2028v", "boxes": []}\r\n'
    (tmp_path / "a.JSONL").write_text(text, encoding="utf-8", newline="")
    file = BoxesFromFile(FileOptions(path=str(tmp_path / "a.JSONL")))
    assert [entry.where for entry in file.images.values()] == ["line 2", "line 4"]


def test_the_path_must_be_given_and_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set grounder\.path=FILE"):
        BoxesFromFile()
    with pytest.raises(ConfigError, match="cannot be read"):
        BoxesFromFile(FileOptions(path=str(tmp_path / "none.json")))
