"""A model without its weights, from which `srum doctor --plan` predicts memory."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from srum_core.models import small_memory

if TYPE_CHECKING:
    from torch import nn

    from srum_core.flow import Recipe


@frozen(eq=False)
class Outline:
    """What an adapter's optional class method `outline(options, device: str) -> Outline` returns: the modules that the
    options would give on such a device ("cuda", "cpu"), on torch's meta device and in the type of the loaded weights.

    It reads configuration files and the headers of weights, and no weights. The functions here run on meta tensors:
    they have shapes and types, and no values; `bool(tensor)` is True.
    """

    denoiser: nn.Module
    """As the adapter's own."""
    recipe: Recipe
    """As the adapter's own."""
    grid: tuple[int, int, int]
    """(rows, columns, channels) of the latent of an image of the generated size."""
    condition: Callable[[int], Any]
    """The argument `condition` of the denoiser for so many captions of a usual length."""
    parts: Mapping[str, int] = field(factory=dict)
    """Bytes of the weights outside the denoiser in the stages "generate", "judge" and "train"."""
    elsewhere: Mapping[str, int] = field(factory=dict)
    """Bytes of the denoiser's weights that are not on the device in these stages."""
    phases: Sequence[tuple[int, Callable[[int], object]]] = ()
    """Where weights are moved while images are generated: what is done one after another for so many images together,
    in place of `generate`, each with the bytes of all weights that are on the device meanwhile."""
    generate: Callable[[int], object] | None = None
    """Runs once the part of generation that takes the most memory, for so many images together."""
    judge: Callable[[int, int], object] | None = None
    """Does once what takes the most memory in answering so many questions together, with so many new tokens each."""
    note: str = ""
    """A sentence on the assumptions and omissions of the numbers."""


OWN_SIZES = " Sizes are the adapter's own for the published checkpoint."
"""Ends the note where nothing was read."""


def is_published(checkpoint: str, known: Container[str]) -> bool:
    """Return whether a checkpoint is a hub id of which an adapter knows the sizes, and no folder here."""
    return checkpoint in known and not Path(checkpoint).expanduser().is_dir()


def size_of(*modules: nn.Module) -> int:
    """Return the bytes of the modules' weights."""
    return sum(small_memory.size(module.parameters()) for module in modules)


def outline_in(module: str) -> Any:
    """The class method `outline` of an adapter, as the function `outline` of a module that imports the adapter's."""
    return classmethod(lambda cls, options, device: import_module(module).outline(options, device))
