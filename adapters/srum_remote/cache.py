"""Cache answers on disk by the hash of the request, so that no request is repeated, also after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from srum_core.errors import ConfigError
from srum_core.records import Answer
from srum_core.runs.store import write_atomic


def key_of(asked: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-like data, for any order of its keys."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def cache_folder(setting: str, name: str) -> Path | None:
    """The folder of the option `cache`: the named one, the default (srum/NAME), or None for "off"."""
    if setting == "off":
        return None
    if setting:
        return Path(os.path.expanduser(setting))  # noqa: PTH111 - Path.expanduser raises without a home
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117 - the XDG specification ignores a relative path
        base = os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base) / "srum" / name


@frozen
class AnswerCache:
    """One JSON file per answer, in folders by the first two digits of its key. `folder` None stores nothing."""

    folder: Path | None
    setting: str
    """The name of the folder's setting, for messages."""
    _writing: threading.Lock = field(factory=threading.Lock, init=False, repr=False, eq=False)

    def get(self, key: str) -> Answer | None:
        """None for a missing answer or a damaged file. Raises ConfigError."""
        if self.folder is None:
            return None
        try:
            entry = json.loads(self._path(key).read_bytes())
            answer = Answer(entry["answer"], entry.get("model", ""))
            return answer if entry.get("check") == _check(key, answer) else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable("read", error) from error
        except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
            return None

    def put(self, key: str, asked: Mapping[str, Any], answer: Answer) -> None:
        """Store an answer; on disk when this returns. `asked` is for readers of the file. Raises ConfigError."""
        if self.folder is None:
            return
        # Escaped, because an answer may contain lone surrogates, which UTF-8 cannot encode.
        entry = {"asked": asked, "answer": answer, "model": answer.model, "check": _check(key, answer)}
        try:
            with self._writing:  # two threads with the same answer would write to the same temporary file
                write_atomic(self._path(key), json.dumps(entry, indent=1) + "\n")
        except OSError as error:
            raise self._unusable("written", error) from error

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key[2:]}.json"

    def _unusable(self, what: str, error: OSError) -> ConfigError:
        return ConfigError(
            f"The folder of answers {self.folder} cannot be {what} ({error.strerror or error}). Name another one with "
            f'{self.setting}, or set it to "off".'
        )


def _check(key: str, answer: Answer) -> str:
    whole = "\n".join([key, *([answer.model] if answer.model else []), answer])
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
