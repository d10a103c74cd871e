"""Judges that ask a language model about a picture, and grounders that need none. Options and hooks only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attrs import field, frozen, validators

from srum_core import Component, hookimpl

_positive = validators.gt(0)


@frozen
class LayoutOptions:
    """Judge `global-layout`: one score for the arrangement of the whole picture (paper §3.2, Table 6)."""

    template: str = "layout"
    """Name of a packaged template ("layout", "short-layout") or path of a text file with {prompt}."""
    max_new_tokens: int = field(default=1024, validator=_positive)
    """Longest answer, in tokens, reasoning included."""
    think: bool = True
    """Ask for reasoning before the answer, as the release does; off for models that cannot."""
    require_reason: bool = True
    """Whether an answer without a reason is unreadable (paper §3.2: the reason is mandatory)."""


@frozen
class RegionsOptions:
    """Judge `local-regions`: one score for every region (paper §3.2, Table 7)."""

    template: str = "regions"
    """Name of a packaged template ("regions", "short-regions") or path of a text file with {prompt} and {regions}."""
    max_new_tokens: int = field(default=4096, validator=_positive)
    """Longest answer to one question, in tokens, reasoning included."""
    think: bool = True
    """Ask for reasoning before the answer, as the release does; off for models that cannot."""
    require_reason: bool = True
    """Whether a score without a reason is unreadable. The paper's text demands reasons, its own example shows none."""
    boxes: Literal["pixels", "fraction", "thousand"] = field(
        default="pixels", validator=validators.in_(("pixels", "fraction", "thousand"))
    )
    """How boxes are written: pixels of the stored picture, fractions of its sides, or thousandths of its sides."""
    per_question: int = field(default=0, validator=validators.ge(0))
    """Regions asked about in one question; 0 = all of them."""


@frozen
class ComponentsOptions:
    """Grounder `components`: connected patches of one colour on a plain background."""

    tolerance: float = field(default=48.0, validator=[validators.ge(0), validators.le(255)])
    """Largest difference in any channel (0-255) at which two colours count as the same."""
    min_area: float = field(default=0.01, validator=validators.ge(0))
    """Smallest region: below 1 a fraction of the picture's area, from 1 on a number of pixels."""
    max_regions: int = field(default=10, validator=_positive)
    """At most so many regions per picture, the largest ones."""
    connectivity: Literal[4, 8] = field(default=8, validator=validators.in_((4, 8)))
    """Neighbours of a pixel: 4 (sides) or 8 (sides and corners)."""
    margin: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """Every box is widened by this fraction of the picture on each side."""
    split_colours: bool = True
    """Whether touching patches of different colours are separate regions."""
    whole: bool = False
    """Also propose the whole picture as the last region, a place to score what is missing and the background."""


@frozen
class GridOptions:
    """Grounder `grid`: equal tiles, whatever the picture shows."""

    rows: int = field(default=2, validator=_positive)
    """Tiles from top to bottom."""
    columns: int = field(default=2, validator=_positive)
    """Tiles from left to right."""


@frozen
class ScriptedOptions:
    """Answerer `scripted`: fixed replies for smoke tests. Never use it for results: it does not look at pictures."""

    text: str = ""
    """The reply to every question; empty = a well-formed reply with numbers drawn from the picture file's bytes."""


@hookimpl
def srum_judges() -> Iterable[Component]:
    return [
        Component(
            "global-layout",
            "srum_judges.layout:GlobalLayout",
            LayoutOptions,
            summary="one score for the arrangement of the whole picture (Table 6)",
        ),
        Component(
            "local-regions",
            "srum_judges.regions:LocalRegions",
            RegionsOptions,
            summary="one score for every region (Table 7)",
        ),
    ]


@hookimpl
def srum_grounders() -> Iterable[Component]:
    return [
        Component(
            "components",
            "srum_judges.components:Components",
            ComponentsOptions,
            summary="connected patches of one colour on a plain background; needs no weights",
        ),
        Component(
            "grid", "srum_judges.components:Grid", GridOptions, summary="equal tiles, whatever the picture shows"
        ),
    ]


@hookimpl
def srum_answerers() -> Iterable[Component]:
    return [
        Component(
            "scripted",
            "srum_judges.scripted:Scripted",
            ScriptedOptions,
            summary="fixed replies for smoke tests of models that cannot speak; never for results",
        )
    ]
