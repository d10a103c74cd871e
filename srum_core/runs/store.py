"""Records on disk: append-only JSON lines, one shard per writer, keyed by id. Survives being killed at any byte.

A line is complete with its newline. The torn last line of a killed writer is fenced off with a CAN
character (0x18, which JSON text cannot contain) before the next append; anything else that cannot be read is an error.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

import attrs
from cattrs import Converter

from srum_core.config.settings import Settings
from srum_core.errors import RecordError, clean, naming
from srum_core.options import Problems, flatten, strict_converter, structure
from srum_core.records import Candidate
from srum_core.runs.files import aside, from_json, from_toml, open_file, read_file, read_json, redo_option, way_out

T = TypeVar("T")
_FENCE = b"\x18\n"


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are, as set by every launcher (RANK, WORLD_SIZE); (0, 1) alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write aside, flush to disk, then replace: a reader sees all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = aside(path)
    with naming(path), new.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_scalar) + "\n"


def _scalar(value: Any) -> Any:
    """The number in one of numpy's or in a tensor of one element: plugins compute scores and boxes with them."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no text, number, list or mapping")


# ---- records ---------------------------------------------------------------------------------------------------------


class Records(Generic[T]):
    """The records of one kind in one folder. Memory holds ids and file positions only; records are streamed.

    `settings`: those that make the folder. They are recorded on the first write and compared with existing ones,
    naming `stage` as the thing to redo. Paths inside the run are stored relative to the folder, so a run can be moved.
    Raises RecordError for other settings and for lines that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        kind: type[T],
        settings: Mapping[str, Any] | None = None,
        *,
        stage: str = "",
        writer: int | None = None,
    ) -> None:
        self.folder, self.kind, self.settings = folder, kind, settings
        self.shard = folder / f"part-{rank_and_world()[0] if writer is None else writer}.jsonl"
        self._key = "id" if "id" in attrs.fields_dict(kind) else "candidate"  # type: ignore[arg-type]
        self._convert = converter(folder)
        self._root = Path(os.path.realpath(_root(folder)))
        self._index: dict[str, tuple[Path, int, int]] = {}
        self._scanned: dict[Path, tuple[int, int]] = {}
        if settings is not None:
            check_settings(folder, settings, stage)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def ids(self) -> set[str]:
        """The ids on disk now, in every shard."""
        return set(self._positions())

    def __len__(self) -> int:
        return len(self._positions())

    def __contains__(self, identity: object) -> bool:
        return identity in self._positions()

    def __iter__(self) -> Iterator[T]:
        """Every record once, shard after shard, in the order of writing; the first of two with the same id."""
        seen: set[str] = set()
        for path in self._shards():
            for number, _, line in _lines(path):
                raw = _parse(path, number, line)
                identity = self._identity(path, number, raw)
                if identity not in seen:
                    seen.add(identity)
                    yield self._structure(path, number, raw)

    def select(self, ids: Iterable[str]) -> Iterator[T]:
        """The records with these ids, in this order. Raises RecordError if one is missing."""
        ids = list(ids)
        self.require(ids)
        for identity in ids:
            path, number, offset = self._index[identity]
            with path.open("rb") as file:
                file.seek(offset)
                yield self._structure(path, number, _parse(path, number, file.readline()))

    def require(self, ids: Iterable[str]) -> None:
        """Raise RecordError unless all of these records are there."""
        there = self._positions()
        missing = [identity for identity in ids if identity not in there]
        if missing:
            more = f" (and {len(missing) - 1} more that are needed)" if len(missing) > 1 else ""
            was = ", although it was finished" if self.done else ""
            raise RecordError(f"{self.folder} holds no record {clean(missing[0])}{more}{was}. {way_out(self.folder)}")

    # ---- writing ----------------------------------------------------------------------------------------------------

    def append(self, record: T) -> None:
        self.extend([record])

    def extend(self, records: Iterable[T]) -> None:
        """Append missing records to this writer's shard; on disk when this returns."""
        self._prepare()
        there, lines = self._positions(), dict[str, bytes]()
        for record in records:
            raw = self._convert.unstructure(record)
            if raw[self._key] not in there:
                self._check_place(record)
                lines.setdefault(raw[self._key], _dump(raw))
        if lines:
            _append(self.shard, b"".join(lines.values()))

    def mark_done(self) -> None:
        """Mark the records as complete."""
        self._prepare()
        write_atomic(self.folder / "DONE", f"{len(self)}\n")

    @property
    def done(self) -> bool:
        return (self.folder / "DONE").exists()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.settings is not None and not (self.folder / "settings.json").exists():
            write_atomic(self.folder / "settings.json", to_json(self.settings))

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"), key=lambda path: (len(path.name), path.name))

    def _positions(self) -> dict[str, tuple[Path, int, int]]:
        """Place of the first record of every id: (shard, line number, byte offset). Reads new lines only."""
        for path in self._shards():
            for number, offset, line in _lines(path, *self._scanned.get(path, (1, 0))):
                self._index.setdefault(self._identity(path, number, _parse(path, number, line)), (path, number, offset))
                self._scanned[path] = (number + 1, offset + len(line))
        return self._index

    def _identity(self, path: Path, number: int, raw: Any) -> str:
        identity = raw.get(self._key) if isinstance(raw, dict) else None
        if not isinstance(identity, str):
            raise _unreadable(path, number, f'it has no "{self._key}"')
        return identity

    def _structure(self, path: Path, number: int, raw: Any) -> T:
        record = _structure(self._convert, self.kind, path, number, raw)
        self._check_place(record)
        return record

    def _check_place(self, record: object) -> None:
        """Raise RecordError if a candidate's files lie outside of the run: nothing there is ever opened."""
        candidate = record if isinstance(record, Candidate) else getattr(record, "candidate", None)
        if not isinstance(candidate, Candidate):
            return
        for path in candidate.files:
            if not Path(os.path.realpath(path)).is_relative_to(self._root):
                raise RecordError(
                    f"The record of {clean(candidate.id)} in {self.folder} names {clean(path)}, which lies outside of "
                    f"{self._root}. Only files of the run are read: copy it there and name the copy."
                )


