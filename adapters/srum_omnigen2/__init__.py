"""The OmniGen2 adapter: a frozen Qwen2.5-VL that understands, and a diffusion transformer that generates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_core import Component, hookimpl
from srum_omnigen2.options import Options


@hookimpl
def srum_adapters() -> Sequence[Component]:
    summary = "OmniGen2: a frozen 3B language model that judges, a trained 4B diffusion transformer"
    return [Component("omnigen2", "srum_omnigen2.model:OmniGen2", Options, Path(__file__).parent / "presets", summary)]
