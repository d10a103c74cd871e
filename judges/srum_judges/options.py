"""Options of the judges, grounders and answerers of this package. Light: no torch, no PIL."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

_positive = validators.gt(0)
_unit: Any = [validators.ge(0), validators.le(1)]
BoxUnit = Literal["model", "pixels", "fraction", "thousand"]


@frozen(kw_only=True)
class AskingOptions:
    """How a model is asked."""

    max_new_tokens: int = field(default=1024, validator=_positive)
    """Longest answer to one question, in tokens, reasoning included."""
    think: bool = False
    """Ask for reasoning before the answer; off for models that cannot."""


@frozen(kw_only=True)
class JudgeOptions(AskingOptions):
    """How a judge asks for a score; each has its own `template`."""

    template: str
    think: bool = True
    """Ask for reasoning before the answer, as the release does; off for models that cannot."""
    require_reason: bool = True
    """Whether a score without a reason is unreadable (paper §3.2: the reason is mandatory)."""


@frozen(kw_only=True)
class RuledOptions(JudgeOptions):
    """The rules for scores of regions (paper §3.2)."""

    grounded: bool = True
    """Whether the identified object must be something that the prompt names; else a score above `neutral_band`
    is brought down to it (paper §3.2, semantic grounding)."""
    neutral_band: float = field(default=0.4, validator=_unit)
    """The most that a region can get whose object the prompt does not name."""
    synonyms: str = ""
    """Path of a text file with more words for the same thing, comma-separated, one group a line."""
    penalty: bool = True
    """Whether scores below 0 go through the non-linear penalty (paper §3.2): -0.3 and worse land in [-0.9, -0.5]."""


@frozen
class LayoutOptions(JudgeOptions):
    """Judge `global-layout`: one score for the arrangement of the whole image (paper §3.2, Table 6)."""

    template: str = "layout"
    """Name of a packaged template ("layout", "short-layout", "crowded-layout") or path of a text file with {prompt}."""
    neutral_band: float = field(default=0.4, validator=_unit)
    """A prompt without spatial directives gets at most this much, either way (paper §3.2: 0.4); 1 = no such rule."""


@frozen
class RegionsOptions(RuledOptions):
    """Judge `local-regions`: one score for every region (paper §3.2, Table 7)."""

    template: str = "regions"
    """Name of a packaged template ("regions", "short-regions") or path of a text file with {prompt} and {regions}."""
    max_new_tokens: int = field(default=4096, validator=_positive)
    """Longest answer to one question, in tokens, reasoning included."""
    require_reason: bool = True
    """Whether a score without a reason is unreadable. The paper's text demands reasons, its own example shows none."""
    boxes: BoxUnit = "model"
    """How boxes are written: as the answering model does (else pixels of the stored image), in pixels of the stored
    image, fractions of its sides, or thousandths of its sides."""
    per_question: int = field(default=0, validator=validators.ge(0))
    """Regions asked about in one question; 0 = all of them."""


@frozen
class SampleOptions(JudgeOptions):
    """Judge `sample`: one score for the image as a whole, whatever it is about (the release's sample level)."""

    template: str = "sample"
    """Name of a packaged template ("sample") or path of a text file with {prompt}."""


@frozen
class ZoomOptions(RuledOptions):
    """Judge `zoom`: one question for every region, about that part of the image alone."""

    template: str = "zoom"
    """Name of a packaged template ("zoom") or path of a text file with {prompt}."""
    margin: float = field(default=0.1, validator=_unit)
    """Margin around a region, on each side, as a fraction of its box."""


