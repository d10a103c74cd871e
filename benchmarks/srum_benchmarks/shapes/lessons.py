"""What the bundled model's understanding side learns from: pictures, right and wrong, with the words that judge them.

A picture is drawn for a prompt, perhaps spoilt, perhaps shown with another prompt, perhaps given the look of a model's
drawing. Its labels then come from what the exact checker reads in the final picture (`appraise`), so what the model
learns to say agrees with how the benchmark decides; `appraise` labels a model's own pictures just as well.

Scores. Whole picture: 1.0 when all is as asked, else from 0.2 (a small share of it is wrong) down to -1.0 (nothing is
right) in steps of 0.2. Region: 1.0 for an object that was asked for, less than 0 for any other thing; REGION_SCORES.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from srum_benchmarks.shapes import worlds
from srum_benchmarks.shapes.captions import picture_for
from srum_benchmarks.shapes.checker import Found, PixelBox, absent, holds, look, placed
from srum_benchmarks.shapes.crowded import cell_of
from srum_benchmarks.shapes.render import Picture, compose, draw
from srum_benchmarks.shapes.spoil import DAMAGES, model_like, spoil
from srum_benchmarks.shapes.world import COUNTS, SIDE, Kind, crowded, plural, wanted
from srum_core.records import Prompt

BLOB = "blurred blob"
ALL_RIGHT = "all as asked"
RIGHT = "as asked"
PLACE = "wrong place"
"""Of a thing of the crowded world that was asked for in another row or column."""
REGION_SCORES = {
    RIGHT: 1.0,
    "wrong colour": -0.6,
    "wrong shape": -0.6,
    PLACE: -0.6,
    "wrong object": -0.8,
    "extra object": -0.8,
    "distorted": -0.8,
}
"""By reason. "Wrong object" shares neither colour nor shape with what is missing; "extra": nothing is missing."""
MISSING = "missing object"
RELATION = "wrong relation"
COUNT = "wrong count"
FAULTS = ("distorted", "wrong colour", "wrong shape", PLACE, "wrong object", MISSING, "extra object", RELATION, COUNT)
"""What can be wrong with a whole picture; of several faults, the first in this order is named."""
COST = {"wrong colour": 0.8, "wrong shape": 0.8, PLACE: 0.8, RELATION: 0.8}
"""What a fault costs, in objects; 1 unless listed."""

CLEAN, MISMATCHED = 0.4, 0.2
"""Share of lessons with an unspoilt picture, and with a picture drawn for another prompt (the rest is spoilt)."""
SPECIAL = {"spatial relation": "wrong relation", "numeracy": "wrong count", "list with places": "wrong relation"}
AS_TAUGHT = 0.2
"""Share, in the crowded world, of pictures that miss their caption as those that drawing learns from do."""
SPECIAL_SHARE = 0.4
"""Of the spoilt pictures of these categories, the share with the mistake that is particular to them."""
MODEL_LIKE = 0.6
"""Share of pictures that get the look of a model's drawing."""


@frozen
class Part:
    """One region and what is to be said about it."""

    box: PixelBox
    label: str
    score: float
    reason: str


@frozen
class Lesson:
    image: Picture
    prompt: Prompt
    score: float
    reason: str
    parts: tuple[Part, ...]
    """In reading order of their boxes, or in the order of the proposed ones."""
    kind: str
    """How the picture came about: "clean", "mismatched", a damage's name, or what the caller says."""
    missing: tuple[Kind, ...] = ()
    """The objects asked for that are not there (in their place), in the prompt's order."""


Propose = Callable[[Picture], Sequence[PixelBox]]


def lesson(
    rng: np.random.Generator, split: str = "train", propose: Propose | None = None, world: str = "shapes"
) -> Lesson:
    """A random picture with a prompt of this split, and what is to be said about it (and about proposed boxes)."""
    random_prompt = worlds.of(world).random_prompt
    prompt = random_prompt(rng, split)
    crowd = crowded(prompt.tags)
    draw_for, kind = prompt, "clean"
    fate = rng.random()
    if CLEAN <= fate < CLEAN + MISMATCHED:
        kind = "mismatched"
        draw_for = random_prompt(rng, split, prompt.tags["category"] if rng.random() < 0.5 else None)
    scene = compose(draw_for.tags, rng)
    if fate < CLEAN + MISMATCHED:
        image = draw(scene)
    elif crowd and rng.random() < AS_TAUGHT / (1 - CLEAN - MISMATCHED):
        kind, image = "as taught", picture_for(prompt, scene, 1.0, rng)
    else:
        kind = DAMAGES[rng.integers(len(DAMAGES))]
        special = SPECIAL.get(prompt.tags["category"])
        if special and (kind == "wrong relation" or rng.random() < SPECIAL_SHARE):
            kind = special
        image = spoil(kind, scene, prompt.tags, rng)
    if rng.random() < MODEL_LIKE:
        image = model_like(image, rng, crowd)
    return appraise(image, prompt, kind, propose(image) if propose else None)


