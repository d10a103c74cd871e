"""`srum record`: transcripts that travel, and that read as they did in the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import toy
from attrs import evolve
from test_reread import WORDS, make

from srum_core.cli import main
from srum_core.records import Candidate, Exchange, Prompt, Question, Region, Score, Unreadable
from srum_core.runs.run import Run
from srum_core.stages.interview import Interview
from srum_core.testing.transcripts import Transcript, read_transcripts, write_transcripts


class Comparing(toy.ToyJudge):
    """Shows another image too."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        other = candidate.image.with_name("other.png")
        return [*super().questions(candidate, ()), Question(other, "Is this one better?")]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        return super().scores(candidate, (), answers[:1])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make(tmp_path / "run")


def record(run: Run, *arguments: str, code: int = 0) -> None:
    assert main.main(["record", str(run.folder), *arguments]) == code


def test_a_transcript_reads_as_the_run_does(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(run, "--judge", "test_reread:Tunable")
    transcripts = read_transcripts(tmp_path / "transcripts/test_reread-Tunable.jsonl")
    judge = dict(run.judges())["test_reread:Tunable"]
    judged = {each.candidate: each for each in run.judgements(1)}
    assert [each.candidate.id for each in transcripts] == list(judged)
    for each in transcripts:
        assert each.scores == judged[each.candidate.id].scores[3:]
        assert {exchange.asked_by for exchange in each.exchanges} == {"test_reread:Tunable"}
        again = Interview.replay(each.judge, judge, each.candidate, each.regions, each.exchanges)
        assert tuple(again.outcome()) == (*each.scores, *each.failures)
        (original,) = run.candidates(1).select([each.candidate.id])
        assert each.candidate == evolve(original, image=each.candidate.image)
        assert each.candidate.image == tmp_path / f"transcripts/images/{each.candidate.id}.png"
        assert each.candidate.image.read_bytes() == original.image.read_bytes()
        assert {exchange.question.image for exchange in each.exchanges} == {each.candidate.image}


def test_it_can_be_moved_and_read_from_anywhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "project/tests/fixtures/mine.jsonl"
    record(run, "--judge", "toy:ToyJudge", "--out", str(out))
    raw = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {each["candidate"]["image"] for each in raw} == {f"images/{each['candidate']['id']}.png" for each in raw}
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    shutil.move(tmp_path / "project", tmp_path / "elsewhere")
    shutil.rmtree(run.folder)
    monkeypatch.chdir(tmp_path / "elsewhere/tests")
    for each in read_transcripts(Path("fixtures/mine.jsonl")):
        assert each.candidate.image.is_file()
        assert all(exchange.question.image.is_file() for exchange in each.exchanges)


def test_a_path_with_dots_is_relative_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "a/b", tmp_path / "a/fixtures"
    for folder in (here, there):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    image = there / "images/x.png"
    transcript = Transcript("j", Candidate("x", Prompt("p", "a cat"), image, (8, 8), 0))
    write_transcripts(Path("../fixtures/x.jsonl"), [transcript])
    assert json.loads((there / "x.jsonl").read_text())["candidate"]["image"] == "images/x.png"
    assert read_transcripts(there / "x.jsonl") == read_transcripts(Path("../fixtures/x.jsonl")) == [transcript]


def test_a_run_reached_through_dots_stores_no_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = make(Path("../run"))
    for path in run.folder.glob("round-1/*/part-0.jsonl"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_without_images_those_of_the_run_are_named(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "t/mine.jsonl"
    record(run, "--judge", "toy:ToyJudge", "--limit", "2", "--no-images", "--out", str(out))
    transcripts = read_transcripts(out)
    assert len(transcripts) == 2
    assert [each.candidate.image for each in transcripts] == [each.image for each in run.candidates(1)][:2]
    assert [path.name for path in out.parent.iterdir()] == ["mine.jsonl"]


def test_every_image_shown_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.ToyModel, "answer", lambda self, questions: ["Score: 0.5"] * len(questions))
    run = make(tmp_path / "run", "judges=['test_record:Comparing']")
    images = run.stage_folder("generate", 1) / "images"
    shutil.copy(next(images.glob("*.png")), images / "other.png")
    record(run, "--judge", "test_record:Comparing", "--out", str(tmp_path / "t/x.jsonl"))
    for each in read_transcripts(tmp_path / "t/x.jsonl"):
        names = [exchange.question.image.name for exchange in each.exchanges]
        assert names == [f"{each.candidate.id}.png", f"{each.candidate.id}-1.png"]
        assert all(exchange.question.image.is_file() for exchange in each.exchanges)


def test_doubt_is_the_runs_and_not_in_a_transcript(tmp_path: Path) -> None:
    run = make(
        tmp_path / "run", "judge.votes=3", "judge.doubt=1.0", "adapter=test_reread:Moody", "judges=['toy:ToyJudge']"
    )
    record(run, "--judge", "toy:ToyJudge", "--out", str(tmp_path / "x.jsonl"))
    scores = [score for each in read_transcripts(tmp_path / "x.jsonl") for score in each.scores]
    doubted = [score for each in run.judgements(1) for score in each.scores]
    assert [score.votes for score in scores] == [score.votes for score in doubted]
    assert [score.value for score in scores] != [score.value for score in doubted]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--judge", "toy:ToyJugde"], 'Did you mean "toy:ToyJudge"? Recorded are: test_reread:Tunable, toy:ToyJudge.'),
        (["--judge", "toy:ToyJudge", "--round", "2"], "There are no judgements of round 2"),
        (["--judge", "toy:ToyJudge", "--out", "there.jsonl"], "there.jsonl is there already"),
        (["--judge", "toy:ToyJudge", "--out", "taken/x.jsonl"], "is another image, of other transcripts"),
    ],
)
def test_what_it_refuses(
    arguments: list[str],
    sentence: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text("mine\n")
    first = next(iter(run.candidates(1)))
    Path("taken/images").mkdir(parents=True)
    Path(f"taken/images/{first.id}.png").write_bytes(b"another")
    record(run, *arguments, code=2)
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert Path("there.jsonl").read_text() == "mine\n"
    assert not Path("taken/x.jsonl").exists()


def test_what_is_there_is_overwritten_when_forced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    out.write_text("mine\n")
    record(run, "--judge", "toy:ToyJudge", "--out", str(out), "--force")
    assert len(read_transcripts(out)) == len(WORDS)


def test_a_missing_image_and_changed_questions_are_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    next(iter(run.candidates(1))).image.unlink()
    record(run, "--judge", "toy:ToyJudge", "--out", str(tmp_path / "x.jsonl"), code=2)
    assert "cannot be read (No such file or directory). Restore it" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(toy.ToyJudge, "questions", lambda self, c, r: [Question(c.image, "Well?")])
    record(run, "--judge", "toy:ToyJudge", "--out", str(tmp_path / "x.jsonl"), code=2)
    assert "asks 1 questions" in capsys.readouterr().err


def test_exchanges_keep_their_place(run: Run, tmp_path: Path) -> None:
    record(run, "--judge", "toy:ToyJudge", "--out", str(tmp_path / "x.jsonl"))

    def places(exchanges: Sequence[Exchange]) -> list[tuple[int, int, str, str]]:
        return [(each.index, each.vote, each.question.text, each.answer) for each in exchanges]

    for transcript, judged in zip(read_transcripts(tmp_path / "x.jsonl"), run.judgements(1), strict=True):
        assert places(transcript.exchanges) == places(judged.exchanges[:3])
