"""Each stage: what it asks of the plugins, what it writes down, and that doing it in pieces changes nothing."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from broken_judges import Looks, LooksAndAsks, LooksOnce
from PIL import Image
from rich.console import Console
from toy import ToyBenchmark, ToyGrounder, ToyJudge, ToyModel

from srum_core import config, plugins
from srum_core.ablation import tables as tabulated
from srum_core.errors import PluginError, RecordError, TrainingError
from srum_core.evaluation import stage as evaluating
from srum_core.evaluation import tables
from srum_core.evaluation.stage import compare, evaluate, read_table, scored
from srum_core.options import Use
from srum_core.records import Answer, Candidate, Question, Region, Row, Sample, Score, Unreadable
from srum_core.runs import progress as progress_module
from srum_core.runs.progress import clock, progress, rate
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.generate import generate
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge
from srum_core.stages.order import count
from srum_core.training.selection import choose

WORDS = ["a red cat", "two dogs", "a tree left of a house", "three cups", "the sea"]


class Witness:
    """Writes down what it is asked. What it says of region 1 cannot be read before it is asked often enough."""

    asked: list[list[Question]] = []  # noqa: RUF012 - the tests look here
    patience = 0

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        Witness.asked.append(list(questions))
        tries = len(Witness.asked)
        return [
            "Hm." if "ID: 1" in question.text and tries <= Witness.patience else f"Score: 0.5\nReason: {question.seed}"
            for question in questions
        ]


class Careless(ToyModel):
    """Draws from torch's global generator, although it is given seeds."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate(prompts, torch.randint(1000, (len(seeds),)).tolist())


class Miscounting(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate(prompts, seeds)[1:]


class BareImages(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        return [sample.image for sample in super().generate(prompts, seeds)]


class Overflowing(ToyModel):
    """The latents of some prompts are not finite."""

    bad = ("two dogs", "the sea", "a leaf number 1")

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        latents = [torch.full((4, 4, 3), torch.inf if prompt.endswith(self.bad) else 0.5) for prompt in prompts]
        made = zip(super().generate(prompts, seeds), latents, strict=True)
        return [attrs.evolve(sample, latent=latent) for sample, latent in made]


class Hopeless(Overflowing):
    bad = ("",)


class Quiet(ToyGrounder):
    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return []

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        return super().regions(candidate, [""])


class Stammering(Quiet):
    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        return [*super().regions(candidate, answers), Region("1", (0.0, 0.0, 1.0, 1.0))]


class BareBoxes(Quiet):
    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Any:
        return [region.box for region in super().regions(candidate, answers)]


class Dividing(ToyJudge):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> list[Score]:
        return [Score(float("nan"))]


class Undefined(ToyBenchmark):
    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> Sequence[Row]:
        return [Row("green", float("nan"), len(scored))]


class Lost(ToyBenchmark):
    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        return {"green": float("nan")}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS) + "\n")
    Witness.asked, Witness.patience = [], 0
    return path


def make(folder: Path, prompts: Path, **changes: object) -> Run:
    parts = {
        "adapter": Use("toy:ToyModel"),
        "grounder": Use("toy:ToyGrounder"),
        "judges": (Use("toy:ToyJudge"),),
        "benchmark": Use("toy:ToyBenchmark"),
        "generate": config.Generate(batch=2),
        "ground": config.Ground(batch=2),
        "judge": config.Judge(batch=2, retries=2, temperature=0.7),
        "evaluate": config.Evaluate(batch=2),
    }
    return Run(folder, config.Settings(prompts=str(prompts), **{**parts, **changes}), plugins.discover())  # type: ignore[arg-type]


def lines(folder: Path) -> list[bytes]:
    return sorted(line for path in folder.glob("part-*.jsonl") for line in path.read_bytes().splitlines())


# ---- generate -------------------------------------------------------------------------------------------------------


