"""Janus and Janus-Pro of transformers (arXiv 2410.13848, 2501.17811), to be compared with. Options and hook only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attrs import field, frozen, validators

from srum_core import Component, hookimpl
from srum_core.options import SPEED


@frozen
class Options:
    """Janus-Pro 7B by default."""

    checkpoint: str = "deepseek-community/Janus-Pro-7B"
    """A checkpoint in the layout of transformers; a directory or a hub id."""
    guidance: float = 5.0
    """Logits are unconditional + guidance · (conditional − unconditional); the authors' own value."""
    temperature: float = field(default=1.0, validator=validators.ge(0))
    """Sampling temperature of the image's tokens; 0 = the likeliest ones, whatever the seed."""
    device: str = "auto"
    """`auto` takes the accelerator if there is one. Naming one (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator."""
    batch: int = field(default=16, validator=validators.ge(1), metadata=SPEED)
    """Most images generated at once."""


@hookimpl
def srum_generators() -> Iterable[Component]:
    summary = "Janus-Pro through transformers: generates token by token; evaluated only"
    return [Component("janus", "srum_janus.generator:Janus", Options, summary=summary)]
