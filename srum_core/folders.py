"""A folder that is worked in: one process at a time, and what is made again is deleted first."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srum_core.errors import RecordError


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
