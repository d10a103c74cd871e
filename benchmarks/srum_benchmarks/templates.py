"""Rubrics: text files of this package in our own words, or the user's own, such as a published one. No torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from srum_core.errors import ConfigError
from srum_core.files import read_text

OWN = "own rubric"


def packaged() -> list[str]:
    """Names of the rubrics that come with the package."""
    folder = files("srum_benchmarks") / "prompts"
    return sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))


def load(name: str, placeholders: Sequence[str], option: str = "template") -> str:
    """The text of a packaged rubric or of a file, checked to hold every placeholder, without the last line's end.
    Raises ConfigError."""
    text = _read(name, option)
    missing = [f"{{{placeholder}}}" for placeholder in placeholders if f"{{{placeholder}}}" not in text]
    if missing:
        raise ConfigError(
            f'The template "{name}" (option `{option}`) does not contain {" and ".join(missing)}. '
            "Without it whoever is asked cannot know what to look for: put it where it belongs in the text."
        )
    return text.removesuffix("\n")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put the values in, all at once: braces inside a value stay as they are."""
    names = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)


def label(template: str, known: Mapping[str, str], name: str) -> str:
    """ "" if the filled template is the published rubric, else the words that every row must carry.

    `known`: prompt → SHA-256 of the published message for it."""
    if known and all(message_hash(template, prompt) == sha for prompt, sha in known.items()):
        return ""
    return OWN if name in packaged() else f"rubric {Path(name).name}"


def message_hash(template: str, prompt: str) -> str:
    return hashlib.sha256(fill(template, {"prompt": prompt}).encode()).hexdigest()


def _read(name: str, option: str) -> str:
    if name in packaged():
        return (files("srum_benchmarks") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
    try:
        return read_text(Path(name))
    except ConfigError as error:
        raise ConfigError(
            f'The template "{name}" is neither a packaged one ({", ".join(packaged())}) nor a readable UTF-8 text '
            f"file: {error}. Check the option `{option}`."
        ) from error
