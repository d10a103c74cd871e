"""A vision-language model of transformers that answers in this process. Options and hook only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core import Component, hookimpl
from srum_core.options import SPEED

_pixels: Any = validators.ge(0)


@frozen
class LocalOptions:
    """Answerer `local`: Qwen2.5-VL, or another vision-language model of transformers with a chat template."""

    checkpoint: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """A checkpoint that AutoModelForImageTextToText knows; a directory or a hub id."""
    device: str = field(default="auto", metadata=SPEED)
    """`auto` takes the accelerator if there is one. Naming one (also `cpu`) skips the check that the model fits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the loaded weights; `auto` is bfloat16 on an accelerator."""
    batch: int = field(default=8, validator=validators.ge(1), metadata=SPEED)
    """Most questions answered at once."""
    min_pixels: int = field(default=0, validator=_pixels)
    """Smaller images are enlarged to about so many pixels; 0 = as in the checkpoint. For models of Qwen's kind."""
    max_pixels: int = field(default=0, validator=_pixels)
    """Larger images are shrunk to about so many pixels; 0 = as in the checkpoint. For models of Qwen's kind."""
    system: str = ""
    """A system turn before everything; "" = the default of the model's chat template."""


@hookimpl
def srum_answerers() -> Iterable[Component]:
    summary = "a vision-language model of transformers in this process (Qwen2.5-VL by default)"
    return [Component("local", "srum_local.answerer:Local", LocalOptions, summary=summary)]
