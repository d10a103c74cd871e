"""Settings that differ between the rounds of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import toy
from attrs import evolve, field, frozen
from rows import each_row
from torch import Tensor
from training import clean  # noqa: F401 - a fixture

from srum_core import plugins
from srum_core.ablation.plan import fingerprint
from srum_core.cli import main
from srum_core.cli.main import train_main
from srum_core.config import Settings, changed, describe, load_settings, open_settings, to_toml
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.stage import evaluate
from srum_core.options import SAMPLING, SPEED, Use
from srum_core.records import Sample
from srum_core.report.gather import gather
from srum_core.runs.files import FOLDERS, STAGES
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.generate import generate
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge
from srum_core.stages.order import count, perform

WORDS = ["a red cat", "two dogs", "the sea"]


@frozen(kw_only=True)
class GuidedOptions(toy.ToyOptions):
    guidance: float = field(default=2.0, metadata=SAMPLING)
    rows: int = field(default=8, metadata=SPEED)


class Guided(toy.ToyModel):
    """The toy model, with a guidance that counts in drawing only."""

    Options = GuidedOptions
    made: list[GuidedOptions] = []  # noqa: RUF012 - the tests look here

    def __init__(self, options: GuidedOptions | None = None) -> None:
        super().__init__(options)
        self.scale = 1.0
        Guided.made.append(options or GuidedOptions())

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        self.scale = self.options.guidance  # type: ignore[attr-defined]
        generated = super().generate(prompts, seeds)
        self.scale = 1.0
        return generated

    def condition(self, texts: Sequence[str | None]) -> Tensor:
        return self.scale * super().condition(texts)


OWN = [
    "--adapter=test_rounds:Guided", "grounder=toy:ToyGrounder", "judges=['toy:ToyJudge']", "map=paper", "loss=srum",
    "benchmark=toy:ToyBenchmark", f"prompts={WORDS}", "seed=3", "lora.rank=2", "train.steps=3", "train.lr=0.01",
    "train.warmup=1", "train.save_every=1", "train.mixed_precision=no", "train.max_cells=32", "generate.batch=2",
]  # fmt: skip
FIRST = ["loss=sft", "generate.candidates=2", "select.best_of=1", "judge.votes=2", "grounder=grid"]
SECOND = ["map=released", "adapter.guidance=1.5", "train.lr=0.02", "prompts=['a green leaf', 'a cup']", "lora.rank=3"]
ROUNDS = f"rounds={[FIRST, SECOND]}"


def settings(*texts: str) -> Settings:
    adapter, *others = OWN
    return load_settings(adapter.partition("=")[2], (), None, [*others, *texts], plugins.discover())


def make(folder: Path, *texts: str) -> Run:
    return Run.create(folder, settings(*texts), plugins.discover())


@pytest.fixture(scope="module")
def calls() -> dict[str, int]:
    """How often each thing of the toy was called in `whole`."""
    return {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, calls: dict[str, int]) -> Path:
    """A finished run of two rounds."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy._calls.clear()
    assert train_main([*OWN, ROUNDS, "--out", str(folder)]) == 0
    calls.update(toy._calls)
    return folder


def made_in(folder: Path) -> dict[str, bytes]:
    """All that a repeat must reproduce."""
    kinds = (".png", ".safetensors", ".jsonl", ".json", ".toml")
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.suffix in kinds}
    return {name: path.read_bytes() for name, path in found.items() if path.name not in ("speed.jsonl", "memory.json")}


# ---- reading --------------------------------------------------------------------------------------------------------


def test_a_list_of_rounds_is_read_written_and_read_back_equal(tmp_path: Path) -> None:
    file, registry = tmp_path / "my.toml", plugins.discover()
    file.write_text('rounds = [["loss=sft", "select.least=1"], [], ["adapter.guidance=1.5"]]\n')
    adapter, *others = OWN
    read = load_settings(adapter.partition("=")[2], (), file, others, registry)
    assert read.rounds == (("loss=sft", "select.least=1"), (), ("adapter.guidance=1.5",))
    assert read == settings('rounds=[["loss=sft", "select.least=1"], [], ["adapter.guidance=1.5"]]')
    assert (read.round_count, read.round_numbers) == (3, range(1, 4))
    for text in (to_toml(read, registry.versions()), describe(read, registry)):
        file.write_text(text)
        assert open_settings(file, registry) == read
    assert 'rounds = [["loss=sft", "select.least=1"], [], ["adapter.guidance=1.5"]]\n' in describe(read, registry)
    file.write_text("rounds = 3\n")
    old = load_settings(adapter.partition("=")[2], (), file, others, registry)
    assert (old.rounds, old.round_count) == (3, 3)
    assert "\nrounds = 3\n" in to_toml(old)


