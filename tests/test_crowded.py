"""The crowded world beside the world of shapes: splits, scenes, places, captions, lessons and the benchmark."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from PIL import Image
from rows import each_row
from scenes import as_found

import srum_benchmarks
from pretraining import captions, corruptions, curriculum, examples, judging, spread, vision_pretraining
from pretraining.scenes import Object, Scene, cell, compose, draw, hard_kinds, in_cell, random_prompt
from srum_benchmarks.shapes import appraisal, checker, world
from srum_benchmarks.shapes import crowded as crowd
from srum_benchmarks.shapes.appraisal import ShapesOracle
from srum_benchmarks.shapes.benchmark import Crowded, Shapes
from srum_core import plugins
from srum_core.config import load_settings
from srum_core.config.load import of_round
from srum_core.errors import ConfigError
from srum_core.records import Candidate, Prompt
from srum_judges.grounders.components import Components
from srum_judges.judges import load
from srum_judges.options import ComponentsOptions
from srum_judges.parsing import read_regions, read_whole

KINDS = (("red", "circle"), ("blue", "square"), ("green", "cross"), ("cyan", "triangle"))
LIST = crowd.listed(KINDS)
PLACED = crowd.listed(KINDS, ["row 1", "column 2", "row 4", "column 4"])
CELLS = (2, 5, 12, 7)
"""Where `PLACED` may have its objects."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(cells: tuple[int, ...] = CELLS, kinds: tuple[world.Kind, ...] = KINDS) -> Scene:
    return tuple(in_cell(kind, where, rng(where)) for kind, where in zip(kinds, cells, strict=True))


def scenes(count: int, split: str = "test") -> list[tuple[Prompt, Scene]]:
    source = rng()
    asked = [random_prompt(source, split, crowd.CATEGORIES[i % 2], "crowded") for i in range(count)]
    return [(prompt, compose(prompt.tags, source)) for prompt in asked]


# --- what is asked ---


@pytest.fixture(scope="module")
def lists() -> dict[str, list[Prompt]]:
    return {"train": crowd.prompts("train", 2000), "dev": crowd.prompts("dev"), "test": crowd.prompts("test")}


def test_a_held_out_prompt_has_a_pair_of_its_split_and_none_of_the_others(lists: dict[str, list[Prompt]]) -> None:
    assert {split: len(prompts) for split, prompts in lists.items()} == {"train": 2000, "dev": 512, "test": 512}
    for split, prompts in lists.items():
        for prompt in prompts:
            pairs = {world.pair_split()[world.pair(*two)] for two in combinations(world.wanted(prompt.tags), 2)}
            assert pairs - {"train"} == {split} - {"train"}
        assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == len(prompts)
        assert Counter(prompt.tags["category"] for prompt in prompts).keys() == set(crowd.CATEGORIES)
        counts = Counter(len(prompt.tags["objects"]) for prompt in prompts)
        assert min(counts[count] for count in crowd.COUNTS) >= len(prompts) // 3 - 2
        assert counts.keys() == set(crowd.COUNTS)


def test_prompts_are_stable_and_a_prefix_of_the_longer_list(lists: dict[str, list[Prompt]]) -> None:
    assert crowd.prompts("test", 7) == lists["test"][:7]
    assert lists["test"][0].id == "crowded-test-0000"
    first = "a red square, a purple circle, a cyan circle and a blue cross"
    assert lists["test"][0].text == first  # the hash must never change
    assert crowd.prompts("test", 7, seed=1)[0].text != lists["test"][0].text
    with pytest.raises(ConfigError, match="has 512 prompts, not 513"):
        crowd.prompts("dev", 513)
    with pytest.raises(ConfigError, match="no split 'tets'"):
        crowd.prompts("tets")


