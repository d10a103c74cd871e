"""Question templates: packaged text files, or the user's own; and questions made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from srum_core.errors import ConfigError
from srum_core.files import read_text
from srum_core.records import Box, Candidate, Question
from srum_judges.options import AskingOptions


def packaged() -> list[str]:
    """Names of the templates that come with the package."""
    folder = files("srum_judges") / "prompts"
    return sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))


def load(name: str, placeholders: Sequence[str], option: str = "template") -> str:
    """The text of a packaged template or of a file, checked to hold every placeholder. Raises ConfigError, which tells
    the option that names it."""
    text = _read(name, option)
    missing = [f"{{{placeholder}}}" for placeholder in placeholders if f"{{{placeholder}}}" not in text]
    if missing:
        raise ConfigError(
            f'The judge template "{name}" does not contain {" and ".join(missing)}. '
            "Without it the judge cannot know what to look for: put it where it belongs in the text."
        )
    return text


def _read(name: str, option: str) -> str:
    if name in packaged():
        return (files("srum_judges") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
    try:
        return read_text(Path(name))
    except ConfigError as error:
        raise ConfigError(
            f'The judge template "{name}" is neither a packaged one ({", ".join(packaged())}) '
            f"nor a readable UTF-8 text file: {error}. Check the option `{option}`."
        ) from error


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put the values in, all at once: braces inside a value (a prompt may hold any text) stay as they are."""
    names = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)


def question(
    candidate: Candidate, template: str, options: AskingOptions, crop: Box | None = None, **values: str
) -> Question:
    """A question about a picture or a part of it; {prompt} is filled in by itself."""
    text = fill(template, {"prompt": candidate.prompt.text, **values})
    return Question(candidate.image, text, crop, options.max_new_tokens, options.think)