def read_list(path: Path, kind: type[T]) -> list[T]:
    """All records of a JSON-lines file that was written at once. Raises RecordError for a line that is none."""
    convert = converter(path.parent)
    return [_structure(convert, kind, path, number, _parse(path, number, line)) for number, _, line in _lines(path)]


def _structure(convert: Converter, kind: type[T], path: Path, number: int, raw: Any) -> T:
    try:
        return structure(convert, raw, kind)
    except Problems as problems:
        raise _unreadable(path, number, f"it is no {kind.__name__}: {clean(problems)}") from problems


def write_list(path: Path, records: Sequence[Any]) -> None:
    """Write JSON lines at once."""
    convert = converter(path.parent)
    write_atomic(path, b"".join(_dump(convert.unstructure(record)) for record in records))


def check_settings(folder: Path, settings: Mapping[str, Any], stage: str) -> None:
    """Raise RecordError if the folder was made with other settings; it names them and the way out."""
    path = folder / "settings.json"
    option = redo_option(folder, stage) or f"--redo {folder.name}"
    ways = f"run once with {option} to make it again, or choose another folder with --out"
    if not path.exists():
        if any(folder.glob("part-*.jsonl")):
            raise RecordError(f"{folder} holds records but no settings.json with the settings that made them; {ways}.")
        return
    old = flatten(read_json(path))
    if differing := differences(old, settings):
        message = "; ".join(f"{key} {how}" for key, how in differing.items())
        typed = [f"{key}={json.dumps(old[key])}" for key in differing if _can_be_set(key, old.get(key))]
        keep = f" ({clean(shlex.join(typed))})" if len(typed) == len(differing) else ""
        raise RecordError(
            f"{folder} was made with other settings: {clean(message, 2000)}. Keep the old ones{keep}, or {ways}."
            f"{_made_by(_root(folder))}"
        )


def refuse_older(run: Path) -> None:
    """Raise RecordError for a folder of the older layout, in which `round-0` was the first round."""
    # `Path.is_dir` raises for a name that is too long, which is reported when the folder is made.
    if os.path.isdir(run / "round-0"):  # noqa: PTH112
        raise RecordError(
            f"{run} was made when rounds were counted from 0 (it has a round-0), and they count from 1 now. Choose "
            f"another folder with --out, or read this one with the version that made it.{_made_by(run)}"
        )