def test_each_round_has_its_changes_and_evaluations_have_none(tmp_path: Path) -> None:
    run = Run(
        tmp_path, settings("rounds=[['map.outside=global', 'judges.0.use=global-layout'], []]"), plugins.discover()
    )
    own = run.settings
    for stage in STAGES[:-1]:
        first = run.at(stage, 1).settings
        assert first.map == evolve(own.map, options={**own.map.options, "outside": "global"})
        assert [each.use for each in first.judges] == ["global-layout"]
        assert run.at(stage, 2).settings == run.at(stage, 1).at(stage, 2).settings == own
        assert run.at(stage, 3).settings == own
    for round in (None, 1, 2):
        assert run.at("evaluate", round).settings == run.at("train", 1).at("evaluate", round).settings == own


ONE_FOR_ALL = [
    ("seed=3", "seed", "one seed"),
    ("rounds=2", "rounds", "it defines the rounds"),
    ("start=elsewhere", "start", "starts from"),
    ("benchmark=shapes", "benchmark", "compared"),
    ("evaluate.images=4", "evaluate.images", "compared"),
    ("adapter.use=bagel", "adapter", "one model"),
    ("adapter=test_rounds:Guided", "adapter.use", "one model"),
    (
        "adapter.checkpoint=elsewhere",
        "adapter.checkpoint",
        "one model; only how it samples may differ (adapter.guidance)",
    ),
]


