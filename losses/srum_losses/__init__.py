"""The SRUM loss and its controls, and the maps that turn judgements into weights. Options and hooks only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attrs import field, frozen, validators

from srum_core import Component, hookimpl

_signed = [validators.ge(-1.0), validators.le(1.0)]
Overlap = Literal["mean", "min", "max", "smallest"]


@frozen
class SrumOptions:
    """Loss `srum`: equations 1-3."""

    constraint: float = field(default=0.5, validator=validators.ge(0))
    """lambda_c, the weight of the reference term (paper Table 5: 0.5; the release's code default is 0.1)."""


@frozen
class BoundedOptions(SrumOptions):
    """Loss `bounded`: `srum` whose push away from a target dies out."""

    margin: float = field(default=0.5, validator=validators.gt(0))
    """In net-negative cells the push falls to 1/e where the squared error is 1 + margin times that before training."""


@frozen
class NegativeAwareOptions:
    """Loss `negative-aware`: DiffusionNFT (arXiv 2509.16117) with a weight per cell."""

    beta: float = field(default=1.0, validator=validators.gt(0))
    """Distance of the two implicit velocities from the one before training: a cell of weight 1 moves 1 / beta of the
    way to its target, one of weight -1 as far away from it."""
    constraint: float = field(default=0.0, validator=validators.ge(0))
    """lambda_c, the weight of the reference term; 0 = none, as the model before training already holds on."""


@frozen
class RegionOptions:
    """How regional scores become R, the regional part of a map."""

    overlap: Overlap = "mean"
    """Where boxes overlap: mean, lowest or highest of their scores, or the score of the smallest box."""
    outside_value: float = field(default=0.0, validator=_signed)
    """R outside every scored box, in [-1, 1]. 0 = no evidence: only the reference term acts there."""


@frozen
class PaperOptions(RegionOptions):
    """Map `paper`: alpha * R."""

    outside: Literal["value", "global"] = "value"
    """Where R outside every scored box comes from: `outside_value`, or the global score itself, which then also stands
    for missing objects, which have no box."""


@frozen
class ReleasedOptions:
    """Map `released`: the computation of the released code."""

    pixels_per_cell: int = field(default=16, validator=validators.gt(0))
    """Side of one cell of the latent grid, in pixels. The release rounds boxes to pixels and samples four per cell."""


@frozen
class SparseOptions:
    """Map `sparse`: rewards of 0 or 1 only, the paper's "0-1 reward" ablation."""

    threshold: float = field(default=0.0, validator=_signed)
    """A score above it counts as 1, any other as 0."""
    scope: Literal["regions", "image"] = "regions"
    """regions: alpha * R with every score replaced by 0 or 1. image: one number for the whole image, 1 if both the
    global score and the mean regional score (as far as there are any) are above the threshold."""
    outside: Literal["zero", "global"] = "zero"
    """With scope regions, the weight outside every scored box: 0, or the 0 or 1 of the global score. With 0 and no
    reference term nothing holds the background."""
    overlap: Overlap = "mean"
    """As for `paper`."""
    gated: bool = True
    """With scope regions: multiply by the 0 or 1 of the global score. False = right regions of wrong images count."""


@frozen
class AdvantageOptions:
    """Map `advantage`: scale * (R + global_weight * g), centred over the round. Not in the paper."""

    scale: float = field(default=0.3, validator=[validators.gt(0), validators.le(1)])
    """All weights are multiplied by it, then cut to [-1, 1]."""
    global_weight: float = field(default=2.0, validator=validators.ge(0))
    """How much the global score g counts in every cell, next to R; 0 = regional scores alone."""
    signs: bool = True
    """R is 1 in a region whose score is above `threshold`, else -1; False = the score itself."""
    threshold: float = field(default=0.0, validator=_signed)
    """With `signs`: a regional score above it counts as right."""
    centre: bool = True
    """Subtract the round's mean weight inside scored regions there, and that of the background there. False = R is 1 in
    the background."""
    blame: bool = False
    """Lower R in the background for the objects that a judge reports as missing (`Score.missing`): each by 2 times the
    mean area of the round's regions, shared by the image's background."""
    overlap: Overlap = "mean"
    """As for `paper`."""


@frozen
class GlobalOnlyOptions:
    """Map `global-only`."""

    signed: bool = False
    """The score g itself, in [-1, 1], instead of alpha = (g + 1) / 2: for losses that use the sign."""


@hookimpl
def srum_losses() -> Iterable[Component]:
    return [
        Component(
            "srum", "srum_losses.objectives:SrumLoss", SrumOptions, summary="equations 1-3: reward and reference"
        ),
        Component("bounded", "srum_losses.objectives:BoundedLoss", BoundedOptions, summary="srum, but bounded below"),
        Component(
            "negative-aware",
            "srum_losses.objectives:NegativeAwareLoss",
            NegativeAwareOptions,
            summary="bounded below; compares with the model before training (DiffusionNFT)",
        ),
        Component("sft", "srum_losses.objectives:SftLoss", summary="plain mean squared error; ignores the weights"),
    ]


@hookimpl
def srum_reward_maps() -> Iterable[Component]:
    return [
        Component("paper", "srum_losses.maps:Paper", PaperOptions, summary="alpha * R with R in [-1, 1] (paper §3.3)"),
        Component(
            "released",
            "srum_losses.maps:Released",
            ReleasedOptions,
            summary="never negative, maximum over boxes on a 0.5 canvas (the released code)",
        ),
        Component("sparse", "srum_losses.maps:Sparse", SparseOptions, summary="rewards of 0 or 1 (ablation)"),
        Component(
            "advantage",
            "srum_losses.maps:Advantage",
            AdvantageOptions,
            summary="regional and global scores added, centred over the round (not in the paper)",
        ),
        Component("no-global", "srum_losses.maps:NoGlobal", RegionOptions, summary="R alone, alpha = 1 (ablation)"),
        Component(
            "global-only",
            "srum_losses.maps:GlobalOnly",
            GlobalOnlyOptions,
            summary="the global score everywhere, no regions (ablation)",
        ),
        Component("uniform", "srum_losses.maps:Uniform", summary="1 everywhere (control)"),
    ]
