"""The four adapters, on the small checkpoints of their golden tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srum_bagel.model import Bagel
from srum_bagel.options import Options as BagelOptions
from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options as Blip3oOptions
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options as OmniGen2Options
from srum_showo2.model import ShowO2
from srum_showo2.options import Options as ShowO2Options

GOLDENS = Path(__file__).parent / "golden"
MODELS: dict[str, tuple[Any, Any]] = {
    "bagel": (Bagel, BagelOptions),
    "blip3o": (Blip3o, Blip3oOptions),
    "omnigen2": (OmniGen2, OmniGen2Options),
    "showo2": (ShowO2, ShowO2Options),
}
EVERY = ["bagel", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "bagel")]
LORA: Any = SimpleNamespace(rank=2, alpha=4.0, dropout=0.0)


def options_of(name: str, **options: Any) -> Any:
    """Options of the small checkpoint; OmniGen2's images are smaller than its default, which a CPU would take long."""
    size = {"size": (96, 64)} if name == "omnigen2" else {}
    return MODELS[name][1](checkpoint=str(GOLDENS / name / "checkpoint"), **{**size, **options})
