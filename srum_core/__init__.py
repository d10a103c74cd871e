"""The Python API (docs/python-api.md), and the names that plugins need. Imports neither torch nor plugins."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from srum_core.plugins.hookspecs import Component, hookimpl

if TYPE_CHECKING:
    from srum_core.api import Run, evaluate, judge, load_model, reward_map, train

# Any import of diffusers imports an installed bitsandbytes, which warns of a kernel that srum does not use, and of
# every product that it rounds.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = ["Component", "Run", "evaluate", "hookimpl", "judge", "load_model", "reward_map", "train"]


def __getattr__(name: str) -> Any:
    """The API is imported when it is first used (PEP 562)."""
    if name in __all__:
        return getattr(import_module("srum_core.api"), name)
    raise AttributeError(f"module 'srum_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
