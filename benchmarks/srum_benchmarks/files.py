"""The prompt files of published benchmarks, read from a folder of yours: none is shipped. No torch.

A release is identified by counts and by one prompt of each file (the first 16 hex digits of its SHA-256). Several
problems are reported at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from srum_core.errors import ConfigError
from srum_core.records import Prompt, PromptFile
from srum_core.runs.files import from_json, read_text

Contents = tuple[list[PromptFile], list[Prompt], list[str]]
"""The files of a release, their prompts, and problems that only show when all are read together."""


@frozen
class Expected:
    """A file of a release."""

    places: tuple[str, ...]
    """Where a checkout has it, tried in order; its bare name is tried last."""
    count: int
    """How many entries it holds."""
    spots: Mapping[int, str] = field(factory=dict, hash=False)
    """Entry, from 0 → the first 16 hex digits of the SHA-256 of its prompt."""
    source: str = ""
    """The repository that it is part of, and the known commit."""
    key: str = ""
    """What entries call their prompt; "" = the file is text, one prompt a line."""

    @property
    def name(self) -> str:
        return Path(self.places[0]).name


def find(folder: Path, expected: Expected) -> Path | None:
    """Where the file is under a checkout, or in a plain folder."""
    tried = [folder / place for place in (*expected.places, expected.name)]
    return next((path for path in tried if path.is_file()), None)


def need(folder: str, benchmark: str, files: Sequence[Expected]) -> list[Path]:
    """The files, in order. Raises ConfigError that names every one that is missing and where it comes from."""
    if not folder:
        sources = list(dict.fromkeys(each.source for each in files))
        got = " and ".join(f"srum eval prompts https://github.com/{each.partition(' at ')[0]}" for each in sources)
        raise ConfigError(
            f"The prompts of {benchmark} are not part of srum. Get {' and '.join(sources)} ({got}), and set the option "
            "`data` of the benchmark to that folder."
        )
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f'data = "{folder}" of {benchmark} is no folder here.')
    paths = [find(root, each) for each in files]
    missing = [f"{each.places[0]} (from {each.source})" for each, path in zip(files, paths, strict=True) if not path]
    if missing:
        raise ConfigError(f"{benchmark}: {root} does not hold {', '.join(missing)}.")
    return [path for path in paths if path]


def check(expected: Expected, path: Path, prompts: Sequence[str]) -> PromptFile:
    """Compare the entries with the release."""
    problems = []
    if len(prompts) != expected.count:
        problems.append(f"{path} holds {len(prompts)} prompts; the release has {expected.count}.")
    for index, known in expected.spots.items():
        if index < len(prompts) and digest(prompts[index]) != known:
            problems.append(f"{path}: prompt {index + 1} is not the one of {expected.source}.")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return PromptFile(expected.places[0], expected.source, expected.count, path, len(prompts), sha, tuple(problems))


def survey(data: str, files: Sequence[Expected], read: Callable[[], Contents]) -> list[PromptFile]:
    """The state of the files. `read` reads all together; called if each can be read."""
    root = Path(data).expanduser()
    states = [_inspect(root, each) for each in files]
    if any(each.path is None or (each.problems and not each.count) for each in states):
        return states
    try:
        problems = tuple(read()[2])
    except ConfigError as error:
        problems = (str(error),)
    return [*states[:-1], evolve(states[-1], problems=states[-1].problems + problems)]


def _inspect(root: Path, expected: Expected) -> PromptFile:
    missing = PromptFile(expected.places[0], expected.source, expected.count)
    path = find(root, expected)
    if path is None:
        return missing
    try:
        if not expected.key:
            return check(expected, path, read_lines(path))
        if path.suffix != ".jsonl":
            return read_entries(expected, path)[1]
        return check(expected, path, _texts(path, [each for _, each in read_objects(path)], expected.key))
    except ConfigError as error:
        return evolve(missing, path=path, problems=(str(error),))


def prompts(benchmark: str, contents: Contents, verify: bool) -> list[Prompt]:
    """The prompts. With `verify`, raises ConfigError with everything that is wrong, and the way out."""
    files, found, more = contents
    problems = [problem for each in files for problem in each.problems] + more
    if problems and verify:
        raise ConfigError(
            f"{benchmark}: these are not the prompts that published numbers were measured on. {' '.join(problems)} "
            "Get the commit that is named, or set verify = false to use them as they are; every row is then marked."
        )
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_entries(expected: Expected, path: Path) -> tuple[list[dict[str, Any]], PromptFile]:
    """The entries of a JSON list, and how they compare with the release. Raises ConfigError for other content."""
    try:
        entries = from_json(read_text(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). Was the download cut off? Get it again.") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path} should hold a JSON list, but it holds one {type(entries).__name__}.")
    return entries, check(expected, path, _texts(path, entries, expected.key))


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a file of JSON lines. Raises ConfigError for an invalid line, such as half an object."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = from_json(line)
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: this is not a whole JSON record ({error}). If the program that wrote it was "
                "interrupted, remove the line and run that step again."
            ) from error
        if not isinstance(value, dict):
            raise ConfigError(f"{path}, line {number}: a record is an object, not {json.dumps(value)[:60]}.")
        yield number, value


def _texts(path: Path, entries: Sequence[Any], key: str) -> list[str]:
    """The field `key` of every entry. Raises ConfigError for the first entry without such a text."""
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ConfigError(f'{path}, entry {number}: there is no text "{key}" in it.')
    return [entry[key] for entry in entries]
