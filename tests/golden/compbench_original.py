"""The original T2I-CompBench scores, out of recorded detections, depths and answers. For cross-checks: the paper does
not report them. Formulas and thresholds are the benchmark's; where its code does something odd, the docstring says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

from srum_benchmarks.detections import Box, Detection
from srum_core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Depth = NDArray[np.float64]

RELATIONS_2D = (
    "on side of", "next to", "near", "on the left of", "on the right of", "on the bottom of", "on the top of",
    "on top of",
)  # fmt: skip
RELATIONS_3D = ("in front of", "behind", "hidden")
PEOPLE = ("girl", "boy", "man", "woman")
NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
}  # fmt: skip
ALIASES = {**dict.fromkeys(PEOPLE, "person"), "ship": "boat", "goldfish": "fish", "painting": "picture"}
FAR, TOUCHING, HIDING = 150.0, 0.1, 0.5
DROPPED_CHUNKS = ("top", "the side", "the left", "the right")
SLOTS = 8


def iou(one: Box, other: Box, pixel: float = 0.0) -> float:
    """Intersection over union; with `pixel` = 1 boxes include their last pixel. 0 of two empty boxes."""
    shared = overlap(one, other, pixel)
    union = area(one, pixel) + area(other, pixel) - shared
    return shared / union if union else 0.0


def overlap(one: Box, other: Box, pixel: float = 0.0) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0]) + pixel
    height = min(one[3], other[3]) - max(one[1], other[1]) + pixel
    return max(0.0, width) * max(0.0, height)


def area(box: Box, pixel: float = 0.0) -> float:
    return (box[2] - box[0] + pixel) * (box[3] - box[1] + pixel)


# ---- where things are ------------------------------------------------------------------------------------------------


def relation(prompt: str, relations: Sequence[str]) -> str | None:
    """The first of the relations that the prompt holds."""
    return next((each for each in relations if each in prompt), None)


def position_2d(relation: str | None, one: Box, other: Box) -> float:
    """How far the first box stands in the relation to the second, in [0, 1]. "on top of" has no rule: 0."""
    x = (other[0] + other[2] - one[0] - one[2]) / 2
    y = (other[1] + other[3] - one[1] - one[3]) / 2
    if relation in ("next to", "on side of", "near"):
        return 1.0 if abs(x) < FAR or abs(y) < FAR else FAR / max(abs(x), abs(y))
    along = {
        "on the right of": (-x, y), "on the left of": (x, y), "on the bottom of": (-y, x), "on the top of": (y, x),
    }  # fmt: skip
    ahead, aside = along.get(relation or "", (0.0, 0.0))
    if ahead <= 0 or ahead <= abs(aside):
        return 0.0
    shared = iou(one, other)
    return 1.0 if shared < TOUCHING else TOUCHING / shared


def score_2d(prompt: str, nouns: Sequence[str], detections: Sequence[Detection]) -> float:
    """Of one image. `nouns`: the prompt's nouns in order, first and last count. Below 0.5 it becomes 0, so one object
    alone never counts."""
    first, last = _objects(prompt, nouns)
    one = next((each for each in detections if each.label == first), None)
    other = next((each for each in detections if each.label == last), None)
    score = 0.25 * sum(each.score for each in (one, other) if each)
    if one and other:
        score += position_2d(relation(prompt, RELATIONS_2D), one.box, other.box) / 2
    return score if score >= 0.5 else 0.0


def position_3d(
    relation: str | None, one: Box, other: Box, depth: Depth, axes: Literal["reference", "fixed"] = "reference"
) -> float:
    """In [0, 1]. `depth` is (rows, columns), larger = nearer. The reference looks its [x, y] up as [row, column];
    "fixed" does not. Boxes that overlap by exactly a half give 0, as there."""
    if relation not in RELATIONS_3D:
        return position_2d(relation, one, other)
    ahead = _mean_depth(depth, one, axes) - _mean_depth(depth, other, axes)
    right = ahead > 0 if relation == "in front of" else ahead < 0
    shared = iou(one, other)
    if not right or shared == HIDING:
        return 0.0
    return min(shared / HIDING, 1.0)


def score_3d(
    prompt: str,
    nouns: Sequence[str],
    detections: Sequence[Detection],
    depth: Depth,
    axes: Literal["reference", "fixed"] = "reference",
) -> float:
    """Of one image. A label counts if it holds the noun; one object alone gives a quarter of its confidence."""
    first, last = _objects(prompt, nouns)
    one, other = _last_until_both(detections, first, last)
    if one and other:
        position = position_3d(relation(prompt, RELATIONS_3D), one.box, other.box, depth, axes)
        return 0.25 * one.score + 0.25 * other.score + position / 2
    alone = next((each for noun in (first, last) for each in detections if noun in each.label), None)
    return 0.25 * alone.score if alone else 0.0


def _objects(prompt: str, nouns: Sequence[str]) -> tuple[str, str]:
    if not nouns:
        raise ConfigError(f'"{prompt}" has no noun, so the T2I-CompBench spatial scores do not know what to look for.')
    first, last = ("person" if noun in PEOPLE else noun for noun in (nouns[0], nouns[-1]))
    return first, last


def _last_until_both(
    detections: Sequence[Detection], first: str, last: str
) -> tuple[Detection | None, Detection | None]:
    """The reference goes on overwriting the one until it has seen the other."""
    one = other = None
    for each in detections:
        one = each if first in each.label else one
        other = each if last in each.label else other
        if one and other:
            break
    return one, other


def _mean_depth(depth: Depth, box: Box, axes: str) -> float:
    x0, y0, x1, y1 = (int(each) for each in box)
    part = depth[x0:x1, y0:y1] if axes == "reference" else depth[y0:y1, x0:x1]
    return float(part.mean()) if part.size else float("nan")


# ---- how many there are ----------------------------------------------------------------------------------------------


def same_box(one: Box, other: Box) -> bool:
    """Whether two boxes of the same label count as one object: most of either is in the other."""
    return overlap(one, other, 1) > 0.9 * min(area(one, 1), area(other, 1))


def read_objects(lines: Sequence[str]) -> dict[str, str]:
    """plural → singular, both mapped, out of the lines "singular - plural" of the benchmark's new_objects.txt."""
    pairs = [line.lower().split(" - ") for line in lines if " - " in line]
    return {word.strip(): pair[0].strip() for pair in pairs for word in reversed(pair)}


