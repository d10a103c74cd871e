"""Measuring: what is drawn and what is judged, with intervals over prompts, on a model made of the checker itself."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from pretraining import figures
from pretraining.corruptions import DAMAGES, corrupt
from pretraining.examples import layout_answer, lesson, regions_answer
from pretraining.judging import judging
from pretraining.measure import as_json, as_markdown, drawing, main, measure
from pretraining.scenes import compose, draw
from srum_benchmarks.shapes import world
from srum_benchmarks.shapes.appraisal import appraise
from srum_benchmarks.shapes.checker import Thing, Verdict, check
from srum_core.records import Sample

WORDS = ("Prompt: {prompt}\nRate the layout.", "Prompt: {prompt}\n{regions}Rate each region.")


class Artist:
    """Draws a right image and, every second time a prompt comes, one with an object too many (or one too few); judges
    as the checker does, or calls everything right (`pleased`), mumbles about every second image (`mumbling`), or says
    the opposite in so many sampled answers (`wavering`)."""

    def __init__(self, pleased: bool = False, mumbling: bool = False, wavering: float = 0.0) -> None:
        self.pleased, self.mumbling, self.wavering = pleased, mumbling, wavering
        self.known = {p.text: p for category in world.CATEGORIES for p in world.every_prompt("dev", category)}
        self.drawn: list[tuple[str, int]] = []
        self.asked = 0

    def generate(self, prompts, seeds):
        return [self.sample(text, seed) for text, seed in zip(prompts, seeds, strict=True)]

    def sample(self, text, seed):
        again = sum(before == text for before, _ in self.drawn)
        self.drawn.append((text, seed))
        rng, tags = np.random.default_rng(seed), self.known[text].tags
        scene = compose(tags, rng)
        return Sample(Image.fromarray(corrupt("extra", scene, tags, rng) if again % 2 else draw(scene)), "")

    def answer(self, questions):
        return [self.say(question) for question in questions]

    def say(self, question):
        self.asked += 1
        if self.mumbling and int(question.image.stem) % 2:
            return "Score: quite good"
        prompt = self.known[re.search(r"Prompt: (.*)\n", question.text)[1]]
        seen = appraise(np.asarray(Image.open(question.image)), prompt)
        text = regions_answer(seen) if "Rate each" in question.text else layout_answer(seen)
        rng = np.random.default_rng(question.seed)

        def waver(score):
            return str(-float(score[0])) if question.temperature and rng.random() < self.wavering else score[0]

        return re.sub(r"(?<=Score: ).*", "1.0" if self.pleased else waver, text)


def values(figure):
    return figure["value"], figure["low"], figure["high"]


def test_images_of_a_prompt_count_together_and_every_category_is_there():
    found = measure(Artist(), WORDS, count=16, images=2)
    assert set(found["drawing"]) == {"all", *world.CATEGORIES}
    for of in found["drawing"].values():
        prompts = of["correct"]["count"] // 2
        unseen = 3.8415 / (prompts + 3.8415)  # each prompt has one right image of two: nothing varies
        assert values(of["correct"]) == pytest.approx((0.5, 0.5 - unseen / 2, 0.5 + unseen / 2), abs=1e-3)
        assert values(of["clean_things"]) == values(of["clean_images"])
        assert values(of["clean_things"]) == pytest.approx((1.0, 1 - unseen, 1.0), abs=1e-3)
    assert found["drawing"]["all"]["correct"]["count"] == 32
    assert found["drawing"]["numeracy"]["correct"]["count"] == 8
    judged = found["judging"]
    assert judged["layout_balanced_accuracy"]["value"] == judged["layout_auc"]["value"] == 1.0
    assert judged["right_recognised"]["count"] == judged["wrong_recognised"]["count"] == 16
    assert "extra object" in judged["wrong_recognised_by_fault"]
    assert "accuracy_by_kind" not in judged, "the model's own images came about in no known way"


def test_an_image_has_its_own_seed_whatever_else_is_generated():
    few, many, other = Artist(), Artist(), Artist()
    measure(few, WORDS, count=4, images=2, only="drawing")
    measure(many, WORDS, count=8, images=3, only="drawing")
    measure(other, WORDS, count=4, images=2, seed=1, only="drawing")
    assert set(few.drawn) < set(many.drawn)
    assert len({seed for _, seed in many.drawn}) == 24
    assert not {seed for _, seed in few.drawn} & {seed for _, seed in other.drawn}


def test_cleanness_counts_things_and_images():
    circle, blob = (Thing("red", shape, (2, 2, 11, 11), 60, 0.9) for shape in ("circle", None))
    found = [(circle, circle), (circle, blob, blob), (), (circle,)]
    verdicts = [Verdict(False, 0.25, "", things) for things in found]
    asked = [world.binding(("red", "circle"), ("blue", "square"))] * 4
    figure = drawing(verdicts, asked, np.arange(4))["all"]
    assert (figure["clean_things"]["value"], figure["clean_things"]["count"]) == (round(4 / 6, 4), 6)
    assert figure["clean_images"]["value"] == 0.5, "an empty image is not a clean one"
    assert figure["fidelity"]["value"] == 0.25
    assert "numeracy" not in drawing(verdicts, asked, np.arange(4))


def test_measuring_tells_a_perfect_judge_from_a_pleased_one():
    perfect, pleased = (measure(Artist(pleased=p), WORDS, "dev", lessons=60, only="judging")["lessons"] for p in (0, 1))
    names = ("layout_balanced_accuracy", "layout_auc", "region_sign_accuracy", "region_auc")
    assert {perfect[name]["value"] for name in names} == {1.0}
    assert {pleased[name]["value"] for name in names} == {0.5}
    assert pleased["layout_correlation"]["value"] is None
    assert perfect["layout_correlation"]["value"] == perfect["region_correlation"]["value"] == 1.0
    assert (pleased["right_recognised"]["value"], pleased["wrong_recognised"]["value"]) == (1.0, 0.0)
    assert {figure["value"] for figure in pleased["wrong_recognised_by_fault"].values()} == {0.0}
    kinds = perfect["accuracy_by_kind"]
    assert {"clean", "mismatched"} < set(kinds) <= {"clean", "mismatched", *DAMAGES}
    assert {figure["value"] for figure in kinds.values()} == {1.0}
    certain = {"wrong colour", "wrong shape", "missing", "extra", "wrong relation", "wrong count"} & set(kinds)
    assert {pleased["accuracy_by_kind"][name]["value"] for name in certain} == {0.0}
    assert sum(figure["count"] for figure in kinds.values()) == 60


def test_several_answers_are_sampled_and_their_disagreement_counts():
    def judged(votes):
        return measure(Artist(wavering=0.25), WORDS, "dev", lessons=60, only="judging", votes=votes)["lessons"]

    assert judged(1)["region_auc"]["value"] == 1.0, "a single answer is greedy"
    few, many = judged(3), judged(9)
    assert 0.75 < few["region_auc"]["value"] < many["region_auc"]["value"]
    assert few["region_sign_accuracy"]["value"] < many["region_sign_accuracy"]["value"]


def test_lessons_are_the_same_images_of_held_out_prompts_every_time():
    model = Artist()
    found = [measure(model, WORDS, "dev", lessons=12, only="judging")["lessons"] for _ in range(2)]
    assert found[0] == found[1]
    assert not model.drawn
    held_out = {p.text for category in world.CATEGORIES for p in world.every_prompt("dev", category)}
    rng = np.random.default_rng(0)
    assert all(lesson(rng, "dev").prompt.text in held_out for _ in range(12))


def test_what_cannot_be_read_is_counted_and_left_out():
    rng = np.random.default_rng(0)
    lessons = [lesson(rng, "dev") for _ in range(20)]
    found = judging(Artist(mumbling=True), lessons, WORDS)
    assert found["layout_readable"]["value"] == 0.5
    assert found["layout_balanced_accuracy"]["value"] == 1.0
    assert found["layout_balanced_accuracy"]["count"] == 10
    assert found["good_regions"]["count"] == sum(len(each.parts) for each in lessons[::2])


def test_only_one_part_is_measured_on_request():
    model = Artist()
    assert set(measure(model, WORDS, count=4, lessons=4, only="drawing")) == {
        "split", "seed", "prompts", "images", "drawing",
    }  # fmt: skip
    assert not model.asked


def test_judging_without_images_is_refused(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("")
    words = ["--layout-template", str(tmp_path / "words.txt"), "--regions-template", str(tmp_path / "words.txt")]
    with pytest.raises(SystemExit):
        main([*words, "--only", "judging"])
    assert "needs --lessons N" in capsys.readouterr().err


def test_figures_are_lines_of_json_and_rows_of_markdown():
    found = measure(Artist(), WORDS, count=4, images=2, lessons=8)
    text, table = as_json(found), as_markdown(found)
    assert json.loads(text) == found
    assert '"numeracy": {\n' in text
    assert '"correct": {"value": 0.5, "count": 2}' in text.replace("{ ", "{").replace(" }", "}"), (
        "one prompt: no interval"
    )
    assert "| generation | correct | fidelity | clean things | clean images |\n| --- |" in table
    assert "| all | 0.500 [0.255, 0.745] (8) |" in table
    assert "| judging | own images | rendered images |" in table
    assert re.search(r"^\| accuracy by kind: clean \|  \| 1\.000", table, re.MULTILINE)


# --- figures ---


def test_figures_of_one_kind_only_are_not_invented():
    some = np.array([True, True])
    assert figures.balanced(some, ~some, np.arange(2)) == {"value": None, "count": 2}
    assert figures.auc(~some, np.array([0.5, 0.2]), np.arange(2)) == {"value": None, "count": 2}
    assert figures.correlation(np.array([1.0, 2, 3]), np.full(3, 0.1), np.arange(3))["value"] is None
    assert figures.share(np.zeros(0), np.zeros(0)) == {"value": None, "count": 0}


def test_the_interval_is_that_of_prompts_not_of_images():
    rng = np.random.default_rng(0)
    hits = rng.random(60) < 0.6
    once = figures.share(hits, np.arange(60))
    repeated = figures.share(np.repeat(hits, 4), np.repeat(np.arange(60), 4))
    assert (repeated["value"], repeated["low"], repeated["high"]) == values(once)
    apart = figures.share(np.repeat(hits, 4), np.arange(240))
    assert apart["high"] - apart["low"] < 0.7 * (once["high"] - once["low"])
    expected = 2 * 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 60)
    assert once["high"] - once["low"] == pytest.approx(expected, rel=0.15)


def test_figures_agree_with_their_definitions():
    rng = np.random.default_rng(1)
    truth, score = rng.random(80) < 0.4, rng.integers(-5, 6, 80) / 5
    pairs = score[truth][:, None] - score[~truth]
    prompts = np.arange(80)
    assert figures.auc(truth, score, prompts)["value"] == round(((pairs > 0) + 0.5 * (pairs == 0)).mean(), 4)
    expected = ((score[truth] > 0).mean() + (score[~truth] <= 0).mean()) / 2
    assert figures.balanced(truth, score > 0, prompts)["value"] == round(expected, 4)
    other = score + rng.normal(size=80)
    assert figures.correlation(score, other, prompts)["value"] == round(np.corrcoef(score, other)[0, 1], 4)
    low, high = (figures.correlation(score, other, prompts)[end] for end in ("low", "high"))
    assert -1 <= low < np.corrcoef(score, other)[0, 1] < high <= 1


def test_the_artist_of_these_tests_draws_what_it_says():
    model, prompt = Artist(), world.prompts("dev", 1)[0]
    first, second = (np.asarray(model.sample(prompt.text, seed).image) for seed in (0, 1))
    assert check(first, prompt.tags).correct
    assert not check(second, prompt.tags).correct
