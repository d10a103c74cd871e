"""Folders and files of a run: locking, the option that makes a file again, and reading of regular files only."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from filelock import lock_descriptor

from srum_core.errors import ConfigError, RecordError, clean

ABOUT = "srum.json"
"""The description file in a trained checkpoint's folder."""
DEPTH = 50
"""Tables and lists inside one another that settings and records may have."""

STAGES = ("generate", "ground", "judge", "train", "evaluate")
FOLDERS = dict(zip(STAGES, ("candidates", "regions", "judgements", "checkpoint", "evaluation"), strict=True))
_MAKERS = {
    **{folder: stage for stage, folder in FOLDERS.items()},
    **dict.fromkeys(("training", "latents", "metrics.jsonl", "speed.jsonl"), "train"),
    "prompts.jsonl": "generate",
}


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Keep other processes out of a run's folder; yields the descriptor, for stage processes to hold on to.

    What killed processes left half-written there (`aside`) is deleted.
    Raises RecordError if another process holds the lock, or if the file system has no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(handle, folder)
        for where, folders, files in os.walk(folder):
            for name in filter(abandoned, [*folders, *files]):
                delete(Path(where) / name)
            folders[:] = [name for name in folders if not name.startswith(".")]
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    """Lock an open file for this process and those that inherit it. Raises RecordError."""
    try:
        locked = lock_descriptor(handle, blocking=False)
    except OSError as error:  # ENOSYS, ENOTSUP, ENOLCK, …: a file system without flock, or a Python without fcntl
        raise RecordError(
            f"{folder} cannot be locked ({error.strerror or error}): its file system has no file locks, and two "
            "processes could write there at once. Choose a folder on another one with --out, or mount it with flock."
        ) from error
    if not locked:
        raise RecordError(
            f"Another process is at work in {folder}. Wait for it, stop it, or choose another folder with --out."
        )


def aside(path: Path) -> Path:
    """Return the path at which this process writes the replacement of `path` until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def abandoned(name: str) -> bool:
    """Whether this is the name of something that a process which is gone has written aside."""
    match = re.fullmatch(r"(?s)\..+\.(\d{1,9})\.tmp", name)
    return match is not None and not psutil.pid_exists(int(match[1]))


def settle(folder: Path) -> None:
    """Return once every file below is on disk, with the permissions that a new file gets here.

    (safetensors writes files that only their owner may read.)"""
    os.umask(mask := os.umask(0o077))
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)
            with path.open("r+b") as file:  # Windows flushes only files that are open for writing
                os.fsync(file.fileno())


def trained_in(checkpoint: Path) -> tuple[Path, int] | None:
    """(run, round) that a folder of trained weights lies in; None if it is no such folder or has been moved."""
    round_folder = checkpoint.absolute().parent
    number = round_folder.name.removeprefix("round-")
    of_run = (checkpoint / ABOUT).is_file() and (round_folder.parent / "run.toml").is_file()
    return (round_folder.parent, int(number)) if of_run and number.isdecimal() else None


def lora_only(checkpoint: Path) -> str:
    """What to do with a folder of LoRA weights that a training wrote, where a whole model is needed; "" for any other.

    The text continues a sentence that begins with the folder."""
    if not ((checkpoint / ABOUT).is_file() and (checkpoint / "adapter_config.json").is_file()):
        return ""
    run, round = trained_in(checkpoint) or ("RUN", "K")
    return (
        f"holds LoRA weights, not a whole model. Start from the run that trained them, with start={run}:{round} (srum "
        f"eval: --trained {run}:{round}), or write the whole model with srum export {run} --round {round} --to "
        "checkpoint --out DIR."
    )


def delete(path: Path) -> None:
    """A file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def put_in_place(aside: Path, folder: Path) -> None:
    """Move a complete folder into place, replacing an earlier one or its remains."""
    if os.path.lexists(folder):
        delete(folder)
    aside.rename(folder)


def inside(folder: Path, name: str | Path) -> Path:
    """Return the regular file inside the folder that a record names; links are followed.

    A name that is absolute or holds ".." is allowed where it leads back into the folder. Nothing is
    opened: a device or a pipe cannot block. Raises RecordError for a file that is missing, outside, or
    no regular file."""
    try:
        path = (folder / name).resolve(strict=True)
        within = path.is_relative_to(folder.resolve(strict=True))
        regular = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # also a loop of links, NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecordError(f"{clean(name, 100)} is not in {clean(folder)} ({clean(why, 100)})") from error
    if not within:
        raise RecordError(f"{clean(name, 100)} leads out of {clean(folder)}, and only files inside it are read")
    if not regular:
        raise RecordError(f"{clean(name, 100)} in {clean(folder)} is no regular file")
    return path


def read_text(path: Path) -> str:
    """The text of a file that a user names ("~" is the home). Raises ConfigError unless it is a regular file of UTF-8
    text: a device or a pipe may never end."""
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise ConfigError(f"{clean(path)} cannot be read: it is {what}. Name a text file.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{clean(path)} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such user; ValueError: NUL in the path
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{clean(path)} cannot be read: {clean(why)}.") from error


def from_toml(text: str) -> dict[str, Any]:
    """Raises ValueError, also for data nested too deeply and for numbers of thousands of digits."""
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(data)
    return data


def _check_depth(data: Any) -> None:
    """Raise ValueError for data nested so deeply that a later use of it may fail."""
    level: list[Any] = [data]
    for _ in range(DEPTH):
        inner = (entry.values() if isinstance(entry, dict) else entry for entry in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
    if level:
        raise ValueError(f"it is nested more than {DEPTH} deep")


def redo_option(path: Path, stage: str = "") -> str:
    """The option that makes a file or folder of a run again, such as "--redo judge:2"; "" where none does.

    `stage`: make what this stage made in that round again instead."""
    for part in (path, *path.parents):
        round = re.fullmatch(r"base|round-(\d+)", part.parent.name)
        if round and part.name in _MAKERS:
            return f"--redo {stage or _MAKERS[part.name]}" + (f":{round[1]}" if round[1] not in (None, "1") else "")
        if part.name in ("images", "answers") and (part.parent / "run.toml").is_file():
            return f"--redo {part.name}"  # of an evaluation
    return f"--redo {stage}" if stage else ""


def way_out(path: Path) -> str:
    """What to do about a file or folder that is damaged: a sentence."""
    option = redo_option(path)
    return f"Restore it, or run once with {option} to make it again." if option else "Restore it."


def check_file(path: Path) -> None:
    """Raise RecordError unless this is a regular file: reading a device or a pipe may never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise unreadable(path, "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")


def unreadable(path: Path, why: object) -> RecordError:
    """The error for a file that cannot be read."""
    reason = clean(why.strerror if isinstance(why, OSError) and why.strerror else why, 200)
    return RecordError(f"{clean(path)} cannot be read ({reason}). {way_out(path)}")


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises RecordError."""
    check_file(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. Raises RecordError."""
    with open_file(path) as file:
        return file.read()


def from_json(data: bytes | str) -> Any:
    """Strict JSON: numbers are finite. Raises ValueError, also for data nested too deeply."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogatepass")
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if text.count("[") + text.count("{") > DEPTH:
        _check_depth([value])
    return value


def read_json(path: Path) -> Any:
    """The JSON in a file. Raises RecordError."""
    try:
        return from_json(read_file(path))
    except ValueError as error:
        raise unreadable(path, error) from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
