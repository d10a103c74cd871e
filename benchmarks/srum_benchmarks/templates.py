"""Rubrics: text files of this package in our own words, or the user's own, such as a published one. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from srum_core.models import templates
from srum_core.models.templates import fill

OWN = "own rubric"


def load(name: str, placeholders: Sequence[str], option: str = "template") -> str:
    """The text without the last line's end. Raises ConfigError."""
    return templates.load(__package__, name, placeholders, option).removesuffix("\n")


def label(template: str, known: Mapping[str, str], name: str) -> str:
    """ "" if the filled template is the published rubric, else the words that every row must carry.

    `known`: prompt → SHA-256 of the published message for it."""
    messages = {fill(template, {"prompt": prompt}): sha for prompt, sha in known.items()}
    if messages and all(hashlib.sha256(text.encode()).hexdigest() == sha for text, sha in messages.items()):
        return ""
    return OWN if name in templates.packaged(__package__) else f"rubric {Path(name).name}"