def test_every_prompt_names_different_kinds_and_either_no_place_or_one_for_each(lists: dict[str, list[Prompt]]) -> None:
    for prompt in (prompt for prompts in lists.values() for prompt in prompts):
        places, kinds = prompt.tags["places"], prompt.tags["objects"]
        assert len(places) == len(kinds) == len(world.wanted(prompt.tags))
        assert all(places) == any(places) == (prompt.tags["category"] == "list with places")
        assert set(places) <= {None, *crowd.PLACES}
        assert all(f"a {' '.join(kind)}" + (f" in {place}" if place else "") in prompt.text
                   for kind, place in zip(kinds, places, strict=True))  # fmt: skip


def test_prompt_sources() -> None:
    assert srum_benchmarks.srum_prompts("crowded:train:12") == crowd.prompts("train", 12)
    assert srum_benchmarks.srum_prompts("crowded:dev") == crowd.prompts("dev")
    with pytest.raises(ConfigError, match='should read "crowded:SPLIT:COUNT"'):
        srum_benchmarks.srum_prompts("crowded:train:many")


@pytest.mark.parametrize(("name", "category"), [("crowded", "list"), ("shapes", "attribute binding")])
def test_prompts_of_one_category(name: str, category: str) -> None:
    few = srum_benchmarks.srum_prompts(f"{name}:dev:5:{category}")
    assert few is not None
    assert {prompt.tags["category"] for prompt in few} == {category}
    assert few[0].id == f"{name}-{category.replace(' ', '-')}-dev-0000"
    options = srum_benchmarks.ShapesOptions(count=5, category=category)
    assert list((Crowded if name == "crowded" else Shapes)(options).prompts("dev")) == list(few)
    with pytest.raises(ConfigError, match=f"no category 'lists'.*{category}"):
        srum_benchmarks.srum_prompts(f"{name}:dev:5:lists")


def test_twelve_kinds_are_hard_and_always_the_same() -> None:
    hard = hard_kinds()
    assert all(shape == shown[1] for (_, shape), shown in hard.items())
    assert sorted(f"{' '.join(kind)} as {shown[0]}" for kind, shown in hard.items()) == [
        "blue circle as red", "cyan circle as purple", "cyan square as yellow", "cyan triangle as yellow",
        "green square as cyan", "purple cross as green", "purple square as green", "red square as blue",
        "red triangle as yellow", "yellow circle as cyan", "yellow square as blue", "yellow triangle as red",
    ]  # fmt: skip


# --- scenes and the checker ---


def test_every_scene_is_read_back_exactly_and_judged_right() -> None:
    for prompt, things in scenes(300):
        verdict = checker.check(draw(things), prompt.tags)
        assert verdict.correct, (prompt.text, verdict.detail)
        assert (verdict.fidelity, verdict.things) == (1, as_found(things))


def test_things_stand_in_cells_of_their_own_with_background_between_them() -> None:
    for _, things in scenes(300):
        assert len({cell(thing) for thing in things}) == len(things)
        for thing in things:
            assert thing.size in (6, 7)
            assert max(thing.x % crowd.SLOT, thing.y % crowd.SLOT) + thing.size < crowd.SLOT
        for one, other in combinations(things, 2):
            across = max(one.x, other.x) - min(one.x + one.size, other.x + other.size)
            down = max(one.y, other.y) - min(one.y + one.size, other.y + other.size)
            assert max(across, down) >= 1


def test_a_slight_blur_and_noise_change_nothing() -> None:
    source = rng()
    for prompt, things in scenes(200):
        noisy = corruptions.blur(draw(things).astype(float), 0.1) + source.uniform(-8, 8, (32, 32, 3))
        verdict = checker.check(np.clip(noisy, 0, 255).astype(np.uint8), prompt.tags)
        assert verdict.correct, (prompt.text, verdict.detail)