@frozen
class SelfPlayOptions(AskingOptions):
    """Judge `self-play`: the model writes yes/no questions, then answers them (the paper's future work)."""

    level: Literal["global", "local"] = "global"
    """One score for the whole image, from the share of yes; or 1 or -1 for every region, each shown as a crop."""
    questions_template: str = "self-play"
    """Template for the questions: name of a packaged template ("self-play", "short-self-play") or path of a text file
    with {prompt}; {limit} is the number below."""
    answers_template: str = "self-play-answer"
    """How each is put: name of a packaged template ("self-play-answer", "short-self-play-answer") or path of a text
    file with {question}; {prompt} is optional."""
    limit: int = field(default=8, validator=_positive)
    """At most so many questions about an image (or, with level = "local", about each region), the first ones."""
    max_new_tokens: int = field(default=512, validator=_positive)
    """Longest answer to any question, in tokens, reasoning included."""
    margin: float = field(default=0.1, validator=_unit)
    """With level = "local": margin around a region, on each side, as a fraction of its box."""


@frozen
class VerifyOptions(AskingOptions):
    """Verifier `verify-boxes`: whether a box is a sensible region with something that matters to the prompt (§3.1)."""

    template: str = "verify"
    """Name of a packaged template ("verify") or path of a text file with {prompt} and {regions}."""
    max_new_tokens: int = field(default=2048, validator=_positive)
    """Longest answer to one question, in tokens, reasoning included."""
    boxes: BoxUnit = "model"
    """How boxes are written; as for `local-regions`."""
    per_question: int = field(default=0, validator=validators.ge(0))
    """Regions asked about in one question; 0 = all of them."""


@frozen
class ComponentsOptions:
    """Grounder `components`: connected patches of one colour on a plain background."""

    tolerance: float = field(default=48.0, validator=[validators.ge(0), validators.le(255)])
    """Largest difference in any channel (0-255) at which two colours count as the same."""
    min_area: float = field(default=0.01, validator=validators.ge(0))
    """Smallest region: below 1 a fraction of the image's area, from 1 on a number of pixels."""
    max_regions: int = field(default=10, validator=_positive)
    """At most so many regions per image, the largest ones."""
    connectivity: Literal[4, 8] = 8
    """Neighbours of a pixel: 4 (sides) or 8 (sides and corners)."""
    margin: float = field(default=0.0, validator=_unit)
    """Every box is widened by this fraction of the image on each side."""
    split_colours: bool = True
    """Whether touching patches of different colours are separate regions."""
    whole: bool = False
    """Also propose the whole image as the last region, a place to score what is missing and the background."""


@frozen
class GridOptions:
    """Grounder `grid`: equal tiles, whatever the image shows."""

    rows: int = field(default=2, validator=_positive)
    """Tiles from top to bottom."""
    columns: int = field(default=2, validator=_positive)
    """Tiles from left to right."""


@frozen
class NativeOptions(AskingOptions):
    """Grounder `native`: the answering model itself gives boxes, as JSON."""

    template: str = "native"
    """Name of a packaged template ("native") or path of a text file with {prompt}; {unit} gives the unit of boxes."""
    boxes: BoxUnit = "model"
    """How the model writes boxes: as its adapter declares (else in pixels of the stored image), in pixels of the
    stored image, fractions or thousandths."""
    max_new_tokens: int = field(default=2048, validator=_positive)
    """Longest answer, in tokens."""
    max_regions: int = field(default=10, validator=_positive)
    """At most so many regions per image, the first ones."""
    min_area: float = field(default=0.001, validator=_unit)
    """Smallest region, as a fraction of the image's area."""
    duplicates: float = field(default=0.9, validator=[validators.gt(0), validators.le(1)])
    """Of two boxes whose intersection over union is above it, the later one is dropped; 1 = keep all."""


@frozen
class FileOptions:
    """Grounder `file`: boxes that you supply."""

    path: str = ""
    """A .json or .jsonl file; the docstring of `srum_judges.grounders.file.BoxesFromFile` shows the format."""
    boxes: Literal["pixels", "fraction", "thousand"] = "pixels"
    """How the file writes boxes: pixels of the stored image, fractions or thousandths of its sides."""


@frozen
class ScriptedOptions:
    """Answerer `scripted`: fixed replies for smoke tests. Never use it for results: it ignores the images."""

    text: str = ""
    """The reply to every question; empty = a well-formed reply with numbers from a hash of the image file."""
