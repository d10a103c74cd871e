"""What the bundled model's understanding side learns from: images, right and wrong, with the words that judge them.

An image is rendered for a prompt, perhaps corrupted, perhaps shown with another prompt, perhaps given the appearance of
a generated one. Its labels then come from the exact checker on the final image (`appraise`), so the target answers
agree with the benchmark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pretraining.captions import image_for
from pretraining.corruptions import DAMAGES, corrupt, model_like
from pretraining.scenes import compose, draw, random_prompt
from srum_benchmarks.shapes.appraisal import Lesson, appraise
from srum_benchmarks.shapes.checker import PixelBox, Pixels, absent, holds, look
from srum_benchmarks.shapes.crowded import cell_of
from srum_benchmarks.shapes.world import COUNTS, SIDE, crowded, plural, wanted
from srum_core.records import Prompt

CLEAN, MISMATCHED = 0.4, 0.2
"""Share of examples with a clean image, and with an image for another prompt (the others are corrupted)."""
SPECIAL = {"spatial relation": "wrong relation", "numeracy": "wrong count", "list with places": "wrong relation"}
AS_TAUGHT = 0.2
"""Share, in the crowded world, of images that deviate from their caption like those of the generation data."""
SPECIAL_SHARE = 0.4
"""Of the spoilt images of these categories, the share with the mistake that is particular to them."""
MODEL_LIKE = 0.6
"""Share of images that get the appearance of generated ones."""


Propose = Callable[[Pixels], Sequence[PixelBox]]


def lesson(
    rng: np.random.Generator, split: str = "train", propose: Propose | None = None, world: str = "shapes"
) -> Lesson:
    """A random image with a prompt of this split, and its correct judgement (and that of proposed boxes)."""
    prompt = random_prompt(rng, split, world=world)
    crowd = crowded(prompt.tags)
    generate_for, kind = prompt, "clean"
    fate = rng.random()
    if CLEAN <= fate < CLEAN + MISMATCHED:
        kind = "mismatched"
        generate_for = random_prompt(rng, split, prompt.tags["category"] if rng.random() < 0.5 else None, world)
    scene = compose(generate_for.tags, rng)
    if fate < CLEAN + MISMATCHED:
        image = draw(scene)
    elif crowd and rng.random() < AS_TAUGHT / (1 - CLEAN - MISMATCHED):
        kind, image = "as taught", image_for(prompt, scene, 1.0, rng)
    else:
        kind = DAMAGES[rng.integers(len(DAMAGES))]
        special = SPECIAL.get(prompt.tags["category"])
        if special and (kind == "wrong relation" or rng.random() < SPECIAL_SHARE):
            kind = special
        image = corrupt(kind, scene, prompt.tags, rng)
    if rng.random() < MODEL_LIKE:
        image = model_like(image, rng, crowd)
    return appraise(image, prompt, kind, propose(image) if propose else None)


def layout_answer(lesson: Lesson) -> str:
    """The answer about the whole image, in the words that the judge reads: first what there is to see and where its
    middle is (row and column of an 8 × 8 grid), then the score. In the crowded world the row and the column are those
    of the cell, from 1, and what is missing is named before the score."""
    score = f"Score: {lesson.score:.1f}\nReason: {lesson.reason}"
    if crowded(lesson.prompt.tags):
        lines = [f"{part.label} {row} {column}" for part in lesson.parts for row, column in [_cell(part.box)]]
        missing = [f"{colour} {shape}" for colour, shape in lesson.missing]
        return f"{', '.join(lines) or 'nothing'}\nMissing: {', '.join(missing) or 'none'}\n{score}"
    places = ", ".join(f"{part.label} {_eighth(part.box[1::2])} {_eighth(part.box[::2])}" for part in lesson.parts)
    return f"{places or 'nothing'}\n{score}"


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


def exchanges(lesson: Lesson, layout: str, regions: str) -> list[tuple[str, str]]:
    """(question, answer) pairs from the judges' templates, with {prompt} and {regions}; no regions, no regional one."""
    pairs = [(layout, layout_answer(lesson))]
    if lesson.parts:
        pairs.append((regions, regions_answer(lesson)))
    boxes = [f"Bounding Box: [{', '.join(map(str, part.box))}]\n" for part in lesson.parts]
    listing = "---\n".join(f"Region ID: {i}\n{box}" for i, box in enumerate(boxes, 1))
    return [(q.replace("{prompt}", lesson.prompt.text).replace("{regions}", listing), a) for q, a in pairs]


def self_questions(prompt: Prompt) -> list[str]:
    """What to ask about an image for this prompt; every answer is yes if, and only if, the image is as asked."""
    tags = prompt.tags
    kinds = [f"{colour} {shape}" for colour, shape in tags["objects"]]
    if tags["count"]:
        colour, shape = tags["objects"][0]
        return [f"Are there {COUNTS[tags['count']]} {colour} {plural(shape)}?", "Is that all?"]
    if crowded(tags):
        kinds = [f"{kind} in {place}" if place else kind for kind, place in zip(kinds, tags["places"], strict=True)]
    between = [f"Is the {kinds[0]} {tags['relation']} the {kinds[1]}?"] if tags["relation"] else []
    return [*(f"Is there a {kind}?" for kind in kinds), *between, "Is that all?"]


def self_answers(image: Pixels, prompt: Prompt) -> list[bool]:
    """What the checker would answer to `self_questions`."""
    things, need = look(image, crowded(prompt.tags)), wanted(prompt.tags)
    counts = Counter(thing.kind for thing in things)
    there = [counts[kind] == count if prompt.tags["count"] else counts[kind] >= count for kind, count in need.items()]
    if crowded(prompt.tags):
        missing = absent(things, prompt.tags)
        there = [kind not in missing for kind in need]
    between = [holds(things, prompt.tags)] if prompt.tags["relation"] else []
    return [*there, *between, set(counts) <= set(need) and (counts <= need or prompt.tags["count"] is not None)]


def self_play(example: Lesson, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) pairs: the questions that follow from the prompt, and two of them answered."""
    questions, answers = self_questions(example.prompt), self_answers(example.image, example.prompt)
    some = rng.permutation(len(questions))[:2].tolist()
    start = f"Prompt: {example.prompt.text}\n"
    return [
        (start + "Write questions.", "\n".join(questions)),
        *((start + questions[i], "yes" if answers[i] else "no") for i in some),
    ]
