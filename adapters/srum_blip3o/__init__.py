"""The BLIP3-o adapter: a frozen Qwen2.5-VL that understands, and a diffusion head that generates (arXiv 2505.09568)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_blip3o.options import Options
from srum_core import Component, hookimpl


@hookimpl
def srum_adapters() -> Sequence[Component]:
    summary = "BLIP3-o 8B and 4B: a frozen language model, a trained diffusion head over image features"
    return [Component("blip3o", "srum_blip3o.model:Blip3o", Options, Path(__file__).parent / "presets", summary)]