def appraise(image: Picture, prompt: Prompt, kind: str = "", boxes: Sequence[PixelBox] | None = None) -> Lesson:
    """What is to be said about any (32, 32, 3) picture as an answer to a prompt, and about the things in these boxes.

    Without boxes each thing that the checker finds is a part. A box that fits nothing the checker finds is a blob.
    """
    found = look(image, crowded(prompt.tags))
    reasons, missing = _reasons(found, prompt.tags)
    parts = [
        Part(thing.box, f"{thing.colour} {thing.shape}" if thing.shape else BLOB, REGION_SCORES[why], why)
        for thing, why in zip(found, reasons, strict=True)
    ]
    score, reason = _whole(found, reasons, missing, prompt.tags)
    if boxes is not None:
        parts = [_part_in(box, parts) for box in boxes]
    return Lesson(image, prompt, score, reason, tuple(parts), kind, tuple(absent(found, prompt.tags)))


def _part_in(box: PixelBox, parts: Sequence[Part]) -> Part:
    best = max(parts, key=lambda part: _overlap(box, part.box), default=None)
    if best is None or _overlap(box, best.box) < 0.5:
        return Part(box, BLOB, REGION_SCORES["distorted"], "distorted")
    return evolve(best, box=box)


def _overlap(one: PixelBox, other: PixelBox) -> float:
    """Intersection over union."""
    wide = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one, other))
    return wide * high / (areas - wide * high)


def _reasons(found: tuple[Found, ...], tags: Mapping[str, Any]) -> tuple[list[str], int]:
    """Why each thing gets its score, and how many of the required objects nothing in the picture stands for."""
    left = wanted(tags)
    reasons = [""] * len(found)

    def settle(why: str, fits: Any) -> None:
        for i, thing in enumerate(found):
            if not reasons[i]:
                match = next((kind for kind, count in left.items() if count > 0 and fits(thing, kind)), None)
                if match is not None:
                    left[match] -= 1
                    reasons[i] = why

    kinds = [(colour, shape) for colour, shape in tags["objects"]]
    places = dict(zip(kinds, tags["places"], strict=True)) if crowded(tags) else {}

    settle(RIGHT, lambda thing, kind: thing.kind == kind and placed(thing, places.get(kind)))
    settle(PLACE, lambda thing, kind: thing.kind == kind)
    settle("distorted", lambda thing, kind: thing.shape is None and thing.colour == kind[0])
    settle("wrong colour", lambda thing, kind: thing.shape == kind[1])
    settle("wrong shape", lambda thing, kind: thing.shape is not None and thing.colour == kind[0])
    settle("distorted", lambda thing, kind: thing.shape is None)
    settle("wrong object", lambda thing, kind: True)
    for i, thing in enumerate(found):
        reasons[i] = reasons[i] or ("extra object" if thing.shape else "distorted")
    return reasons, left.total()


def _whole(found: tuple[Found, ...], reasons: list[str], missing: int, tags: Mapping[str, Any]) -> tuple[float, str]:
    faults = [why for why in reasons if why != RIGHT] + [MISSING] * missing
    cost = sum(COST.get(why, 1.0) for why in faults)
    need = wanted(tags)
    slots = max(need.total(), len(found))
    if not faults and not holds(found, tags):
        faults, cost = [RELATION], COST[RELATION]
    if not faults:
        return 1.0, ALL_RIGHT
    # Only ever wrong in number: that is what there is to say, rather than what is missing or extra.
    number = tags["count"] is not None and all(thing.kind in need for thing in found) and bool(found)
    reason = COUNT if number else min(faults, key=FAULTS.index)
    return round(min(0.2, max(-1.0, 0.2 * round((0.4 - 1.4 * cost / slots) / 0.2))), 1) + 0.0, reason


