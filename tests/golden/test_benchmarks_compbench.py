"""T2I-CompBench: the SRUM authors' protocol and the original formulas, against what the published scripts computed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import compbench_original as original
import compbench_released as released
import numpy as np
import pytest
from benchmark_goldens import each_entry, near, table

from srum_benchmarks import templates
from srum_benchmarks.compbench import benchmark as scoring
from srum_benchmarks.detections import Detection

pytestmark = pytest.mark.golden

OBJECTS = """bag bags;banana bananas;bear bears;bicycle bicycles;bird birds;boat boats;book books;bottle bottles
bowl bowls;boy boys;bread breads;butterfly butterflies;cake cakes;camel camels;camera cameras;candle candles;car cars
cat cats;chair chairs;chicken chickens;clock clocks;couch couches;cow cows;cup cups;deer deer;desk desks;dog dogs
duck ducks;egg eggs;fish fish;flag flags;frog frogs;giraffe giraffes;girl girls;goldfish goldfish;guitar guitars
horse horses;key keys;kite kites;knife knives;lamp lamps;lemon lemons;man men;mouse mice;painting paintings;pear pears
pen pens;person people;phone phones;pig pigs;plate plates;rabbit rabbits;sheep sheep;ship ships;sofa sofas;table tables
tomato tomatoes;toy toys;train trains;truck trucks;turtle turtles;vase vases;woman women;apple apples;bee bees
airplane airplanes;backpack backpacks;balloon balloons;computer computers;drum drums;hamburger hamburgers
helicopter helicopters;helmet helmets;microphone microphones;microwave microwaves;paddle paddles;peach peaches
pillow pillows;printer printers;refrigerator refrigerators;shrimp shrimp;sink sinks;stool stools
strawberry strawberries;suitcase suitcases;swan swans;television televisions;tent tents"""
"""Nouns that numeracy prompts may ask for, singular and plural: part of the benchmark's vocabulary of a hundred."""


@each_entry("compbench_srum", "extract_score")
def test_a_grade_is_read_as_the_reference_reads_it(case: Any) -> None:
    expected = case["expected"]
    assert scoring.reference_score(case["input"]["text"]) == expected
    ours, why = scoring.read(case["input"]["text"])
    assert ours == (expected if 0 <= expected <= 100 else None)
    assert bool(why) == (ours is None)


@each_entry("compbench_srum", "csv_mean")
def test_a_column_has_the_references_mean(case: Any) -> None:
    assert f"{released.reference_mean(case['input']['score_cells']):.4f}" == case["expected_printed"]


@each_entry("compbench_srum", "overall")
def test_composite_and_overall_are_the_references(case: Any) -> None:
    means: dict[str, dict[str, float]] = {}
    for variant, category, mean in case["input"]["rows_variant_category_mean"]:
        means.setdefault(variant, {})[category.replace(" ", "_")] = float(mean)
    results = {variant: released.reference_overall(own) for variant, own in means.items()}
    ours = {(variant, "Complex_Composite"): each.composite for variant, each in results.items()}
    ours |= {(variant, "Overall_Weighted"): each.overall for variant, each in results.items()}
    theirs = {(variant, name): float(value) for variant, name, value in case["expected_rows"]}
    assert ours == pytest.approx(theirs, abs=0.5001e-4)


@each_entry("compbench_srum", "pipeline")
def test_a_folder_is_scored_as_by_the_reference(case: Any, tmp_path: Path) -> None:
    given, expected = case["input"], case["expected"]
    folder = tmp_path / f"color_50{given.get('variant', '_think')}"
    images = folder / "samples" if given.get("samples") else folder
    images.mkdir(parents=True)
    lines = tmp_path / "color_50_think" / "output.jsonl"
    lines.parent.mkdir(exist_ok=True)
    known = [item for item in given["items"] if item["prompt"] is not None]
    records = [{"image_file": item["file"], "original_prompt": item["prompt"]} for item in known]
    lines.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for item in given["items"]:
        (images / item["file"]).write_bytes(b"picture")
    items = released.items(folder, strict=False)[given.get("start", 0) : given.get("end") : given.get("step", 1)]
    replies = {item["file"]: item["reply"] for item in given["items"]}
    scores = [scoring.reference_score(replies[item.path.name]) for item in items]
    rows = [
        {"question_id": item.question_id, "prompt": item.prompt, "score": score}
        for item, score in zip(items, scores, strict=True)
    ]
    assert rows == expected["rows"]
    assert f"{released.reference_mean([str(score) for score in scores]):.4f}" == expected["mean_4dp"]


