"""Golden sets: numbers of the reference implementations, read from $SRUM_GOLDENS (default: this folder)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bagel_goldens import SET, Goldens
from near import off


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder that holds one folder per golden set ("bagel", …)."""
    SET.need()
    return SET.folder().parent


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """`close(ours, theirs, tolerance=2e-5, name="")`: every entry within tolerance x the largest entry of `theirs`."""

    def check(ours: Any, theirs: Any, tolerance: float = 2e-5, name: str = "") -> None:
        ours, theirs = (torch.as_tensor(value).detach().double().cpu() for value in (ours, theirs))
        error = off(ours, theirs)
        assert error <= tolerance, f"{name}: off by {error:.2e} of the largest entry"

    return check


@pytest.fixture(scope="module")
def bagel() -> Goldens:
    """The BAGEL golden set and the model built from its checkpoint."""
    return Goldens()
