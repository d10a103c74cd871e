"""Requirements of every grounder."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest

from srum_core.plugins.registry import require_protocol
from srum_core.protocols import Grounder
from srum_core.records import Candidate, Question, Region, Unreadable
from srum_core.testing.fixtures import called, check_asking, sample_candidate, shown
from srum_core.testing.malformed_answers import odd_answers


class GrounderConformance:
    """Subclass it as `Test…` with a fixture `grounder`; one that asks should also be given answers by `answer_to`."""

    sizes: Sequence[tuple[int, int]] = ((64, 48), (48, 64), (3, 2))
    """(width, height) of the images: landscape, portrait, tiny."""

    @pytest.fixture
    def candidates(self, tmp_path: Path) -> list[Candidate]:
        """The images, one of each of `sizes`."""
        return [sample_candidate(tmp_path, id=f"{w}x{h}", size=(w, h)) for w, h in self.sizes]

    def answer_to(self, question: Question) -> str:
        """Return a good answer to a question of the grounder; override it for a grounder that reads answers."""
        return ""

    def test_it_is_a_grounder(self, grounder: Grounder) -> None:
        require_protocol(grounder, Grounder, type(grounder).__name__)

    def test_asking_is_pure(self, grounder: Grounder, candidates: list[Candidate]) -> None:
        check_asking(grounder.questions, candidates, type(grounder).__name__)

    def test_regions_have_boxes_and_ids_of_their_own(self, grounder: Grounder, candidates: list[Candidate]) -> None:
        for candidate in candidates:
            regions = self._find(grounder, candidate)
            ids = [region.id for region in regions if isinstance(region, Region)]
            id = next((id for id in ids if ids.count(id) > 1), None)
            assert id is None, (
                f"{type(grounder).__name__} gave two regions of one image the same id {id!r}. Scores belong to regions "
                "by id, so each needs its own."
            )
            assert all(id.strip() for id in ids), f"{type(grounder).__name__} gave a region an empty id."

    def test_looking_again_finds_the_same(self, grounder: Grounder, candidates: list[Candidate]) -> None:
        first = [self._find(grounder, candidate) for candidate in candidates]
        second = [self._find(grounder, candidate) for candidate in reversed(candidates)][::-1]
        for candidate, one, other in zip(candidates, first, second, strict=True):
            assert one == other, (
                f"{type(grounder).__name__} found other regions in the same {candidate.size} image the second time: "
                "seed whatever is random from the image, and keep no state between images."
            )

    def test_looking_changes_neither_image_nor_answers(self, grounder: Grounder, candidates: list[Candidate]) -> None:
        for candidate in candidates:
            answers = [self.answer_to(question) for question in grounder.questions(candidate)]
            before = (candidate.image.read_bytes(), list(answers), deepcopy(candidate))
            self._find(grounder, candidate, answers)
            assert (candidate.image.read_bytes(), answers, candidate) == before, (
                f"{type(grounder).__name__}.regions changed the image's file or what it was given."
            )

    def test_odd_answers_are_regions_or_unreadable(self, grounder: Grounder, candidates: list[Candidate]) -> None:
        candidate = candidates[0]
        questions = list(grounder.questions(candidate))
        answers = [self.answer_to(question) for question in questions]
        for text in odd_answers(answers) if questions else ():
            self._find(grounder, candidate, [text] * len(questions))

    def _find(
        self, grounder: Grounder, candidate: Candidate, answers: list[str] | None = None
    ) -> list[Region | Unreadable]:
        questions = list(grounder.questions(candidate))
        replies = [self.answer_to(question) for question in questions] if answers is None else answers
        who, size = f"{type(grounder).__name__}.regions", f"{candidate.size[0]}x{candidate.size[1]}"
        message = f"a picture of {size}" + (f" and {shown(replies[0])}" if replies else "")
        sentence = f"{who} must give Region or Unreadable for {message} (a box needs 0 <= x0 < x1 <= 1, and so for y)"
        regions = called(sentence, lambda: list(grounder.regions(candidate, replies)))
        for each in regions:
            assert isinstance(each, Region | Unreadable), f"{who} gave {each!r} for {message}."
            if isinstance(each, Unreadable):
                assert 0 <= each.question < len(questions), (
                    f"{who} calls the answer to question {each.question} unreadable, but asked {len(questions)}."
                )
        return regions
