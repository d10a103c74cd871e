"""Folders: names in records lead to regular files inside, one process at a time works there, on every system."""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path, PureWindowsPath

import pytest
from rows import each_row
from toy import COMPONENTS

from srum_core.cli.main import train_main
from srum_core.errors import RecordError
from srum_core.interchange.incoming import fresh
from srum_core.runs import store
from srum_core.runs.files import abandoned, aside, inside, lock, settle

ROOT = Path(__file__).parents[1]


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


@each_row("name", ["a.png", "more/b.png", "more/../a.png", "in"])
def test_a_file_inside_is_returned(name: str, folder: Path) -> None:
    path = inside(folder, name)
    assert path.read_bytes() == b"x"
    assert inside(folder, path) == path  # an absolute name that leads into the folder


@each_row(
    "name, words",
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


# ---- locks -----------------------------------------------------------------------------------------------------------


def flock_answers(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose flock fails."""
    fcntl = pytest.importorskip("fcntl")

    def failing(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", failing)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused_before_anything_is_made(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flock_answers(code, monkeypatch)
    (tmp_path / "words.txt").write_text("a cat\n", "utf-8")
    run = tmp_path / "run"
    assert train_main([*COMPONENTS, f"prompts={tmp_path / 'words.txt'}", f"--out={run}"]) == 2
    said = capsys.readouterr().err
    assert f"{run} cannot be locked ({os.strerror(code)}): its file system has no file locks" in said
    assert "--out" in said
    assert [path.name for path in run.iterdir()] == [".lock"]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_somebody_has_is_one_however_the_file_system_says_so(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock_answers(code, monkeypatch)
    with pytest.raises(RecordError, match="Another process is at work"), lock(tmp_path):
        pass


def test_a_python_without_fcntl_is_told_so(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules["fcntl"] = None
from srum_core.errors import RecordError
from srum_core.runs.files import lock
try:
    with lock(Path({str(tmp_path)!r})):
        print("locked")
except RecordError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert f"{tmp_path} cannot be locked (fcntl is unavailable)" in said.stdout


@pytest.mark.skipif(os.name != "posix", reason="descriptors are inherited on POSIX")
def test_a_stage_holds_the_lock_when_the_process_that_started_it_is_gone(tmp_path: Path) -> None:
    code = f"""
import os, subprocess, sys
from pathlib import Path
from srum_core.runs.files import lock
with lock(Path({str(tmp_path)!r})) as handle:
    subprocess.Popen(["cat"], pass_fds=[handle])
    os._exit(0)
"""
    reading, writing = os.pipe()
    subprocess.run([sys.executable, "-c", code], stdin=reading, check=True)
    os.close(reading)
    with pytest.raises(RecordError, match="Another process"), lock(tmp_path):
        pass
    os.close(writing)  # the stage ends
    for _ in range(500):
        try:
            with lock(tmp_path):
                return
        except RecordError:
            time.sleep(0.02)
    pytest.fail("the lock outlives the stage")


# ---- other systems ---------------------------------------------------------------------------------------------------


def test_paths_in_records_have_slashes_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PurePath", PureWindowsPath)
    monkeypatch.setattr(store.os.path, "relpath", lambda path, start: "images\\a.png")
    convert = store.converter(tmp_path / "round-1/candidates")
    assert convert.unstructure(tmp_path / "round-1/candidates/images/a.png") == "images/a.png"


def test_a_folder_is_made_in_the_place_of_an_empty_one_where_renaming_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def as_on_windows(path: Path, target: Path) -> Path:
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", as_on_windows)
    (tmp_path / "out").mkdir()
    with fresh(tmp_path / "out") as folder:
        (folder / "a").write_text("a", "utf-8")
    assert (tmp_path / "out/a").read_text("utf-8") == "a"


def named(call: ast.Call) -> bool:
    """Whether a call that opens a text names its encoding; True for any other call."""
    if not isinstance(call.func, ast.Attribute) or any(each.arg == "encoding" for each in call.keywords):
        return True
    mode = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
    opens = call.func.attr == "open" and re.fullmatch(r"[rwax][+]?t?", str(mode)) and len(call.args) < 3
    short = {"read_text": 0, "write_text": 1}.get(call.func.attr) == len(call.args)
    return not (opens or short)


def test_every_text_is_read_and_written_in_a_named_encoding() -> None:
    """Windows and others have one of their own."""
    found = []
    for room in ("srum_core", "adapters", "judges", "losses", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            calls = (each for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.Call))
            found += [f"{path.relative_to(ROOT)}:{each.lineno}" for each in calls if not named(each)]
    assert not found
