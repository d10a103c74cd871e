"""Where prompts come from: a plugin's named list, the settings themselves, or a .txt, .csv, .json or .jsonl file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srum_core.errors import ConfigError, clean
from srum_core.options import odd
from srum_core.records import Prompt
from srum_core.runs.files import from_json, read_text
from srum_core.runs.progress import listed, tell

if TYPE_CHECKING:
    from srum_core.plugins import Registry

_TEXT_KEYS = ("text", "prompt", "question")
_ID_KEYS = ("id", "prompt_id", "question_id")
_IMAGE = re.compile(r"images?(paths?|files?|urls?)?|videos?")
_TASK = re.compile(
    r"(input|source|src|init|ref|reference|cond|condition|conditioning|control|edit|mask)images?(paths?|files?|urls?)?"
    r"|masks?|inpaint(ing)?|edit(s|ing)?(prompt|instruction|type)?|neg(ative)?(prompts?)?|control(net|type)?s?"
)
tell_once = cache(tell)


def load_prompts(source: str | Sequence[str], registry: Registry, limit: int = 0) -> list[Prompt]:
    """The prompts of a source, the first `limit` of them (0 = all). Raises ConfigError with file and line.

    source  the name of a list that a plugin knows, a file, or the texts themselves"""
    if not isinstance(source, str):
        prompts: Sequence[Prompt] | None = _distinct("prompts", _entries(source))
    elif (prompts := registry.prompts(source)) is None:
        path = Path(source)
        try:
            is_there = path.expanduser().exists()
        except (OSError, RuntimeError, ValueError):  # too long for a name, no such user, NUL
            is_there = False
        if not is_there:
            raise ConfigError(
                f'prompts = "{clean(source)}" is neither a list that an installed plugin knows (such as "starter") '
                "nor a .txt, .csv, .json or .jsonl file here. Prompts themselves are given as a list: "
                """prompts='["a red cube", "a blue ball"]'."""
            )
        prompts = read_prompts(path)
    if not prompts:
        raise ConfigError(f'prompts = "{clean(source)}" holds no prompt.')
    check_prompts(prompts, clean(source))
    return list(prompts[: limit or None])


def check_prompts(prompts: Sequence[Prompt], source: str) -> None:
    """Raise ConfigError for two prompts with one id, and for a text that no model can read."""
    seen: set[str] = set()
    for prompt in prompts:
        if why := odd(prompt.id) or odd(prompt.text):
            raise ConfigError(f'{source}: the prompt "{clean(prompt.id, 100)}" {why}')
        if prompt.id in seen:
            raise ConfigError(f'{source}: two prompts have the id "{prompt.id}". Ids must differ.')
        seen.add(prompt.id)


def read_prompts(path: Path) -> list[Prompt]:
    """One prompt a line (.txt), or records with `text` (or `prompt`) or in the official {Question, Question_id,
    Category} form (.csv with a header, .json, .jsonl). Other fields become tags; those that ask for another task than
    to generate from a text are refused. Without an id it follows from the text. Duplicates are left out and named."""
    suffix, name = path.suffix.lower(), str(path)
    if suffix not in (".txt", ".csv", ".json", ".jsonl") and not path.expanduser().is_dir():
        raise ConfigError(f"{path}: prompts are read from files named .txt, .csv, .json or .jsonl.")
    text = read_text(path)
    if suffix == ".csv":
        return _distinct(name, _table(name, text))
    if suffix == ".json":
        items = _json(text, name)
        if not isinstance(items, list):
            raise ConfigError(f"{path} should hold a JSON list of prompts, but it holds one {type(items).__name__}.")
        return _distinct(name, _entries(items))
    lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".txt":
        return _distinct(name, lines)
    return _distinct(name, ((where, _json(line, f"{path}, {where}")) for where, line in lines))


Places = Iterator[tuple[str, Any]]
"""Where something is in its file, and what."""


def _entries(items: Sequence[Any]) -> Places:
    yield from ((f"entry {number}", item) for number, item in enumerate(items, 1))


def _table(path: str, text: str) -> Places:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if not {str(name).strip().lower() for name in reader.fieldnames or ()} & set(_TEXT_KEYS):
            raise ConfigError(
                f'{path}: the first line should name the columns, separated by commas, one of them "text" or "prompt", '
                f'but it is "{clean(text.partition(chr(10))[0], 60)}".'
            )
        for row in reader:
            if None in row:
                raise ConfigError(
                    f"{path}, line {reader.line_num}: there are more cells than columns. Quote texts with commas."
                )
            yield f"line {reader.line_num}", {str(key).strip(): cell for key, cell in row.items() if cell}
    except csv.Error as error:
        raise ConfigError(f"{path}, behind line {reader.line_num}: this is not CSV ({error}).") from error


def _json(text: str, where: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise ConfigError(f"{where}: this is not JSON ({error}).") from error


def _distinct(source: str, items: Iterable[tuple[str, Any]]) -> list[Prompt]:
    """The prompts, each once. Print which fields are only kept as tags, and what was left out.

    Raises ConfigError for different prompts with one id."""
    prompts: dict[str, tuple[str, Prompt]] = {}
    texts: dict[str, str] = {}
    tags, repeats, alike = dict[str, None](), list[str](), list[str]()
    for where, item in items:
        prompt, rest = _prompt(item, f"{source}, {where}")
        first, same = prompts.setdefault(prompt.id, (where, prompt))
        if same != prompt:
            raise ConfigError(
                f'{source}: two prompts have the id "{clean(prompt.id)}" and differ, {first} and {where}. Ids must '
                "differ; without one of its own a prompt's id follows from its text."
            )
        if first != where:
            repeats.append(f"{where} repeats {first}")
        elif texts.setdefault(prompt.text, where) != where:
            alike.append(f"{where} has the text of {texts[prompt.text]}")
        tags |= dict.fromkeys(rest)
    if tags:
        tell_once(f"{source}: images are generated from the text alone; kept as tags: {clean(', '.join(tags))}.")
    if repeats:
        tell_once(f"{source}: left out as duplicates ({len(repeats)}):{listed(repeats)}")
    if alike:
        tell_once(f"{source}: {len(alike)} prompts repeat a text under another id, and are kept:{listed(alike)}")
    return [prompt for _, prompt in prompts.values()]


def _prompt(item: Any, where: str) -> tuple[Prompt, list[str]]:
    """The prompt, and the fields of its record that nothing here knows."""
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict):
        raise ConfigError(f"{where}: a prompt is a text or an object, not {clean(json.dumps(item), 60)}.")
    item = {key.lower(): value for key, value in item.items()}
    if wrong := other_task(item):
        raise ConfigError(f"{where}: {wrong}")
    text = next((item[key] for key in _TEXT_KEYS if key in item), None)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f'{where}: no text was found. A prompt needs a non-empty "text" (or "Question").')
    text = text.strip()
    identity = next((item[key] for key in _ID_KEYS if key in item), id_of(text))
    if not isinstance(identity, str | int) or identity == "":
        raise ConfigError(f"{where}: the id {clean(json.dumps(identity), 60)} is neither a text nor a number.")
    tags = item.get("tags") or {}
    if isinstance(tags, str):  # a cell of a table
        tags = _json(tags, where)
    if not isinstance(tags, dict):
        raise ConfigError(f'{where}: "tags" should be an object.')
    rest = {key: value for key, value in item.items() if key not in (*_TEXT_KEYS, *_ID_KEYS, "tags")}
    for value in (text, str(identity), json.dumps({**rest, **tags}, ensure_ascii=False)):
        if why := odd(value):
            raise ConfigError(f"{where}: the prompt {why}")
    return Prompt(str(identity), text, {**rest, **tags}), [key for key in rest if key != "category"]


def id_of(text: str) -> str:
    """The id of a prompt that has none of its own."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def other_task(record: Mapping[str, Any], images: bool = True) -> str:
    """Why a record asks for more than an image of a text (an image to edit, a mask, a negative prompt, …), "" if not.

    images  whether fields that are just called an image count"""
    names = {key: re.sub(r"[-_ ]", "", key.lower()) for key, value in record.items() if value}
    wrong = [key for key, name in names.items() if _TASK.fullmatch(name) or (images and _IMAGE.fullmatch(name))]
    if not wrong:
        return ""
    return (
        f"images are generated from a text alone, so {clean(', '.join(wrong))} would be ignored. Editing, control "
        "images and negative prompts are not supported: remove the prompt, or only these fields."
    )