def _made_by(run: Path) -> str:
    """A sentence that names the version of srum that a run was made with; "" if none is recorded."""
    try:
        versions = from_toml(read_file(run / "run.toml").decode())["versions"]
        version, commit = str(versions["srum"]), str(versions.get("srum-commit", ""))
    except (RecordError, ValueError, KeyError, AttributeError, TypeError):
        return ""  # problems of the run's settings are reported where they are read
    return f" The run was made with srum {clean(version, 40)}{f' ({clean(commit, 60)})' if commit else ''}."


def _can_be_set(key: str, value: Any) -> bool:
    """Whether KEY=VALUE brings a setting back: it is one number or text, and not part of a list."""
    parts = key.split(".")
    is_setting = parts[0] in attrs.fields_dict(Settings) and parts[0] != "start"
    return is_setting and isinstance(value, str | int | float) and not any(map(str.isdigit, parts))


def differences(old: Any, new: Any) -> dict[str, str]:
    """What differs between two trees of settings: "was … and is now …" by dotted key."""
    old, new = flatten(old), flatten(json.loads(json.dumps(new)))
    values = {key: (old.get(key, "(nothing)"), new.get(key, "(nothing)")) for key in sorted(old.keys() | new.keys())}
    return {key: f"was {was!r} and is now {now!r}" for key, (was, now) in values.items() if was != now}


def _lines(path: Path, first: int = 1, offset: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """(number, byte offset, line) of every whole line that is not fenced off, from line `first` at `offset` on."""
    with open_file(path) as file:
        file.seek(offset)
        for number, line in enumerate(file, first):
            if not line.endswith(b"\n"):
                return
            if not line.endswith(_FENCE):
                yield number, offset, line
            offset += len(line)


def _append(path: Path, data: bytes) -> None:
    """Append behind the last whole line, on disk when this returns."""
    is_new = not path.exists()
    with naming(path), path.open("a+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read(1) != b"\n":
                data = _FENCE + data
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError as error:
        raise _unreadable(path, number, clean(error)) from error


def _dump(raw: Any) -> bytes:
    # Answers are kept verbatim: a lone surrogate in a model's words must not lose the record.
    try:
        text = json.dumps(raw, ensure_ascii=False, allow_nan=False, default=_scalar)
        return text.encode("utf-8", "surrogatepass") + b"\n"
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: also recursion
        raise RecordError(f"A record cannot be written: {clean(error)}. It begins {clean(raw, 200)}") from error


def _unreadable(path: Path, number: int, why: str) -> RecordError:
    return RecordError(
        f"Line {number} of {path} cannot be read: {why.rstrip('.')}. No interrupted run leaves such a line. "
        f"{way_out(path)}"
    )


def converter(folder: Path) -> Converter:
    """Strict; to it, paths inside the run (two levels above the folder) are relative to the folder."""
    convert, folder = strict_converter(), _whole(folder)

    def store(path: Path) -> str:
        path = _whole(path)
        inside = path.is_relative_to(folder.parent.parent)
        return PurePath(os.path.relpath(path, folder)).as_posix() if inside else str(path)

    convert.register_unstructure_hook(Path, store)
    convert.register_unstructure_hook_func(lambda kind: isinstance(kind, type) and issubclass(kind, Path), store)

    @lru_cache(maxsize=256)  # every question of a judgement names the same image
    def load(text: str) -> Path:
        if "\0" in text:
            raise ValueError("a path cannot hold a null byte")
        return _whole(folder / text)

    convert.register_structure_hook(Path, lambda text, _: load(convert.structure(text, str)))
    return convert


def _root(folder: Path) -> Path:
    """The folder of the run that records in this folder belong to: two levels above, or one in an evaluation."""
    folder = _whole(folder)
    return folder.parent if (folder.parent / "run.toml").is_file() else folder.parent.parent


def _whole(path: Path) -> Path:
    """Absolute and without "..", so that a path inside a folder does not appear to be outside."""
    return Path(os.path.normpath(path.absolute()))


def sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
