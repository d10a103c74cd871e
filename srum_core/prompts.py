"""Where prompts come from: a plugin's named list, or a .txt, .json or .jsonl file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srum_core.errors import ConfigError
from srum_core.records import Prompt

if TYPE_CHECKING:
    from srum_core.plugins import Registry

_TEXT_KEYS = ("text", "prompt", "Question", "Prompt")
_ID_KEYS = ("id", "prompt_id", "Question_id")


def load_prompts(source: str, registry: Registry, limit: int = 0) -> list[Prompt]:
    """The prompts of a source, the first `limit` of them (0 = all). Raises ConfigError with file and line."""
    prompts = registry.prompts(source)
    if prompts is None:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ConfigError(
                f'prompts = "{source}" is neither a list that an installed plugin knows (such as "starter") '
                "nor a .txt, .json or .jsonl file here."
            )
        prompts = read_prompts(path)
    if not prompts:
        raise ConfigError(f'prompts = "{source}" holds no prompt.')
    refuse_twins(prompts, source)
    return list(prompts[:limit] if limit else prompts)


def refuse_twins(prompts: Sequence[Prompt], source: str) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise ConfigError(f'{source}: two prompts have the id "{prompt.id}". Ids must differ.')
        seen.add(prompt.id)


def read_prompts(path: Path) -> list[Prompt]:
    """One prompt a line (.txt); objects with `text` or in the official {Question, Question_id, Category} form (.json,
    .jsonl). Everything else an object says becomes a tag; without an id the line number is one."""
    readers = {".txt": _plain, ".json": _array, ".jsonl": _lines}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{path}: prompts are read from files named .txt, .json or .jsonl.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    return list(readers[path.suffix.lower()](path, text))


def _plain(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Prompt(f"{path.stem}-{number:05d}", line.strip())


def _lines(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _prompt(_json(line, where), where, f"{path.stem}-{number:05d}")


def _array(path: Path, text: str) -> Iterator[Prompt]:
    items = _json(text, str(path))
    if not isinstance(items, list):
        raise ConfigError(f"{path} should hold a JSON list of prompts, but it holds one {type(items).__name__}.")
    for number, item in enumerate(items, 1):
        yield _prompt(item, f"{path}, entry {number}", f"{path.stem}-{number:05d}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: this is not JSON ({error}).") from error


def _prompt(item: Any, where: str, otherwise: str) -> Prompt:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict):
        raise ConfigError(f"{where}: a prompt is a text or an object, not {json.dumps(item)[:60]}.")
    text = next((item[key] for key in _TEXT_KEYS if key in item), None)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f'{where}: no text was found. A prompt needs a non-empty "text" (or "Question").')
    identity = next((item[key] for key in _ID_KEYS if key in item), otherwise)
    if not isinstance(identity, str | int):
        raise ConfigError(f"{where}: the id {json.dumps(identity)[:60]} is neither a text nor a number.")
    tags = item.get("tags", {})
    if not isinstance(tags, dict):
        raise ConfigError(f'{where}: "tags" should be an object.')
    rest = {key.lower(): value for key, value in item.items() if key not in (*_TEXT_KEYS, *_ID_KEYS, "tags")}
    return Prompt(str(identity), text.strip(), {**rest, **tags})
