"""The bundled world of shapes: splits, scenes, the exact checker, lessons and the benchmark."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from PIL import Image
from rows import each_row
from scenes import as_found

import srum_benchmarks
from pretraining import corruptions, examples
from pretraining import scenes as render
from pretraining.scenes import Object, draw
from srum_benchmarks import ShapesOptions
from srum_benchmarks.shapes import appraisal, checker, world
from srum_benchmarks.shapes.benchmark import Shapes
from srum_core.errors import ConfigError, RecordError
from srum_core.records import Candidate, Prompt
from srum_judges.grounders.components import Components
from srum_judges.options import ComponentsOptions
from srum_judges.parsing import read_regions, read_whole

RED_CIRCLE = Object("red", "circle", 2, 3, 9)
BLUE_SQUARE = Object("blue", "square", 18, 5, 10)
BINDING = world.binding(RED_CIRCLE.kind, BLUE_SQUARE.kind)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scenes(count: int, split: str = "test") -> list[tuple[Prompt, render.Scene]]:
    """Scenes for random prompts, every category equally often."""
    source = rng()
    asked = [render.random_prompt(source, split, category) for category in world.CATEGORIES for _ in range(count // 4)]
    return [(prompt, render.compose(prompt.tags, source)) for prompt in asked]


# --- what is asked ---


def test_a_fifth_of_pairs_and_a_quarter_of_counts_are_held_out():
    pairs, counts = Counter(world.pair_split().values()), Counter(world.count_split().values())
    assert pairs == {"train": 221, "dev": 28, "test": 27}
    assert counts == {"train": 54, "dev": 9, "test": 9}
    held = [kind for (kind, _), split in world.count_split().items() if split != "train"]
    assert len(set(held)) == len(held)


def test_no_prompt_and_no_held_out_combination_is_in_two_splits():
    texts = {split: [p.text for c in world.CATEGORIES for p in world.every_prompt(split, c)] for split in world.SPLITS}
    for split in world.SPLITS:
        assert len(set(texts[split])) == len(texts[split])
        for prompt in (p for c in world.CATEGORIES for p in world.every_prompt(split, c)):
            assert prompt.text == prompt.text.lower()
            kinds = list(world.wanted(prompt.tags))
            if prompt.tags["count"]:
                assert world.count_split()[kinds[0], prompt.tags["count"]] == split
            else:
                used = {world.pair_split()[world.pair(*two)] for two in combinations(kinds, 2)}
                assert used - {"train"} == ({split} - {"train"})
    for one, other in combinations(world.SPLITS, 2):
        assert not set(texts[one]) & set(texts[other])


def test_prompts_are_stable_balanced_and_a_prefix_of_the_longer_list():
    few, many = world.prompts("test", 40), world.prompts("test", 400)
    assert many[:40] == few
    assert few[7].id == "shapes-test-0007"
    assert few[0].text == "a drawing of a cyan square and a blue square"  # the hash must never change
    assert len({p.text for p in many}) == len({p.id for p in many}) == 400
    assert set(Counter(p.tags["category"] for p in many).values()) == {100}
    assert {p.text for p in world.prompts("test", 40, seed=1)} != {p.text for p in few}
    assert {p.id for p in world.prompts("test", 40, seed=1)}.isdisjoint(p.id for p in few)


@each_row("split", world.SPLITS)
def test_without_a_count_every_category_gives_equally_and_with_a_large_one_the_others_fill_up(split):
    assert len(set(Counter(p.tags["category"] for p in world.prompts(split)).values())) == 1
    everything = sum(len(world.every_prompt(split, category)) for category in world.CATEGORIES)
    assert len(world.prompts(split, everything)) == everything
    with pytest.raises(ConfigError, match=f"has {everything} prompts, not {everything + 1}"):
        world.prompts(split, everything + 1)


def test_an_unknown_split_is_named():
    with pytest.raises(ConfigError, match="no split 'tets'; it has train, dev, test"):
        world.prompts("tets")


@each_row("split, category", product(world.SPLITS, world.CATEGORIES))
def test_random_prompts_stay_in_their_split(split, category):
    known = {p.text for p in world.every_prompt(split, category)}
    source = rng()
    assert all(render.random_prompt(source, split, category).text in known for _ in range(100))


# --- scenes and the checker ---


def test_every_scene_is_read_back_exactly_and_judged_right():
    for prompt, scene in scenes(2000):
        verdict = checker.check(draw(scene), prompt.tags)
        assert verdict.correct, (prompt.text, verdict.detail)
        assert verdict.fidelity == 1
        assert verdict.things == as_found(scene)


def test_objects_keep_their_distance():
    for _, scene in scenes(400):
        for one, other in combinations(scene, 2):
            across = max(one.x, other.x) - min(one.x + one.size, other.x + other.size)
            down = max(one.y, other.y) - min(one.y + one.size, other.y + other.size)
            assert max(across, down) >= render.GAP


def test_related_objects_stand_clearly_apart():
    for prompt, scene in scenes(400):
        if prompt.tags["relation"]:
            first, second = (thing.centre for thing in scene)
            assert render.related(first, second, prompt.tags["relation"], least=11, lean=3)


def test_noise_of_8_levels_and_a_slight_blur_change_nothing():
    source = rng()
    for prompt, scene in scenes(800):
        for side in (0.0, 0.25):
            noisy = corruptions.blur(draw(scene).astype(float), side) + source.uniform(-8, 8, (32, 32, 3))
            verdict = checker.check(np.clip(noisy, 0, 255).astype(np.uint8), prompt.tags)
            assert verdict.correct, (prompt.text, verdict.detail)


@each_row("damage", corruptions.DAMAGES)
def test_damage_is_judged_wrong(damage):
    certain = damage not in ("smear", "blur", "merged", "mixed")  # of these a little may be too little to matter
    source = rng()
    wrong = []
    for prompt, scene in scenes(240):
        verdict = checker.check(corruptions.corrupt(damage, scene, prompt.tags, source), prompt.tags)
        wrong.append(not verdict.correct)
        assert not certain or wrong[-1], (damage, prompt.text)
    assert np.mean(wrong) > 0.7


def test_a_smear_keeps_the_palette_and_a_blur_does_not():
    known = {world.BACKGROUND, *world.PALETTE.values()}
    for damage, crisp in (("smear", True), ("blur", False)):
        image = corruptions.corrupt(damage, (RED_CIRCLE, BLUE_SQUARE), BINDING.tags, rng())
        assert ({tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} <= known) == crisp


def test_what_is_wrong_is_said_and_fidelity_counts_the_objects_found():
    def verdict(*things: Object, prompt: Prompt = BINDING) -> tuple[bool, float, str]:
        found = checker.check(draw(things), prompt.tags)
        return found.correct, found.fidelity, found.detail

    third = Object("green", "cross", 10, 20, 11)
    assert verdict(RED_CIRCLE, BLUE_SQUARE) == (True, 1, "all as asked")
    assert verdict(RED_CIRCLE) == (False, 0.5, "missing: blue square")
    assert verdict() == (False, 0, "missing: red circle")
    assert verdict(RED_CIRCLE, BLUE_SQUARE, third) == (False, 1, "not asked for: green cross")
    cyan, twice = evolve(BLUE_SQUARE, colour="cyan"), evolve(RED_CIRCLE, x=BLUE_SQUARE.x, y=BLUE_SQUARE.y)
    assert verdict(RED_CIRCLE, cyan) == (False, 0.5, "not asked for: cyan square; missing: blue square")
    assert verdict(RED_CIRCLE, twice) == (False, 0.5, "one too many: red circle; missing: blue square")
    left = world.spatial(RED_CIRCLE.kind, BLUE_SQUARE.kind, "left of")
    right = world.spatial(RED_CIRCLE.kind, BLUE_SQUARE.kind, "right of")
    assert verdict(RED_CIRCLE, BLUE_SQUARE, prompt=left) == (True, 1, "all as asked")
    assert verdict(RED_CIRCLE, BLUE_SQUARE, prompt=right) == (False, 1, "not right of")
    diagonal = evolve(BLUE_SQUARE, x=6, y=20)  # further below than to the right
    assert verdict(RED_CIRCLE, diagonal, prompt=left) == (False, 1, "not left of")


def test_specks_do_not_count_but_blobs_and_faint_shapes_do():
    image = draw([RED_CIRCLE, BLUE_SQUARE])
    speck, blob = image.copy(), image.copy()
    speck[26:28, 10:13] = world.PALETTE["green"]
    blob[24:28, 10:20] = world.PALETTE["green"]
    assert checker.check(speck, BINDING.tags).correct
    assert checker.check(blob, BINDING.tags).detail == "not asked for: green blob"
    faint = np.where(image == 232, 232, 0.4 * 232 + 0.6 * image).astype(np.uint8)
    assert [found.shape for found in checker.look(faint)] == [None, None]


def test_components_agree_with_a_flood_fill():
    source = rng()
    for _ in range(30):
        labels = source.integers(-1, 2, (9, 12))
        seen = np.zeros(labels.shape, bool)
        expected = []
        for start in zip(*np.nonzero(labels >= 0), strict=True):
            area, todo = np.zeros(labels.shape, bool), [] if seen[start] else [start]
            while todo:
                y, x = todo.pop()
                if area[y, x]:
                    continue
                area[y, x] = seen[y, x] = True
                near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                todo += [(b, a) for b, a in near if 0 <= b < 9 and 0 <= a < 12 and labels[b, a] == labels[start]]
            if area.any():
                expected.append(area)
        found = checker.components(labels)
        assert {area.tobytes() for area in found} == {area.tobytes() for area in expected}
        assert len(found) == len(expected)


def test_things_are_numbered_row_by_row():
    things = [Object("red", "square", x, y, 9) for x, y in ((20, 1), (1, 4), (1, 20), (20, 18))]
    boxes = [found.box[:2] for found in checker.look(draw(things))]
    assert boxes == [(1, 4), (20, 1), (1, 20), (20, 18)]


# --- lessons ---


def test_lessons_say_what_the_checker_says_and_never_use_held_out_prompts():
    source = rng()
    known = {p.text for category in world.CATEGORIES for p in world.every_prompt("train", category)}
    whole, parts = Counter(), Counter()
    for _ in range(600):
        lesson = examples.lesson(source)
        assert lesson.prompt.text in known
        assert lesson.image.shape == (32, 32, 3)
        assert lesson.image.dtype == np.uint8
        verdict = checker.check(lesson.image, lesson.prompt.tags)
        assert verdict.correct == (lesson.score == 1.0) == (lesson.reason == appraisal.ALL_RIGHT)
        assert verdict.correct or -1 <= lesson.score <= 0.2
        assert [part.box for part in lesson.parts] == [found.box for found in verdict.things]
        whole[lesson.reason] += 1
        parts.update(part.reason for part in lesson.parts)
    assert set(whole) == {appraisal.ALL_RIGHT, *appraisal.FAULTS} - {appraisal.PLACE}
    assert set(parts) == set(appraisal.REGION_SCORES) - {appraisal.PLACE}
    assert 0.3 < whole[appraisal.ALL_RIGHT] / 600 < 0.5


def test_proposed_boxes_are_judged_in_their_order():
    boxes = [(17, 5, 28, 16), (0, 25, 4, 32), (2, 3, 11, 11)]
    source = examples.lesson(rng(), propose=lambda image: boxes)
    assert [part.box for part in source.parts] == boxes
    lesson = appraisal.appraise(draw([RED_CIRCLE, BLUE_SQUARE]), BINDING, boxes=boxes)
    assert [(part.box, part.label) for part in lesson.parts] == list(
        zip(boxes, ["blue square", "blurred blob", "red circle"], strict=True)
    )
    assert [part.score for part in lesson.parts] == [1.0, -0.8, 1.0]
    assert lesson.score == 1.0


def test_the_grounder_of_the_shapes_preset_proposes_the_things_that_the_checker_finds(tmp_path):
    grounder = Components(ComponentsOptions(tolerance=96, min_area=8, connectivity=4))
    source = rng()
    for prompt, scene in scenes(80):
        soft = corruptions.blur(draw(scene).astype(float), 0.1) + source.normal(0, 3, (32, 32, 3))
        image = np.clip(soft, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "x.png")
        regions = grounder.regions(Candidate("x", prompt, tmp_path / "x.png", (32, 32), 0), ())
        boxes = [tuple(round(32 * edge) for edge in region.box) for region in regions]
        assert boxes == [found.box for found in checker.look(image)]


def test_the_same_seed_teaches_the_same_lesson():
    one, other = examples.lesson(rng(3)), examples.lesson(rng(3))
    assert (one.image == other.image).all()
    assert examples.exchanges(one, "{prompt}", "{prompt}{regions}") == examples.exchanges(
        other, "{prompt}", "{prompt}{regions}"
    )


THREE = world.numeracy(("red", "circle"), 3)
SPATIAL = world.spatial(RED_CIRCLE.kind, BLUE_SQUARE.kind, "below")
SECOND = evolve(RED_CIRCLE, y=20)


@each_row(
    "prompt, scene, score, reason, parts",
    [
        (BINDING, (RED_CIRCLE, BLUE_SQUARE), 1.0, "all as asked", ["as asked", "as asked"]),
        (BINDING, (RED_CIRCLE,), -0.2, "missing object", ["as asked"]),
        (BINDING, (), -1.0, "missing object", []),
        (BINDING, (evolve(RED_CIRCLE, colour="cyan"), BLUE_SQUARE), -0.2, "wrong colour", ["wrong colour", "as asked"]),
        (BINDING, (evolve(RED_CIRCLE, shape="cross"), BLUE_SQUARE), -0.2, "wrong shape", ["wrong shape", "as asked"]),
        (BINDING, (Object("green", "cross", 2, 3, 9), BLUE_SQUARE), -0.2, "wrong object", ["wrong object", "as asked"]),
        (BINDING, (RED_CIRCLE, BLUE_SQUARE, SECOND), 0.0, "extra object", ["as asked", "as asked", "extra object"]),
        (SPATIAL, (RED_CIRCLE, BLUE_SQUARE), -0.2, "wrong relation", ["as asked", "as asked"]),
        (THREE, (RED_CIRCLE, SECOND), 0.0, "wrong count", ["as asked", "as asked"]),
        (THREE, (RED_CIRCLE, evolve(SECOND, colour="blue")), -0.4, "wrong colour", ["as asked", "wrong colour"]),
    ],
)
def test_what_is_said_of_an_image(prompt, scene, score, reason, parts):
    lesson = appraisal.appraise(draw(scene), prompt)
    assert (lesson.score, lesson.reason) == (score, reason)
    assert [part.reason for part in lesson.parts] == parts
    assert [part.score for part in lesson.parts] == [appraisal.REGION_SCORES[why] for why in parts]


def test_answers_and_questions_read_as_the_judges_write_them():
    things = draw([RED_CIRCLE, evolve(BLUE_SQUARE, colour="cyan")])
    (layout, layout_answer), (regions, regions_answer) = examples.exchanges(
        appraisal.appraise(things, BINDING), "Prompt: {prompt}\nRate it.", "Prompt: {prompt}\n{regions}Rate each."
    )
    assert layout == "Prompt: a red circle and a blue square\nRate it."
    assert layout_answer == "red circle 1 1, cyan square 2 5\nScore: -0.2\nReason: wrong colour"
    assert regions == (
        "Prompt: a red circle and a blue square\nRegion ID: 1\nBounding Box: [2, 3, 11, 12]\n---\n"
        "Region ID: 2\nBounding Box: [18, 5, 28, 15]\nRate each."
    )
    assert regions_answer == (
        "Region ID: 1\nIdentified Object: red circle\nScore: 1.0\nReason: as asked\n---\n"
        "Region ID: 2\nIdentified Object: cyan square\nScore: -0.6\nReason: wrong colour"
    )


def test_the_answer_about_the_whole_image_lists_what_is_seen_and_where_its_middle_is():
    def seen(*things: Object) -> str:
        return examples.layout_answer(appraisal.appraise(draw(things), BINDING)).splitlines()[0]

    corner = Object("green", "cross", 21, 21, 11)  # pixels 21 to 31: its middle is in the seventh of eight parts
    assert seen(RED_CIRCLE, corner) == "red circle 1 1, green cross 6 6"
    assert seen(Object("blue", "square", 0, 20, 9)) == "blue square 6 1", "the row comes first"
    assert seen() == "nothing"
    blob = draw([])
    blob[24:28, 10:20] = world.PALETTE["green"]
    assert examples.layout_answer(appraisal.appraise(blob, BINDING)).startswith("blurred blob 6 3\nScore:")


def test_every_answer_is_read_back_by_the_judges():
    source = rng()
    for _ in range(200):
        lesson = examples.lesson(source)
        assert len(examples.layout_answer(lesson).splitlines()) == 3
        whole = read_whole(examples.layout_answer(lesson))
        assert (whole.value, whole.reason) == (lesson.score, lesson.reason)
        if lesson.parts:
            ids = [str(i) for i, _ in enumerate(lesson.parts, 1)]
            read = read_regions(examples.regions_answer(lesson), ids)
            said = [(part.score, part.reason, part.label) for part in lesson.parts]
            assert [(reading.value, reading.reason, reading.label) for reading in read.values()] == said


def test_an_empty_image_has_no_regional_question():
    assert len(examples.exchanges(appraisal.appraise(draw(()), BINDING), "{prompt}", "{regions}")) == 1


# --- the benchmark and the prompt lists ---


def candidate(folder: Path, prompt: Prompt, scene: tuple[Object, ...], size: int = 32) -> Candidate:
    path = folder / f"{len(list(folder.iterdir()))}.png"
    Image.fromarray(draw(scene)).resize((size, size)).save(path)
    return Candidate(path.stem, prompt, path, (size, size), seed=0)


def test_the_benchmark_scores_stored_images(tmp_path):
    shapes = Shapes()
    good, bad = (candidate(tmp_path, BINDING, scene) for scene in ((RED_CIRCLE, BLUE_SQUARE), (RED_CIRCLE,)))
    assert shapes.questions(good) == ()
    assert shapes.score(good, ()) == {"correct": 1.0, "fidelity": 1.0}
    assert shapes.score(bad, ()) == {"correct": 0.0, "fidelity": 0.5}


def test_an_image_that_cannot_be_checked_is_refused(tmp_path):
    with pytest.raises(RecordError, match="has 64×64"):
        Shapes().score(candidate(tmp_path, BINDING, (), size=64), ())
    with pytest.raises(RecordError, match="does not say which objects"):
        Shapes().score(candidate(tmp_path, Prompt("x", "a cat"), ()), ())


def test_the_table_has_categories_totals_and_errors_clustered_by_prompt():
    other = world.binding(("green", "cross"), ("cyan", "square"))
    asked = [BINDING, BINDING, other, other, THREE]
    values = [1.0, 1.0, 0.0, 1.0, 0.0]
    images = [Candidate(str(i), p, Path("x.png"), (32, 32), 0) for i, p in enumerate(asked)]
    scored = [(c, {"correct": v, "fidelity": 1.0}) for c, v in zip(images, values, strict=True)]
    binding, numeracy, accuracy, fidelity = Shapes().table(scored)
    assert (binding.name, binding.value, binding.count) == ("attribute binding", 0.75, 4)
    assert binding.error == pytest.approx(np.sqrt(2 * (0.5**2 + 0.5**2)) / 4)
    assert (numeracy.name, numeracy.value, numeracy.count, numeracy.error) == ("numeracy", 0.0, 1, None)
    assert (accuracy.name, accuracy.value, accuracy.count) == ("accuracy", 0.6, 5)
    assert accuracy.error == pytest.approx(np.sqrt(1.5 * (0.8**2 + 0.2**2 + 0.6**2)) / 5)
    assert (fidelity.name, fidelity.value, fidelity.error) == ("fidelity", 1.0, None)
    assert (fidelity.low, fidelity.high) == pytest.approx((0.4385, 1.0), abs=1e-4)  # Wilson, 3 prompts of 3
    assert Shapes().table([]) == []


def test_the_benchmark_takes_count_and_seed():
    assert len(Shapes().prompts("test")) == 256
    assert len(Shapes(ShapesOptions(count=0)).prompts("test")) == len(world.prompts("test"))
    assert Shapes(ShapesOptions(count=8, seed=2)).prompts("dev") == world.prompts("dev", 8, 2)


def test_prompt_sources():
    source = srum_benchmarks.srum_prompts
    assert source("shapes:train:256") == world.prompts("train", 256)
    assert source("shapes:test") == world.prompts("test")
    assert source("somebody's") is None
    with pytest.raises(ConfigError, match="'many' is not a number"):
        source("shapes:train:many")


def test_the_starter_prompts_are_64_different_ones_in_eight_categories():
    prompts = srum_benchmarks.srum_prompts("starter")
    assert len({p.text for p in prompts}) == len({p.id for p in prompts}) == 64
    assert set(Counter(p.tags["category"] for p in prompts).values()) == {8}