@each_row(
    "prompt, things, right, fidelity, detail",
    [
        (LIST, scene(), True, 1, "all as asked"),
        (LIST, scene((0, 1, 2, 3)), True, 1, "all as asked"),
        (PLACED, scene(), True, 1, "all as asked"),
        (PLACED, scene((6, 5, 12, 7)), False, 1, "not in its place: red circle"),
        (PLACED, scene((2, 5, 12, 6)), False, 1, "not in its place: cyan triangle"),
        (PLACED, scene()[:3], False, 0.75, "missing: cyan triangle"),
        (LIST, (*scene(), *scene()[:1]), True, 1, "all as asked"),
        (LIST, (*scene(), in_cell(KINDS[0], 0, rng())), False, 1, "one too many: red circle"),
        (LIST, (*scene(), in_cell(("red", "cross"), 0, rng())), False, 1, "not asked for: red cross"),
    ],
)
def test_what_the_checker_says(prompt: Prompt, things: Scene, right: bool, fidelity: float, detail: str) -> None:
    verdict = checker.check(draw(things), prompt.tags)
    assert (verdict.correct, verdict.fidelity, verdict.detail) == (right, fidelity, detail)


@each_row("damage", corruptions.DAMAGES)
def test_damage_is_judged_wrong(damage: str) -> None:
    certain = damage not in ("smear", "blur", "merged", "mixed")  # of these a little may be too little to matter
    source = rng()
    wrong = []
    for prompt, things in scenes(40):
        verdict = checker.check(corruptions.corrupt(damage, things, prompt.tags, source), prompt.tags)
        placed_again = damage == "wrong relation"  # a thing moved within its row or column is still in its place
        wrong.append(not verdict.correct)
        assert placed_again or not certain or wrong[-1], (damage, prompt.text)
    assert np.mean(wrong) > 0.6


def test_the_grounder_finds_the_things_and_no_others(tmp_path: Path) -> None:
    grounder = Components(ComponentsOptions(tolerance=96, min_area=8, connectivity=4))
    for prompt, things in scenes(60):
        Image.fromarray(draw(things)).save(tmp_path / "x.png")
        regions = grounder.regions(Candidate("x", prompt, tmp_path / "x.png", (32, 32), 0), ())
        boxes = [tuple(round(32 * edge) for edge in region.box) for region in regions]
        assert boxes == [found.box for found in as_found(things)]


def test_a_patch_is_labelled_with_the_small_thing_on_it() -> None:
    labels = vision_pretraining.patch_labels(draw([Object("red", "circle", 8, 0, 7)]), 4, small=True).reshape(8, 8)
    assert set(labels[:2, 2:4].ravel().tolist()) == {0}
    assert (labels != vision_pretraining.BACKGROUND).sum() == 4
    assert vision_pretraining.patch_labels(draw([Object("red", "circle", 8, 0, 7)]), 4).reshape(8, 8)[0, 2] == 4, (
        "no such size there"
    )


# --- captions that miss their image ---


def test_hard_kinds_go_wrong_mostly_and_in_one_way_and_the_others_seldom() -> None:
    source, hard = rng(), hard_kinds()
    shown_as: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    more = 0
    images = scenes(3000, "train")
    for _, things in images:
        shown = {cell(thing): thing.kind for thing in captions.mistaken(things, source)}
        more += len(shown.keys() - {cell(thing) for thing in things})
        for thing in things:
            kind, now = thing.kind, shown.get(cell(thing))
            fixed = "other" if hard.get(kind) == now else "any"
            shown_as[kind in hard][{None: "left out", kind: "right"}.get(now, fixed)] += 1
    for is_hard, expected in (
        (True, {"right": 0.35, "left out": 0.65 * 0.3, "other": 0.65 * 0.7}),
        (False, {"right": 0.9, "left out": 0.05, "any": 0.05}),
    ):
        total = shown_as[is_hard].total()
        assert shown_as[is_hard].keys() == expected.keys()
        for fate, share in expected.items():
            assert shown_as[is_hard][fate] / total == pytest.approx(share, abs=0.02)
    assert more / len(images) == pytest.approx(0.1, abs=0.02)


