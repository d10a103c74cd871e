"""Questions about a GenEval image, and parsing of the answers: objects with boxes, as JSON. No torch.

The detector is an answerer like any other: `mask2former` here, a detector of your own, or a vision-language model
(which is no substitute: the table names it). The last line of a question repeats its content for programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

from srum_benchmarks.detections import Detection, detection
from srum_benchmarks.geneval.scoring import COLORS, Thresholds, keep
from srum_core.errors import ConfigError

TOKENS = 4096
"""Longest answer of a model that writes: some forty objects."""
_FORM = '{"detections": [{"label": "…", "box": [x0, y0, x1, y1], "score": 0.9, "color": "…"}]}'


@frozen
class Wanted:
    """The classes of a prompt, and those whose colour it also needs."""

    objects: tuple[str, ...]
    colors: tuple[str, ...]


def wanted(metadata: Mapping[str, Any]) -> Wanted:
    """Of a line of the prompt file."""
    clauses = [clause for part in ("include", "exclude") for clause in metadata.get(part, [])]
    names = dict.fromkeys(clause["class"] for clause in clauses)
    return Wanted(tuple(names), tuple(dict.fromkeys(each["class"] for each in clauses if "color" in each)))


def question(what: Wanted) -> str:
    colored = f" Of every {' and every '.join(what.colors)} also say its colour: {', '.join(COLORS)}."
    return (
        f"Find every {' and every '.join(what.objects)} in the picture, each by itself: its box in pixels (left, top, "
        f"right, bottom) and how sure you are, from 0 to 1.{colored if what.colors else ''} Other objects may be "
        f'listed too. Answer with JSON alone, "detections" being empty if there is nothing:\n{_FORM}\n'
        + json.dumps({"objects": what.objects, "colors": what.colors}, ensure_ascii=False)
    )


def understood(text: str) -> Wanted | None:
    """What such a question wants; None for any other text."""
    try:
        data = json.loads(text.rstrip().rpartition("\n")[2])
        return Wanted(tuple(data["objects"]), tuple(data["colors"]))
    except (ValueError, TypeError, KeyError):
        return None


def as_json(found: Sequence[Detection]) -> str:
    return json.dumps({"detections": [asdict(each) for each in found]}, ensure_ascii=False)


def read(text: str, metadata: Mapping[str, Any]) -> tuple[tuple[Detection, ...] | None, str]:
    """The detections, or None and the reason. Text around the JSON is ignored."""
    try:
        data, _ = json.JSONDecoder().raw_decode(text[max(text.find("{"), 0) :])
        found = tuple(detection(each, "The answer") for each in data["detections"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, 'The answer holds no JSON with a list "detections".'
    except ConfigError as error:
        return None, str(error)
    colorless = _colorless(found, metadata)
    return (None, f"The answer does not name the colour of the {colorless}.") if colorless else (found, "")


def _colorless(found: Sequence[Detection], metadata: Mapping[str, Any]) -> str:
    """A class whose colour is requested and not given: no colour is not the wrong colour."""
    kept = keep(found, Thresholds().score, Thresholds())
    for clause in metadata.get("include", []):
        if "color" in clause and not all(each.color for each in kept.get(clause["class"], [])[: clause["count"]]):
            return str(clause["class"])
    return ""