@each_row("text, key, why", ONE_FOR_ALL, ids=[text for text, *_ in ONE_FOR_ALL])
def test_what_cannot_differ_is_refused_with_round_and_key(text: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(f'rounds=[[], ["loss=sft", "{text}"]]')
    found = str(caught.value)
    assert f"{key} (in round 2 of 2 on the command line) cannot differ between rounds: " in found
    assert why in found


def test_an_adapter_that_marks_no_option_has_none_that_differ() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.mumbles \(in round 1 of 1.*of this adapter nothing is known"):
        load_settings(
            "toy:ToyModel", (), None, [*toy.COMPONENTS[1:], "rounds=[['adapter.mumbles=true']]"], plugins.discover()
        )


@pytest.mark.parametrize("adapter", ["bagel", "blip3o"])
def test_options_of_our_adapters_that_only_sample_may_differ(adapter: str) -> None:
    registry = plugins.discover()
    made = load_settings(adapter, ("shapes",), None, ["rounds=[['adapter.sampling.guidance=1.5'], []]"], registry)
    assert Run(Path(), made, registry).at("generate", 1).settings.adapter.options["sampling"]["guidance"] == 1.5
    for option in ("size=[64,64]", "dtype=float32", "vision_sides=[64,64]", "vision_pixels=[1,2]"):
        key = option.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"adapter\.{key} .*(cannot differ between rounds|is not a setting)"):
            load_settings(adapter, ("shapes",), None, [f"rounds=[['adapter.{option}'], []]"], registry)


WRONG = [
    ("rounds=0", ["rounds (on the command line) must be >= 1: 0"]),
    ("rounds=[]", ["rounds (on the command line) must be >= 1: 0"]),
    ("rounds=two", ["rounds (on the command line) should be a whole number", '"two"']),
    ("rounds=['loss=sft']", ["rounds, round 1, (on the command line) should be a list", '"loss=sft"']),
    ("rounds=[[], [1]]", ["rounds, round 2, (on the command line) should be a text"]),
    ("rounds=[[], ['loss']]", ['"loss" in round 2 of 2 on the command line should read KEY=VALUE']),
    ("rounds=[['lr=1']]", ["lr (in round 1 of 1 on the command line) is not a setting", 'mean "train.lr"']),
    ("rounds=[['map=papre']]", ["map (in round 1 of 1 on the command line) cannot be", "paper"]),
    ("rounds=[['train.lr=high']]", ["train.lr (in round 1 of 1 on the command line) should be a number"]),
    ("rounds=[['train.lr=-1'], ['seed=1', 'map=no']]", ["train.lr (in round 1", "seed (in round 2", "map (in round 2"]),
    ("rounds.1=['lr=1']", ["should be a whole number"]),
]  # fmt: skip


@each_row("text, words", WRONG, ids=[text for text, _ in WRONG])
def test_what_is_wrong_is_told_at_once_with_its_round(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(text)
    assert [word for word in words if word not in str(caught.value)] == []


def test_what_is_wrong_everywhere_is_told_once() -> None:
    with pytest.raises(ConfigError) as caught:
        settings("map=papre", "rounds=[[], ['train.lr=-1'], []]")
    assert str(caught.value).count('cannot be "papre"') == 1
    assert str(caught.value).count("train.lr") == 1


def test_a_round_that_an_arm_names_is_told_with_the_arm() -> None:
    with pytest.raises(ConfigError, match=r"lr \(in round 2 of 2 in arm two\) is not"):
        changed(settings(), ["rounds=[[], ['lr=1']]"], plugins.discover(), "in arm two")
    with pytest.raises(ConfigError, match=r"map.outside \(in round 1 of 1 in arm other\) is not a setting"):
        changed(settings("rounds=[['map.outside=global']]"), ["map=uniform"], plugins.discover(), "in arm other")


def test_a_change_that_this_version_does_not_know_is_left_out_of_a_run_that_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "rounds=[['map=sparse', 'map.scope=image'], ['train.lr=0.1']]")
    file = tmp_path / "run.toml"
    file.write_text(file.read_text().replace("map.scope=image", "map.newer=1"))
    assert Run.open(tmp_path).settings.rounds == (("map=sparse",), ("train.lr=0.1",))
    assert "map.newer (in round 1 of 2 in" in caplog.text
    assert "map.newer=1 is left out" in caplog.text


# ---- running --------------------------------------------------------------------------------------------------------


class SecondRound(Run):
    """A run whose round 1 has the random numbers of round 2."""

    def round_seed(self, purpose: str, round: int | None, *what: str | int | None) -> int:
        return super().round_seed(purpose, 2 if round == 1 else round, *what)


def test_two_rounds_are_two_runs_made_by_hand(whole: Path, tmp_path: Path) -> None:
    """Bit for bit: what each round draws, asks, reads and trains; and evaluations draw with the run's own guidance."""
    registry = plugins.discover()
    one = make(tmp_path / "one", *FIRST)
    for stage in STAGES:
        perform(one, stage, 1)
    two = SecondRound.create(tmp_path / "two", settings(*SECOND, f"start={one.folder}"), registry)
    for stage in STAGES[:-1]:
        perform(two, stage, 1)
    after = make(tmp_path / "after", f"start={two.folder}")
    perform(after, "evaluate", None)
    files = [*(f"{FOLDERS[stage]}/part-0.jsonl" for stage in STAGES[:3]), "metrics.jsonl", "prompts.jsonl"]
    files += ["checkpoint/adapter_model.safetensors"]
    for k, run in enumerate((one, two), 1):
        for name in files:
            ours, theirs = whole / f"round-{k}" / name, run.folder / "round-1" / name
            assert ours.read_bytes() == theirs.read_bytes(), (k, name)
        for image in (run.folder / "round-1/candidates/images").iterdir():
            assert (whole / f"round-{k}/candidates/images" / image.name).read_bytes() == image.read_bytes()
    for k, folder in enumerate((one.folder / "round-1", after.folder / "base"), 1):
        there = [path.relative_to(folder) for path in (folder / "evaluation/images").rglob("*") if path.is_file()]
        for name in (Path("evaluation/tables/rules/images.jsonl"), *there):
            ours, theirs = whole / f"round-{k}" / name, folder / name
            assert ours.read_bytes() == theirs.read_bytes(), (k, name)
    counts = [len(list(Run.open(whole).candidates(k))) for k in (1, 2)]
    assert counts == [2 * len(WORDS), 2]


def loaded(folder: Path, rounds: str) -> list[float]:
    """The guidance of every model that a run has made, in order."""
    Guided.made.clear()
    run = make(folder, rounds)
    for round in run.settings.round_numbers:
        for stage in STAGES:
            perform(run, stage, round)
    return [options.guidance for options in Guided.made]


def test_a_model_is_made_again_only_where_its_options_differ(tmp_path: Path) -> None:
    """After a training, and where a round samples otherwise than the evaluation before it."""
    assert loaded(tmp_path / "int", "rounds=2") == [2.0] * 3
    assert loaded(tmp_path / "same", "rounds=[['loss=sft'], ['map=released']]") == [2.0] * 3
    assert loaded(tmp_path / "other", "rounds=[['adapter.guidance=1'], ['adapter.guidance=1.5']]") == [1, 2, 1.5, 2]


def test_an_evaluation_has_the_runs_settings_whoever_asks_for_it(tmp_path: Path) -> None:
    run = make(tmp_path, "rounds=[['adapter.guidance=1']]")
    Guided.made.clear()
    evaluate(run.at("generate", 1), None)
    assert [options.guidance for options in Guided.made] == [2.0]


def test_an_answerer_is_kept_until_a_round_has_another(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        settings("answerer=test_rounds:Guided", "rounds=[[], ['answerer.guidance=1'], []]"),
        plugins.discover(),
    )
    Guided.made.clear()
    answerers = [run.at("judge", k).answerer(k - 1) for k in (1, 1, 2, 2)]
    assert answerers[0] is answerers[1]
    assert answerers[2] is answerers[3] is not answerers[0]
    assert [options.guidance for options in Guided.made] == [2.0, 1.0]
    alone = make(tmp_path / "alone", "answerer=test_rounds:Guided", "rounds=[['answerer=']]")
    assert alone.at("judge", 1).answerer(0) is alone.model(0)


@pytest.mark.parametrize("what", ["draw", "answer", "train"])
def test_stopped_in_the_second_round_the_same_command_ends_the_same(
    what: str, whole: Path, calls: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its first image, its last question, its last step but one."""
    last = {"draw": calls["draw"] - 1, "answer": calls["answer"], "train": calls["train"] - 1}[what]
    given = [*OWN, ROUNDS, "--out", str(tmp_path / "run")]
    toy._calls.clear()
    monkeypatch.setenv("SRUM_TOY_INTERRUPT", f"{what}:{last}")
    assert train_main(given) == 130
    assert (tmp_path / "run/round-1/evaluation/DONE").exists()
    assert (tmp_path / "run/round-2/prompts.jsonl").exists()
    assert not (tmp_path / "run/round-2/checkpoint").exists()
    assert (tmp_path / "run/round-2/training").exists() == (what == "train")
    monkeypatch.delenv("SRUM_TOY_INTERRUPT")
    assert train_main(given) == 0
    expected, found = made_in(whole), made_in(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_two_processes_draw_ground_and_judge_a_round_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        "rounds=[['adapter.guidance=1.5', 'judge.votes=2', 'judge.batch=2', 'generate.candidates=2', 'ground.batch=2']]"
    ]
    one, two = make(tmp_path / "one", *texts), make(tmp_path / "two", *texts)
    for stage in (generate, ground, judge):
        stage(one, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for stage in (generate, ground, judge):
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            stage(two, 1)
    for name in ("candidates", "regions", "judgements"):
        found = [
            sorted(line for path in (run.folder / "round-1" / name).glob("part-*.jsonl") for line in path.open())
            for run in (one, two)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 2 * len(WORDS)
    assert (tmp_path / "two/round-1/judgements/part-1.jsonl").is_file()


# ---- a folder that is there -----------------------------------------------------------------------------------------


@pytest.fixture
def own(whole: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "own"))


def test_another_round_can_follow_a_finished_run(own: Path) -> None:
    before = made_in(own)
    longer = [FIRST, SECOND, ["train.steps=1", "grounder=grid"]]
    assert train_main([*OWN, f"rounds={longer}", "--out", str(own)]) == 0
    run = Run.open(own)
    assert all(run.done(stage, 3) for stage in STAGES)
    after = made_in(own)
    assert [name for name, data in before.items() if name != "run.toml" and after[name] != data] == []
    logs = [(own / f"round-{k}/metrics.jsonl").read_text().splitlines() for k in (1, 2, 3)]
    assert len(logs[2]) == 1
    # Objects are compared with the first round's where prompts and regions are looked for alike.
    assert [json.loads(log[0])["objects_before"] for log in logs] == [None, None, 4.0]


def test_a_number_of_rounds_and_a_list_of_empty_ones_are_the_same_run(tmp_path: Path) -> None:
    perform(make(tmp_path, "rounds=2"), "generate", 1)
    run = make(tmp_path, "rounds=[[], [], ['map=released']]")
    assert run.done("generate", 1)
    make(tmp_path, "rounds=2")


def test_a_round_that_was_made_otherwise_is_refused_and_made_again_with_redo(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*OWN, f"rounds={[FIRST, ['map=uniform', *SECOND[1:]]]}", "--out", str(own)]
    assert train_main(given) == 2
    message = capsys.readouterr().err
    assert "round-2/checkpoint was made with other settings" in message
    assert "map.use was 'released' and is now 'uniform'" in message
    assert "--redo train:2" in message
    with pytest.raises(RecordError, match="round-1/candidates was made with other"):
        make(own, f"rounds={[SECOND, SECOND]}")
    first = made_in(own / "round-1")
    assert train_main([*given, "--redo", "train:2"]) == 0
    assert made_in(own / "round-1") == first
    assert Run.open(own).at("train", 2).settings.map.use == "uniform"


def test_a_shorter_list_leaves_what_later_rounds_have_made(own: Path) -> None:
    run = make(own, f"rounds={[FIRST]}")
    assert run.done("train", 2)
    make(own, ROUNDS)


def test_a_run_can_start_from_one_with_different_rounds(whole: Path, tmp_path: Path) -> None:
    run = make(tmp_path / "next", f"start={whole}", "rounds=[['adapter.guidance=1']]")
    use, adapters = run.at("generate", 1).trained(0)
    assert use.options["guidance"] == 1
    assert adapters == [whole / "round-1/checkpoint", whole / "round-2/checkpoint"]
    assert run.stage_settings("generate", 1)["start"] == run.stage_settings("evaluate", None)["start"]


def test_the_report_shows_the_maps_and_the_settings_of_each_round(whole: Path) -> None:
    data: dict[str, Any] = gather(whole, 0)["run"]
    shown = dict(data["settings"])
    assert shown["rounds"] == "2"
    assert shown["round 1 of 2"] == " ".join(FIRST)
    assert shown["round 2 of 2"] == " ".join(SECOND)
    weights = {k: [each["weights"] for each in data["candidates"] if each["round"] == k] for k in (1, 2)}
    assert sum("settings under select" in each.get("why", "") for each in weights[1]) == len(WORDS)
    run = Run.open(whole)
    for k, name in ((1, "paper"), (2, "released")):
        reward_map = run.registry.create("map", Use(name))
        judged = {each.candidate: each for each in run.judgements(k)}
        for each in data["candidates"]:
            if each["round"] == k and "mean" in each["weights"]:
                assert each["weights"]["mean"] == pytest.approx(
                    float(reward_map(judged[each["id"]], (4, 4)).mean()), rel=1e-5
                )
    assert dict(gather_settings(whole, "rounds=2"))["rounds"] == "2"


def gather_settings(whole: Path, text: str) -> list[tuple[str, str]]:
    from srum_core.report.gather import _settings

    found = _settings(Run(whole, settings(text), plugins.discover()))
    assert not [key for key, _ in found if key.startswith("round ")]
    return found


def test_what_will_be_generated_is_counted_by_round(tmp_path: Path) -> None:
    run = Run(tmp_path, settings(ROUNDS), plugins.discover())
    assert [count(run, Step("generate", k)) for k in (1, 2)] == [(0, 6), (0, 2)]
    assert count(run, Step("evaluate", 2)) == count(run, Step("evaluate", None)) == (0, 3)


def test_components_of_all_rounds_are_checked_before_the_first_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = [["train.trackers=['wandb']"], ["judges=[{use='zoom', template='mine.txt'}]", "prompts=nowhere.txt"]]
    given = [*OWN, f"rounds={rounds}", "--out", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srum_core.training.trackers.find_spec", lambda name: None)
        assert train_main([*given, "--dry-run"]) == 1
        assert train_main(given) == 2
    message = capsys.readouterr().err
    for sentence in ("In round 1 of 2: train.trackers", "In round 2 of 2: prompts", "mine.txt"):
        assert message.count(sentence) >= 2, sentence
    assert not list((tmp_path / "run").glob("[!.]*"))
    assert train_main([*OWN, ROUNDS, "--out", str(tmp_path / "run"), "--dry-run"]) == 0


def test_answers_are_read_again_as_each_round_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, "judges=['test_reread:Tunable']", "rounds=[['judges.0.factor=0.5'], []]")
    for stage in STAGES[:-1]:
        perform(run, stage, 1)
    perform(run, "generate", 2)
    perform(run, "ground", 2)
    perform(run, "judge", 2)
    values = [[score.value for each in run.judgements(k) for score in each.scores] for k in (1, 2)]
    assert main.main(["reread", str(tmp_path)]) == 0
    assert "Nothing changes." in capsys.readouterr().out
    assert main.main(["reread", str(tmp_path), "rounds=[['judges.0.factor=0.5'], ['judges.0.factor=0.25']]"]) == 0
    again = Run.open(tmp_path)
    again.check()
    assert again.settings.rounds == (("judges.0.factor=0.5",), ("judges.0.factor=0.25",))
    assert [score.value for each in again.judgements(1) for score in each.scores] == values[0]
    assert [score.value for each in again.judgements(2) for score in each.scores] == [x / 4 for x in values[1]]
    for text, key in (("rounds=2", ""), ("rounds=[[]]", "rounds"), ("rounds=[[], ['map=released']]", "map.use")):
        capsys.readouterr()
        status = main.main(["reread", str(tmp_path), text, "--dry-run"])
        assert status == (2 if key else 0), text
        message = capsys.readouterr().err
        assert (f"{key} (was" in message and "It cannot change" in message) or not key


def test_a_judge_of_one_round_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "rounds=[['judges=[\"test_reread:Tunable\"]']]")
    for stage in STAGES[:3]:
        perform(run, stage, 1)
    out = ["--out", str(tmp_path / "transcripts.jsonl")]
    assert main.main(["record", str(run.folder), "--judge", "test_reread:Tunable", *out]) == 0
    assert "3 transcripts of round 1 (9 scores" in capsys.readouterr().out


def test_what_a_round_has_judged_is_exported_and_imported_as_the_first_of_a_run(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["export", str(whole), "--out", str(tmp_path / "data"), "--round", "2"]) == 0
    given = ["import", str(tmp_path / "data/train.jsonl"), f"--out={tmp_path / 'run'}", *OWN, "generate.candidates=2"]
    assert main.main(given) == 2
    assert "generate.candidates is 2" in capsys.readouterr().err
    assert main.main([*given, f"rounds={[['generate.candidates=1', *SECOND], []]}"]) == 0
    run = Run.open(tmp_path / "run")
    assert (len(run.planned(1)), len(run.planned(2))) == (2, 2 * len(WORDS))
    perform(run, "train", 1)


# ---- sharing --------------------------------------------------------------------------------------------------------


def test_arms_share_a_round_exactly_where_it_and_those_before_agree(tmp_path: Path) -> None:
    def shared(one: str, two: str) -> list[str]:
        runs = [Run(tmp_path, settings(text), plugins.discover()) for text in (one, two)]
        every = [Step("evaluate", None), *(Step(stage, k) for k in (1, 2) for stage in STAGES)]
        same = [step for step in every if len({fingerprint(run, step, []) for run in runs}) == 1]
        return [f"{step.stage} {step.round}" for step in same if step.round is not None]

    first = [f"{stage} 1" for stage in STAGES]
    before = [f"{stage} 2" for stage in STAGES[:3]]
    assert shared("rounds=[['loss=sft'], []]", "rounds=[['loss=sft'], ['map=released']]") == [*first, *before]
    assert shared("rounds=[['loss=sft'], []]", "rounds=[['loss=sft'], ['adapter.guidance=1']]") == first
    assert shared("rounds=[['loss=sft'], ['loss=sft']]", "loss=sft") == [*first, *before, "train 2", "evaluate 2"]
    assert shared("rounds=[['loss=sft'], []]", "rounds=2") == first[:3]
    assert shared("rounds=[[], ['loss=sft']]", "rounds=[['train.steps=4'], ['loss=sft']]") == first[:3]
    assert shared("rounds=2", "rounds=[[], []]") == [*first, *before, "train 2", "evaluate 2"]
