"""Folders: one process at a time, deleting what is made again, and files that stay inside."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srum_core.errors import RecordError, clean


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Keep other processes out of a run's folder; yields the descriptor, for stage processes to hold on to.

    Raises RecordError if somebody else is at work there."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordError(
                f"Another process is at work in {folder}. Wait for it, stop it, or choose another folder with --out."
            ) from error
        yield handle
    finally:
        os.close(handle)


def delete(path: Path) -> None:
    """A file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


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