def test_without_a_share_of_misses_an_image_is_what_its_caption_says() -> None:
    source = rng()
    for prompt, things in scenes(50, "train"):
        assert (captions.image_for(prompt, things, 0.0, source) == draw(things)).all()
    few = [checker.check(captions.image_for(*each, 1.0, source), each[0].tags).correct for each in scenes(600)]
    assert np.mean(few) < 0.15


def test_captions_for_an_image_at_hand_are_of_the_train_split_and_mean_what_they_should() -> None:
    source = rng()
    for prompt, things in scenes(200, "train"):
        image = draw(things)
        true = captions.fulfilled(checker.look(image, small=True), source, crowd=True)
        assert true is not None
        assert checker.check(image, true.tags).correct
        near = captions.near_miss(prompt, source)
        assert crowd.set_split(list(world.wanted(near.tags))) == "train"
        assert len(near.tags["objects"]) in crowd.COUNTS
    assert captions.fulfilled(as_found(scene()[:3]), source, crowd=True) is None
    assert captions.fulfilled(as_found((*scene(), in_cell(KINDS[0], 0, source))), source, crowd=True) is None


# --- lessons ---


def test_lessons_say_what_the_checker_says_and_use_train_prompts_only() -> None:
    source = rng()
    reasons: Counter[str] = Counter()
    for _ in range(300):
        lesson = examples.lesson(source, world="crowded")
        assert crowd.set_split(list(world.wanted(lesson.prompt.tags))) == "train"
        verdict = checker.check(lesson.image, lesson.prompt.tags)
        assert verdict.correct == (lesson.score == 1.0) == (lesson.reason == appraisal.ALL_RIGHT)
        assert not (verdict.correct and lesson.missing)
        assert [part.box for part in lesson.parts] == [found.box for found in verdict.things]
        reasons.update(part.reason for part in lesson.parts)
    assert set(appraisal.REGION_SCORES) == reasons.keys()


def test_every_answer_is_read_back_by_the_judges() -> None:
    source = rng()
    layout, regions = (load(name, ()) for name in ("crowded-layout", "short-regions"))
    for _ in range(100):
        lesson = examples.lesson(source, world="crowded")
        (question, answer), *regional = examples.exchanges(lesson, layout, regions)
        assert question == f"Prompt: {lesson.prompt.text}\nRate the layout. What is missing?"
        whole = read_whole(answer)
        assert (whole.value, whole.reason) == (lesson.score, lesson.reason)
        assert whole.missing == len(lesson.missing)
        for _, said in regional:
            read = read_regions(said, [str(i) for i, _ in enumerate(lesson.parts, 1)])
            assert [(each.value, each.reason, each.label) for each in read.values()] == [
                (part.score, part.reason, part.label) for part in lesson.parts
            ]


@each_row(
    "prompt, things, answer",
    [
        (
            PLACED,
            scene(),
            "red circle 1 3, blue square 2 2, cyan triangle 2 4, green cross 4 1\n"
            "Missing: none\nScore: 1.0\nReason: all as asked",
        ),
        (
            LIST,
            (evolve(scene()[0], colour="yellow"), scene()[2]),
            "yellow circle 1 3, green cross 4 1\nMissing: red circle, blue square, cyan triangle\n"
            "Score: -0.6\nReason: wrong colour",
        ),
        (
            PLACED,
            scene((6, 5, 12, 7)),
            "blue square 2 2, red circle 2 3, cyan triangle 2 4, green cross 4 1\n"
            "Missing: red circle\nScore: 0.2\nReason: wrong place",
        ),
        (LIST, (), "nothing\nMissing: red circle, blue square, green cross, cyan triangle\n"
                   "Score: -1.0\nReason: missing object"),
    ],
)  # fmt: skip
def test_the_answer_names_what_is_seen_and_what_is_missing(prompt: Prompt, things: Scene, answer: str) -> None:
    assert examples.layout_answer(appraisal.appraise(draw(things), prompt)) == answer


