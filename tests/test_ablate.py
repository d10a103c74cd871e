"""`srum ablate`: what is shared, that it can be interrupted anywhere, that its numbers are those of the images."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from rows import each_row
from training import clean  # noqa: F401 - a fixture
from warm import shared

from srum_core.ablation import command as working
from srum_core.ablation.plan import Arm, Arms, Curve, fingerprint, read_arms
from srum_core.ablation.tables import Row, Tables, curves, drops
from srum_core.cli import main
from srum_core.config import changed, load_settings
from srum_core.errors import ConfigError, TrainingError
from srum_core.evaluation import statistics
from srum_core.evaluation.stage import read_table
from srum_core.evaluation.statistics import Estimate
from srum_core.plugins import discover
from srum_core.records import Judgement
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.order import steps

TOY = ["train.steps=2", "train.warmup=0", "train.lr=0.01", "train.mixed_precision=no", "train.method=full"]
ARMS = """
training_only = ["adapter.checkpoint"]

[[arm]]
name = "more"
text = "draws more"
settings = ["generate.candidates=2"]

[[arm]]
name = "other"
text = "draws otherwise"
settings = ["adapter.mumbles=true"]

[[arm]]
name = "votes"
text = "judges otherwise"
settings = ["judge.votes=2"]

[[arm]]
name = "failing"
text = "stops"
settings = ["map=test_ablate:Negative", "loss=srum", "loss.constraint=0", "train.guard=1e-9", "train.steps=8"]
drop = true

[[arm]]
name = "twice"
text = "two rounds"
settings = ["map=paper", "loss=srum", "loss.constraint=0.5", "rounds=2"]
"""


class Negative:
    """Every cell is to be pushed away."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> torch.Tensor:
        return -torch.ones(grid)


def command(folder: Path, arms: str, *more: str, seeds: int = 1) -> list[str]:
    """Of an ablation of the toy in folder/out, with the arms above."""
    (folder / "prompts.txt").write_text("a red cat\ntwo dogs\nthe sea\n", encoding="utf-8")
    (folder / "arms.toml").write_text(ARMS, encoding="utf-8")
    where = [f"--out={folder / 'out'}", f"--with={folder / 'arms.toml'}", f"prompts={folder / 'prompts.txt'}"]
    return ["ablate", *toy.COMPONENTS, *where, *TOY, "evaluate.images=2", f"--arms={arms}", f"--seeds={seeds}", *more]


def ablate(folder: Path, arms: str, *more: str, seeds: int = 1) -> dict[str, Any]:
    assert main.main(command(folder, arms, *more, seeds=seeds)) == 0
    return results(folder)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "ablation.json").read_text("utf-8"))
    return found


