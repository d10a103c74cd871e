"""The OmniGen2 adapter: a frozen Qwen2.5-VL that understands, and a diffusion transformer that generates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_core import Component, hookimpl
from srum_omnigen2.options import Options

PRESETS = Path(__file__).parent / "presets"


@hookimpl
def srum_adapters() -> Sequence[Component]:
    return [
        Component(
            name="omnigen2",
            load="srum_omnigen2.model:OmniGen2",
            options=Options,
            presets={path.stem: path for path in sorted(PRESETS.glob("*.toml"))},
            summary="OmniGen2: a frozen 3B language model that judges, a trained 4B diffusion transformer",
        )
    ]