def test_images_are_generated_as_planned(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, generate=config.Generate(batch=2, candidates=2, limit=2))
    generate(run, 1)
    plan, generated = run.planned(1), list(run.candidates(1))
    assert [(c.id, c.prompt, c.seed) for c in generated] == [(item.id, item.prompt, item.seed) for item in plan]
    assert [c.prompt.text for c in generated] == [WORDS[0], WORDS[0], WORDS[1], WORDS[1]]
    assert run.done("generate", 1)
    for candidate in generated:
        assert candidate.image == run.folder / f"round-1/candidates/images/{candidate.id}.png"
        with Image.open(candidate.image) as image:
            assert image.size == candidate.size == (8, 8)


def test_a_chunk_with_something_missing_is_generated_whole_and_only_that_is_added(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = make(tmp_path / "whole", prompts), make(tmp_path / "run", prompts)
    generate(whole, 1)
    batches: list[int] = []
    draw = ToyModel.generate

    def spy(self: ToyModel, texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        batches.append(len(texts))
        return draw(self, texts, seeds)

    generate(run, 1)
    shard = run.folder / "round-1/candidates/part-0.jsonl"
    kept = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(kept[:1] + kept[2:4]))  # chunks of two: the first lacks its second, the last is gone
    (run.folder / "round-1/candidates/DONE").unlink()
    first = run.folder / "round-1/candidates/images" / f"{run.planned(1)[0].id}.png"
    before = first.stat().st_mtime_ns, first.stat().st_ino
    monkeypatch.setattr(ToyModel, "generate", spy)
    generate(run, 1)
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == before, "an image that is there stays as it is"
    assert batches == [2, 1]
    assert lines(shard.parent) == lines(whole.folder / "round-1/candidates")
    assert len(shard.read_bytes().splitlines()) == 5
    generate(run, 1)
    assert batches == [2, 1]


def test_what_comes_from_a_global_generator_does_not_depend_on_what_was_made_before(
    tmp_path: Path, prompts: Path
) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:Careless"))
    generate(run, 1)
    shard = run.folder / "round-1/candidates/part-0.jsonl"
    whole = shard.read_bytes()
    shard.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    torch.manual_seed(99)
    generate(run, 1)
    assert shard.read_bytes() == whole


def test_two_processes_make_together_what_one_makes(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make(tmp_path / "one", prompts), make(tmp_path / "two", prompts)
    for stage in (generate, ground, judge):
        stage(one, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for stage, name in ((generate, "candidates"), (ground, "regions"), (judge, "judgements")):
        folder = two.folder / "round-1" / name
        for rank, share in (("1", 2), ("0", 3)):
            assert not (folder / "DONE").exists()
            monkeypatch.setenv("RANK", rank)
            stage(two, 1)
            assert len((folder / f"part-{rank}.jsonl").read_bytes().splitlines()) == share
        assert (folder / "DONE").exists()
        assert lines(folder) == lines(one.folder / "round-1" / name)
    monkeypatch.setenv("WORLD_SIZE", "3")  # other processes take over: nothing is missing, nothing is made
    monkeypatch.setenv("RANK", "2")
    judge(two, 1)
    assert not (two.folder / "round-1/judgements/part-2.jsonl").exists()


def test_a_model_that_returns_another_number_of_images_is_named(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:Miscounting"))
    with pytest.raises(PluginError, match="Miscounting generated 1 images for 2 prompts"):
        generate(run, 1)
    assert not run.done("generate", 1)


def test_a_model_that_returns_images_without_a_record_is_named(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:BareImages"))
    with pytest.raises(PluginError, match=r"BareImages must return .*Sample\(image\).*, not Image"):
        generate(run, 1)


# ---- ground ---------------------------------------------------------------------------------------------------------


def test_regions_and_what_was_said_are_recorded(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, answerer=Use("test_stages:Witness"))
    generate(run, 1)
    ground(run, 1)
    found = list(run.groundings(1))
    assert [each.candidate for each in found] == [item.id for item in run.planned(1)]
    assert [region.id for region in found[0].regions] == ["1", "2"]
    assert found[0].exchanges[0].question.image == next(iter(run.candidates(1))).image
    assert found[0].exchanges[0].asked_by == "toy:ToyGrounder"
    assert [len(batch) for batch in Witness.asked] == [2, 2, 1]


def test_a_grounder_that_asks_nothing_needs_no_model(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, grounder=Use("test_stages:Quiet"))
    generate(run, 1)
    run.release()
    silent = Run(run.folder, run.settings, run.registry)
    ground(silent, 1)
    assert silent._loaded == {}
    assert silent.done("ground", 1)


def test_regions_with_the_same_id_are_refused(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, grounder=Use("test_stages:Stammering"))
    generate(run, 1)
    with pytest.raises(PluginError, match=r"Stammering gave two regions of image \w+ the same id"):
        ground(run, 1)


def test_boxes_without_a_record_are_no_regions(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, grounder=Use("test_stages:BareBoxes"))
    generate(run, 1)
    with pytest.raises(PluginError, match=r"`regions` of .*BareBoxes.* list of Region and Unreadable records"):
        ground(run, 1)


# ---- judge ----------------------------------------------------------------------------------------------------------


def judged(tmp_path: Path, prompts: Path, patience: int, **changes: object) -> Run:
    run = make(tmp_path / "run", prompts, answerer=Use("test_stages:Witness"), **changes)
    for stage in (generate, ground):
        stage(run, 1)
    Witness.asked, Witness.patience = [], patience
    judge(run, 1)
    return run


def test_only_what_cannot_be_read_is_asked_again_each_time_with_a_new_seed(tmp_path: Path, prompts: Path) -> None:
    run = judged(tmp_path, prompts, patience=2, generate=config.Generate(limit=2))
    first, second, third = Witness.asked
    assert len(first) == 6
    assert {question.temperature for question in first} == {0.0}
    for again in (second, third):
        assert [question.text for question in again] == ["Region ID: 1"] * 2
        assert {question.temperature for question in again} == {0.7}
    assert len({question.seed for question in second + third}) == 4
    for judgement in run.judgements(1):
        assert [exchange.answer for exchange in judgement.exchanges if "ID: 1" in exchange.question.text][:2] == [
            "Hm."
        ] * 2
        assert len(judgement.exchanges) == 5
        assert [score.region for score in judgement.scores] == [None, "1", "2"]
        assert judgement.failures == ()


def test_what_stays_unreadable_is_a_failure_and_never_a_number(tmp_path: Path, prompts: Path) -> None:
    run = judged(tmp_path, prompts, patience=99, generate=config.Generate(limit=1))
    assert [len(batch) for batch in Witness.asked] == [3, 1, 1]
    (judgement,) = run.judgements(1)
    assert [score.region for score in judgement.scores] == [None, "2"]
    assert [(failure.region, failure.question) for failure in judgement.failures] == [("1", 1)]
    assert len(judgement.exchanges) == 5
    assert run.done("judge", 1)


class TwoModels(ToyModel):
    """A server that changes its model behind one name."""

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [Answer(text, f"m-{i % 2}") for i, text in enumerate(super().answer(questions))]


def test_judgements_of_several_models_are_named_with_the_way_to_judge_that_round_again(
    tmp_path: Path, prompts: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:TwoModels"))
    monkeypatch.setattr(Run, "_load", lambda self, round: TwoModels())
    for stage in (generate, ground, judge):
        stage(run, 2)
    assert "come from several models: m-0, m-1." in caplog.text
    assert "use --redo judge:2." in caplog.text


def test_an_image_that_is_not_finite_is_a_failure_that_nobody_is_asked_about(
    tmp_path: Path, prompts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:Overflowing"), answerer=Use("test_stages:Witness"))
    for stage in (generate, ground, judge):
        stage(run, 1)
        assert run.done(stage.__name__, 1)
    assert "1 of 2 images count as failures" in caplog.text
    failed = {each.id: each.prompt.text for each in run.candidates(1) if each.failure}
    assert sorted(failed.values()) == ["the sea", "two dogs"]
    for judgement in run.judgements(1):
        if judgement.candidate in failed:
            assert (judgement.scores, judgement.exchanges) == ((), ())
            assert "latent holds values that are not finite" in judgement.failures[0].why
        else:
            assert len(judgement.scores) == 3
    asked = {question.image.stem for batch in Witness.asked for question in batch}
    assert not asked & failed.keys()
    kept = choose(run, 1)
    assert (len(kept.candidates), kept.unjudged) == (3, 2)


def test_a_round_without_any_image_is_not_blamed_on_the_judge(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:Hopeless"))
    for stage in (generate, ground, judge):
        stage(run, 1)
    with pytest.raises(TrainingError, match=r"none of 5 images .* not finite.*adapter\.dtype.*--redo generate"):
        choose(run, 1)


def test_a_judge_whose_score_is_no_number_is_named(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, judges=(Use("test_stages:Dividing"),), generate=config.Generate(limit=1))
    generate(run, 1)
    ground(run, 1)
    with pytest.raises(PluginError, match=r'"test_stages:Dividing" cannot score image \w+: .*nan'):
        judge(run, 1)


def test_without_retries_everything_is_asked_once(tmp_path: Path, prompts: Path) -> None:
    judged(tmp_path, prompts, patience=99, judge=config.Judge(batch=5, retries=0))
    assert [len(batch) for batch in Witness.asked] == [15]


def test_several_judges_are_heard_together(tmp_path: Path, prompts: Path) -> None:
    two = (Use("toy:ToyJudge"), Use("toy:ToyJudge"))
    run = judged(tmp_path, prompts, patience=0, judges=two, generate=config.Generate(limit=2))
    assert [len(batch) for batch in Witness.asked] == [12]
    assert all(len(judgement.scores) == 6 for judgement in run.judgements(1))


class InBatches(Looks):
    """Dies in the batch that `dies` says."""

    batches: ClassVar[list[int]] = []
    dies = 0

    def score_many(
        self, candidates: Sequence[Candidate], regions: Sequence[Sequence[Region]]
    ) -> Sequence[Sequence[Score | Unreadable]]:
        InBatches.batches.append(len(candidates))
        if len(InBatches.batches) == InBatches.dies:
            raise KeyboardInterrupt
        return super().score_many(candidates, regions)


def test_a_judge_that_asks_nothing_is_given_batches_and_no_language_model_is_loaded(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a judging that was interrupted ends with the same judgements."""
    ends = []
    for name, dies in (("whole", 0), ("interrupted", 2)):
        run = make(tmp_path / name, prompts, judges=(Use("test_stages:InBatches"),))
        generate(run, 1)
        ground(run, 1)
        monkeypatch.setattr(Run, "answerer", None)
        monkeypatch.setattr(InBatches, "batches", [])
        monkeypatch.setattr(InBatches, "dies", dies)
        if dies:
            with pytest.raises(KeyboardInterrupt):
                judge(run, 1)
        judge(run, 1)
        ends.append((InBatches.batches, lines(run.folder / "round-1/judgements")))
        monkeypatch.undo()
    assert [batches for batches, _ in ends] == [[2, 2, 1], [2, 2, 2, 1]]
    assert len(ends[0][1]) == 5
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize(
    ("broken", "words"), [(LooksOnce, "scored 1 of 2 images"), (LooksAndAsks, "has `score_many` and asks questions")]
)
def test_a_judge_that_scores_batches_wrongly_is_named(tmp_path: Path, prompts: Path, broken: type, words: str) -> None:
    run = make(tmp_path / "run", prompts, judges=(Use(f"broken_judges:{broken.__name__}"),))
    generate(run, 1)
    ground(run, 1)
    with pytest.raises(PluginError, match=f"{broken.__name__} {words}"):
        judge(run, 1)


# ---- evaluate -------------------------------------------------------------------------------------------------------


def test_an_evaluation_scores_every_image_and_draws_the_same_each_time(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, evaluate=config.Evaluate(batch=2, images=2, limit=2, split="held-out"))
    evaluate(run, None)
    found = scored(run, None)
    assert [each.candidate.prompt.id for each in found] == ["held-out-0"] * 2 + ["held-out-1"] * 2
    assert len({each.candidate.seed for each in found}) == 4
    table = read_table(run, None)
    assert table is not None
    assert table["green"].count == 4
    assert table["green"].value == pytest.approx(sum(each.values["green"] for each in found) / 4)
    assert (
        run.planned_evaluation()
        == make(tmp_path / "other", prompts, evaluate=run.settings.evaluate).planned_evaluation()
    )


class Doubles(ToyBenchmark):
    """Counts objects: every evaluation finds more."""

    evaluations = 0

    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> Sequence[Row]:
        Doubles.evaluations += 1
        extra = (-0.05, 0.0, 0.05, None)[Doubles.evaluations - 1]
        return [] if extra is None else [Row("extra objects", extra, len(scored))]


def test_more_objects_than_before_training_are_said(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path / "run", prompts, benchmark=Use("test_stages:Doubles"), rounds=2)
    monkeypatch.setattr(Run, "model", lambda self, weights: ToyModel())
    for round in (None, 1):
        evaluate(run, round)
    assert not caplog.text  # 1.00 of 0.95 is a twentieth
    evaluate(run, 2)
    assert "Images hold 11% more objects than before training" in caplog.text
    evaluate(make(tmp_path / "run", prompts, benchmark=run.settings.benchmark, rounds=3), 3)  # no such row: no warning
    assert caplog.text.count("more objects") == 1


def test_an_image_that_is_not_finite_counts_against_coverage_and_has_no_score(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:Overflowing"))
    evaluate(run, None)
    failed = [each for each in scored(run, None) if each.candidate.failure]
    assert [each.values for each in failed] == [{}]
    table = tables.read(run.stage_folder("evaluate", None) / "tables/rules/table.json")
    assert (table.images, table.planned, table.complete) == (2, 3, False)
    assert table.coverage == pytest.approx(2 / 3)
    assert [row.count for row in table.rows] == [2]
    here = tabulated.measured(run, None)
    assert (here.unscored, len(here.prompts)) == (1, 3)
    (bad,) = [i for i, each in enumerate(here.means["green"]) if math.isnan(each)]
    assert here.mean("green") == pytest.approx(table.rows[0].value)
    worse = attrs.evolve(
        here, means={"green": tuple(0.0 if i == bad else v - 0.1 for i, v in enumerate(here.means["green"]))}
    )
    assert (gap := tabulated._difference({0: here}, {0: worse}, ("green",)))
    assert gap.value == pytest.approx(0.1)
    table_of_one = tabulated._table([here], "green")
    assert table_of_one is not None
    assert table_of_one.mean() == pytest.approx(here.mean("green"))


class Asking(ToyBenchmark):
    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, candidate.prompt.text)]


class Refusing:
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [Answer(refused="The server said 400.") for _ in questions]


def test_an_evaluation_in_which_all_is_refused_stops(tmp_path: Path, prompts: Path) -> None:
    use = {"benchmark": Use("test_stages:Asking"), "answerer": Use("test_stages:Refusing")}
    with pytest.raises(RecordError, match=r"None of the 3 images .* said 400.*another answerer.*--redo evaluate"):
        evaluate(make(tmp_path / "run", prompts, **use), None)


def test_an_evaluation_without_any_image_stops(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, adapter=Use("test_stages:Hopeless"))
    with pytest.raises(RecordError, match=r"None of the 3 images .* not finite.*--redo evaluate"):
        evaluate(run, None)


class Graded(Asking):
    """Asks twice at most; the first answer about some images cannot be read."""

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        return {0: "no grade"} if answers[0].endswith(": 0") and int(candidate.id, 16) % 2 else {}


class Grades:
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [f"{question.text}: {question.seed}" for question in questions]


def test_two_processes_evaluate_as_one_does(tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is last writes the table."""
    use = {"benchmark": Use("test_stages:Graded"), "answerer": Use("test_stages:Grades")}
    settings = config.Evaluate(batch=2, images=3)
    one, two = (make(tmp_path / name, prompts, evaluate=settings, **use) for name in ("one", "two"))
    evaluate(one, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        assert read_table(two, None) is None
        assert count(two, Step("evaluate", None)) == ((0, 9) if rank == "0" else (5, 9))
        monkeypatch.setenv("RANK", rank)
        evaluate(two, None)
        assert two.done("evaluate", None) == (rank == "1")
    made = [run.stage_folder("evaluate", None) for run in (one, two)]
    for part in ("images", "answers/test_stages.Grades"):
        lists = [sorted(line for path in (each / part).glob("part-*") for line in path.open()) for each in made]
        assert lists[0] == lists[1]
    assert (made[1] / part / "part-1.jsonl").is_file()
    for name in ("table.json", "images.jsonl"):
        one_file, two_file = (each / "tables/test_stages.Grades" / name for each in made)
        assert one_file.read_bytes() == two_file.read_bytes()
    assert {len(each.answers) for each in scored(two, None)} == {1, 2}


def test_an_evaluation_of_an_older_version_is_to_be_made_again(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts)
    evaluate(run, None)
    path = run.stage_folder("evaluate", None) / "settings.json"
    path.write_text(path.read_text().replace('"layout": 2,', ""))
    for act in (run.check, lambda: scored(run, None), lambda: evaluate(run, None)):
        with pytest.raises(
            RecordError, match=r"layout was '\(nothing\)' and is now 2.*--redo evaluate to make it again"
        ):
            act()
    run.redo("evaluate")
    run.check()


def test_a_row_that_is_no_number_is_refused(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, benchmark=Use("test_stages:Undefined"))
    with pytest.raises(PluginError, match="rows whose value is not a finite number: green"):
        evaluate(run, None)


def test_a_measure_that_is_no_number_is_refused(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, benchmark=Use("test_stages:Lost"))
    with pytest.raises(PluginError, match="a green that is not a finite number"):
        evaluate(run, None)


def test_the_tables_side_by_side(tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", prompts, rounds=2)
    assert compare(run) is None
    for name, value in (("base", 0.25), ("round-1", 0.5), ("round-2", 0.125)):
        folder = run.folder / name / "evaluation" / "tables" / "rules"
        row = Row("accuracy", value, 7, 0.01)
        tables.write(folder / "table.json", tables.BenchmarkTable("toy", "test", "a model", (row,)))
    console = Console(file=io.StringIO(), width=120)
    table = evaluating.compare(run)
    assert table is not None
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert table.head[2:] == ["base", "round 1", "round 2", "change"]
    assert "25.0 [23.0, 27.0]" in text
    assert "−12.5" in text


# ---- progress -------------------------------------------------------------------------------------------------------


def test_progress_says_rate_and_remaining_time_in_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(now)))
    with progress(5, "judge", done=2) as advance:
        for number in range(3):
            advance(1, f"loss {number}")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "judge: 2/5"
    assert "judge: 3/5 · " in said[1]
    assert "left" in said[1]
    assert said[1].endswith(" · loss 0")
    assert said[-1].startswith("judge: 5/5")
    assert "left" not in said[-1]


def test_progress_is_a_bar_on_a_terminal_and_one_process_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress(4, "draw", console=console) as advance:
        advance(4, "loss [0.25]")
    assert "loss [0.25]" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "4/4" in console.file.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setenv("RANK", "1")
    silent = Console(file=io.StringIO(), force_terminal=True)
    with progress(4, "draw", console=silent) as advance:
        advance(4)
    assert silent.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_bar_of_80_columns_cuts_no_number_short() -> None:
    note = "loss 0.0644, lr 7.5e-05, gradient norm 0.261"
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress(1200, "train round 10", done=1100, console=console) as advance:
        advance(50, note)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1150/1200" in text
    assert note in text
    assert "…" not in text


def test_rates_and_times_are_readable() -> None:
    assert [rate(2.0), rate(0.5)] == ["2.0/s", "30.0/min"]
    assert [clock(5), clock(65), clock(3661)] == ["0:05", "1:05", "1:01:01"]
