"""Question templates: the text files in a package's folder `prompts`, or the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from srum_core.errors import ConfigError
from srum_core.runs.files import read_text

REASON_FIRST = (
    "Before you answer, think the task through step by step, and write your thoughts between <think> and </think>. "
    "Then answer in exactly the form that is asked for.\n\n"
)
"""The beginning of a question with `think`, for models without another switch for it."""


def packaged(package: str) -> list[str]:
    """Names of the templates that come with a package."""
    names = (entry.name for entry in (files(package) / "prompts").iterdir())
    return sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt"))


def load(package: str, name: str, placeholders: Sequence[str], option: str = "template") -> str:
    """The text of a packaged template or of a file, checked to hold every placeholder. Raises ConfigError, which names
    the option that it was given in."""
    if name in packaged(package):
        text = (files(package) / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
    else:
        try:
            text = read_text(Path(name))
        except ConfigError as error:
            raise ConfigError(
                f'The template "{name}" is neither a packaged one ({", ".join(packaged(package))}) nor a readable '
                f"UTF-8 text file: {error}. Check the option `{option}`."
            ) from error
    missing = [f"{{{placeholder}}}" for placeholder in placeholders if f"{{{placeholder}}}" not in text]
    if missing:
        raise ConfigError(
            f'The template "{name}" (option `{option}`) does not contain {" and ".join(missing)}. Without it the model '
            "that answers needs it: put it where it belongs in the text."
        )
    return text


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put the values in, all at once: braces inside a value (a prompt may hold any text) stay as they are."""
    names = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)
