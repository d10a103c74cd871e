"""Examples for understanding: right and wrong images with their judgements.

An image is rendered for a prompt, perhaps corrupted, shown with another prompt, or given the appearance of a generated
one. The exact checker labels the final image (`appraise`), so that target answers agree with the benchmark.
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
"""Share of examples with a clean image, and with an image of another prompt; the others are corrupted."""
SPECIAL = {"spatial relation": "wrong relation", "numeracy": "wrong count", "list with places": "wrong relation"}
AS_TAUGHT = 0.2
"""Share, in the crowded world, of images that deviate from their caption like those of the generation data."""
SPECIAL_SHARE = 0.4
"""Share, among corrupted images of these categories, of their particular mistake."""
MODEL_LIKE = 0.6
"""Share of images that get the appearance of generated ones."""


Propose = Callable[[Pixels], Sequence[PixelBox]]


def lesson(
    rng: np.random.Generator, split: str = "train", propose: Propose | None = None, world: str = "shapes"
) -> Lesson:
    """Return a random image with a prompt of this split, and its correct judgement (and that of proposed boxes)."""
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
    """Return the answer about the whole image, as the judge parses it: each object with its centre (row and column of
    an 8 × 8 grid), then the score. In the crowded world, row and column of the cell from 1, and missing objects before
    the score."""
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
    """Return the answer about the regions, as the judge parses it; empty without regions."""
    return "\n---\n".join(
        f"Region ID: {i}\nIdentified Object: {part.label}\nScore: {part.score:.1f}\nReason: {part.reason}"
        for i, part in enumerate(lesson.parts, 1)
    )


def exchanges(lesson: Lesson, layout: str, regions: str) -> list[tuple[str, str]]:
    """Return (question, answer) pairs from the judges' templates, with {prompt} and {regions}; the regional one only if
    there are regions."""
    pairs = [(layout, layout_answer(lesson))]
    if lesson.parts:
        pairs.append((regions, regions_answer(lesson)))
    boxes = [f"Bounding Box: [{', '.join(map(str, part.box))}]\n" for part in lesson.parts]
    listing = "---\n".join(f"Region ID: {i}\n{box}" for i, box in enumerate(boxes, 1))
    return [(q.replace("{prompt}", lesson.prompt.text).replace("{regions}", listing), a) for q, a in pairs]


def self_questions(prompt: Prompt) -> list[str]:
    """Return questions about an image; all answers are yes if, and only if, it fulfils the prompt."""
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
    """Answer `self_questions` by the checker."""
    things, need = look(image, crowded(prompt.tags)), wanted(prompt.tags)
    counts = Counter(thing.kind for thing in things)
    yes = [counts[kind] == count if prompt.tags["count"] else counts[kind] >= count for kind, count in need.items()]
    if crowded(prompt.tags):
        missing = absent(things, prompt.tags)
        yes = [kind not in missing for kind in need]
    between = [holds(things, prompt.tags)] if prompt.tags["relation"] else []
    return [*yes, *between, set(counts) <= set(need) and (counts <= need or prompt.tags["count"] is not None)]


def self_play(example: Lesson, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return (question, answer) pairs: one with the questions for the prompt, and two of these answered."""
    questions, answers = self_questions(example.prompt), self_answers(example.image, example.prompt)
    sample = rng.permutation(len(questions))[:2].tolist()
    start = f"Prompt: {example.prompt.text}\n"
    return [
        (start + "Write questions.", "\n".join(questions)),
        *((start + questions[i], "yes" if answers[i] else "no") for i in sample),
    ]
