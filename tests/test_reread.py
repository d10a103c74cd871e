"""`srum reread`: recorded answers read again, and what it refuses, keeps and leaves alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import test_stages
import toy
from attrs import evolve, frozen
from training import clean  # noqa: F401 - a fixture

from srum_core import config, plugins
from srum_core.cli import main
from srum_core.errors import RecordError
from srum_core.options import Use
from srum_core.records import BoxFormat, Candidate, Judgement, Question, Region, Score, Unreadable
from srum_core.runs.files import lock
from srum_core.runs.run import Run
from srum_core.runs.store import Records
from srum_core.stages.order import perform

WORDS = ["a red cat", "two dogs", "a tree left of a house", "ein Bär 🐻", "the sea"]


@frozen
class Options:
    factor: float = 1.0
    """What every number is multiplied with."""
    ask: str = "How is it?"
    """The question."""
    reason: bool = False
    """Whether a reason is needed."""


class Tunable(toy.ToyJudge):
    """The toy judge, with something to set."""

    Options = Options

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        unit = candidate.boxes.unit if candidate.boxes else "none"
        return [
            evolve(each, text=f"{self.options.ask} {each.text} {unit}")
            for each in super().questions(candidate, regions)
        ]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        found = []
        for number, each in enumerate(super().scores(candidate, regions, answers)):
            if self.options.reason and isinstance(each, Score) and number == 2:
                found.append(Unreadable(2, "there is no reason", each.region, "toy"))
            elif isinstance(each, Score):
                found.append(evolve(each, value=each.value * self.options.factor))
            else:
                found.append(each)
        return found


class Seeing(toy.ToyModel):
    """A model that writes boxes in its own way."""

    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        return BoxFormat("thousand", (2 * size[0], 2 * size[1]))


class Moody(toy.ToyModel):
    """Another number each time, and sometimes none."""

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [f"Score: {question.seed % 21 / 10 - 1}" if question.seed % 7 else "Hm." for question in questions]


class Lost(toy.ToyGrounder):
    """Finds nothing readable in the image of the dogs."""

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region | Unreadable]:  # type: ignore[override]
        if "dogs" in candidate.prompt.text:
            return [Unreadable(0, "it is no list of boxes")]
        return super().regions(candidate, answers)


ARGUMENTS = [
    "--adapter=toy:ToyModel",
    "grounder=toy:ToyGrounder",
    "judges=['toy:ToyJudge', {use='test_reread:Tunable'}]",
    "benchmark=",
    "map=srum_losses.maps:Paper",
    "loss=srum_losses.objectives:SrumLoss",
    *("train.steps=1", "train.lr=0.01", "train.mixed_precision=no", "judge.retries=0"),
]


def make(folder: Path, *settings: str, rounds: int = 1, stages: Sequence[str] = ("generate", "ground", "judge")) -> Run:
    words = folder.parent / "words.txt"
    words.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    run = open_with(folder, *settings, f"rounds={rounds}")
    for k in range(1, rounds + 1):
        for stage in stages if k == rounds else [*stages, "train"]:
            perform(run, stage, k)
    return run


def open_with(folder: Path, *settings: str) -> Run:
    """The run with these settings, as srum-train opens it."""
    registry = plugins.discover()
    given = [f'prompts="{folder.parent / "words.txt"}"', *ARGUMENTS[1:], *settings]
    adapter = next((text.partition("=")[2] for text in settings if text.startswith("adapter=")), "toy:ToyModel")
    return Run.create(folder, config.load_settings(adapter, (), None, given, registry), registry)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def judgements(folder: Path) -> list[Judgement]:
    return list(Records(folder, Judgement))


def reread(run: Run, *arguments: str, code: int = 0) -> None:
    assert main.main(["reread", str(run.folder), *arguments]) == code


def flat(text: str) -> str:
    return " ".join(text.split())


def test_without_a_change_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run")
    (run.folder / ".lock").touch()
    before = files(tmp_path)
    reread(run)
    assert "Nothing changes." in capsys.readouterr().out
    assert files(tmp_path) == before


def test_settings_of_another_version_do_not_hinder_it(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    path = run.folder / "run.toml"
    path.write_text(path.read_text().replace("[train]", "[train]\nold = 2"))
    reread(run, "judges.1.factor=0.5")
    assert judgements(run.stage_folder("judge", 1)) != judgements(run.round_folder(1) / "judgements.before-1")


def test_an_option_of_a_judge_changes_the_scores_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(tmp_path / "run")
    old, before = judgements(run.stage_folder("judge", 1)), files(run.folder)
    reread(run, "judges.1.factor=0.5", "--dry-run")
    assert "Nothing was written" in capsys.readouterr().out
    assert files(run.folder) == before
    reread(run, "judges.1.factor=0.5", "--examples", "2")
    said = capsys.readouterr().out
    assert said.count("round 1: ") == 2
    assert f"… and {3 * len(WORDS) - 2} more" in said
    assert re.search(rf"{len(WORDS)} │ +{3 * len(WORDS)} of {6 * len(WORDS)} │", said)

    new = judgements(run.stage_folder("judge", 1))
    assert [each.candidate for each in new] == [each.candidate for each in old]
    for was, now in zip(old, new, strict=True):
        assert evolve(now, scores=was.scores) == was
        halves = [evolve(score, value=score.value / 2) for score in was.scores[3:]]
        assert now.scores == (*was.scores[:3], *halves)
    kept = run.round_folder(1) / "judgements.before-1"
    assert judgements(kept) == old
    assert (run.stage_folder("judge", 1) / "DONE").read_text() == (kept / "DONE").read_text()
    changed = open_with(run.folder, "judges.1.factor=0.5")  # as `srum-train` opens it: no "other settings"
    assert changed.done("judge", 1)
    assert Run.open(run.folder).settings == changed.settings
    with pytest.raises(RecordError, match="other settings"):
        open_with(run.folder)

    reread(run, "judges.1.factor=1.0")
    assert judgements(run.stage_folder("judge", 1)) == old
    assert (run.round_folder(1) / "judgements.before-2").is_dir()


def test_it_equals_what_the_same_answers_give_in_a_run_with_those_settings(tmp_path: Path) -> None:
    settings = ("judge.votes=3", "adapter=test_reread:Moody", "judge.retries=1")
    run, other = make(tmp_path / "run", *settings), make(tmp_path / "other", *settings, "judge.doubt=0.5")
    reread(run, "judge.doubt=0.5")
    for stage in ("judgements", "regions"):
        for name in ("part-0.jsonl", "DONE", "settings.json"):
            one, two = (each.round_folder(1) / stage / name for each in (run, other))
            assert one.read_bytes() == two.read_bytes()
    doubted = [score for each in judgements(run.stage_folder("judge", 1)) for score in each.scores]
    assert any(score.spread and abs(score.value) < abs(sorted(score.votes)[len(score.votes) // 2]) for score in doubted)
    assert any(score.votes[1:] for score in doubted)


def test_better_code_reads_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyJudge, "scores", lambda self, c, r, a: [Unreadable(0, "I cannot read", None, "toy")])
        run = make(tmp_path / "run", "judges=['toy:ToyJudge']")
    assert all(each.failures and not each.scores for each in run.judgements(1))
    reread(run)
    said = capsys.readouterr().out
    assert f"{len(WORDS)} → 0" in said
    assert "whole image (toy): unreadable (I cannot read) → " in said
    assert all(each.scores and not each.failures for each in run.judgements(1))
    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyJudge, "scores", lambda self, c, r, a: [Unreadable(0, "not today", None, "toy")])
        reread(run)
    assert "unreadable (not today)" in capsys.readouterr().out
    assert all(each.failures and not each.scores for each in run.judgements(1))


def test_words_that_change_are_told_apart_from_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", "judges=['toy:ToyJudge']")
    read = toy.ToyJudge.scores
    monkeypatch.setattr(
        toy.ToyJudge, "scores", lambda self, c, r, a: [evolve(each, reason="bright") for each in read(self, c, r, a)]
    )
    reread(run)
    assert f"reasons, labels or rules change in {len(WORDS)} judgements" in capsys.readouterr().out
    assert {score.reason for each in run.judgements(1) for score in each.scores} == {"bright"}


def test_a_setting_that_changes_no_judgement_is_still_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(tmp_path / "run")
    old = judgements(run.stage_folder("judge", 1))
    reread(run, "judge.doubt=0.25")
    assert "only the settings do" in capsys.readouterr().out
    assert judgements(run.stage_folder("judge", 1)) == old
    assert open_with(run.folder, "judge.doubt=0.25").settings.judge.doubt == 0.25


def test_how_boxes_were_written_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", "adapter=test_reread:Seeing")
    message = {exchange.question.text.split()[-1] for each in run.judgements(1) for exchange in each.exchanges[3:]}
    assert message == {"thousand"}
    monkeypatch.setattr(Run, "answerer", lambda *_: pytest.fail("a model was asked for"))
    reread(run, "judges.1.factor=0.5")
    assert all(each.boxes == BoxFormat("thousand", (16, 16)) for each in Run.open(run.folder).judgements(1))


def test_where_grounding_failed_nothing_is_read(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grounder=test_reread:Lost")
    (lost,) = [each for each in run.judgements(1) if each.failures]
    assert not lost.exchanges
    reread(run, "judges.1.factor=0.5")
    again = [each for each in Run.open(run.folder).judgements(1) if each.failures]
    assert again == [lost]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["judges.1.ask='Well?'"], 'The judge "test_reread:Tunable" asks 3 questions about image'),
        (["judges=['toy:ToyJudge', 'test_reread:Tunable', 'toy:ToyJudge']"], 'The judge "toy:ToyJudge 2" asks 3 quest'),
        (["judge.votes=2"], "It cannot change judge.votes (was 1 and is now 2)"),
        (["train.lr=1", "seed=2"], "It cannot change seed (was 0 and is now 2); train.lr (was 0.01 and is now 1.0)"),
        (["judges.1.faktor=1"], "judges.1.faktor"),
        (["--round", "4"], "There are no judgements of round 4 in"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_what_cannot_be_read_again_is_refused_and_nothing_written(
    settings: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(tmp_path / "run")
    (run.folder / ".lock").touch()
    before = files(tmp_path)
    reread(run, *settings, code=2)
    assert sentence in flat(capsys.readouterr().err)
    assert files(tmp_path) == before


def test_a_judge_can_be_left_out(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    reread(run, "judges=['test_reread:Tunable']")
    for each in Run.open(run.folder).judgements(1):
        assert len(each.scores) == 3
        assert {exchange.asked_by for exchange in each.exchanges} == {"test_reread:Tunable"}


def test_scores_without_answers_cannot_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", stages=("generate", "ground"))
    run.judgements(1).extend(Judgement(item.id, scores=(Score(0.5),)) for item in run.planned(1))
    reread(run, code=2)
    assert "not the answers behind them" in flat(capsys.readouterr().err)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["reread", str(tmp_path / "nowhere")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_processes_are_kept_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run")
    with lock(run.folder):
        reread(run, "judges.1.factor=0.5", code=2)
    assert "Another process is at work" in capsys.readouterr().err


def test_settings_hold_for_all_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", rounds=2)
    reread(run, "judges.1.factor=0.5", "--round", "2", code=2)
    assert "Round 1 was judged with other settings" in flat(capsys.readouterr().err)
    reread(run, "judges.1.factor=0.5")
    for k in (1, 2):
        assert (run.round_folder(k) / "judgements.before-1").is_dir()
    assert open_with(run.folder, "judges.1.factor=0.5", "rounds=2").done("judge", 2)


def test_what_was_trained_on_the_old_ones_is_named_and_the_command_trains_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", stages=("generate", "ground", "judge", "train"))
    monkeypatch.chdir(tmp_path)
    weights = files(run.stage_folder("train", 1))
    reread(run, "judges.1.factor=-1.0")
    said = capsys.readouterr().out
    assert files(run.stage_folder("train", 1)) == weights
    assert "Training of round 1 was done" in flat(said)
    command = said.splitlines()[-1].split()
    assert command == ["srum-train", "--config", "run/run.toml", "--out", "run", "--redo", "train"]
    assert main.train_main([*command[1:], "--only", "train"]) == 0
    assert files(run.stage_folder("train", 1)) != weights
    assert (run.round_folder(1) / "judgements.before-1").is_dir()  # --redo train does not take them along


@pytest.mark.parametrize("where", ["aside", "between", "before run.toml"])
def test_interrupted_anywhere_the_same_command_finishes(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = make(tmp_path / "whole", rounds=2), make(tmp_path / "run", rounds=2)
    reread(whole, "judges.1.factor=0.5")
    rename = Path.rename

    def cut(self: Path, target: Path) -> Path:
        if where == "aside" or self.name == ".judgements.new":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        if where == "before run.toml":
            create = "srum_core.interchange.command_reread.Run.create"
            patch.setattr(create, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patch.setattr(Path, "rename", cut)
        reread(run, "judges.1.factor=0.5", code=130)
    reread(run, "judges.1.factor=0.5")
    for k in (1, 2):
        folders = [each.round_folder(k) / "judgements" for each in (whole, run)]
        assert files(folders[0]) == files(folders[1])
    assert len(list(run.folder.glob("round-*/judgements.before-1"))) == 2
    assert not list(run.folder.glob("round-*/*.before-2"))
    assert not list(run.folder.glob("round-*/.judgements.new"))
    assert open_with(run.folder, "judges.1.factor=0.5", "rounds=2").done("judge", 2)


def test_judges_that_ask_nothing_are_read_again_by_looking_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("a cup\na boat\n", encoding="utf-8")
    plan = test_stages.make(tmp_path / "run", words, judges=(Use("test_interview:Sighted"),))
    made = Run.open(Run.create(plan.folder, plan.settings, plan.registry).folder)  # with every option filled in
    for stage in ("generate", "ground", "judge"):
        perform(made, stage, 1)
    assert [score.value for each in made.judgements(1) for score in each.scores] == [0.25, 0.25]
    assert main.main(["reread", str(made.folder)]) == 0
    assert "Nothing changes." in capsys.readouterr().out