def layout_answer(lesson: Lesson) -> str:
    """The answer about the whole picture, in the words that the judge reads: first what there is to see and where its
    middle is (row and column of an 8 × 8 grid), then the score. In the crowded world the row and the column are those
    of the cell, from 1, and what is missing is named before the score."""
    score = f"Score: {lesson.score:.1f}\nReason: {lesson.reason}"
    if crowded(lesson.prompt.tags):
        lines = [f"{part.label} {row} {column}" for part in lesson.parts for row, column in [_cell(part.box)]]
        missing = [f"{colour} {shape}" for colour, shape in lesson.missing]
        return f"{', '.join(lines) or 'nothing'}\nMissing: {', '.join(missing) or 'none'}\n{score}"
    seen = ", ".join(f"{part.label} {_eighth(part.box[1::2])} {_eighth(part.box[::2])}" for part in lesson.parts)
    return f"{seen or 'nothing'}\n{score}"


def _cell(box: PixelBox) -> tuple[int, int]:
    return cell_of(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))


def _eighth(ends: tuple[int, ...]) -> int:
    return sum(ends) * 4 // SIDE


def regions_answer(lesson: Lesson) -> str:
    """The answer about the regions, in the words that the judge reads; empty without regions."""
    return "\n---\n".join(
        f"Region ID: {i}\nIdentified Object: {part.label}\nScore: {part.score:.1f}\nReason: {part.reason}"
        for i, part in enumerate(lesson.parts, 1)
    )


def regions_listing(lesson: Lesson) -> str:
    """The regions as the question lists them ({regions} of the template); ends in a line break."""
    return "---\n".join(
        f"Region ID: {i}\nBounding Box: [{', '.join(map(str, part.box))}]\n" for i, part in enumerate(lesson.parts, 1)
    )


def exchanges(lesson: Lesson, layout: str, regions: str) -> list[tuple[str, str]]:
    """(question, answer) pairs from the judges' templates, with {prompt} and {regions}; no regions, no regional one."""
    asked = [(layout, layout_answer(lesson))]
    if lesson.parts:
        asked.append((regions, regions_answer(lesson)))
    listing = regions_listing(lesson)
    return [(q.replace("{prompt}", lesson.prompt.text).replace("{regions}", listing), a) for q, a in asked]


def self_questions(prompt: Prompt) -> list[str]:
    """What to ask about a picture for this prompt; every answer is yes if, and only if, the picture is as asked."""
    tags = prompt.tags
    kinds = [f"{colour} {shape}" for colour, shape in tags["objects"]]
    if tags["count"]:
        colour, shape = tags["objects"][0]
        return [f"Are there {COUNTS[tags['count']]} {colour} {plural(shape)}?", "Is that all?"]
    if crowded(tags):
        kinds = [f"{kind} in {place}" if place else kind for kind, place in zip(kinds, tags["places"], strict=True)]
    between = [f"Is the {kinds[0]} {tags['relation']} the {kinds[1]}?"] if tags["relation"] else []
    return [*(f"Is there a {kind}?" for kind in kinds), *between, "Is that all?"]


def self_answers(picture: Picture, prompt: Prompt) -> list[bool]:
    """What the checker would answer to `self_questions`."""
    found, need = look(picture, crowded(prompt.tags)), wanted(prompt.tags)
    seen = Counter(thing.kind for thing in found)
    there = [seen[kind] == count if prompt.tags["count"] else seen[kind] >= count for kind, count in need.items()]
    if crowded(prompt.tags):
        missing = absent(found, prompt.tags)
        there = [kind not in missing for kind in need]
    between = [holds(found, prompt.tags)] if prompt.tags["relation"] else []
    return [*there, *between, set(seen) <= set(need) and (seen <= need or prompt.tags["count"] is not None)]


def self_play(taught: Lesson, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) pairs: the questions that follow from the prompt, and two of them answered."""
    questions, answers = self_questions(taught.prompt), self_answers(taught.image, taught.prompt)
    some = rng.permutation(len(questions))[:2].tolist()
    start = f"Prompt: {taught.prompt.text}\n"
    return [
        (start + "Write questions.", "\n".join(questions)),
        *((start + questions[i], "yes" if answers[i] else "no") for i in some),
    ]
