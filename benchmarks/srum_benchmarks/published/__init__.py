"""The paper's tables, as facts with their source, and what must be known before a number is compared with them."""

from __future__ import annotations

from pathlib import Path

from srum_core.evaluation.published import Published


def read(name: str) -> Published:
    """The table of a benchmark."""
    return Published.read(Path(__file__).with_name(f"{name}.toml"))
