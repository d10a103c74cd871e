"""Names in records lead to regular files inside a folder, or to a sentence."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from srum_core.errors import RecordError
from srum_core.files import abandoned, aside, inside, lock, settle
from srum_core.interchange.incoming import fresh


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


# ---- what killed processes leave -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_locking_deletes_what_dead_processes_left_half_written(tmp_path: Path, dead: int) -> None:
    run = tmp_path / "run"
    (run / "round-1/candidates/images").mkdir(parents=True)
    gone = [
        run / f".run.toml.{dead}.tmp", run / f"round-1/candidates/images/.a.png.{dead}.tmp",
        run / f"round-1/.checkpoint.{dead}.tmp/weights",
    ]  # fmt: skip
    kept = [
        aside(run / "run.toml"), run / f"round-1/note.{dead}.tmp", run / ".a.tmp", run / f".git/.x.{dead}.tmp",
        run / "round-1/.mine.png", tmp_path / f".beside.{dead}.tmp",
    ]  # fmt: skip
    for path in [*gone, *kept]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    with lock(run):
        assert not [path for path in gone if path.exists()]
        assert all(path.exists() for path in kept)
    assert not gone[-1].parent.exists()


def test_a_folder_made_again_deletes_what_dead_processes_left_of_it(tmp_path: Path, dead: int) -> None:
    left, other = tmp_path / f".out[1].{dead}.tmp", tmp_path / f".other.{dead}.tmp"
    left.mkdir()
    other.mkdir()
    with fresh(tmp_path / "out[1]") as folder:
        (folder / "a").write_text("a")
    assert not left.exists()
    assert other.exists()
    assert not abandoned(f".a.{os.getpid()}.tmp")


def test_files_of_a_finished_folder_have_the_usual_permissions(tmp_path: Path) -> None:
    plain, private = tmp_path / "plain", tmp_path / "more/private"
    private.parent.mkdir()
    for path in (plain, private):
        path.write_text("x")
    private.chmod(0o600)
    settle(tmp_path)
    assert private.stat().st_mode == plain.stat().st_mode
