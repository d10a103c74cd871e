"""Tables of the published benchmarks: failure policies, coverage, intervals, and what each may never mix."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import compbench_released
import numpy as np
import pytest
import wise_released
from benchmark_data import generated
from compbench_original import attributes, numeracy, position_2d, score_2d
from hypothesis import example, given
from hypothesis import strategies as st
from rows import each_row

from srum_benchmarks import detections, summary
from srum_benchmarks.compbench import benchmark as compbench
from srum_benchmarks.compbench.benchmark import CompBench
from srum_benchmarks.geneval.benchmark import GenEval
from srum_benchmarks.options import (
    CompBenchOptions,
    GenEvalOptions,
    ReasonBenchOptions,
    WiseOptions,
    WiseVerifiedOptions,
)
from srum_benchmarks.reasonbench import benchmark as reasonbench
from srum_benchmarks.reasonbench.benchmark import ReasonBench
from srum_benchmarks.reasonbench.prompts import DIMENSIONS
from srum_benchmarks.summary import Cell
from srum_benchmarks.wise import benchmark as wise
from srum_benchmarks.wise.benchmark import Wise, WiseVerified
from srum_benchmarks.wise.prompts import GROUPS, LEGACY, VERIFIED, Version
from srum_core.errors import ConfigError, RecordError
from srum_core.records import Candidate, Prompt, Row
from srum_core.testing.malformed_answers import odd_answers

PROSE = "What a lovely picture! I would give it a high score."
Scored = list[tuple[Candidate, Mapping[str, float]]]


def rows(table: Sequence[Row]) -> dict[str, Row]:
    return {row.name: row for row in table}


# ---- policies, coverage, intervals -----------------------------------------------------------------------------------


def graded(policy: str, answers: Sequence[str], category: str = "color") -> dict[str, Row]:
    benchmark = CompBench(CompBenchOptions(policy=policy))  # type: ignore[arg-type]
    found = []
    for number, answer in enumerate(answers):
        candidate = generated(Prompt(f"{category}-{number}", "a red car", {"category": category, "line": number}))
        found.append((candidate, benchmark.score(candidate, [answer])))
    return rows(benchmark.table(found))


@each_row("policy, mean", [("exclude", 90), ("zero", 60), ("reference", 179 / 3)])
def test_an_answer_in_prose_counts_as_the_policy_says(policy: str, mean: float) -> None:
    table = graded(policy, ['{"score": 80}', PROSE, '{"score": 100}'])
    assert table["color"].value == pytest.approx(mean)
    assert table["readable"].value == pytest.approx(2 / 3)
    assert all("incomplete: 66.7% of the answers could be read" in row.note for row in table.values())
    assert all((f"policy {policy}" in row.note) == (policy != "exclude") for row in table.values())


def test_a_grade_above_100_counts_only_where_the_release_counts_it() -> None:
    answers = ['{"score": 120}', '{"score": 60}']
    assert graded("exclude", answers)["color"].value == 60
    assert graded("reference", answers)["color"].value == 90


def test_nothing_readable_is_no_mean() -> None:
    table = graded("exclude", [PROSE, PROSE])
    assert list(table) == ["readable"]
    assert table["readable"].value == 0


@each_row("unreadable, incomplete", [(0, False), (1, False), (2, True)])
def test_below_99_per_cent_a_table_says_that_it_is_incomplete(unreadable: int, incomplete: bool) -> None:
    cells = [Cell(str(number), None if number < unreadable else 1.0) for number in range(100)]
    assert ("incomplete" in summary.note(CompBenchOptions(), summary.coverage(cells), (), 0)) == incomplete


def test_fewer_prompts_than_the_release_are_told() -> None:
    assert "incomplete: 3 of 2670 prompts" in graded("exclude", ['{"score": 80}'] * 3)["color"].note
    assert "own rubric" in graded("exclude", ['{"score": 80}'] * 3)["color"].note


def values(count: int, seed: int) -> list[float]:
    return np.random.default_rng(seed).uniform(0, 100, count).tolist()


def cells(numbers: Sequence[float], copies: int = 1, name: str = "p") -> list[Cell]:
    return [Cell(f"{name}{place:04d}", value) for place, value in enumerate(numbers) for _ in range(copies)]


def test_an_interval_is_that_of_the_mean_over_prompts() -> None:
    numbers = values(200, 0)
    row = summary.row("x", [(1.0, summary.part(cells(numbers)))])
    error = np.std(numbers, ddof=1) / math.sqrt(200)
    assert row.value == pytest.approx(np.mean(numbers))
    assert row.error == pytest.approx(error, rel=0.05)
    assert row.low == pytest.approx(row.value - 1.96 * error, abs=0.15 * error)
    assert row.high == pytest.approx(row.value + 1.96 * error, abs=0.15 * error)


def test_images_of_one_prompt_are_not_independent() -> None:
    numbers = values(50, 1)
    one, four = (summary.row("x", [(1.0, summary.part(cells(numbers, copies)))]) for copies in (1, 4))
    assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))
    assert (one.count, four.count) == (50, 200)


def test_groups_are_resampled_apart() -> None:
    """The same draws in every group would make a mean of groups look too sure, or too unsure."""
    groups = [values(100, seed) for seed in range(4)]
    parts = [summary.part(cells(numbers)) for numbers in groups]
    row = summary.row("x", summary.equal(parts))
    error = math.sqrt(sum(np.var(numbers, ddof=1) / 100 for numbers in groups)) / 4
    assert row.error == pytest.approx(error, rel=0.05)
    twins = summary.row("x", summary.equal([parts[0], parts[0]]))
    assert twins.error == pytest.approx(np.std(groups[0], ddof=1) / 10 / math.sqrt(2), rel=0.05)


def test_the_mean_is_over_images_also_where_prompts_have_different_numbers_of_them() -> None:
    part = summary.part([Cell("a", 0.0), Cell("b", 1.0), Cell("b", 1.0), Cell("b", 1.0)])
    assert summary.row("x", [(1.0, part)]).value == 0.75


def test_sums_and_counts_of_a_prompt_are_generated_together() -> None:
    """Where every image has the same value, so has every resample, however many images prompts have."""
    part = summary.part(Cell(str(prompt), 0.5) for prompt in range(20) for _ in range(1 + prompt % 4))
    assert summary.resampled(part, 0) == pytest.approx(np.full(10_000, 0.5))
    row = summary.row("x", [(1.0, part)])
    assert (row.low, row.high) == pytest.approx((0.4194, 0.5806), abs=1e-4)  # 20 prompts, whatever their images
    assert row.error is None


def test_one_prompt_has_no_interval() -> None:
    row = summary.row("x", [(1.0, summary.part([Cell("a", 0.0), Cell("a", 1.0)]))])
    assert (row.value, row.low, row.error) == (0.5, None, None)


# ---- T2I-CompBench ---------------------------------------------------------------------------------------------------

TABLE_1 = """76.39 90.63 83.51 87.47 75.30 80.20 84.23 87.07 83.10
79.38 84.53 81.96 85.55 72.82 82.20 85.49 86.38 82.29
77.83 91.63 84.73 86.12 72.80 83.72 88.20 89.03 84.26
72.25 77.75 75.00 85.28 57.14 72.18 77.08 78.38 74.38
76.17 84.25 80.28 80.47 56.43 65.14 79.67 69.67 74.01
88.61 87.73 87.88 85.91 69.74 73.99 86.60 82.17 82.83
82.21 92.22 86.87 88.51 72.00 83.95 90.07 90.88 85.84
81.73 89.92 85.55 84.78 71.67 83.75 92.47 87.45 84.66
83.78 90.22 86.57 85.10 74.52 85.44 93.88 86.52 85.75
77.98 89.30 83.32 85.03 70.40 81.94 81.52 87.93 82.18
83.10 92.90 88.69 88.47 78.52 84.23 86.92 89.57 86.55
84.66 88.85 86.10 85.64 75.36 84.33 82.71 88.07 84.46
88.60 92.90 91.31 90.48 80.12 84.47 89.93 89.15 88.37"""
COLUMNS = ("3d_spatial", "color", "complex", "non-spatial", "numeracy", "shape", "spatial", "texture")


@each_row("line", TABLE_1.splitlines())
def test_the_papers_overall_is_the_mean_of_its_columns(line: str) -> None:
    *means, overall = map(float, line.split())
    result = compbench_released.reference_overall(dict(zip(COLUMNS, means, strict=True)))
    assert result.overall == pytest.approx(overall, abs=0.006)


_PIECES = (
    "{",
    "}",
    '"score": 5',
    '"score":07',
    '"score": "6"',
    ", ",
    " ",
    '"a": ',
    '{"score": 80}',
    '"x"',
    "```json",
    "no",
)


@given(st.lists(st.sampled_from(_PIECES), max_size=8).map("".join))
@example('{"a": {"score": 5}, "score": 7}')
def test_the_object_around_the_score_is_that_of_the_references_expression(text: str) -> None:
    match = re.search(r'{\s*.*"score":\s*(\d+).*?}', text, re.DOTALL)
    assert compbench._object(text) == (match[0] if match else "")


def test_both_overalls_of_compbench() -> None:
    means = {
        "color": 90,
        "shape": 80,
        "texture": 85,
        "spatial": 75,
        "non-spatial": 88,
        "numeracy": 70,
        "3d_spatial": 79,
    }
    parts = {"complex": 84, "complex_action": 86, "complex_spatial": 70}
    benchmark, found = CompBench(), []
    for category, mean in {**means, **parts}.items():
        for number, off in enumerate((-5, 5)):
            candidate = generated(Prompt(f"{category}-{number}", "p", {"category": category, "line": number}))
            found.append((candidate, benchmark.score(candidate, [json.dumps({"score": mean + off})])))
    table = rows(benchmark.table(found))
    assert table["complex (composite)"].value == pytest.approx(80)
    assert table["overall"].value == pytest.approx((567 + 80) / 8)
    assert table["overall (plain complex)"].value == pytest.approx((567 + 84) / 8)
    assert compbench_released.reference_overall({**means, **parts}).overall == pytest.approx(table["overall"].value)
    shuffled = random.Random(0).sample(found, len(found))
    assert benchmark.table(shuffled) == benchmark.table(found)
    assert all(row.low < row.value < row.high for row in table.values() if row.name != "readable")  # type: ignore[operator]


def test_a_spatial_relation_is_mirrored() -> None:
    boxes = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    )

    @given(boxes, boxes)
    def mirrored(one: Any, other: Any) -> None:
        for here, there in (("on the left of", "on the right of"), ("on the top of", "on the bottom of")):
            assert position_2d(here, one, other) == position_2d(there, other, one)

    mirrored()


def test_what_the_original_scores_cannot_do_is_told() -> None:
    with pytest.raises(ConfigError, match="has no noun"):
        score_2d("on the left of", [], [])
    with pytest.raises(ConfigError, match="asks for no number of any known object"):
        numeracy("some dogs", [], {"dogs": "dog", "dog": "dog"})
    assert attributes(["the left", "a dog"], [0.25]) == 0.25


# ---- GenEval ---------------------------------------------------------------------------------------------------------


def seen(folder: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A file of detections of the images with these contents."""
    import hashlib

    path = folder / "detections.jsonl"
    lines = [
        {"sha256": hashlib.sha256(content.encode()).hexdigest(), "detections": list(each)}
        for content, each in found.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


DOG = {"label": "dog", "box": [0, 0, 10, 10], "score": 0.95}


def image(folder: Path, content: str, tag: str = "single_object", number: int = 0, count: int = 1) -> Candidate:
    path = folder / f"{content}.png"
    path.write_text(content)
    metadata = {"tag": tag, "include": [{"class": "dog", "count": count}], "prompt": "dogs"}
    return generated(Prompt(f"{tag}-{number}", "dogs", {"tag": tag, "metadata": metadata}), number, path)


def test_geneval_reads_what_a_detector_saw(tmp_path: Path) -> None:
    file = seen(tmp_path, {"one": [DOG], "two": [DOG, {**DOG, "box": [20, 0, 30, 10]}], "none": []})
    benchmark = GenEval(GenEvalOptions(detections=file))
    assert not benchmark.questions(image(tmp_path, "one"))
    found: Scored = []
    for tag, contents in {"single_object": ["one", "none"], "counting": ["two", "one", "none", "none"]}.items():
        for number, content in enumerate(contents):
            candidate = image(tmp_path, content, tag, number // 2, count=1 + (tag == "counting"))
            found.append((candidate, benchmark.score(candidate, [])))
    table = rows(benchmark.table(found))
    assert (table["single_object"].value, table["counting"].value) == (0.5, 0.25)
    assert table["overall"].value == pytest.approx(0.375)  # of tasks, not of images
    assert table["images"].value == pytest.approx(2 / 6)
    assert table["any of a prompt"].value == pytest.approx(2 / 3)
    assert "short prompts" in table["overall"].note
    assert "incomplete: 3 of 553 prompts" in table["overall"].note


def test_an_image_that_no_detector_looked_at_is_told(tmp_path: Path) -> None:
    benchmark = GenEval(GenEvalOptions(detections=seen(tmp_path, {"one": [DOG]})))
    candidate = image(tmp_path, "one")
    assert benchmark.score(candidate, []) == {"correct": 1.0}
    candidate.image.write_text("generated again")
    with pytest.raises(ConfigError, match=r"holds no detections of .*its detections belong to another image"):
        benchmark.score(candidate, [])
    candidate.image.unlink()
    with pytest.raises(RecordError, match="cannot be read"):
        benchmark.score(candidate, [])


@each_row(
    "content, message",
    [
        ('{"sha256": "ab", "detections": []}\n{"sha256": "c', "line 2: this is not a whole JSON record"),
        ('{"sha256": "ab", "detections": []}\n' * 2, "line 2: image ab… was recorded before"),
        ('{"sha256": "ab"}', 'line 1: a record needs "sha256" and a list "detections"'),
        ('{"sha256": "ab", "detections": [{"label": "dog"}]}', r'a detection needs "label", "box"'),
        ('{"sha256": "ab", "detections": [{"label": "dog", "box": [1, 2, 3, NaN], "score": 1}]}', "NaN is no"),
        ('{"sha256": "ab", "detections": [{"label": "dog", "box": [1, 2, 3], "score": 1}]}', "a detection needs"),
    ],
)
def test_detections_that_cannot_be_used_are_told_with_their_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "seen.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        detections.read(str(path), "geneval")


def test_without_a_file_of_detections_the_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"geneval is scored from what a detector saw\. Set the option `detections`"):
        GenEval().score(image(tmp_path, "one"), [])
    with pytest.raises(ConfigError, match="cannot be read"):
        GenEval(GenEvalOptions(detections=str(tmp_path / "none"))).score(image(tmp_path, "one"), [])


# ---- WISE ------------------------------------------------------------------------------------------------------------


def wise_prompts(version: Version, each: int = 3) -> list[Prompt]:
    found = []
    for group, names in GROUPS.items():
        for name in names:
            for number in range(each):
                tags = {"category": name, "group": group, "explanation": "e", "subcategory": ""}
                found.append(Prompt(str(version.ranges[name][0] + number), "p", tags))
    return found


def three(consistency: int, realism: int, aesthetics: int) -> str:
    return f"Consistency: {consistency}\nRealism: {realism}\nAesthetic Quality: {aesthetics}"


def judged(benchmark: Wise | WiseVerified, answers: Mapping[str, str], otherwise: str) -> dict[str, Row]:
    """By category, or by the prompt's id."""
    found = []
    for prompt in wise_prompts(benchmark.version):
        answer = answers.get(prompt.id, answers.get(prompt.tags["category"], otherwise))
        found.append((generated(prompt), benchmark.score(generated(prompt), [answer])))
    return rows(benchmark.table(found))


def test_wise_has_the_official_overall_and_that_of_bagels_script() -> None:
    table = judged(Wise(), {"CULTURE": three(2, 2, 2), "TIME": three(2, 1, 1)}, three(0, 0, 0))
    assert table["CULTURE"].value == pytest.approx(1)
    assert table["TIME"].value == pytest.approx(0.85)
    assert table["spatio-temporal"].value == pytest.approx(0.425)
    assert table["overall"].value == pytest.approx(0.4 + 0.167 * 0.85)
    assert table["overall (plain mean of categories)"].value == pytest.approx(1.85 / 6)


def test_what_was_trained_on_is_in_no_mean() -> None:
    answers = {"CULTURE": three(2, 2, 2), "TIME": three(2, 2, 2)}
    table = judged(Wise(WiseOptions(trained="cultural")), answers, three(0, 0, 0))
    assert not {"CULTURE", "cultural", "overall", "overall (plain mean of categories)"} & table.keys()
    assert table["other groups"].value == pytest.approx(1 / 5)
    assert table["other groups"].count == 15
    assert all("trained on cultural, which is left out" in row.note for row in table.values())
    assert "15 of 600 prompts" in table["other groups"].note


def test_the_original_has_no_overall_with_anything_missing() -> None:
    answers = {"1": three(2, 2, 2), "2": PROSE}
    for policy, overall in (("exclude", True), ("zero", True), ("reference", False)):
        table = judged(Wise(WiseOptions(policy=policy)), answers, three(1, 1, 1))  # type: ignore[arg-type]
        assert ("overall" in table) == overall
        assert table["CULTURE"].value == pytest.approx(0.5 if policy == "zero" else 0.75)
        assert table["readable"].value == pytest.approx(17 / 18)


def test_a_limited_run_has_no_overall_of_wise() -> None:
    benchmark, prompt = Wise(), wise_prompts(LEGACY)[0]
    table = rows(benchmark.table([(generated(prompt), benchmark.score(generated(prompt), [three(1, 1, 1)]))]))
    assert "overall" not in table


def test_the_two_scorings_of_wise_do_not_read_each_others_answers() -> None:
    assert wise.read_legacy("Score: 1")[0] is None
    assert wise.binary(three(2, 2, 2)) == {}
    table = judged(WiseVerified(WiseVerifiedOptions()), {"CULTURE": "Score: 1"}, "<think>Score: 1</think>Score: 0")
    assert table["overall"].value == pytest.approx(0.4)
    assert "overall (plain mean of categories)" not in table
    assert WiseVerified.version is VERIFIED
    assert Wise.version is LEGACY


def test_grades_are_refused_with_a_sentence() -> None:
    assert wise.read_legacy(three(3, 1, 1)) == (None, "Grades go from 0 to 2, not consistency 3.")
    assert wise.read_legacy("Realism: 1")[1] == "The answer holds no grade for consistency, aesthetic_quality."


@given(st.tuples(*[st.integers(0, 2)] * 3))
def test_the_wiscore_is_between_0_and_1(each: tuple[int, int, int]) -> None:
    found, _ = wise.read_legacy(three(*each))
    assert found is not None
    assert 0 <= wise.wiscore(found) <= 1


# ---- T2I-ReasonBench -------------------------------------------------------------------------------------------------


@each_row(
    "answer, read, how",
    [
        ('{"reason": ["a", "b"], "score": [1, 0.5]}', [1, 0.5], "reference"),
        ('{"reason": ["uses } brace", "b"], "score": [1, 0.5]}', [1, 0.5], "object"),
        ('{"reason": {"q1": "a"}, "score": ["1", "0"]}', [1, 0], "object"),
        ('{"score": [1, 0.5]"}', [1, 0.5], "list"),
        ('```json\n{"reason": ["a",], "score": [0, 0],}\n```', [0, 0], "list"),
        ('I would say {"score": [1, 0.5, 0]}', None, ""),
        ('{"score": [1, 0.7]}', None, ""),
        ('{"score": [true, false]}', None, ""),
        ('{"score": 1}', None, ""),
        (PROSE, None, ""),
    ],
)
def test_lists_of_scores_are_read_in_three_ways(answer: str, read: list[float] | None, how: str) -> None:
    found, way, why = reasonbench.read(answer, 2)
    assert (found, way) == (read, how)
    assert bool(why) == (read is None)


def reasoned(policy: str, spoilt: str = "") -> dict[str, Row]:
    """Two images of each dimension; the first groups of every image hold half of it, the quality group all."""
    benchmark, found = ReasonBench(ReasonBenchOptions(policy=policy)), []  # type: ignore[arg-type]
    for name, dimension in DIMENSIONS.items():
        for number in (1, 2):
            criteria = {group: [["q", "c"], ["q", "c"]] for group in dimension.groups}
            prompt = Prompt(f"{name}-{number}", "p", {"dimension": name, "number": number, "criteria": criteria})
            main = f'{{"score": [{2 - number}, {2 - number}]}}'
            answers = [main, *['{"score": [1, 0]}'] * (len(criteria) - 2), '{"score": [1, 1]}']
            answers = [PROSE if prompt.id == spoilt and place == 0 else each for place, each in enumerate(answers)]
            found.append((generated(prompt), benchmark.score(generated(prompt), ["a description", *answers])))
    return rows(benchmark.table(found))


def test_reasonbench_weighs_its_groups_and_means_its_dimensions() -> None:
    table = reasoned("exclude")
    assert table["idiom"].value == pytest.approx(50)
    assert table["entity"].value == pytest.approx(100 * (0.7 * 0.5 + 0.3 * 0.5))
    assert table["idiom (quality)"].value == pytest.approx(100)
    means = [table[name].value for name in DIMENSIONS]
    assert table["overall"].value == pytest.approx(sum(means) / 4)
    assert all("own rubric" in row.note for row in table.values())


def test_an_unreadable_group_takes_its_image_along() -> None:
    table = reasoned("exclude", "idiom-1")
    assert (table["idiom"].value, table["idiom"].count) == (0, 1)
    assert (table["idiom (quality)"].value, table["idiom (quality)"].count) == (100, 2)
    assert table["readable"].value == pytest.approx(7.5 / 8)
    assert reasoned("zero", "idiom-2")["idiom"].value == 50
    with pytest.raises(RecordError, match="own scripts stop at the first answer that they cannot read"):
        reasoned("reference", "idiom-1")


@each_row("line", ["49.70 34.46 47.52 43.59 43.82", "50.53 39.43 47.45 44.08 45.37", "52.85 40.51 47.83 45.83 46.75"])
def test_the_papers_overall_of_reasonbench_is_the_mean_of_four(line: str) -> None:
    *means, overall = map(float, line.split())
    parts = [summary.part([Cell("a", mean / 100)]) for mean in means]
    assert summary.row("overall", summary.equal(parts, 100)).value == pytest.approx(overall, abs=0.006)


def test_no_answer_however_odd_stops_a_reader() -> None:
    for text in odd_answers():
        for reading in (compbench.read(text), wise.read_legacy(text), reasonbench.read(text, 3)[::2]):
            assert (reading[0] is None) == bool(reading[-1]), text
        wise_released.bagel(text)
        wise.binary(text)