def wanted(prompt: str, objects: Mapping[str, str]) -> list[tuple[str, int]]:
    """(object, how many) as the prompt says. Nouns that are no `objects` are not asked for."""
    words = re.findall(r"\w+|[^\w\s]", prompt)
    pairs = []
    for place, number in enumerate(words):
        if number not in NUMBERS:
            continue
        names = (" ".join(words[place + 1 : place + 1 + length]) for length in (2, 1))
        name = next((each for each in names if each in objects), None)
        if name is not None:
            pairs.append((objects[name], NUMBERS[number]))
    return pairs


def numeracy(prompt: str, detections: Sequence[Detection], objects: Mapping[str, str]) -> float:
    """Of one image: for each object asked for, half for being there and half for the right number of it."""
    asked = wanted(prompt, objects)
    if not asked:
        raise ConfigError(f'"{prompt}" asks for no number of any known object; the reference divides by zero here.')
    kept: list[Detection] = []
    for each in detections:
        if not any(each.label == known.label and same_box(each.box, known.box) for known in kept):
            kept.append(each)
    labels = [each.label for each in kept]
    score = 0.0
    for name, count in asked:
        alias = ALIASES.get(name, name)
        if alias not in labels:
            labels = [alias if alias in label else label for label in labels]
        if alias in labels:
            score += (1.0 if labels.count(alias) == count else 0.5) / len(asked)
    return score


# ---- what others said ------------------------------------------------------------------------------------------------


def attributes(chunks: Sequence[str], yes: Sequence[float]) -> float:
    """BLIP-VQA: the product of P(yes) over the prompt's noun chunks, rounded to 4 decimals as the reference writes it.
    `yes` belongs to the kept chunks in order."""
    kept = [chunk for chunk in chunks if chunk not in DROPPED_CHUNKS][:SLOTS]
    return round(prod(yes[: len(kept)]), 4)


def three_in_one(kind: str, attribute: float, spatial: float, action: float) -> float:
    """The complex prompts: of the parts that a prompt has, the mean. `kind`: spatial, action or spatialaction."""
    parts = {"spatial": (attribute, spatial), "action": (attribute, action)}.get(kind, (attribute, spatial, action))
    return sum(parts) / len(parts)


def level_score(category: str, answers: Sequence[str]) -> float:
    """ShareGPT4V: the product of levels, 0 to 100. An answer that cannot be read leaves 100, as in the reference."""
    fine = category in ("color", "shape", "texture")
    levels = {"1": 10, "2": 20, "3": 75, "4": 100} if fine else {str(level): 20 * level for level in range(1, 6)}
    score = 100.0
    for answer in answers:
        whole = answer if answer.endswith("}") else f'{answer}"\n}}'
        try:
            said = json.loads(whole.replace("\n", ""))
            score *= levels[str(said["score"])] / 100
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the reference's rule, which flatters: see the docstring
    return score


def gpt4v_score(text: str) -> float:
    """The mean of all `"score": N,` in an answer, 0 without one."""
    found = [int(number) for number in re.findall(r'"score": (\d{1,300}),', text)]
    return sum(found) / len(found) if found else 0.0