def test_a_thing_in_another_place_is_a_wrong_region() -> None:
    lesson = appraisal.appraise(draw(scene((6, 5, 12, 7))), PLACED)
    assert [(part.label, part.reason) for part in lesson.parts] == [
        ("blue square", "as asked"), ("red circle", "wrong place"),
        ("cyan triangle", "as asked"), ("green cross", "as asked"),
    ]  # fmt: skip
    twice = appraisal.appraise(draw((*scene(), in_cell(KINDS[0], 14, rng()))), PLACED)
    assert [(part.label, part.reason) for part in twice.parts if part.score < 0] == [("red circle", "extra object")]


def test_a_judge_that_sees_no_places_is_told_from_one_that_sees_nothing() -> None:
    lessons = [appraisal.appraise(draw(scene((6, 5, 12, 7))), PLACED), appraisal.appraise(draw(scene()), PLACED)]
    blind = [{i: 1.0 if part.reason == appraisal.PLACE else part.score for i, part in enumerate(each.parts, 1)}
             for each in lessons]  # fmt: skip
    found = judging._regional(lessons, blind, np.arange(2))
    assert found["wrong_place_recognised"]["value"] == 0.0
    assert found["good_regions"]["value"] == 7 / 8
    seen = judging._regional(lessons, [{1: 1.0, 2: -0.6}, {1: 1.0}], np.arange(2))
    assert seen["wrong_place_recognised"]["value"] == 1.0
    assert "wrong_place_recognised" not in judging._regional(lessons[1:], blind[1:], np.arange(1))


def test_answers_to_the_worlds_own_questions() -> None:
    assert examples.self_questions(PLACED)[0] == "Is there a red circle in row 1?"
    assert examples.self_answers(draw(scene((6, 5, 12, 7))), PLACED) == [False, True, True, True, True]


def test_steps_of_pretraining_are_of_the_crowded_world() -> None:
    recipe = evolve(curriculum.CROWDED, late_drawings=4, late_lessons=4)
    generated, texts, _, asked = curriculum.Steps(recipe, ("{prompt} L", "{prompt} {regions}R"), 0, "both")[0]
    assert generated.shape == (4, 32, 32, 3)
    assert all(text is None or text.count(" a ") >= 3 for text in texts)
    assert all("\nMissing: " in answer for pairs in asked for question, answer in pairs if question.endswith(" L"))
    images, labels = curriculum.Steps(evolve(recipe, eye_batch=2), ("", ""), 0, "eye", patch=4)[0]
    assert (labels == [vision_pretraining.patch_labels(image, 4, small=True) for image in images]).all()


def test_longer_answers_have_room() -> None:
    source = rng()
    longest = [0, 0]
    for _ in range(200):
        pairs = examples.exchanges(examples.lesson(source, world="crowded"), "{prompt}", "{regions}")
        longest = [max(most, answer.count(" ") + answer.count("\n")) for most, (_, answer) in
                   zip(longest, pairs, strict=False)] + longest[len(pairs) :]  # fmt: skip
    assert longest[0] < judging.ROOM[True][0]
    assert longest[1] < judging.ROOM[True][1]


# --- the benchmark ---


def candidate(folder: Path, prompt: Prompt, things: Scene) -> Candidate:
    path = folder / f"{len(list(folder.iterdir()))}.png"
    Image.fromarray(draw(things)).save(path)
    return Candidate(path.stem, prompt, path, (32, 32), seed=0)


def test_the_benchmark_counts_what_is_there_for_what_was_asked(tmp_path: Path) -> None:
    crowded = Crowded()
    extra = (*scene(), in_cell(KINDS[0], 0, rng()))
    images = [candidate(tmp_path, PLACED, things) for things in (scene(), scene()[:2], extra)]
    scores = [crowded.score(each, ()) for each in images]
    assert scores == [
        {"correct": 1.0, "fidelity": 1.0, "extra objects": 0.0},
        {"correct": 0.0, "fidelity": 0.5, "extra objects": -0.5},
        {"correct": 0.0, "fidelity": 1.0, "extra objects": 0.25},
    ]
    rows = {row.name: row.value for row in crowded.table(list(zip(images, scores, strict=True)))}
    assert rows == pytest.approx(
        {"list with places": 1 / 3, "accuracy": 1 / 3, "fidelity": 2.5 / 3, "extra objects": -0.25 / 3}
    )
    assert crowded.prompts("dev") == crowd.prompts("dev", 256)
    assert crowded.explain(images[1], ()) == "missing: green cross"
    assert crowded.rubrics(images[1]) == pytest.approx({"layout": (4 / 6 + 0.5) / 2, "detail": 0.5})
    assert "extra objects" not in Shapes().score(images[0], ())


