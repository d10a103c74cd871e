"""Captions for images at hand: true ones, near misses, images that miss their caption; self-play's yes and no."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from rows import each_row
from scenes import as_found

from pretraining import captions, examples
from pretraining.scenes import Object, compose, draw, random_prompt
from srum_benchmarks.shapes import world
from srum_benchmarks.shapes.checker import check, look
from srum_core.records import Prompt

RED_CIRCLE = Object("red", "circle", 2, 3, 9)
MANY, FEW = 2000, 300
"""Draws; few where pixels are read."""


def train_pairs_and_counts_only(prompt: Prompt) -> bool:
    """Worked out from the splits themselves, not with what is under test."""
    kinds = [(colour, shape) for colour, shape in prompt.tags["objects"]]
    if prompt.tags["count"]:
        return world.count_split()[kinds[0], prompt.tags["count"]] == "train"
    return all(world.pair_split()[world.pair(*two)] == "train" for two in combinations(kinds, 2))


def test_a_fulfilled_prompt_is_judged_right_on_the_very_image_and_is_of_the_train_split():
    rng = np.random.default_rng(1)
    none, categories = 0, Counter()
    for _ in range(FEW):
        image = draw(compose(random_prompt(rng).tags, rng))
        prompt = captions.fulfilled(look(image), rng)
        if prompt is None:
            none += 1
            continue
        assert check(image, prompt.tags).correct, prompt.text
        assert train_pairs_and_counts_only(prompt), prompt.text
        categories[prompt.tags["category"]] += 1
    assert none < 0.1 * FEW
    assert set(categories) == set(world.CATEGORIES)


def test_images_of_held_out_combinations_are_given_no_words_that_hold_them():
    rng = np.random.default_rng(2)
    for split in ("dev", "test"):
        for category in world.CATEGORIES:
            for _ in range(MANY // 16):
                scene = compose(random_prompt(rng, split, category).tags, rng)
                assert captions.fulfilled(as_found(scene), rng) is None


def test_what_no_prompt_asks_for_is_given_no_words():
    rng = np.random.default_rng(0)
    blob = draw([RED_CIRCLE])
    blob[24:28, 10:20] = world.PALETTE["green"]
    pair = [
        RED_CIRCLE,
        Object("red", "circle", 20, 3, 9),
        Object("blue", "cross", 2, 20, 9),
    ]  # two of one, one of another
    five = [Object("red", "square", x, y, 9) for x, y in ((1, 1), (12, 1), (23, 1), (1, 12), (12, 12))]
    for image in (draw([]), draw([RED_CIRCLE]), blob, draw(pair), draw(five)):
        assert captions.fulfilled(look(image), rng) is None


def changes(one: Prompt, other: Prompt) -> int:
    """How many of objects, relation and count differ: an object that is there or not, in one colour or one shape."""
    before, after = world.wanted({**one.tags, "count": None}), world.wanted({**other.tags, "count": None})
    objects = max((before - after).total(), (after - before).total())
    return objects + sum(one.tags[key] != other.tags[key] for key in ("relation", "count"))


def test_a_near_miss_is_a_train_prompt_that_differs_in_one_thing():
    rng = np.random.default_rng(3)
    for _ in range(MANY):
        prompt = random_prompt(rng)
        miss = captions.near_miss(prompt, rng)
        assert train_pairs_and_counts_only(miss), (prompt.text, miss.text)
        most = 2 if swapped(prompt, miss) else 1
        assert changes(prompt, miss) <= most, (prompt.text, miss.text)


def test_a_near_miss_never_asks_for_the_same_in_other_words():
    rng = np.random.default_rng(9)
    for _ in range(FEW):
        prompt = random_prompt(rng)
        miss = captions.near_miss(prompt, rng)
        scenes = (draw(compose(prompt.tags, rng)) for _ in range(12))
        assert not all(check(scene, miss.tags).correct for scene in scenes), (prompt.text, miss.text)


def swapped(one: Prompt, other: Prompt) -> bool:
    """Whether the first two objects have changed colours with each other."""
    (a, b), (c, d) = one.tags["objects"][0], other.tags["objects"][0]
    if len(one.tags["objects"]) < 2 or len(other.tags["objects"]) < 2:
        return False
    (e, f), (g, h) = one.tags["objects"][1], other.tags["objects"][1]
    return (a, e, b, f) == (g, c, d, h)


def test_near_misses_of_a_true_caption_are_mostly_judged_wrong():
    rng = np.random.default_rng(4)
    wrong: dict[str, list[bool]] = {category: [] for category in world.CATEGORIES}
    for _ in range(FEW):
        image = draw(compose(random_prompt(rng).tags, rng))
        true = captions.fulfilled(look(image), rng)
        if true is not None:
            miss = captions.near_miss(true, rng)
            wrong[true.tags["category"]].append(not check(image, miss.tags).correct)
    assert np.mean([each for found in wrong.values() for each in found]) > 0.75
    for category, found in wrong.items():
        assert np.mean(found) > 0.6, category


@each_row("category", world.CATEGORIES)
def test_a_share_of_images_misses_its_caption_cleanly_and_in_the_listed_ways(category):
    rng = np.random.default_rng(5)
    missed, count = Counter(), 200
    for _ in range(count):
        prompt = random_prompt(rng, "train", category)
        scene = compose(prompt.tags, rng)
        verdict = check(captions.image_for(prompt, scene, 0.4, rng), prompt.tags)
        assert all(thing.shape for thing in verdict.things), "what is drawn instead is cleanly drawn"
        if not verdict.correct:
            more = len(verdict.things) - len(scene)
            relation = verdict.detail.startswith("not ") and not verdict.detail.startswith("not asked")
            missed["extra" if more > 0 else "fewer" if more < 0 else "relation" if relation else "changed"] += 1
    assert missed.total() / count == pytest.approx(0.4 * captions.FEWER.get(category, 1.0), abs=0.09)
    ways = {name for name, _ in captions.MISSES[category]}
    names = {"extra": "extra", "wrong relation": "relation", "wrong colour": "changed", "wrong shape": "changed"}
    allowed = {names[way] for way in ways} | ({"fewer"} if category == "numeracy" else set())  # four become three
    assert set(missed) == allowed
    shares = dict(captions.MISSES[category])
    if "wrong colour" in shares:
        extra = missed["extra"] / missed.total()
        assert extra == pytest.approx(shares["extra"], abs=0.2)


def test_without_a_share_every_image_is_as_its_caption_says():
    rng = np.random.default_rng(6)
    for _ in range(40):
        prompt = random_prompt(rng)
        assert check(captions.image_for(prompt, compose(prompt.tags, rng), 0.0, rng), prompt.tags).correct


# --- self-play: questions that follow from a prompt, and what the checker answers ---


def test_self_questions_ask_for_every_object_the_relation_the_count_and_the_rest():
    red, blue = ("red", "circle"), ("blue", "cross")
    both = ["Is there a red circle?", "Is there a blue cross?"]
    assert examples.self_questions(world.binding(red, blue)) == [*both, "Is that all?"]
    relation = "Is the red circle above the blue cross?"
    assert examples.self_questions(world.spatial(red, blue, "above")) == [*both, relation, "Is that all?"]
    assert examples.self_questions(world.numeracy(blue, 3)) == ["Are there three blue crosses?", "Is that all?"]


def test_every_self_question_is_answered():
    rng = np.random.default_rng(7)
    for _ in range(60):
        taught = examples.lesson(rng)
        questions = examples.self_questions(taught.prompt)
        assert len(examples.self_answers(taught.image, taught.prompt)) == len(questions)
        (ask, written), *answered = examples.self_play(taught, rng)
        assert ask.endswith("Write questions.")
        assert written.split("\n") == questions
        assert len(answered) == 2
        for question, answer in answered:
            start, last = question.rsplit("\n", 1)
            assert start == f"Prompt: {taught.prompt.text}"
            truth = dict(zip(questions, examples.self_answers(taught.image, taught.prompt), strict=True))
            assert answer == ("yes" if truth[last] else "no")


def test_every_self_answer_is_yes_if_and_only_if_the_checker_says_right():
    rng = np.random.default_rng(8)
    for _ in range(400):
        taught = examples.lesson(rng)
        correct = check(taught.image, taught.prompt.tags).correct
        assert all(examples.self_answers(taught.image, taught.prompt)) == correct, taught.prompt.text


def test_a_second_one_of_what_was_asked_for_is_not_all():
    two = draw([RED_CIRCLE, Object("red", "circle", 20, 3, 9), Object("blue", "cross", 2, 20, 9)])
    assert examples.self_answers(two, world.binding(("red", "circle"), ("blue", "cross"))) == [True, True, False]