def cells(whole: Mapping[str, Any]) -> dict[str, Any]:
    return {row["arm"]: row["cells"] for row in whole["rows"]}


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(arm, stage) of everything that is really made."""
    found: list[tuple[str, str]] = []
    really = working.perform

    def perform(run: Run, stage: str, round: int | None) -> None:
        found.append((run.folder.name, str(Step(stage, round))))
        really(run, stage, round)

    monkeypatch.setattr(working, "perform", perform)
    return found


# ---- sharing --------------------------------------------------------------------------------------------------------


def test_arms_that_train_otherwise_share_everything_before(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    ablate(tmp_path, "base,sft,paper", seeds=2)
    trained = [(name, f"{stage} (round 1)") for name in ("sft", "paper") for stage in ("train", "evaluate")]
    shared = ["evaluate (base)", "generate (round 1)", "ground (round 1)", "judge (round 1)"]
    assert made == 2 * ([("shared", stage) for stage in shared] + trained)
    here = tmp_path / "out" / "seed-1"
    stages = ("round-1/candidates", "round-1/regions", "round-1/judgements", "base/evaluation/images")
    for file in [f"{stage}/part-0.jsonl" for stage in stages]:
        assert inode(here / "sft" / file) == inode(here / "paper" / file) == inode(here / "shared" / file)
    image = next((here / "sft/round-1/candidates/images").iterdir())
    assert inode(image) == inode(here / "shared/round-1/candidates/images" / image.name)
    latent = next((here / "sft/round-1/latents").iterdir())
    assert inode(latent) == inode(here / "paper/round-1/latents" / latent.name)


def test_a_second_arm_asks_the_model_for_nothing_but_its_own_evaluation(tmp_path: Path) -> None:
    def asked(name: str, arms: str) -> Counter[str]:
        (tmp_path / name).mkdir()
        toy._calls.clear()
        ablate(tmp_path / name, arms)
        return Counter({what: toy._calls[what] for what in ("draw", "look", "answer", "encode", "measure")})

    one, two = asked("one", "sft"), asked("two", "sft,paper")
    assert all(one.values())
    assert two - one == {"draw": 1, "measure": 6}  # the 6 images of an evaluation are one batch


def test_training_seeds_share_nothing(tmp_path: Path) -> None:
    ablate(tmp_path, "sft", seeds=2)
    one, two = (tmp_path / "out" / f"seed-{seed}" / "sft" for seed in (0, 1))
    ids = [{path.name for path in (each / "round-1/candidates/images").iterdir()} for each in (one, two)]
    assert ids[0].isdisjoint(ids[1])


def test_every_arm_is_an_ordinary_run(tmp_path: Path) -> None:
    ablate(tmp_path, "base,sft,twice,votes")
    for name in ("base", "sft", "twice", "votes", "shared"):
        run = Run.open(tmp_path / "out" / "seed-0" / name)
        run.check()
        assert read_table(run, None) is not None
        if name in ("sft", "twice", "votes"):
            assert all(run.done(step.stage, step.round) for step in steps(run))
            assert len(list(run.candidates(1).select(item.id for item in run.planned(1)))) == 3
            assert all(candidate.image.is_relative_to(run.folder) for candidate in run.candidates(1))
            assert all(
                exchange.question.image.is_relative_to(run.folder)
                for judged in run.judgements(1)
                for exchange in judged.exchanges
            )


def test_redoing_a_stage_of_one_arm_leaves_the_others(tmp_path: Path) -> None:
    ablate(tmp_path, "sft,paper")
    here = tmp_path / "out" / "seed-0"
    before = {path: path.read_bytes() for path in (here / "shared").rglob("*") if path.is_file()}
    run = Run.open(here / "sft")
    run.redo("judge")
    assert not run.done("judge", 1)
    assert {path: path.read_bytes() for path in (here / "shared").rglob("*") if path.is_file()} == before
    assert Run.open(here / "paper").done("judge", 1)


def test_an_arm_that_draws_otherwise_shares_none_of_it(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    ablate(tmp_path, "sft,more,other")
    own = [stage for name, stage in made if name == "more"]
    assert own == [f"{stage} (round 1)" for stage in ("generate", "ground", "judge", "train", "evaluate")]
    assert [stage for name, stage in made if name == "other"] == ["evaluate (base)", *own]
    own_files = files(tmp_path / "out/seed-0/other")
    assert own_files
    assert all(path.stat().st_nlink == 1 for path in own_files)


def test_an_arm_that_judges_otherwise_shares_images_and_regions(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    ablate(tmp_path, "sft,votes")
    own = [stage for name, stage in made if name == "votes"]
    assert own == [f"{stage} (round 1)" for stage in ("judge", "train", "evaluate")]
    judged = list(Run.open(tmp_path / "out/seed-0/votes").judgements(1))
    assert all(len(score.votes) == 2 for each in judged for score in each.scores)


def test_more_rounds_begin_with_the_first_round_of_another_arm(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    ablate(tmp_path, "paper,twice")
    own = [stage for name, stage in made if name == "twice"]
    assert own == [f"{stage} (round 2)" for stage in ("generate", "ground", "judge", "train", "evaluate")]
    here = tmp_path / "out/seed-0"
    log = "round-1/metrics.jsonl"
    assert (here / "twice" / log).read_text() == (here / "paper" / log).read_text()
    assert inode(here / "twice" / log) != inode(here / "paper" / log)  # a training may cut its log back


SEQUENCES = """
[[arm]]
name = "filter-full"
settings = ['rounds=[["loss=sft"], ["map=released"]]']

