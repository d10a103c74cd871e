"""The Show-o2 adapter: a language model that reads and answers, a flow head that generates (arXiv 2506.15564)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_core import Component, hookimpl
from srum_showo2.options import Options

PRESETS = Path(__file__).parent / "presets"


@hookimpl
def srum_adapters() -> Sequence[Component]:
    return [
        Component(
            name="showo2",
            load="srum_showo2.model:ShowO2",
            options=Options,
            presets={path.stem: path for path in sorted(PRESETS.glob("*.toml"))},
            summary="Show-o2 1.5B, 1.5B-HQ and 7B: a language model with a flow head over Wan2.1 latents",
        )
    ]
