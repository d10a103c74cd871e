"""What the judge asks, and what it reads: examples first, then what every judge must keep to."""

from __future__ import annotations

from pathlib import Path

import pytest

from srum_core.records import Candidate, Score, Unreadable
from srum_core.testing import JudgeConformance, ScriptedModel, read_transcripts, sample_candidate
from srum_count import CountOptions
from srum_count.judge import Count, counted

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "count.jsonl"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("two dogs and three small red cubes", [(2, "dogs"), (3, "small red cubes")]),
        ("Ten glass bottles on 4 shelves", [(10, "glass bottles"), (4, "shelves")]),
        ("two people with a dog, next to one car", [(2, "people")]),
        ("a red cup on a wooden table", []),
        ("a house of 1950", []),
    ],
)
def test_what_a_prompt_counts(prompt: str, found: list[tuple[int, str]]) -> None:
    assert counted(prompt) == found


def test_an_image_is_worth_the_mean_of_its_numbers(tmp_path: Path) -> None:
    candidate = sample_candidate(tmp_path, prompt="two dogs and four cats")
    answers = ["One sits left, one lies right.\nCount: 2", "Top left, top right.\n**Count: 2**"]
    assert Count().scores(candidate, (), answers) == [
        Score(0.5, reason="dogs: 2 asked for, 2 seen; cats: 4 asked for, 2 seen", judge="count")
    ]
    assert Count(CountOptions(strict=True)).scores(candidate, (), answers)[0].value == 0.0


@pytest.mark.parametrize("answer", ["", "Two.", "Count: many", "Count: 2.5", "Count: 2 or 3", "Count: 2\nCount: 3"])
def test_what_is_no_number_is_asked_again_and_never_a_score(tmp_path: Path, answer: str) -> None:
    candidate = sample_candidate(tmp_path, prompt="two dogs and four cats")
    [found] = Count().scores(candidate, (), ["Count: 2", answer])
    assert isinstance(found, Unreadable)
    assert found.question == 1


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Count the {things}!")
    judge = Count(CountOptions(template=str(tmp_path / "mine.txt")))
    [question] = judge.questions(sample_candidate(tmp_path, prompt="three birds"), ())
    assert question.text == "Count the birds!"


def test_a_recorded_model_is_heard_again() -> None:
    first = read_transcripts(TRANSCRIPTS)[0]
    questions = Count().questions(first.candidate, first.regions)
    answers = ScriptedModel(read_transcripts(TRANSCRIPTS)).answer(questions)
    assert Count().scores(first.candidate, first.regions, answers) == list(first.scores)


class TestConformance(JudgeConformance):
    transcripts = TRANSCRIPTS

    @pytest.fixture
    def judge(self) -> Count:
        return Count()

    @pytest.fixture
    def candidate(self, tmp_path: Path) -> Candidate:
        return sample_candidate(tmp_path, prompt="two cups and three spoons")
