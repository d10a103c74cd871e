"""Parts of a model that are in memory only while something needs them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch

log = logging.getLogger("srum")


class Parts:
    """Parts by name, loaded when they are needed and let go of when they are not, so that no stage holds all of the
    model. `release` false keeps whatever was loaded once."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]], release: bool) -> None:
        self.makers, self.release = dict(makers), release
        self.there: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The part, loaded now if it is not there."""
        if name not in self.there:
            before = _taken()
            self.there[name] = self.makers[name]()
            log.info("loaded the %s (%.1f GB; %.1f GB in all)", name, _taken() - before, _taken())
        return self.there[name]

    def only(self, *names: str) -> None:
        """Let go of every part but these; what is not loaded stays so."""
        gone = [name for name in self.there if name not in names] if self.release else []
        for name in gone:
            del self.there[name]
        if gone:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.info("let go of the %s (%.1f GB in all)", ", the ".join(gone), _taken())


def _taken() -> float:
    """GB on the accelerator, or of this process."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9
