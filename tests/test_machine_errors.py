"""What the machine refuses (a full disk, a folder that cannot be made, memory) is a sentence, and nothing is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from rows import each_row
from safetensors import SafetensorError
from toy import COMPONENTS

from srum_core.cli import launching
from srum_core.cli.main import train_main
from srum_core.errors import explain, naming
from srum_core.runs.files import aside
from srum_core.stages import order
from srum_core.training.checkpoint import Saved

STAGES = ["evaluate (base)", *(f"{name} (round 1)" for name in ("generate", "ground", "judge", "train", "evaluate"))]


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def failed(code: int, *names: str) -> OSError:
    return OSError(code, os.strerror(code), *names[:1], *([None, names[1]] if len(names) > 1 else []))


@each_row(
    "error, words",
    [
        (failed(errno.ENOSPC, "a/b"), ["a/b: No space left", "Free some space", "same command"]),
        (failed(errno.ENOSPC), ["No space left on device"]),
        (failed(errno.EDQUOT, "a"), ["Free some space"]),
        (failed(errno.EROFS, "a"), ["a: Read-only file system", "--out"]),
        (failed(errno.EACCES, "a"), ["a: Permission denied", "--out"]),
        (failed(errno.EXDEV, "a", "b"), ["a -> b: Invalid cross-device link"]),
        (failed(errno.EIO, "a\x1b[31m\nb"), ["a [31m b: Input/output error"]),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), ["No space"]),
        (OSError("something of a library's own"), ["OSError: something of a library's own"]),
        (MemoryError(), ["not enough memory", "srum doctor --plan"]),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ["not enough memory", "2 GiB"]),
        (ValueError("a fault in code (os error 28)"), None),
        (RuntimeError("out of memory"), None),
    ],
)
def test_an_error_of_the_machine_is_a_sentence(
    error: Exception, words: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise error

    if words is None:
        assert explain(error) is None
        with pytest.raises(type(error)):
            launching.exit_status(work)
        return
    assert launching.exit_status(work) == 2
    said = capsys.readouterr().err
    assert said.startswith("srum: ")
    assert all(word in said for word in words)


@pytest.mark.parametrize("error", [failed(errno.ENOSPC), SafetensorError("(os error 28)")])
def test_a_write_names_its_file(error: Exception) -> None:
    with pytest.raises(OSError, match="here") as caught, naming(Path("here")):
        raise error
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="there"), naming(Path("here")):
        raise failed(errno.ENOSPC, "there")
    with pytest.raises(ValueError, match="other"), naming(Path("here")):
        raise ValueError("other")


@each_row(
    "out, message",
    [("file", "file"), ("file/below", "file"), ("/dev/null", "/dev/null"), ("x" * 300, "too long")],
)
def test_a_folder_that_cannot_be_made(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("words.txt").write_text("a cat\n")
    for more, status in (([], 2), (["--dry-run"], 1)):
        assert train_main([*COMPONENTS, "prompts=words.txt", f"--out={out}", *more]) == status
        said = capsys.readouterr().err
        assert message in said
        assert "--out" in said


@pytest.mark.slow
def test_a_disk_that_is_full_in_any_stage_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each start fails in the next stage; the last finishes the run."""
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("a cat\na dog\n")
    full = {"at": "", "now": ""}
    perform, fsync = order.perform, os.fsync

    def performing(run, stage, round):
        full["now"] = f"{stage} ({'base' if round is None else f'round {round}'})"
        perform(run, stage, round)

    def syncing(handle: int) -> None:
        if full["now"] == full["at"]:
            raise failed(errno.ENOSPC)
        fsync(handle)

    monkeypatch.setattr(order, "perform", performing)
    monkeypatch.setattr(os, "fsync", syncing)
    command = [*COMPONENTS, "prompts=words.txt", "train.steps=1", "--out=run"]
    for stage in STAGES:
        full["at"] = stage
        assert train_main(command) == 2, stage
        said = capsys.readouterr().err
        assert "No space left on device" in said
        assert str(tmp_path / "run") in said  # which file
        assert "To resume:\n  srum-train" in said
    full["at"] = ""
    assert train_main(command) == 0


def test_a_full_disk_is_named_when_training_is_saved(tmp_path: Path) -> None:
    aside(tmp_path / "state.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device.*state\.pt"):
        Saved(tmp_path, {}, ()).save({"weights": torch.zeros(100_000)})


def test_a_disk_that_fills_up_while_training_is_saved(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # POSIX
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # torch has written a part by then
    try:
        with pytest.raises(OSError, match=r"File too large.*state\.pt"):
            Saved(tmp_path, {}, ()).save({"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
