"""The BAGEL adapter: a mixture of transformers that generates and understands images (arXiv 2505.14683)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srum_bagel.options import Options
from srum_core import Component, hookimpl


@hookimpl
def srum_adapters() -> Sequence[Component]:
    summary = "BAGEL-7B-MoT and models in its layout; preset shapes is the bundled tiny one"
    return [Component("bagel", "srum_bagel.model:Bagel", Options, Path(__file__).parent / "presets", summary)]
