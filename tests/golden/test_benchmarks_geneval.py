"""GenEval's rules on recorded detections, against what its scorer computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geneval_scores as scores
import numpy as np
import pytest
from benchmark_goldens import each_entry, near, table
from compbench_original import iou
from PIL import Image

from srum_benchmarks.detections import Detection
from srum_benchmarks.geneval import detection, scoring
from srum_benchmarks.geneval.benchmark import scored_files

pytestmark = pytest.mark.golden
OPTIONS = {
    "threshold": "SCORE", "counting_threshold": "COUNTING", "max_objects": "MOST", "position_threshold": "OFFSET",
}  # fmt: skip


def detections(given: dict[str, Any]) -> list[Detection]:
    colors = given.get("crop_colors", {})
    return [
        Detection(name, tuple(numbers[:4]), numbers[4], colors[name][place] if name in colors else "")
        for name, found in given["detections"].items()
        for place, numbers in enumerate(found)
    ]


def apart(found: Sequence[Detection], overlap: float) -> list[Detection]:
    """Of boxes that overlap so much only the surest."""
    rest: list[Detection] = []
    for each in found:
        if all(iou(each.box, other.box, 1) < overlap for other in rest):
            rest.append(each)
    return rest


@each_entry("geneval", "compute_iou")
def test_boxes_include_their_last_pixel(case: Any) -> None:
    assert iou(case["input"]["box_a"], case["input"]["box_b"], 1) == near(case["expected"])


@each_entry("geneval", "evaluate_image")
def test_an_image_is_judged_as_by_the_reference(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, expected = case["input"], case["expected"]
    options, found = dict(given.get("options", {})), detections(given)
    if "max_overlap" in options:  # an option of the reference that no published number used
        counted = scoring.keep(found, scoring.SCORE)
        found = [each for same in counted.values() for each in apart(same, options["max_overlap"])]
        del options["max_overlap"]
    with monkeypatch.context() as patch:
        for name, value in options.items():
            patch.setattr(scoring, OPTIONS[name], value)
        verdict = scoring.evaluate(found, given["metadata"])
    assert verdict.correct == expected["correct"]
    if "reason" in expected:
        assert verdict.reason == expected["reason"]
    kept = {name: [[*each.box, each.score] for each in found] for name, found in verdict.counted.items()}
    assert kept == expected["details"]


@each_entry("geneval", "relative_position")
def test_relations(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = case["input"]
    monkeypatch.setattr(scoring, "OFFSET", given["position_threshold"])
    found = scoring.relations(given["box_a"], given["box_b"])
    assert sorted(found) == case["expected"]
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    back = scoring.relations(given["box_b"], given["box_a"])
    assert back == {opposite[name] for name in found}


@each_entry("geneval", "image_crops")
def test_what_the_colour_classifier_sees(case: Any) -> None:
    given, expected, options = case["input"], case["expected"], case["input"]["options"]
    image = Image.fromarray(np.array(given["image_rgb_rows"], dtype=np.uint8))
    mask = None if given["mask_rows"] is None else np.array(given["mask_rows"], dtype=bool)
    if options.get("bgcolor") == "original":
        mask = None
    whole = str(options.get("crop", "1")) == "0"
    shown = detection.crop(image, (0, 0, *image.size) if whole else given["box_xyxy_score"][:4], mask)
    assert list(shown.size) == expected["size_wh"]
    assert np.asarray(shown.convert("RGB")).tolist() == expected["rgb_rows"]


@each_entry("geneval", "summary")
def test_the_table(case: Any) -> None:
    expected = case["expected"]
    rows = [(row["tag"], str(row["prompt_index"]), row["correct"]) for row in case["input"]["rows"]]
    found = scores.summarise(rows)
    assert (found.images, found.prompts) == (expected["total_images"], expected["total_prompts"])
    assert f"{found.correct_images:.2%}" == expected["pct_correct_images"]
    assert f"{found.correct_prompts:.2%}" == expected["pct_correct_prompts"]
    tasks = [[task.tag, f"{task.score:.2%}", task.correct, task.total] for task in found.tasks]
    assert tasks == expected["tasks_in_order_of_appearance"]
    assert f"{found.overall:.5f}" == expected["overall_5dp"]
    assert scores.released_table(found) == expected["geneval_results_txt"]


def test_which_files_are_scored(tmp_path: Path) -> None:
    golden = table("geneval", "discovery")
    for name in golden["input"]["tree"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.as_posix() for path in scored_files(tmp_path)] == golden["expected"]["scored"]
