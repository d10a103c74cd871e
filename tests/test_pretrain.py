"""The bundled model's recipe, in a few tiny steps: it resumes, and what it writes is a BAGEL directory that runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srum_bagel.model import Bagel
from srum_bagel.options import Drawing, Options
from srum_benchmarks.shapes.curriculum import Recipe, Steps
from srum_benchmarks.shapes.lessons import lesson
from srum_benchmarks.shapes.measure import auc, balanced, judging
from srum_benchmarks.shapes.pretrain import main
from srum_core.records import Question

TEMPLATES = Path(__file__).parent.parent / "judges" / "srum_judges" / "prompts"
WORDS = tuple((TEMPLATES / f"short-{name}.txt").read_text() for name in ("layout", "regions"))


def pretrain(out: Path, steps: int) -> None:
    main([
        "--out", str(out), "--device", "cpu", "--measure", "0",
        "--layout-template", str(TEMPLATES / "short-layout.txt"),
        "--regions-template", str(TEMPLATES / "short-regions.txt"), "--autoencoder-steps", "2",
        "--autoencoder-batch", "2", "--steps", str(steps), "--turn", "3", "--drawings", "4", "--lessons", "2",
        "--late-drawings", "2", "--late-lessons", "2",
    ])  # fmt: skip


@pytest.mark.slow
def test_pretraining_resumes_and_writes_a_checkpoint_that_runs(tmp_path: Path) -> None:
    pretrain(tmp_path, 2)
    state = (tmp_path / "autoencoder.pt").read_bytes()
    pretrain(tmp_path, 4)
    assert (tmp_path / "autoencoder.pt").read_bytes() == state, "a finished phase is not made again"
    steps = [json.loads(line)["step"] for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    assert steps == [2, 4], "the second call goes on after the first"
    sides = {"size": (32, 32), "drawing_sides": (32, 32), "vision_sides": (32, 32)}
    model = Bagel(Options(checkpoint=str(tmp_path / "model"), device="cpu", drawing=Drawing(steps=3), **sides))
    sample = model.generate(["a red circle and a blue square"], [0])[0]
    sample.image.save(tmp_path / "a.png")
    assert sample.image.size == (32, 32)
    assert isinstance(model.answer([Question(tmp_path / "a.png", "what?", max_new_tokens=3)])[0], str)


def test_every_step_has_its_own_lessons_and_looking_comes_late() -> None:
    recipe = Recipe(turn=1, drawings=3, lessons=1, late_drawings=2, late_lessons=2)
    early, late = Steps(recipe, WORDS, 0, "both"), Steps(recipe, WORDS, 1, "both")[0]
    again = Steps(recipe, WORDS, 0, "both")[0]
    assert (early[0][0] == again[0]).all()
    assert (len(early[0][0]), len(early[0][2])) == (3, 1)
    assert (len(late[0]), len(late[2])) == (2, 2)
    assert not np.array_equal(early[0][0][:2], late[0])
    assert any("Describe" in question for pairs in late[3] for question, _ in pairs)


class Parrot:
    """Answers every question with what a perfect (or an always pleased) judge would say."""

    def __init__(self, lessons, pleased: bool) -> None:
        from srum_benchmarks.shapes.lessons import exchanges

        self.pleased = pleased
        self.said = [answer for each in lessons for _, answer in exchanges(each, *WORDS)]

    def answer(self, questions):
        out, self.said = self.said[: len(questions)], self.said[len(questions) :]
        if not self.pleased:
            return out
        return ["\n".join("Score: 1.0" if "Score" in line else line for line in text.splitlines()) for text in out]


def test_measuring_tells_a_perfect_judge_from_a_pleased_one() -> None:
    rng = np.random.default_rng(0)
    lessons = [lesson(rng) for _ in range(60)]
    perfect = judging(Parrot(lessons, pleased=False), lessons, WORDS)
    assert (perfect["layout_balanced_accuracy"], perfect["region_auc"], perfect["readable"]["regions"]) == (
        1.0,
        1.0,
        1.0,
    )
    pleased = judging(Parrot(lessons, pleased=True), lessons, WORDS)
    assert (pleased["layout_balanced_accuracy"], pleased["region_auc"]) == (0.5, 0.5)
    assert pleased["layout_correlation"] is None


def test_figures_of_one_kind_only_are_not_invented() -> None:
    assert balanced(np.array([True, True]), np.array([True, False])) is None
    assert auc(np.array([False]), np.array([0.5])) is None
