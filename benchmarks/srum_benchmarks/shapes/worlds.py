"""The worlds by name: modules with `CATEGORIES`, `prompts` and `random_prompt`. No numpy."""

from __future__ import annotations

from typing import Any

from srum_benchmarks.shapes import crowded, world
from srum_core.errors import ConfigError

WORLDS = {"shapes": world, "crowded": crowded}


def of(name: str) -> Any:
    """Raises ConfigError for a name that no world has."""
    if name not in WORLDS:
        raise ConfigError(f"There is no world {name!r}; there is {', '.join(WORLDS)}.")
    return WORLDS[name]
