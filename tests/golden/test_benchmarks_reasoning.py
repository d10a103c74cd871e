"""WISE and T2I-ReasonBench: parsers, scores and folders, against what the published scripts computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import reasonbench_released
import wise_released
from benchmark_goldens import each_entry, near, table

from srum_benchmarks.options import ReasonBenchOptions, WiseOptions
from srum_benchmarks.reasonbench import benchmark as scoring
from srum_benchmarks.reasonbench.benchmark import ReasonBench
from srum_benchmarks.reasonbench.prompts import DIMENSIONS, QUALITY
from srum_benchmarks.wise import benchmark as wise
from srum_benchmarks.wise.benchmark import Wise
from srum_benchmarks.wise.prompts import LEGACY, VERIFIED, Version
from srum_core.records import Candidate, Prompt

pytestmark = pytest.mark.golden
NAMES = {"CULTURE": "Cultural", "TIME": "Time", "SPACE": "Space", "BIOLOGY": "Biology", "PHYSICS": "Physics",
         "CHEMISTRY": "Chemistry"}  # fmt: skip


@each_entry("wise", "wiscore")
def test_the_wiscore(case: Any) -> None:
    assert wise.wiscore(case["input"]) == near(case["expected"])
    assert 2 * wise.wiscore(case["input"]) == near(case["expected_bagel_unnormalised"])


@each_entry("wise", "extract_three_scores")
def test_three_grades(case: Any) -> None:
    text = case["input"]["text"]
    assert wise.legacy(text) == case["expected_legacy"]
    assert wise_released.bagel(text) == case["expected_bagel"]
    ours, why = wise.read_legacy(text)
    expected = case["expected_legacy"]
    complete = len(expected) == 3 and max(expected.values()) <= 2
    assert ours == (expected if complete else None)
    assert bool(why) != complete


@each_entry("wise", "extract_binary_score")
def test_one_grade(case: Any) -> None:
    assert wise.binary(case["input"]["text"]) == case["expected"]


def rows(given: dict[str, Any]) -> dict[int, Any]:
    found = {}
    for category, cycle in given["score_cycle"].items():
        first, last = given["category_id_ranges"][category]
        for identity in range(first, last + 1):
            row = cycle[(identity - first) % len(cycle)]
            found[identity] = dict(zip(wise.NAMES, row, strict=True)) if isinstance(row, list) else row
    return found


def overridden(given: dict[str, Any]) -> dict[int, Any]:
    found = rows(given)
    for identity, change in given["override"].items():
        if change is None:
            del found[int(identity)]
        else:
            found[int(identity)] = {**found[int(identity)], **change} if isinstance(change, dict) else change
    ranges = given.get("files_id_ranges")
    inside = lambda identity: not ranges or any(first <= identity <= last for first, last in ranges)  # noqa: E731
    return {identity: row for identity, row in found.items() if inside(identity)}


def same_result(version: Version, case: Any) -> None:
    given, expected = case["input"], case["expected"]
    found = wise_released.reference(version, overridden(given), given.get("category", "all"))
    means = {name: mean for name, (mean, _) in found.categories.items()}
    assert means == near(expected["category_scores_unrounded"])
    assert bool(found.problems) == expected["aborted_missing_ids"]
    assert found.unusable == expected["warnings"]
    for name, score in expected["category_scores"].items():
        assert found.categories[name][1] == score["n"]
        assert means[name] == pytest.approx(score["avg_2dp"], abs=0.00501)
    if expected["overall_2dp"] is None:
        assert found.overall is None
    else:
        assert found.overall == pytest.approx(expected["overall_2dp"], abs=0.00501)
        assert found.overall == near(expected.get("overall_unrounded_check", found.overall))


@each_entry("wise", "legacy_overall")
def test_the_overall_of_2025(case: Any) -> None:
    same_result(LEGACY, case)


@each_entry("wise", "verified_overall")
def test_the_overall_of_the_verified_version(case: Any) -> None:
    same_result(VERIFIED, case)


@each_entry("wise", "bagel_overall")
def test_the_overall_of_bagels_script(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    found = rows(given)
    for identity, grade in given["override_consistency"].items():
        found[int(identity)]["consistency"] = grade
    for identity in given["dropped_ids"]:
        del found[int(identity)]
    result = wise_released.bagel_overall(found)
    assert (result.overall is not None) == expected["exit_ok"]
    assert bool(result.problems) != expected["exit_ok"]
    if expected["exit_ok"]:
        means = {NAMES[name]: mean for name, (mean, _) in result.categories.items()}
        assert means == near(expected["unrounded"])
        assert result.overall == near(expected["overall_unrounded"])


def candidate(prompt: Prompt) -> Candidate:
    return Candidate("c", prompt, Path("c.png"), (8, 8), 0)


def test_wise_finds_the_images_that_the_original_finds_and_asks_as_much(tmp_path: Path) -> None:
    golden = table("discovery", "wise")
    for name in golden["files_present"]:
        (tmp_path / name).write_bytes(b"")
    assert wise_released.images(tmp_path) == golden["prompt_ids_scored"]
    prompt = Prompt("1", "p", {"category": "CULTURE", "group": "cultural", "explanation": "e"})
    (question,) = Wise(WiseOptions()).questions(candidate(prompt))
    shape = golden["request_shape"]
    assert (question.temperature, question.max_new_tokens) == (shape["temperature"], shape["max_tokens"])
    given = {name: golden["first_score_row"][name] for name in wise.NAMES}
    answer = "\n".join(f"{name.replace('_', ' ')}: {grade:.0f}" for name, grade in given.items())
    assert wise.legacy(answer) == given


# ---- T2I-ReasonBench -------------------------------------------------------------------------------------------------


@each_entry("reasonbench", "extract_json")
def test_json_is_read_as_by_the_original(case: Any) -> None:
    text, expected = case["input"]["text"], case["expected"]
    if "raises" in expected:
        with pytest.raises(ValueError, match=r"."):
            scoring.reference_json(text)
    else:
        assert scoring.reference_json(text) == expected["value"]
        given = expected["value"].get("score", [])
        assert scoring.read(text, len(given))[:2] == ([float(each) for each in given], "reference")


def averages(case: Any) -> dict[str, list[float]]:
    """File → the averages of its groups, through the benchmark itself."""
    given = case["input"]
    found = {}
    for image in given["images"]:
        replies = image["judge_replies_in_group_order"]
        counts = [len(scoring.reference_json(reply)["score"]) for reply in replies]
        groups = dict(zip(given["judge_groups"], ([["q", "c"]] * count for count in counts), strict=True))
        assert tuple(groups) == DIMENSIONS[given["dimension"]].groups
        prompt = Prompt("p", "p", {"dimension": given["dimension"], "number": 1, "criteria": groups})
        measures = ReasonBench(ReasonBenchOptions()).score(candidate(prompt), ["a description", *replies])
        assert measures["readable"] == 1
        found[image["file"]] = [measures[group] for group in groups]
    return found


@each_entry("reasonbench", "eval")
def test_replies_become_accuracy_and_quality(case: Any) -> None:
    """A script that stops as published has no numbers of its own; it must have the same input as its mended twin."""
    found, expected = averages(case), case["expected"]
    if "raises" in expected:
        twin = next(each for each in table("reasonbench", "eval") if each["id"] == f"{case['id']}_patched")
        assert found == averages(twin)
        expected = twin["expected"]
    assert [[name, *means] for name, means in sorted(found.items())] == [
        [name, *(near(mean) for mean in means)] for name, *means in expected["per_image_avgs"]
    ]
    accuracy, quality = reasonbench_released.reference_model_score(case["input"]["dimension"], list(found.values()))
    assert [accuracy, quality] == pytest.approx(expected["last_row"][1::2], abs=1e-6)


@each_entry("reasonbench", "model_score")
def test_lines_become_accuracy_and_quality(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    lines = [*given["rows_last_columns"], *([given["then_summary_row"]] if "then_summary_row" in given else [])]
    accuracy, quality = reasonbench_released.reference_model_score(given["dimension"], lines)
    assert (accuracy, quality) == pytest.approx((expected["accuracy"], expected["quality"]), abs=1e-6)


def test_each_group_is_asked_after_the_description_alone() -> None:
    golden = table("reasonbench", "conversation_structure_idiom")
    groups = {name: [["q", "c"]] for name in DIMENSIONS["idiom"].groups}
    prompt = Prompt("idiom-0001", "p", {"dimension": "idiom", "number": 1, "criteria": groups})
    benchmark, image = ReasonBench(ReasonBenchOptions()), candidate(prompt)
    first = list(benchmark.questions(image))
    later = list(benchmark.further(image, ["a dog"]))
    assert not benchmark.further(image, ["a dog", *("a" for _ in later)])
    roles = [[*(role for _ in each.history for role in ("user", "assistant")), "user"] for each in (*first, *later)]
    assert roles == golden["roles_per_call"]
    assert len(roles) == golden["turns_per_image"]
    assert all(each.history == ((first[0].text, "a dog"),) for each in later)
    assert QUALITY in groups
