"""The grounding stage: near-duplicates, box verification (paper §3.1), unreadable boxes, and how models write boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from test_stages import WORDS, make

from srum_core import config
from srum_core.options import Use
from srum_core.records import BoxFormat, Candidate, Question, Region, Score, Unreadable
from srum_core.runs.run import Run
from srum_core.stages.generate import generate
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge


class Overlapping:
    """Proposes five boxes, two of them nearly the same, and asks nothing."""

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return ()

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        boxes = [(0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.49), (0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)]
        return [Region(str(number), box) for number, box in enumerate(boxes, start=1)]


class Asking:
    """Asks for boxes; can read one word only."""

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, "Where?")]

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region | Unreadable]:
        if answers[0] != "everywhere":
            return [Unreadable(0, f'"{answers[0]}" is no place')]
        width = (candidate.boxes or BoxFormat()).seen or (0, 0)
        return [Region("1", (0.0, 0.0, 1.0, 1.0), label=f"seen {width[0]} wide")]


class Strict:
    """A verifier: what it is told decides."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        width = (candidate.boxes or BoxFormat()).seen or (0, 0)
        return [Question(candidate.image, f"{width[0]} wide. Keep region {region.id}?") for region in regions]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        found: list[Score | Unreadable] = []
        for index, (region, answer) in enumerate(zip(regions, answers, strict=True)):
            if answer in ("yes", "no", "hm"):
                found.append(Score({"yes": 1.0, "hm": 0.0, "no": -1.0}[answer], region.id, reason=f"because {answer}"))
            else:
                found.append(Unreadable(index, "neither yes nor no", region.id))
        return found


class Clerk:
    """Is undecided about region 1, says no to 3, mumbles about 4, gives places; writes boxes in its own pixels."""

    asked: list[Question] = []  # noqa: RUF012 - the tests look here
    place = "everywhere"

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        Clerk.asked += questions
        said = {"1": "hm", "3": "no", "4": "mm"}
        return [
            Clerk.place if question.text == "Where?" else said.get(question.text[-2], "Score: 0.5\nReason: x")
            for question in questions
        ]

    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        return BoxFormat("pixels", (size[0] * 3, size[1] * 3))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS[:2]) + "\n")
    Clerk.asked, Clerk.place = [], "everywhere"
    return path


def grounded(tmp_path: Path, prompts: Path, **changes: object) -> Run:
    run = make(tmp_path / "run", prompts, answerer=Use("test_grounding:Clerk"), **changes)
    generate(run, 1)
    ground(run, 1)
    return run


def test_a_near_duplicate_is_dropped_and_the_reason_recorded(tmp_path: Path, prompts: Path) -> None:
    run = grounded(tmp_path, prompts, grounder=Use("test_grounding:Overlapping"))
    for each in run.groundings(1):
        assert [region.id for region in each.regions] == ["1", "3", "4"]
        (dropped,) = each.dropped
        assert dropped.region.id == "2"
        assert dropped.why == "near-duplicate of region 1 (intersection over union 0.98)"
    assert Clerk.asked == []  # nobody had anything to ask


def test_duplicates_can_be_kept(tmp_path: Path, prompts: Path) -> None:
    run = grounded(tmp_path, prompts, grounder=Use("test_grounding:Overlapping"), ground=config.Ground(duplicates=1.0))
    assert [len(each.regions) for each in run.groundings(1)] == [4, 4]


def test_boxes_that_fail_verification_are_dropped_and_unreadable_verdicts_drop_nothing(
    tmp_path: Path, prompts: Path
) -> None:
    run = grounded(
        tmp_path,
        prompts,
        grounder=Use("test_grounding:Overlapping"),
        verifier=Use("test_grounding:Strict"),
        ground=config.Ground(retries=1, temperature=0.3),
    )
    for each in run.groundings(1):
        assert [region.id for region in each.regions] == ["1", "4"]
        assert [(dropped.region.id, dropped.why) for dropped in each.dropped][1:] == [
            ("3", "rejected by test_grounding:Strict: because no")
        ]
        assert [(one.region, one.why) for one in each.unverified] == [("4", "neither yes nor no")]
        assert each.failures == ()
        said = [(one.question.text, one.answer, one.question.temperature) for one in each.exchanges]
        assert ("24 wide. Keep region 3?", "no", 0.0) in said  # told how the answerer writes boxes
        assert ("24 wide. Keep region 4?", "mm", 0.3) in said  # asked again, sampled
    judge(run, 1)
    assert all(not each.failures and len(each.regions) == 2 for each in run.judgements(1))


def test_boxes_that_cannot_be_read_are_a_failure_and_the_image_is_not_judged(tmp_path: Path, prompts: Path) -> None:
    Clerk.place = "over there"
    run = grounded(tmp_path, prompts, grounder=Use("test_grounding:Asking"), ground=config.Ground(retries=2))
    assert [question.temperature for question in Clerk.asked] == [0.0, 0.0, 0.7, 0.7, 0.7, 0.7]
    asked = len(Clerk.asked)
    judge(run, 1)
    assert len(Clerk.asked) == asked
    for each in run.judgements(1):
        assert [one.why for one in each.failures] == ['"over there" is no place']
        assert each.scores == ()


def test_grounders_and_judges_are_told_how_the_answerer_writes_boxes(tmp_path: Path, prompts: Path) -> None:
    run = grounded(tmp_path, prompts, grounder=Use("test_grounding:Asking"))
    assert [each.regions[0].label for each in run.groundings(1)] == ["seen 24 wide"] * 2
    options = {"think": False, "require_reason": False, "per_question": 1, "grounded": False, "penalty": False}
    run = make(
        tmp_path / "run",
        prompts,
        answerer=Use("test_grounding:Clerk"),
        grounder=Use("test_grounding:Asking"),
        judges=(Use("local-regions", options),),
    )
    judge(run, 1)
    assert "Bounding Box: [0, 0, 24, 24]" in Clerk.asked[-1].text


def test_other_verification_settings_need_a_new_grounding(tmp_path: Path, prompts: Path) -> None:
    run = grounded(tmp_path, prompts, grounder=Use("test_grounding:Overlapping"))
    other = make(
        run.folder,
        prompts,
        answerer=Use("test_grounding:Clerk"),
        grounder=Use("test_grounding:Overlapping"),
        verifier=Use("test_grounding:Strict"),
    )
    with pytest.raises(Exception, match=r"verifier was None and is now .*--redo ground"):
        other.check()
