"""Golden sets: numbers of the reference implementations, a folder each below $SRUM_GOLDENS (default: this folder)."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from near import off
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor


@frozen
class GoldenSet:
    """The set of one adapter; `tolerance` is relative to the largest entry."""

    name: str
    tolerance: float

    def folder(self) -> Path:
        return Path(os.environ.get("SRUM_GOLDENS") or Path(__file__).parent) / self.name

    def need(self) -> None:
        """Skip the test without the set; fail it if $SRUM_GOLDENS is set."""
        if not self.folder().is_dir():
            message = f"{self.folder()} is not there (from $SRUM_GOLDENS, default tests/golden)."
            (pytest.fail if "SRUM_GOLDENS" in os.environ else pytest.skip)(message)

    @cache  # noqa: B019
    def read_json(self, name: str) -> Any:
        return json.loads((self.folder() / f"{name}.json").read_text())

    @cache  # noqa: B019
    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder() / f"{name}.safetensors")

    def close(self, ours: Tensor, expected: Tensor, message: str = "", tolerance: float | None = None) -> None:
        """Check that every entry is within `tolerance`, by default the set's."""
        error, limit = (
            off(ours.detach().double(), expected.double()),
            self.tolerance if tolerance is None else tolerance,
        )
        assert error <= limit, f"{message}: off by {error:.2e} of the largest entry"


def image(levels: Tensor) -> Image.Image:
    """Convert (h, w, 3) uint8 to an image."""
    return Image.fromarray(np.ascontiguousarray(levels.numpy()))