[[arm]]
name = "filter-filter"
settings = ['rounds=[["loss=sft"], ["loss=sft"]]']

[[arm]]
name = "filter-more"
settings = ['rounds=[["loss=sft"], ["generate.candidates=2"]]']
"""


def test_arms_with_one_first_round_and_other_second_ones_share_all_of_the_first(
    tmp_path: Path, made: list[tuple[str, str]]
) -> None:
    (tmp_path / "sequences.toml").write_text(SEQUENCES, encoding="utf-8")
    names = ["filter-full", "filter-filter", "filter-more"]
    ablate(tmp_path, f"sft,{','.join(names)}", f"--with={tmp_path / 'sequences.toml'}")
    own = {arm: [stage for name, stage in made if name == arm] for arm in ("sft", *names)}
    second = [f"{stage} (round 2)" for stage in ("generate", "ground", "judge", "train", "evaluate")]
    assert own["sft"] == ["train (round 1)", "evaluate (round 1)"]
    assert own["filter-full"] == own["filter-more"] == second
    assert own["filter-filter"] == second[3:]
    for name in names:
        run = Run.open(tmp_path / "out/seed-0" / name)
        run.check()
        assert all(run.done(step.stage, step.round) for step in steps(run))
    lines = (tmp_path / "out/ablation.csv").read_text().splitlines()
    assert sum(line.startswith("filter-full,") for line in lines) == 3


def test_equal_settings_are_trained_once_and_said_to_be_equal(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    found = cells(ablate(tmp_path, "paper,given", "map=paper", "loss=srum"))
    assert "given" not in {name for name, _ in made}
    assert found["given"]["what it is"].endswith("; the same settings as paper")
    assert found["given"]["green"] == found["paper"]["green"]


def test_settings_that_only_training_heeds_keep_nobody_from_sharing(tmp_path: Path) -> None:
    registry = discover()
    base = load_settings("toy:ToyModel", (), None, toy.COMPONENTS[1:], registry)
    other = changed(base, ["adapter.checkpoint=elsewhere"], registry, "here")
    one, two = (Run(tmp_path, settings, registry) for settings in (base, other))
    for step in [Step("evaluate", None), *(Step(stage, 1) for stage in ("generate", "ground", "judge"))]:
        assert fingerprint(one, step, ["adapter.checkpoint"]) == fingerprint(two, step, ["adapter.checkpoint"])
        if step.stage in ("generate", "evaluate"):
            assert fingerprint(one, step, []) != fingerprint(two, step, [])
    for step in [Step("train", 1), Step("evaluate", 1), Step("generate", 2)]:
        assert fingerprint(one, step, ["adapter.checkpoint"]) != fingerprint(two, step, ["adapter.checkpoint"])


def test_what_is_linked_remembers_its_own_settings(tmp_path: Path) -> None:
    ablate(tmp_path, "sft")
    source = Run.open(tmp_path / "out/seed-0/shared")
    target = Run(tmp_path / "mine", source.settings, source.registry)
    working.share(source, target, Step("generate", 1))
    ours, theirs = (run.stage_folder("generate", 1) for run in (target, source))
    assert inode(ours / "settings.json") != inode(theirs / "settings.json")
    assert inode(ours / "DONE") == inode(theirs / "DONE")
    assert (target.round_folder(1) / "prompts.jsonl").is_file()


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(working.os, "link", refuse)
    ablate(tmp_path, "sft")
    run = Run.open(tmp_path / "out/seed-0/sft")
    assert all(candidate.image.is_file() for candidate in run.candidates(1))
    assert (run.stage_folder("generate", 1) / "part-0.jsonl").stat().st_nlink == 1


# ---- resuming -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tables of an ablation that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srum_core.runs.run.gc.collect", lambda: 0)  # as `clean` does
        assert main.main(command(folder, "base,sft,paper", seeds=2)) == 0
    return {"rows": results(folder)["rows"], "csv": (folder / "out/ablation.csv").read_text()}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["draw:2", "look:2", "answer:4", "encode:2", "train:8", "measure:20"])
def test_interrupted_at_any_stage_it_ends_with_the_same_tables(
    when: str,
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = command(tmp_path, "base,sft,paper", seeds=2)
    toy._calls.clear()
    monkeypatch.setenv("SRUM_TOY_INTERRUPT", when)
    assert main.main(given) == 130
    assert "To resume:\n  srum ablate" in capsys.readouterr().err
    monkeypatch.delenv("SRUM_TOY_INTERRUPT")
    assert main.main(given) == 0
    assert results(tmp_path)["rows"] == whole["rows"]
    assert (tmp_path / "out/ablation.csv").read_text() == whole["csv"]


@pytest.mark.parametrize("number", [3, 20])
def test_interrupted_while_sharing_it_ends_with_the_same_tables(
    number: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, links, really = command(tmp_path, "base,sft,paper", seeds=2), [0], os.link

    def link(*paths: Any) -> None:
        links[0] += 1
        if links[0] == number:
            raise KeyboardInterrupt
        really(*paths)

    monkeypatch.setattr(working.os, "link", link)
    assert main.main(given) == 130
    assert main.main(given) == 0
    assert results(tmp_path)["rows"] == whole["rows"]
    assert (tmp_path / "out/ablation.csv").read_text() == whole["csv"]
    assert not list((tmp_path / "out").rglob(".*.tmp"))


TAKEN: dict[str, tuple[str, Callable[[Run, Run], None]]] = {
    "images": ("round-1/candidates", lambda source, target: working.share(source, target, Step("generate", 1))),
    "evaluation": ("base/evaluation", lambda source, target: working.share(source, target, Step("evaluate", None))),
    "training": ("round-1/checkpoint", lambda source, target: working.share(source, target, Step("train", 1))),
    "latents": ("round-1/latents", working.share_latents),
}


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished arm that others can take from."""
    folder = tmp_path_factory.mktemp("arm")
    ablate(folder, "sft")
    return Run.open(folder / "out/seed-0/sft")


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("what", TAKEN)
def test_what_is_taken_is_there_as_a_whole_or_not_at_all(
    what: str, links: bool, arm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before every single thing that is done to the disk, with half a file where files are copied."""
    name, take = TAKEN[what]
    there = {path.relative_to(arm.folder / name): path.read_bytes() for path in files(arm.folder / name)}
    for stop in count():
        run = Run(tmp_path / str(stop), arm.settings, arm.registry)
        with monkeypatch.context() as patch:
            stopped = stop_at(patch, stop, links)
            try:
                take(arm, run)
            except KeyboardInterrupt:
                assert not (run.folder / name).exists(), f"stopped at {stopped[-1]}"
        take(arm, run)
        assert {path.relative_to(run.folder / name): path.read_bytes() for path in files(run.folder / name)} == there
        assert not list(run.folder.rglob(".*.tmp"))
        if len(stopped) <= stop:
            break
    assert len(stopped) > len(there)


def stop_at(patch: pytest.MonkeyPatch, number: int, links: bool) -> list[str]:
    """Interrupt the sharing before its `number`th deed on the disk; returns the deeds so far, to be."""
    deeds: list[str] = []
    really = {"copy": shutil.copy2, "write": working.write_atomic, "rename": Path.rename, "link": os.link}

    def doing(name: str) -> Callable[..., Any]:
        def do(*paths: Any) -> Any:
            deeds.append(f"{name} {paths[0]}")
            if len(deeds) == number + 1:
                if name == "copy":
                    Path(paths[1]).write_bytes(Path(paths[0]).read_bytes()[:-1])
                raise KeyboardInterrupt
            return really[name](*paths)

        return do

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    patch.setattr(working.os, "link", doing("link") if links else refuse)
    patch.setattr(working.shutil, "copy2", doing("copy"))
    patch.setattr(working, "write_atomic", doing("write"))
    patch.setattr(Path, "rename", doing("rename"))
    return deeds


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["draw:2", "answer:4", "train:8", "measure:20"])
def test_killed_it_ends_with_the_same_tables(when: str, whole: dict[str, Any], tmp_path: Path) -> None:
    given = command(tmp_path, "base,sft,paper", seeds=2)
    environment = {**os.environ, "SRUM_TOY_KILL": when, "PYTHONPATH": str(Path(toy.__file__).parent)}
    words = ["-c", "import sys; from srum_core.cli.main import main; sys.exit(main())", *given]
    killed = shared().run(words, tmp_path, environment)
    assert killed.returncode == -9, killed.output
    assert main.main(given) == 0
    assert results(tmp_path)["rows"] == whole["rows"]


def test_a_finished_arm_is_not_touched(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    before = ablate(tmp_path, "base,sft")
    made.clear()

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "seed-0").rglob("*")}

    first = state()
    assert ablate(tmp_path, "base,sft") == before
    assert not made
    assert state() == first
    ablate(tmp_path, "base,sft,paper", seeds=2)  # more arms and seeds are added to what is there
    assert [stage for name, stage in made if name == "paper"][:2] == ["train (round 1)", "evaluate (round 1)"]
    assert ("sft", "train (round 1)") in made
    assert {path: time for path, time in state().items() if path in first and path.is_file()} == {
        path: time for path, time in first.items() if path.is_file()
    }


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablate(tmp_path, "base")
    assert main.main(command(tmp_path, "base", "evaluate.limit=2")) == 2
    message = capsys.readouterr().err
    assert "was made with other settings: evaluate.limit" in message
    assert "The run was made with srum " in message  # and which version of it


# ---- failing --------------------------------------------------------------------------------------------------------


def test_an_arm_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path, made: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = cells(ablate(tmp_path, "failing,paper", seeds=2))
    assert found["failing"]["green"] == "failed"
    assert found["failing"]["seeds"] == "0 of 2"
    assert "failed with training seed 0, 1: Training was stopped" in found["failing"]["what it is"].replace("\n", " ")
    assert "value" in found["paper"]["green"]
    said = capsys.readouterr().err
    assert "seed 1 · failing failed; the others continue. Training was stopped" in said
    assert f"In an ablation: srum-train --config {tmp_path}/out/seed-1/failing/run.toml --out" in said
    assert "| failing | failed |" in (tmp_path / "out/ablation.md").read_text("utf-8")
    made.clear()
    assert cells(ablate(tmp_path, "failing,paper", seeds=2)) == found  # tried again, and it stops as before
    assert {name for name, _ in made} == {"failing"}


def test_an_arm_that_fails_with_one_seed_is_reported_beside_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, given = working.perform, command(tmp_path, "sft,paper", seeds=2)

    def perform(run: Run, stage: str, round: int | None, last: int = 1) -> None:
        if run.settings.seed > last:
            raise KeyboardInterrupt
        if (run.folder.name, run.settings.seed, stage) == ("sft", 0, "train"):
            raise TrainingError("No luck.")
        really(run, stage, round)

    monkeypatch.setattr(working, "perform", partial(perform, last=0))
    assert main.main(given) == 130
    found = cells(results(tmp_path))["sft"]  # as it was written after the first seed
    assert (found["green"], found["seeds"]) == ("failed", "0 of 2")
    assert found["what it is"].endswith("; failed with training seed 0: No luck.")
    monkeypatch.setattr(working, "perform", perform)
    assert main.main(given) == 0
    found = cells(results(tmp_path))
    assert found["sft"]["seeds"] == "1 of 2"
    assert found["sft"]["what it is"].endswith("; failed with training seed 0: No luck.")
    sft, paper = (mean([greens(tmp_path, 1, name, "round-1")]) for name in ("sft", "paper"))
    assert found["sft"]["green"]["value"] == pytest.approx(sft)
    assert found["paper"]["change to sft"]["value"] == pytest.approx(paper - sft)


def test_what_is_shared_must_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command(tmp_path, "sft,paper", "judges=['toy:ToyModel']")) == 2
    assert not (tmp_path / "out/ablation.json").exists()


# ---- numbers --------------------------------------------------------------------------------------------------------


def greens(folder: Path, seed: int, arm: str, stage: str) -> dict[str, list[float]]:
    """The measure of every image by prompt, as it is written down."""
    found: dict[str, list[float]] = {}
    path = folder / f"out/seed-{seed}/{arm}/{stage}/evaluation/tables/rules/images.jsonl"
    for line in path.read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["prompt"], []).append(record["values"]["green"])
    assert all(len(values) == 2 for values in found.values())
    return found


def mean(found: Sequence[Mapping[str, Sequence[float]]]) -> float:
    every = [value for each in found for values in each.values() for value in values]
    return sum(every) / len(every)


def test_the_numbers_are_those_of_the_images(tmp_path: Path) -> None:
    whole = ablate(tmp_path, "base,sft,paper", seeds=2)
    found = cells(whole)
    final = {name: [greens(tmp_path, seed, name, "round-1") for seed in (0, 1)] for name in ("sft", "paper")}
    base = [greens(tmp_path, seed, "shared", "base") for seed in (0, 1)]
    assert found["base"]["green"]["value"] == pytest.approx(mean(base))
    assert found["paper"]["green"]["value"] == pytest.approx(mean(final["paper"]))
    assert found["paper"]["change to base"]["value"] == pytest.approx(mean(final["paper"]) - mean(base))
    assert found["paper"]["change to sft"]["value"] == pytest.approx(mean(final["paper"]) - mean(final["sft"]))
    assert found["sft"]["change to sft"] == found["base"]["change to base"] == ""
    tables = [
        np.array([[np.mean(values) for values in each.values()] for each in final[name]]) for name in ("paper", "sft")
    ]
    by_hand = statistics.difference(*tables)
    assert found["paper"]["change to sft"]["low"] == pytest.approx(by_hand.low)
    assert found["paper"]["change to sft"]["high"] == pytest.approx(by_hand.high)
    assert by_hand.low < by_hand.value < by_hand.high  # type: ignore[operator]
    assert whole["columns"] == ["green", "change to base", "change to sft", "seeds", "what it is"]
    rows = [line.split(",") for line in (tmp_path / "out/ablation.csv").read_text().splitlines()]
    assert rows[0] == ["arm", "seed", "round", "prompts", "images", "green"]
    values = {(arm, seed, round): float(value) for arm, seed, round, _, _, value in rows[1:]}
    assert values["sft", "1", "1"] == pytest.approx(mean(final["sft"][1:]))
    assert values["sft", "1", ""] == values["base", "1", ""] == pytest.approx(mean(base[1:]))


def test_the_files_say_how_they_were_made(tmp_path: Path) -> None:
    whole = ablate(tmp_path, "base,sft,paper,lambda-0.1,lambda-1")
    assert whole["command"] == shlex.join(["srum", *command(tmp_path, "base,sft,paper,lambda-0.1,lambda-1")])
    assert "1 training seed; 3 prompts with 2 image(s) each" in whole["note"]
    assert "srum " in whole["note"]
    assert os.uname().nodename not in whole["note"]
    text = (tmp_path / "out/ablation.md").read_text("utf-8")
    assert whole["command"] in text
    assert text.count("\n| ") == 7
    assert [figure["svg"] for figure in whole["figures"]] == ["ablation-drop.svg", "ablation-curve.svg"]
    for figure in whole["figures"]:
        assert ET.parse(tmp_path / "out" / figure["svg"]).getroot().tag.endswith("svg")


# ---- figures --------------------------------------------------------------------------------------------------------


def table(*rows: tuple[Arm, float, float | None]) -> Tables:
    made = [
        Row(
            arm,
            (0,),
            {"correct": Estimate(value, value - 0.1, value + 0.1)},
            {},
            None if drop is None else Estimate(drop, drop - 0.01, drop + 0.02),
            (),
        )
        for arm, value, drop in rows
    ]
    return Tables(("correct",), (), "paper", tuple(made), ())


def test_changes_lie_beside_zero_with_their_intervals() -> None:
    title, svg = drops(
        table((Arm("sft", drop=True), 0.5, -0.1), (Arm("up", drop=True), 0.5, 0.05), (Arm("not"), 0.5, 0.3))
    )
    assert title == "Change in correct against paper (95 % intervals, in %)"
    root = ET.fromstring(svg)
    (zero,) = [float(each.get("d", "")[1:].split()[0]) for each in root.iter() if each.get("class") == "axis"]
    sft, up = [float(each.get("cx", "")) - zero for each in root.iter() if each.tag.endswith("circle")]
    assert sft / up == pytest.approx(-2, rel=0.02)
    bars = [re.findall(r"[\d.]+", each.get("d", "")) for each in root.iter() if each.get("class") == "bar"]
    assert float(bars[0][2]) - float(bars[0][0]) == pytest.approx(0.3 * -sft, rel=0.02)
    words = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert "−10.0 [−11.0, −8.0]" in words
    assert "not" not in words


def test_lines_differ_in_dashes_and_stand_alone_in_light_and_dark() -> None:
    rows = [(Arm(f"at-{x}", curve=Curve(line, x)), x / 2, None) for line in ("a<b", "c") for x in (0.1, 1.0, 0.5)]
    _, svg = curves(table(*rows), "λ")
    root = ET.fromstring(svg)
    lines = [each.get("d", "") for each in root.iter() if each.get("class") == "line s0"]
    xs = [float(point.split(" ")[0]) for point in re.split("[ML]", lines[0])[1:]]
    assert len(xs) == 3
    assert xs == sorted(xs)
    assert [len([each for each in root.iter() if each.get("class") == f"dot s{n}"]) for n in (0, 1)] == [3, 3]
    assert len([each for each in root.iter() if each.get("class") == "bar"]) == 6
    (style,) = [each.text or "" for each in root.iter() if each.tag.endswith("style")]
    assert style.count(".chart .line.s1") == 2
    assert style.index("#fdfcfa") < style.index("prefers-color-scheme: dark") < style.index("#15171a")
    assert "var(" not in style


def test_no_figure_without_something_to_show() -> None:
    assert drops(table((Arm("sft"), 0.5, -0.1))) == ("", "")
    assert curves(table((Arm("sft"), 0.5, None)), "λ") == ("", "")
    assert drops(Tables((), (), "paper", (), ())) == ("", "")


# ---- what people type -----------------------------------------------------------------------------------------------


def test_a_wrong_name_is_told_with_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command(tmp_path, "base,papr")) == 2
    message = capsys.readouterr().err
    assert 'There is no arm "papr". Did you mean "paper"? There are base, sft, paper,' in message
    assert "failing" in message
    assert not (tmp_path / "out").exists()


@each_row(
    "text, message",
    [
        ("[[arm]]\nname = 'x'\nsetings = []", 'setings is not a setting. Did you mean "settings"?'),
        ("[[arm]]\nname = 'a/b'", "name"),
        ("[[arm]]\nname = 'shared'", "name"),
        ("[[arm", "is not TOML"),
        ("[[arm]]\nname = 'x'\nsettings = ['train.lrr=1']", "train.lrr (in arm x)"),
        ("[[arm]]\nname = 'x'\nsettings = ['loss']", '"loss" in arm x should read KEY=VALUE'),
    ],
)
def test_a_wrong_file_of_arms_is_told(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    given = [each for each in command(tmp_path, "", "--dry-run") if not each.startswith("--arms")]
    assert main.main([*given, f"--with={tmp_path / 'mine.toml'}"]) == 2
    assert message in capsys.readouterr().err


def test_without_a_benchmark_there_is_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command(tmp_path, "base", "benchmark=")) == 2
    assert "Set benchmark=NAME" in capsys.readouterr().err


def test_no_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command(tmp_path, "base", seeds=0)) == 2
    assert "--seeds 0" in capsys.readouterr().err


def test_a_dry_run_tells_what_is_shared_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(tmp_path.rglob("*"))
    assert main.main(command(tmp_path, "paper,twice,more", "--dry-run")) == 0
    message = capsys.readouterr().out
    assert "takes     evaluate (base); generate, ground, judge (round 1) of shared" in message
    assert "takes     train, evaluate (round 1) of paper" in message
    assert "makes     generate, ground, judge, train, evaluate (round 1)" in message
    assert "0 of 4 runs are finished" in message
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "prompts.txt", tmp_path / "arms.toml"}


def test_the_lists_hold_what_the_paper_compares() -> None:
    registry = discover()
    core = read_arms(registry, "toy:ToyModel", (), ())
    assert {"base", "sft", "paper", "released", "no-global", "no-constraint", "global-only", "rounds-3"} <= {
        arm.name for arm in core.arm
    }
    assert {arm.curve.x for arm in core.arm if arm.curve} == {0.1, 0.2, 0.5, 1.0}
    assert not any("adapter." in setting for arm in core.arm for setting in arm.settings)
    shapes = read_arms(registry, "bagel", ("shapes",), ())
    assert {"full", "no-global", "no-constraint", "sparse", "filter", "sft", "paper"} <= {
        arm.name for arm in shapes.arm
    }
    curve = [arm.curve.x for arm in shapes.arm if arm.curve and arm.curve.line == "advantage"]
    assert sorted(curve) == [0, 0.1, 0.2, 0.3, 0.5, 1]
    assert not [arm.name for arm in shapes.named(()) if arm.extra]


def test_later_lists_replace_arms_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[[arm]]\nname = 'sft'\ntext = 'mine'\n", encoding="utf-8")
    found = read_arms(discover(), "toy:ToyModel", (), [tmp_path / "mine.toml"])
    assert [arm.text for arm in found.arm if arm.name == "sft"] == ["mine"]
    assert found.reference == "paper"
    with pytest.raises(ConfigError, match="no arm"):
        Arms().named(["sft"])


# ---- the bundled model ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_quick_ablation_of_the_bundled_model(tmp_path: Path) -> None:
    given = ["ablate", "--adapter=bagel", "--preset=shapes", f"--out={tmp_path / 'out'}", "--quick"]
    assert main.main([*given, "--arms=base,sft,full", "evaluate.limit=4", "generate.limit=4"]) == 0
    found = cells(results(tmp_path))
    assert list(found) == ["base", "sft", "full"]
    assert all(each["seeds"] == "2 of 2" and 0 <= each["correct"]["value"] <= 1 for each in found.values())
    here = tmp_path / "out/seed-0"
    assert inode(here / "full/round-1/judgements/part-0.jsonl") == inode(here / "sft/round-1/judgements/part-0.jsonl")
