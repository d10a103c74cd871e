"""Official records in and out, against what the reference makes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from near import off
from test_interchange import line, paint, read

from srum_core.interchange.incoming import Bad
from srum_core.interchange.official import read_official, training_record
from srum_core.records import Judgement
from srum_losses import ReleasedOptions
from srum_losses.maps import Released

pytestmark = pytest.mark.golden


def load(goldens: Path, name: str) -> Any:
    return json.loads((goldens / "bagel" / name).read_text(encoding="utf-8"))


def furthest(golden: Any) -> int:
    """A side that holds every box of the set."""
    boxes = re.findall(r'"bbox": \[([^]]*)\]', json.dumps(golden["records"]))
    return max(int(float(number)) for box in boxes for number in re.findall(r"\d+(?:\.\d+)?", box)) + 1


def test_training_records_are_made_as_the_reference_makes_them(goldens: Path) -> None:
    golden = load(goldens, "judge_parsing.json")
    compared = 0
    for case in golden["records"]:
        record, expected = case["judge_record"], case["training_record"]
        prompt = golden["prompt_by_image"].get(record.get("image_file"))
        whole = record.get("global_layout_reward") or {}
        if prompt is None or whole.get("global_layout_score") == 0:
            assert expected is None  # the prompt is unknown; or ours keeps what the reference takes for a failure
            continue
        assert training_record(record, prompt) == expected
        compared += 1
    assert compared


def test_judge_records_and_training_records_are_read_alike(goldens: Path, tmp_path: Path) -> None:
    golden = load(goldens, "judge_parsing.json")
    paint(tmp_path / "7.png", (furthest(golden), furthest(golden)))
    compared = 0
    for number, case in enumerate(golden["records"]):
        if case["training_record"] is None:
            continue
        found = []
        for name, record in case.items():
            path = tmp_path / f"{number}-{name}.jsonl"
            path.write_text(json.dumps(record) + "\n")
            found.append(read(path))
        judge, train = found
        named = [(each.value, each.label) for each in judge.scores if each.label or each.region is None]
        assert named == [(each.value, each.label) for each in train.scores]
        boxes = [[evolve(region, id="") for region in each.regions] for each in found]
        assert [box for box in boxes[0] if box in boxes[1]] == boxes[1]
        compared += 1
    assert compared


def test_the_released_map_of_an_imported_record_is_the_reference_s(goldens: Path, tmp_path: Path) -> None:
    golden = load(goldens, "reward_map.json")
    stride = golden["latent_token_stride"]
    released, compared = Released(ReleasedOptions(pixels_per_cell=stride)), 0
    for case in golden["cases"]:
        paint(tmp_path / "7.png", tuple(case["image_size"]))
        path = tmp_path / "train.jsonl"
        path.write_text(json.dumps(line(vlm_rewards=case["vlm_rewards"])) + "\n")
        (found,) = read_official(path)
        scores = [entry["score"] for entry in case["vlm_rewards"] if "score" in entry]
        beyond = any(isinstance(score, int | float) and abs(score) > 1 for score in scores)  # the reference takes it
        refused = case["status"] == "sample_dropped" or beyond or not scores
        assert isinstance(found, Bad) == refused, case["name"]
        if isinstance(found, Bad) or [case["map_width"], case["map_height"]] != case["image_size"]:
            continue  # the reference applies a box's numbers to the resized image, whatever its size was
        grid = case["map_height"] // stride, case["map_width"] // stride
        ours = released(Judgement("x", found.regions, found.scores), grid)
        assert off(ours, torch.tensor(case["token_grid"])) <= 1e-5, case["name"]
        compared += 1
    assert compared
