"""The Show-o2 adapter: a language model that reads and answers, a flow head that generates (arXiv 2506.15564)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_core import Component, hookimpl
from srum_showo2.options import Options


@hookimpl
def srum_adapters() -> Sequence[Component]:
    summary = "Show-o2 1.5B, 1.5B-HQ and 7B: a language model with a flow head over Wan2.1 latents"
    return [Component("showo2", "srum_showo2.model:ShowO2", Options, Path(__file__).parent / "presets", summary)]
