"""Options of the published benchmarks. Light: no torch, no PIL, no numpy."""

from __future__ import annotations

from typing import Literal, get_args

from attrs import field, frozen, validators

from srum_core.options import SPEED

Policy = Literal["exclude", "zero", "reference"]
Trained = Literal["", "cultural", "spatio-temporal", "science"]
_positive = validators.gt(0)


@frozen(kw_only=True)
class PublishedOptions:
    """A published benchmark. Its prompts are not shipped: each has its own `data`."""

    verify: bool = True
    """Whether to refuse prompts that are not the release's; off = use them, and mark every row."""


@frozen(kw_only=True)
class GradedOptions(PublishedOptions):
    """Options for grades by a judge; each benchmark has its own `template`."""

    template: str
    max_new_tokens: int = field(default=500, validator=_positive)
    """Longest answer, in tokens."""
    policy: Policy = field(default="exclude", validator=validators.in_(get_args(Policy)))
    """Answers that cannot be read: left out, counted as 0, or as the released code does (compbench: -1 stays in the
    mean; wise: no overall if one is missing; reasonbench: it stops)."""


@frozen
class CompBenchOptions(GradedOptions):
    """Benchmark `compbench`: T2I-CompBench with the SRUM authors' protocol, one grade from 0 to 100 an image."""

    data: str = ""
    """Folder with val_comp.json (a checkout of SRUM), or a checkout of T2I-CompBench. Its prompts are not shipped."""
    template: str = "compbench"
    """Name of a packaged rubric ("compbench") or path of a text file with {prompt}, such as the published one."""
    max_new_tokens: int = field(default=512, validator=_positive)
    """Longest answer, in tokens."""


@frozen
class GenEvalOptions(PublishedOptions):
    """Benchmark `geneval`: objects, counts, colours and positions, by rules on detections."""

    data: str = ""
    """A checkout of GenEval, or a folder with evaluation_metadata.jsonl."""
    prompts: Literal["short", "long"] = field(default="short", validator=validators.in_(("short", "long")))
    """The benchmark's own prompts, or the rewritten ones of the BAGEL and SRUM checkouts."""
    detections: str = ""
    """File of JSON lines with detections (`srum_benchmarks.detections` shows the format); "" = a judge detects,
    such as `mask2former`."""
    detector: str = ""
    """The name of what made that file, for the rows; "" = the benchmark's own (Mask2Former Swin-S in mmdet 2, CLIP
    ViT-L/14 for colours)."""


@frozen
class Mask2FormerOptions:
    """Answerer `mask2former`: detects GenEval's objects and colours, with transformers (extra srum[detectors])."""

    checkpoint: str = "facebook/mask2former-swin-small-coco-instance"
    """A Mask2Former for instances of COCO's 80 classes; a directory or a hub id."""
    clip: str = "openai/clip-vit-large-patch14"
    """The CLIP that classifies the colour of an object; a directory or a hub id."""
    device: str = field(default="auto", metadata=SPEED)
    """`auto` takes the accelerator if there is one."""


@frozen
class WiseOptions(GradedOptions):
    """Benchmark `wise`: three grades from 0 to 2 an image (the version that papers of 2025 report)."""

    data: str = ""
    """A checkout of WISE, or a folder with the three files of WISE_legacy/data (`wise-verified`: data_verified)."""
    template: str = "wise"
    """Name of a packaged rubric ("wise") or path of a text file with {prompt} and {explanation}."""
    max_new_tokens: int = field(default=2000, validator=_positive)
    """Longest answer, in tokens."""
    trained: Trained = field(default="", validator=validators.in_(get_args(Trained)))
    """The group that the model was trained on (paper, Figure 6): it is left out of every mean."""


@frozen
class WiseVerifiedOptions(WiseOptions):
    """Benchmark `wise-verified`: one grade, 0 or 1, an image, on the prompts of 2026. Not comparable with `wise`."""

    template: str = "wise-verified"
    """Name of a packaged rubric ("wise-verified") or path of a text file with {prompt} and {explanation}."""
    max_new_tokens: int = field(default=500, validator=_positive)
    """Longest answer, in tokens."""


@frozen
class ReasonBenchOptions(GradedOptions):
    """Benchmark `reasonbench`: T2I-ReasonBench, a description first, then one question for every group of criteria."""

    data: str = ""
    """A checkout of T2I-ReasonBench (its folders `prompts` and `deepseek_evaluation_qs` are read)."""
    describe: str = "reasonbench-describe"
    """First turn: name of a packaged text ("reasonbench-describe") or path of a text file."""
    template: str = "reasonbench"
    """Second turn: name of a packaged rubric ("reasonbench") or path of a text file with {questions}."""
    max_new_tokens: int = field(default=1000, validator=_positive)
    """Longest answer to either, in tokens."""
