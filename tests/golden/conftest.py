"""Golden sets: numbers of the reference implementations, read from $SRUM_GOLDENS (default: this folder)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bagel_goldens import Goldens


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder that holds one folder per golden set ("bagel", …)."""
    folder = Path(os.environ.get("SRUM_GOLDENS") or Path(__file__).parent)
    if not (folder / "bagel").is_dir():
        message = f"{folder} holds no golden set named bagel (from $SRUM_GOLDENS, default tests/golden)."
        if "SRUM_GOLDENS" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """`close(ours, theirs, tolerance=2e-5, name="")`: every entry within tolerance x the largest entry of `theirs`."""

    def check(ours: Any, theirs: Any, tolerance: float = 2e-5, name: str = "") -> None:
        ours, theirs = (torch.as_tensor(value).detach().double().cpu() for value in (ours, theirs))
        assert ours.shape == theirs.shape, f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
        scale = theirs.abs().max().item() if theirs.numel() else 0.0
        worst = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
        assert worst <= tolerance * max(scale, 1e-12), f"{name}: off by {worst:.3g}, largest entry {scale:.3g}"

    return check


@pytest.fixture(scope="module")
def bagel() -> Goldens:
    """The BAGEL golden set and the model built from its checkpoint."""
    return Goldens()
