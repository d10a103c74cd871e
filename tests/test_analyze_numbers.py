"""`srum analyze`: what is asked and reckoned, on numbers small enough to check by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from srum_core.analysis import activations, steps
from srum_core.records import Candidate, Prompt, Question

LAYOUT, DETAIL = "Grade only the layout", "Grade only the details"


class Grades:
    """80 for layouts, 20 for details; none for the details of the second image."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def answer(self, questions: Sequence[Question]) -> list[str]:
        self.asked += questions
        return [self.about(each) for each in questions]

    def about(self, question: Question) -> str:
        if LAYOUT in question.text:
            return '{"score": 80}'
        return "Fine details." if question.image.stem == "b" else '{"score": 20}'


def test_a_judge_grades_each_rubric_of_each_image_by_itself() -> None:
    judge = Grades()
    images = [Candidate(name, Prompt(name, "a boat"), Path(f"{name}.png"), (4, 4), 0) for name in "ab"]
    found = steps._scores(images, SimpleNamespace(), judge)  # type: ignore[arg-type]
    assert found == [{"layout": 0.8, "detail": 0.2}, {"layout": 0.8}]
    assert [(each.image.stem, LAYOUT in each.text, DETAIL in each.text) for each in judge.asked] == [
        ("a", True, False), ("a", False, True), ("b", True, False), ("b", False, True),
    ]  # fmt: skip
    assert all('"a boat"' in each.text for each in judge.asked)
    assert "Pay no heed to blur, noise or texture." in judge.asked[0].text
    assert not any("step" in each.text for each in judge.asked)


def test_the_mean_height_of_a_curve_heeds_how_far_its_steps_are_apart() -> None:
    assert steps.area(np.array([[1.0, 1.0, 0.0]]), [0, 2, 3]).tolist() == [pytest.approx(2.5 / 3)]
    assert steps.area(np.array([[0.7]]), [5]).tolist() == [0.7]


def test_clusters_that_halves_of_the_samples_find_otherwise_are_not_stable() -> None:
    rng = np.random.default_rng(0)
    probes = {task: rng.normal(size=(40, 4)) for task in ("understanding", "generation")}
    probes["understanding"][::2, 0] += 9  # only every other sample
    probes["understanding"][1::2, 1] += 9
    found = activations.find(probes, np.zeros(4), 0.25)
    assert found.stability["understanding"] == 0
    assert len(found.neurons["understanding"]) == 1


def test_a_row_holds_what_is_active_rectified_and_what_random_clusters_do() -> None:
    probes = {"understanding": np.array([[0.0, 0.0], [2.0, 4.0]]), "generation": np.array([[0.0, 0.0], [2.0, 4.0]])}
    base = np.array([[-1.0, 0.0], [3.0, 0.0]])
    here = base + np.array([0.0, 2.0])
    row = activations.row(here, base, probes, [0], [[1], [0]])
    assert (row["raw"][0], row["rectified"][0]) == (1.0, 1.5)
    assert row["z"][0] == pytest.approx(0)  # (1 - mean 1) / deviation 1
    assert row["change"][0] == pytest.approx(0)
    assert row["random_change"][0] == pytest.approx(0.5)  # 2 / deviation 2 in one of two
