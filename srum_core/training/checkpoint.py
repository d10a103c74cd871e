"""Checkpoints of an unfinished training, to resume it.

They hold no rng state: everything random in step s depends on (seed, round, s) alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from srum_core.errors import RecordError, naming
from srum_core.models import weights
from srum_core.runs.files import aside, way_out
from srum_core.runs.store import check_settings, to_json, write_atomic

STATE = "state.pt"


@frozen
class Log:
    """A JSON-lines file; a resumed training truncates it to its size at the checkpoint."""

    path: Path

    def append(self, row: Mapping[str, Any]) -> None:
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def size(self) -> int:
        """Flush the file to disk, and return its bytes."""
        if not self.path.exists():
            return 0
        with self.path.open("r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        return self.path.stat().st_size

    def rewind(self, size: int) -> None:
        """Truncate the file to the first `size` bytes. Raises RecordError if there are fewer."""
        length = self.path.stat().st_size if self.path.exists() else 0
        if length < size:
            raise RecordError(
                f"{self.path} has {length} bytes, but the training that it belongs to had written {size}: the file was "
                f"changed or lost. {way_out(self.path)}"
            )
        if length > size:
            os.truncate(self.path, size)


@frozen
class Saved:
    """The checkpoint of one round's training, in `folder`, with its logs."""

    folder: Path
    settings: Mapping[str, Any]
    """The settings that must be unchanged for a training to resume."""
    logs: tuple[Log, ...]

    def load(self, lazily: bool = False) -> dict[str, Any] | None:
        """Load the last state on the CPU, or None. With `lazily`, tensors are read from disk when used.

        Raises RecordError for a state made with other settings, CheckpointError for one that cannot be read."""
        check_settings(self.folder, self.settings, "train")
        path = self.folder / STATE
        state: dict[str, Any] | None = weights.unpickle(path, lazily) if path.is_file() else None
        return state

    def rewind(self, state: Mapping[str, Any] | None) -> None:
        """Truncate the logs to their size in `state`, or to 0. Call it in one process only."""
        sizes = [0] * len(self.logs) if state is None else state["logs"]
        for log, size in zip(self.logs, sizes, strict=True):
            log.rewind(size)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the last state, atomically. Call it in one process only."""
        path = self.folder / "settings.json"
        if not path.exists():
            write_atomic(path, to_json(dict(self.settings)))
        new = aside(self.folder / STATE)  # written straight to disk: a 7B state fits no buffer in memory
        with naming(new), new.open("wb") as file:  # with a path instead, torch hides why it could not write
            try:
                torch.save({**state, "logs": [log.size() for log in self.logs]}, file)
            except RuntimeError as error:  # raised in torch's clean-up, after the write has failed
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / STATE)
