"""The BAGEL adapter: a mixture of transformers that generates and understands images (arXiv 2505.14683)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_bagel.options import Options
from srum_core import Component, hookimpl

PRESETS = Path(__file__).parent / "presets"


@hookimpl
def srum_adapters() -> Sequence[Component]:
    return [
        Component(
            name="bagel",
            load="srum_bagel.model:Bagel",
            options=Options,
            presets={path.stem: path for path in sorted(PRESETS.glob("*.toml"))},
            summary="BAGEL-7B-MoT and models in its layout; preset shapes is the bundled tiny one",
        )
    ]
