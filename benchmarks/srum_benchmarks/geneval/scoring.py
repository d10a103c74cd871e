"""GenEval's rules, exactly as in its scorer: do the detections satisfy the prompt?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any

from attrs import frozen

from srum_benchmarks.detections import Box, Detection

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
SCORE = 0.3
"""A detection counts above this confidence …"""
COUNTING = 0.9
"""… and above this one where a number is required."""
MOST = 16
"""At most so many of a class, the surest ones."""
OFFSET = 0.1
"""How much of both sizes an offset must exceed to count."""


@frozen
class Verdict:
    """Whether the image satisfies the prompt, its faults (one line each), and the detections that counted."""

    correct: bool
    reason: str
    counted: Mapping[str, Sequence[Detection]]


def evaluate(detections: Sequence[Detection], metadata: Mapping[str, Any]) -> Verdict:
    """Judge one image. `metadata` is a line of the prompt file."""
    counted = keep(detections, COUNTING if metadata["tag"] == "counting" else SCORE)
    wrong: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in metadata.get("include", []):
        objects = counted.get(clause["class"], [])[: clause["count"]]
        problem = _clause(clause, objects, groups)
        groups.append(None if problem else objects)
        wrong += [problem] if problem else []
    for clause in metadata.get("exclude", []):
        count = len(counted.get(clause["class"], []))
        if count >= clause["count"]:
            wrong.append(f"expected {clause['class']}<{clause['count']}, found {count}")
    return Verdict(not wrong, "\n".join(wrong), counted)


def keep(detections: Sequence[Detection], score: float) -> dict[str, list[Detection]]:
    """The detections that count, by class, the surest first."""
    counted: dict[str, list[Detection]] = {}
    for each in sorted(detections, key=lambda each: -each.score):
        if each.score > score:
            counted.setdefault(each.label, []).append(each)
    return {name: objects[:MOST] for name, objects in counted.items()}


def _clause(
    clause: Mapping[str, Any], objects: Sequence[Detection], groups: Sequence[Sequence[Detection] | None]
) -> str:
    """The fault of one required object; "" if there is none. Only the highest-scoring objects count."""
    name, count = clause["class"], clause["count"]
    if len(objects) < count:
        return f"expected {name}>={count}, found {len(objects)}"
    if "color" in clause:
        colors = [each.color for each in objects]
        color = clause["color"]
        if colors.count(color) < count:
            others = ", ".join(f"{colors.count(each)} {each}" for each in COLORS if each in colors)
            return f"expected {color} {name}>={count}, found {colors.count(color)} {color}; and {others}"
    if "position" in clause:
        relation, target = clause["position"]
        if groups[target] is None:
            return f"no target for {name} to be {relation}"
        for other in groups[target] or ():
            for each in objects:
                present = relations(each.box, other.box)
                if relation not in present:
                    return f"expected {name} {relation} target, found {' and '.join(sorted(present))} target"
    return ""


def relations(one: Box, other: Box) -> set[str]:
    """Where the first box is, seen from the second: none, one or two of left of, right of, above, below."""
    dx = (one[0] + one[2] - other[0] - other[2]) / 2
    dy = (one[1] + one[3] - other[1] - other[3]) / 2
    wide = one[2] - one[0] + other[2] - other[0]
    high = one[3] - one[1] + other[3] - other[1]
    x, y = _beyond(dx, OFFSET * wide), _beyond(dy, OFFSET * high)
    if abs(x) < 1e-3 and abs(y) < 1e-3:
        return set()
    far = hypot(dx, dy)  # of the whole offset, not of what is left of it: the benchmark's way
    signs = {"left of": -x, "right of": x, "above": -y, "below": y}
    return {name for name, part in signs.items() if part / far > 0.5}


def _beyond(offset: float, slack: float) -> float:
    rest = max(abs(offset) - slack, 0.0)
    return rest if offset > 0 else -rest
