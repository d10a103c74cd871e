"""The quality benchmarks and prompt lists that come with srum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import field, frozen, validators

from srum_benchmarks.options import (
    CompBenchOptions,
    GenEvalOptions,
    Mask2FormerOptions,
    ReasonBenchOptions,
    WiseOptions,
    WiseVerifiedOptions,
)
from srum_core import Component, hookimpl
from srum_core.errors import ConfigError
from srum_core.records import Prompt


@frozen
class ShapesOptions:
    count: int = field(default=256, validator=validators.ge(0))
    """Prompts of a split, categories taking turns; 0 = as many as every category can give equally."""
    seed: int = 0
    """Another seed picks and orders other prompts of the same split."""
    category: str = ""
    """Prompts of this category only, such as "list"; empty = all categories."""


SUMMARIES = {
    "shapes": "coloured shapes on a plain background, judged exactly by a program (bundled; 32×32 pixels)",
    "crowded": "four to six coloured shapes in a grid, with places, judged exactly by a program (bundled; 32×32 "
    "pixels)",
    "compbench": "T2I-CompBench as the SRUM authors judge it: one grade from 0 to 100 per image",
    "geneval": "GenEval's rules on the detections of the judge `mask2former`, or on detections in a file",
    "wise": "WISE as reported in 2025: consistency, realism and aesthetics from 0 to 2",
    "wise-verified": "WISE_Verified of 2026: other prompts, right or wrong; not comparable with wise",
    "reasonbench": "T2I-ReasonBench: a description first, then groups of questions with criteria",
}


@hookimpl
def srum_benchmarks() -> Iterable[Component]:
    classes = {
        "shapes": ("shapes.benchmark:Shapes", ShapesOptions),
        "crowded": ("shapes.benchmark:Crowded", ShapesOptions),
        "compbench": ("compbench.benchmark:CompBench", CompBenchOptions),
        "geneval": ("geneval.benchmark:GenEval", GenEvalOptions),
        "wise": ("wise.benchmark:Wise", WiseOptions),
        "wise-verified": ("wise.benchmark:WiseVerified", WiseVerifiedOptions),
        "reasonbench": ("reasonbench.benchmark:ReasonBench", ReasonBenchOptions),
    }
    return [
        Component(name, f"{__name__}.{load}", options, summary=SUMMARIES[name])
        for name, (load, options) in classes.items()
    ]


@hookimpl
def srum_judges() -> Iterable[Component]:
    summary = "exact checker (not self-rewarding): the ceiling on prompts of the shapes world"
    return [Component("shapes-oracle", f"{__name__}.shapes.appraisal:ShapesOracle", summary=summary)]


@hookimpl
def srum_answerers() -> Iterable[Component]:
    summary = "Mask2Former and CLIP: finds the objects and colours that GenEval asks about"
    return [Component("mask2former", f"{__name__}.geneval.detection:Mask2Former", Mask2FormerOptions, summary=summary)]


@hookimpl
def srum_prompts(source: str) -> Sequence[Prompt] | None:
    """ "starter"; "shapes:SPLIT", "shapes:SPLIT:COUNT" (the first COUNT), "shapes:SPLIT:COUNT:CATEGORY" (those of one
    category); the same of "crowded"; and to train on a published benchmark's prompts "compbench:SPLIT:DIR" and
    "wise:SPLIT:DIR". None for anybody else's source."""
    if source == "starter":  # 64 everyday scenes, one per line: category, tab, text
        lines = Path(__file__).with_name("starter.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split("\t") for line in lines if line]
        return [Prompt(f"starter-{i:02d}", text, {"category": category}) for i, (category, text) in enumerate(pairs)]
    name, _, rest = source.partition(":")
    if name in ("compbench", "wise"):
        return _published(name, rest)
    if name not in ("shapes", "crowded"):
        return None
    from srum_benchmarks.shapes import crowded, world

    split, count, category = [*rest.split(":", 2), "", ""][:3]
    if count and not count.isdecimal():
        raise ConfigError(f'The prompts "{source}" should read "{name}:SPLIT:COUNT"; {count!r} is not a number.')
    prompts = {"shapes": world, "crowded": crowded}[name].prompts
    return prompts(split or "train", int(count) if count else None, category=category)


def _published(name: str, rest: str) -> list[Prompt]:
    from srum_benchmarks.compbench import prompts as compbench
    from srum_benchmarks.wise import prompts as wise

    split, _, folder = rest.partition(":")
    if not split or not folder:
        raise ConfigError(
            f'The prompts "{name}:{rest}" should read "{name}:SPLIT:DIR", with the folder that holds the benchmark, '
            f'such as "{name}:{"cultural" if name == "wise" else "train"}:checkouts/{name}".'
        )
    return wise.load(wise.LEGACY, folder, split) if name == "wise" else compbench.load(folder, split)
