"""Requirements of every benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from srum_core.errors import SrumError
from srum_core.plugins.registry import require_protocol
from srum_core.protocols import Benchmark
from srum_core.records import Candidate, Prompt, Row
from srum_core.testing.fixtures import called, check_asking, sample_candidate, shown
from srum_core.testing.malformed_answers import WELL_FORMED, odd_answers


class BenchmarkConformance:
    """Subclass it as `Test…` with a fixture `srum_benchmark` (pytest-benchmark owns the name `benchmark`)."""

    splits: Sequence[str] = ("test",)
    """The splits to check; if there are several, no prompt may be in two."""
    size: tuple[int, int] = (64, 64)
    """(width, height) of an image that the benchmark can score."""

    @pytest.fixture
    def candidates(self, srum_benchmark: Benchmark, tmp_path: Path) -> list[Candidate]:
        """Images of the first few prompts."""
        prompts = list(srum_benchmark.prompts(self.splits[0]))[:6]
        images = [sample_candidate(tmp_path, id=f"c{i}", size=self.size, seed=i) for i in range(len(prompts))]
        return [attrs.evolve(image, prompt=prompt) for image, prompt in zip(images, prompts, strict=True)]

    def answer_to(self, text: str) -> str:
        """Return a good answer to a question with this text; override it for a benchmark that reads answers."""
        return WELL_FORMED[1]

    def test_it_is_a_benchmark(self, srum_benchmark: Benchmark) -> None:
        require_protocol(srum_benchmark, Benchmark, type(srum_benchmark).__name__)

    def test_every_split_has_prompts_with_ids_of_their_own(self, srum_benchmark: Benchmark) -> None:
        for split in self.splits:
            prompts = list(srum_benchmark.prompts(split))
            assert prompts, f'The split "{split}" holds no prompts.'
            assert all(isinstance(each, Prompt) and each.text.strip() for each in prompts), (
                f'The split "{split}" holds something that is no Prompt, or one without text.'
            )
            ids = [prompt.id for prompt in prompts]
            id = next((id for id in ids if ids.count(id) > 1), None)
            assert id is None, f'Two prompts of the split "{split}" have the id {id!r}; images are stored by it.'
            assert list(srum_benchmark.prompts(split)) == prompts, (
                f'The split "{split}" is another one the second time: seed whatever is random, or results before and '
                "after training cannot be compared."
            )

    def test_splits_share_no_prompt(self, srum_benchmark: Benchmark) -> None:
        home: dict[str, str] = {}
        for split in self.splits:
            for text in {prompt.text for prompt in srum_benchmark.prompts(split)}:
                other = home.setdefault(text, split)
                assert other == split, f'"{text}" is in the splits "{other}" and "{split}": one leaks into the other.'

    def test_asking_is_pure(self, srum_benchmark: Benchmark, candidates: list[Candidate]) -> None:
        check_asking(srum_benchmark.questions, candidates, type(srum_benchmark).__name__)

    def test_scores_are_finite_and_repeatable(self, srum_benchmark: Benchmark, candidates: list[Candidate]) -> None:
        for candidate in candidates:
            one, other = self._score(srum_benchmark, candidate), self._score(srum_benchmark, candidate)
            assert one == other, f"{type(srum_benchmark).__name__}.score measured {one}, then {other}: it must be pure."

    def test_odd_answers_give_numbers_or_a_sentence(
        self, srum_benchmark: Benchmark, candidates: list[Candidate]
    ) -> None:
        count = len(srum_benchmark.questions(candidates[0]))
        for text in odd_answers() if count else ():
            try:
                measures = srum_benchmark.score(candidates[0], [text] * count)
            except SrumError:
                continue  # the message says what cannot be scored
            except Exception as error:
                raise AssertionError(
                    f"{type(srum_benchmark).__name__}.score raised {type(error).__name__}: {error} for the answer "
                    f"{shown(text)}. Give numbers, or raise an error of srum_core.errors with a sentence."
                ) from error
            check_measures(measures, type(srum_benchmark).__name__)

    def test_unreadable_answers_are_told_by_their_index(
        self, srum_benchmark: Benchmark, candidates: list[Candidate]
    ) -> None:
        unreadable: Any = getattr(srum_benchmark, "unreadable", None)
        who = f"{type(srum_benchmark).__name__}.unreadable"
        count = len(srum_benchmark.questions(candidates[0]))
        for text in odd_answers() if count and unreadable is not None else ():
            answers = [text] * count
            why = dict(called(f"{who} failed on {shown(text)}", lambda: unreadable(candidates[0], answers)))  # noqa: B023
            assert all(0 <= index < count for index in why), (
                f"{who} names the answers {sorted(why)}, but there are {count}; it gives their indices."
            )
            assert answers == [text] * count, f"{who} changed what it was given."
            assert dict(unreadable(candidates[0], answers)) == why, (
                f"{who} must give the same result for the same answers."
            )

    def test_the_table_has_well_formed_rows(self, srum_benchmark: Benchmark, candidates: list[Candidate]) -> None:
        scored = [(candidate, self._score(srum_benchmark, candidate)) for candidate in candidates]
        who = f"{type(srum_benchmark).__name__}.table"
        rows = called(f"{who} cannot make a table of {len(scored)} scored images", lambda: srum_benchmark.table(scored))
        assert rows, f"{who} made no row out of {len(scored)} scored images."
        names = [row.name for row in rows]
        assert len(set(names)) == len(names), f"{who} made two rows with the same name: {names}."
        for row in rows:
            assert isinstance(row, Row), f"{who} gave {row!r}, which is no Row."
            assert math.isfinite(row.value), f'{who}: the row "{row.name}" has the value {row.value}.'
            assert 1 <= row.count <= len(scored), f'{who}: the row "{row.name}" counts {row.count} of {len(scored)}.'
            assert row.error is None or (math.isfinite(row.error) and row.error >= 0), (
                f'{who}: the row "{row.name}" has the standard error {row.error}; None where there is none.'
            )
        assert list(srum_benchmark.table(scored)) == list(rows), f"{who} made another table the second time."

    def _score(self, srum_benchmark: Benchmark, candidate: Candidate) -> Mapping[str, float]:
        answers = [self.answer_to(question.text) for question in srum_benchmark.questions(candidate)]
        width, height = self.size
        measures = called(
            f"{type(srum_benchmark).__name__} cannot score a {width}x{height} image (set `size` to one that it can)",
            lambda: srum_benchmark.score(candidate, answers),
        )
        check_measures(measures, type(srum_benchmark).__name__)
        return measures


def check_measures(measures: Mapping[str, float], who: str) -> None:
    assert measures, f"{who}.score measured nothing: give at least one named number."
    for name, value in measures.items():
        assert isinstance(value, int | float) and math.isfinite(value), (  # noqa: PT018
            f'{who}.score gave {value!r} for "{name}"; measures are finite numbers.'
        )
