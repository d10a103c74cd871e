"""Names in records lead to regular files inside a folder, or to a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srum_core.errors import RecordError
from srum_core.folders import inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "named"
    (folder / "more").mkdir(parents=True)
    for path in (tmp_path / "secret", tmp_path / "named-too", folder / "a.png", folder / "more/b.png"):
        path.write_bytes(b"x")
    os.mkfifo(folder / "pipe")
    for link, to in {"in": "more/b.png", "out": "../secret", "zero": "/dev/zero", "loop": "loop"}.items():
        (folder / link).symlink_to(to)
    (folder / "far").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize("name", ["a.png", "more/b.png", "more/../a.png", "in"])
def test_a_file_inside_is_returned(name: str, folder: Path) -> None:
    path = inside(folder, name)
    assert path.read_bytes() == b"x"
    assert inside(folder, path) == path  # an absolute name that leads into the folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret", "leads out of"),
        ("../named-too", "leads out of"),
        ("more/../../secret", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("out", "leads out of"),
        ("far/secret", "leads out of"),
        ("zero", "leads out of"),
        ("/dev/zero", "leads out of"),
        ("pipe", "no regular file"),
        ("more", "no regular file"),
        ("", "no regular file"),
        ("c.png", "c.png is not in"),
        ("a.png/b", "is not in"),
        ("loop", "is not in"),
        ("x" * 5000, "is not in"),
        ("a\0", "is not in"),
        ("\ud83d", "is not in"),
        ("\x1b[31mred", "[31mred is not in"),
    ],
)
def test_any_other_name_is_a_sentence(name: str, words: str, folder: Path) -> None:
    with pytest.raises(RecordError) as caught:
        inside(folder, name)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
