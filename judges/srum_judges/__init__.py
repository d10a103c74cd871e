"""Judges that ask a language model about an image, grounders, and who else can answer. Hooks only."""

from __future__ import annotations

from collections.abc import Iterable

from srum_core import Component, hookimpl
from srum_judges.options import (
    ComponentsOptions,
    FileOptions,
    GridOptions,
    LayoutOptions,
    NativeOptions,
    RegionsOptions,
    SampleOptions,
    ScriptedOptions,
    SelfPlayOptions,
    VerifyOptions,
    ZoomOptions,
)


@hookimpl
def srum_judges() -> Iterable[Component]:
    offered = [
        ("global-layout", "judges:GlobalLayout", LayoutOptions, "one score for the arrangement of the whole image"),
        ("local-regions", "judges:LocalRegions", RegionsOptions, "one score for every region, all in one question"),
        ("zoom", "judges:Zoom", ZoomOptions, "one score for every region, each shown alone in a question of its own"),
        ("sample", "judges:Sample", SampleOptions, "one score for the image as a whole"),
        ("self-play", "self_play:SelfPlay", SelfPlayOptions, "yes/no questions that the model derives from the prompt"),
        (
            "verify-boxes",
            "judges:VerifyBoxes",
            VerifyOptions,
            "a verifier: drops proposed boxes that are not worth judging",
        ),
    ]
    return [_component(*each) for each in offered]


@hookimpl
def srum_grounders() -> Iterable[Component]:
    offered = [
        ("components", "grounders.components:Components", ComponentsOptions, "connected patches of one colour"),
        ("grid", "grounders.components:Grid", GridOptions, "equal tiles, whatever the image shows"),
        ("native", "grounders.native:Native", NativeOptions, "boxes that the answering model gives as JSON"),
        ("file", "grounders.file:BoxesFromFile", FileOptions, "boxes from a file"),
    ]
    return [_component(*each) for each in offered]


@hookimpl
def srum_answerers() -> Iterable[Component]:
    return [_component("scripted", "scripted:Scripted", ScriptedOptions, "fixed replies for smoke tests only")]


def _component(name: str, load: str, options: type, summary: str) -> Component:
    return Component(name, f"srum_judges.{load}", options, summary=summary)