@each_entry("compbench_srum", "judge_message_sha256")
def test_our_rubric_is_not_called_the_references(case: Any) -> None:
    """Nor would the published one be called ours: a file that gives the golden's message for a prompt has no label."""
    prompt, expected = case["input"]["prompt"], case["expected"]
    ours = templates.load("compbench", ["prompt"])
    assert templates.label(ours, {prompt: expected["sha256_utf8"]}, "compbench") == templates.OWN
    stand_in = hashlib.sha256(f"rate {prompt}".encode()).hexdigest()
    assert templates.label("rate {prompt}", {prompt: stand_in}, "theirs.txt") == ""
    known = scoring.KNOWN_MESSAGES.get(prompt)
    assert known in (None, expected["sha256_utf8"])


@each_entry("compbench_srum", "gpu_chunks")
def test_shares_of_workers_are_the_references(case: Any) -> None:
    given = case["input"]
    assert [list(share) for share in released.shares(given["total"], given["gpus"])] == case["expected_gpu_start_end"]


# ---- the original formulas -------------------------------------------------------------------------------------------


def detections(entries: list[dict[str, Any]]) -> list[Detection]:
    return [Detection(entry["label"], tuple(entry["box"]), entry["score"]) for entry in entries]


@each_entry("t2i_compbench_original", "determine_position_2d")
def test_a_position_in_the_plane(case: Any) -> None:
    given = case["input"]
    assert original.position_2d(given["relation"], given["box1"], given["box2"]) == near(case["expected"])


@each_entry("t2i_compbench_original", "score_2d")
def test_an_image_with_a_relation_in_the_plane(case: Any) -> None:
    given = case["input"]
    ours = original.score_2d(given["prompt"], given["nouns_in_order"], detections(given["detections"]))
    assert ours == near(case["expected"])


@each_entry("t2i_compbench_original", "determine_position_3d")
def test_a_position_in_space(case: Any) -> None:
    given = case["input"]
    depth = np.array(given["depth_rows"])
    assert original.position_3d(given["relation"], given["box1"], given["box2"], depth) == near(case["expected"])
    turned = original.position_3d(given["relation"], given["box1"], given["box2"], depth.T, axes="fixed")
    assert turned == near(case["expected"])


@each_entry("t2i_compbench_original", "score_3d")
def test_an_image_with_a_relation_in_space(case: Any) -> None:
    given = case["input"]
    found, depth = detections(given["detections"]), np.array(given["depth_rows"])
    assert original.score_3d(given["prompt"], given["nouns_in_order"], found, depth) == near(case["expected"])


@each_entry("t2i_compbench_original", "numeracy")
def test_an_image_with_numbers_of_things(case: Any) -> None:
    lines = [pair.replace(" ", " - ") for pair in OBJECTS.replace("\n", ";").split(";")]
    given = case["input"]
    ours = original.numeracy(given["prompt"], detections(given["detections"]), original.read_objects(lines))
    assert ours == near(case["expected"])


@each_entry("t2i_compbench_original", "numeracy_same_box")
def test_boxes_that_count_as_one(case: Any) -> None:
    assert original.same_box(case["input"]["box1"], case["input"]["box2"]) == bool(case["expected"])


def test_complex_prompts_have_the_mean_of_their_parts() -> None:
    given, expected = (table("t2i_compbench_original", "three_in_one")[key] for key in ("input", "expected"))
    per_prompt = given["images_per_prompt"]
    kinds = [kind for kind in given["prompt_kind"] for _ in range(per_prompt)]
    parts = [given[f"{name}_scores"] for name in ("attribute", "spatial", "action")]
    ours = [original.three_in_one(*each) for each in zip(kinds, *parts, strict=True)]
    assert ours == near(expected["per_image"])
    assert sum(ours) / len(ours) == near(expected["mean"])


@each_entry("t2i_compbench_original", "sharegpt4v_levels")
def test_levels_become_a_score(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    ours = {
        image: original.level_score(given["category"], list(answers.values()))
        for image, answers in given["answers"].items()
    }
    assert ours == near(expected["per_image_0_100"])
    assert sum(ours.values()) / len(ours) == near(expected["mean"])


@each_entry("t2i_compbench_original", "gpt4v_scores")
def test_scores_of_one_answer_are_averaged(case: Any) -> None:
    assert original.gpt4v_score(case["input"]["text"]) == near(case["expected"])


def test_attributes_multiply() -> None:
    given, expected = (table("t2i_compbench_original", "blip_vqa")[key] for key in ("input", "expected"))
    pairs = zip(given["noun_chunks_per_image"], given["yes_probability_per_image_per_noun_slot"], strict=True)
    ours = [original.attributes(chunks, yes) for chunks, yes in pairs]
    assert [f"{each:.4f}" for each in ours] == expected["per_image_4dp"]
    assert sum(ours) / len(ours) == near(expected["mean"])
