"""The published benchmarks against the suite for benchmarks, on made-up prompts; an evaluation that asks in turns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from benchmark_data import compbench_folder, geneval_folder, reasonbench_folder, wise_folder

from srum_benchmarks.wise.prompts import LEGACY, VERIFIED
from srum_core import config, plugins
from srum_core.errors import PluginError, RecordError
from srum_core.evaluation.stage import compare, evaluate, scored
from srum_core.options import Use
from srum_core.records import Candidate, Prompt, Question, Row
from srum_core.runs.run import Run, made_with
from srum_core.stages.interview import without_history
from srum_core.testing import BenchmarkConformance
from srum_core.testing.fixtures import sample_candidate


def create(name: str, folder: Path, **options: Any) -> Any:
    return plugins.discover().create("benchmark", name, data=str(folder), verify=False, **options)


class TestCompBench(BenchmarkConformance):
    @pytest.fixture
    def srum_benchmark(self, tmp_path: Path) -> Any:
        return create("compbench", compbench_folder(tmp_path / "data"))

    def answer_to(self, text: str) -> str:
        return '{"score": 80, "explanation": "fine"}'


class TestGenEval(BenchmarkConformance):
    @pytest.fixture
    def srum_benchmark(self, tmp_path: Path) -> Any:
        """The suite's images are the same whenever they are made, so their detections can be recorded before."""
        lines = []
        for number in range(6):
            made = sample_candidate(tmp_path / "same", id=f"c{number}", size=self.size, seed=number)
            found = [{"label": "dog", "box": [0, 0, 9, 9], "score": 0.9}] * (number % 2)
            lines.append({"sha256": hashlib.sha256(made.image.read_bytes()).hexdigest(), "detections": found})
        file = tmp_path / "seen.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return create("geneval", geneval_folder(tmp_path / "data"), detections=str(file))


class TestGenEvalAsked(BenchmarkConformance):
    @pytest.fixture
    def srum_benchmark(self, tmp_path: Path) -> Any:
        return create("geneval", geneval_folder(tmp_path / "data"))

    def answer_to(self, text: str) -> str:
        return '{"detections": [{"label": "dog", "box": [0, 0, 9, 9], "score": 0.9}]}'


class TestWise(BenchmarkConformance):
    version = LEGACY

    @pytest.fixture
    def srum_benchmark(self, tmp_path: Path) -> Any:
        return create(self.version.name, wise_folder(tmp_path / "data", self.version))

    def answer_to(self, text: str) -> str:
        return "Consistency: 2\nRealism: 1\nAesthetic Quality: 1"


class TestWiseVerified(TestWise):
    version = VERIFIED

    def answer_to(self, text: str) -> str:
        return "Score: 1"


class TestReasonBench(BenchmarkConformance):
    @pytest.fixture
    def srum_benchmark(self, tmp_path: Path) -> Any:
        return create("reasonbench", reasonbench_folder(tmp_path / "data"))


# ---- turns -----------------------------------------------------------------------------------------------------------


class Twice:
    """Asks once more about what was answered, as often as `turns` says."""

    turns = 1

    def prompts(self, split: str) -> Sequence[Prompt]:
        return [Prompt(f"{split}-{number}", f"a leaf {number}") for number in range(3)]

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, f"What is it? {candidate.prompt.text}")]

    def further(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Question]:
        if len(answers) > self.turns:
            return []
        history = ((f"What is it? {candidate.prompt.text}", answers[-1]),)
        return [Question(candidate.image, f"How much? {len(answers)}", history=history)]

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        return {"answers": float(len(answers))}

    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> Sequence[Row]:
        return [Row("answers", 0.5, len(scored), 0.1, 0.25, 0.75, "incomplete: half of it")]


class Endless(Twice):
    turns = 1000


class Doubts(Twice):
    """Cannot read any first answer that was not sampled."""

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        return {} if "again" in answers[0] else {0: "it does not say again"}


class Hears:
    """Who answers; `converses` is set by the tests."""

    asked: list[list[Question]] = []  # noqa: RUF012

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        Hears.asked.append(list(questions))
        return [f"answer{' again' if question.temperature else ''} to {question.text}" for question in questions]


def run(folder: Path, benchmark: str = "Twice") -> Run:
    Hears.asked = []
    prompts = folder / "words.txt"
    prompts.write_text("a leaf\n")
    here = "test_benchmark_conformance"
    settings = config.Settings(
        prompts=str(prompts),
        adapter=Use("toy:ToyModel"),
        judges=(Use("toy:ToyJudge"),),
        answerer=Use(f"{here}:Hears"),
        benchmark=Use(f"{here}:{benchmark}"),
        evaluate=config.Evaluate(batch=2),
    )
    return Run(folder / "run", settings, plugins.discover())


@pytest.mark.parametrize("converses", [True, False])
def test_what_follows_from_answers_is_asked_in_a_turn_of_its_own(
    converses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hears, "converses", converses, raising=False)
    made = run(tmp_path)
    evaluate(made, None)
    assert [len(batch) for batch in Hears.asked] == [2, 2, 1, 1]
    second = Hears.asked[1][0]
    first = "What is it? a leaf 0"
    if converses:
        assert (second.text, second.history) == ("How much? 1", ((first, f"answer to {first}"),))
    else:
        assert second.history == ()
        assert [words in second.text for words in (first, f"answer to {first}", "How much? 1")] == [True] * 3
    for each in scored(made, None):
        assert each.values == {"answers": 2.0}
        first, second = (answered.question for answered in each.answers)
        assert second.history[0][0] == first.text


def test_what_a_benchmark_cannot_read_is_asked_again(tmp_path: Path) -> None:
    made = run(tmp_path, "Doubts")
    evaluate(made, None)
    for each in scored(made, None):
        asked = [answered.question for answered in each.answers]
        assert [bool(question.history) for question in asked] == [False, True, False, True]  # another answer leads on
        assert [question.temperature for question in asked] == [0.0, 0.0, 0.7, 0.0]
        assert asked[3].history[0][1].startswith("answer again")
        assert each.values == {"answers": 2.0}


def test_an_evaluation_with_other_retries_is_refused(tmp_path: Path) -> None:
    evaluate(run(tmp_path), None)
    changed = run(tmp_path)
    changed.settings = attrs.evolve(changed.settings, evaluate=attrs.evolve(changed.settings.evaluate, retries=3))
    with pytest.raises(RecordError, match=r"evaluate\.retries was 2 and is now 3"):
        evaluate(changed, None)


def test_options_that_only_change_speed_are_not_remembered(tmp_path: Path) -> None:
    registry = plugins.discover()
    options = registry.options("answerer", Use("remote", {"model": "m"}))
    plain = {"use": "remote", "model": "m", "extra": {}, "converses": True}
    assert made_with(registry, "answerer", Use("remote", attrs.asdict(options))) == plain
    other = attrs.asdict(attrs.evolve(options, converses=False))
    assert made_with(registry, "answerer", Use("remote", other)) == {**plain, "converses": False}


def test_a_benchmark_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r'Endless" still has questions about image \w+ after 8 turns'):
        evaluate(run(tmp_path, "Endless"), None)


def test_a_table_shows_intervals_and_notes(tmp_path: Path) -> None:
    made = run(tmp_path)
    evaluate(made, None)
    table = compare(made)
    assert table is not None
    assert [row[2] for row in table.rows] == ["50.0 [25.0, 75.0]"]
    assert table.caption == "incomplete: half of it"


def test_a_question_without_a_history_stays_as_it_is(tmp_path: Path) -> None:
    question = Question(tmp_path / "a.png", "Is it?")
    assert without_history(question) is question