def test_the_oracle_judges_crowded_images(tmp_path: Path) -> None:
    wrong = candidate(tmp_path, PLACED, scene((6, 5, 12, 7)))
    regions = Components(ComponentsOptions(tolerance=96, min_area=8, connectivity=4)).regions(wrong, ())
    whole, *parts = ShapesOracle().scores(wrong, regions, ())
    assert (whole.value, whole.reason, whole.missing) == (0.2, "wrong place", 1)
    assert [part.value for part in parts] == [1.0, -0.6, 1.0, 1.0]


# --- how alike images are ---


def test_the_spread_is_1_for_objects_in_every_cell_alike_and_0_for_images_of_one_thing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, cells in (("even", range(16)), ("alike", [5] * 16)):
        (tmp_path / name).mkdir()
        for i, where in enumerate(cells):
            image = draw((in_cell(KINDS[0], where, rng(i)),))
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    spread.main([str(tmp_path / "even"), str(tmp_path / "alike")])
    even, alike = capsys.readouterr().out.splitlines()
    assert even.endswith("1.00 objects an image; cells 1.000, kinds 0.000")
    assert alike.endswith("1.00 objects an image; cells 0.000, kinds 0.000")


@pytest.mark.parametrize("images", [0, 1], ids=["no image", "no object"])
def test_the_spread_of_nothing_is_an_error(tmp_path: Path, images: int, capsys: pytest.CaptureFixture[str]) -> None:
    if images:
        Image.new("RGB", (32, 32), (128, 128, 128)).save(tmp_path / "0.png")
    with pytest.raises(SystemExit):
        spread.main([str(tmp_path)])
    assert f"images {'of' if images else 'in'} {tmp_path}" in capsys.readouterr().err


# --- the bundled model ---


def test_the_preset_trains_the_bundled_model_of_this_world_on_lists_in_two_different_rounds() -> None:
    registry = plugins.discover()
    settings = load_settings("bagel", ("crowded",), None, ["train.steps=7"], registry)
    prompts = registry.prompts(settings.prompts)
    assert len(prompts) == 512
    assert {prompt.tags["category"] for prompt in prompts} == {"list"}
    first, second = (of_round(settings, round, registry) for round in settings.round_numbers)
    assert (first.loss.use, first.select.filter, second.loss.use, second.map.use) == (
        "sft", 0.5, "negative-aware", "advantage",
    )  # fmt: skip
    assert registry.create("benchmark", settings.benchmark).prompts("test")[0].tags["category"] == "list"


def test_the_bundled_judge_knows_a_right_image_and_a_wrong_region(tmp_path: Path) -> None:
    options = {"checkpoint": "bundled:crowded", "device": "cpu", "dtype": "float32", "vision_sides": [32, 32]}
    model = plugins.discover().create("adapter", {"use": "bagel", **options})
    layout, regions = (load(name, ()) for name in ("crowded-layout", "short-regions"))
    wrong = (evolve(scene()[0], colour="yellow"), *scene()[1:])
    lessons = [appraisal.appraise(draw(things), LIST) for things in (scene(), wrong)]
    (right, _), (_, said) = judging.answers(model, lessons, (layout, regions))
    assert read_whole(right).value == 1.0
    scores = read_regions(said, [str(i) for i, _ in enumerate(lessons[1].parts, 1)])
    assert [score.value > 0 for score in scores.values()] == [part.score > 0 for part in lessons[1].parts]
