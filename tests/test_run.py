"""A run's folder: what it holds, what it refuses, and that being killed in any stage changes nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import each_row
from toy import COMPONENTS

from srum_core import config, plugins
from srum_core.cli import main
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation import comparison
from srum_core.options import Use
from srum_core.records import Prompt
from srum_core.runs.files import FOLDERS, STAGES, lock
from srum_core.runs.prompts import check_prompts, load_prompts, read_prompts
from srum_core.runs.run import Run, started_from
from srum_core.stages.chunks import Step
from srum_core.stages.order import count, needed, perform, steps, undone

HERE = Path(__file__).parent
WORDS = ["a red cat", "two dogs", "a tree left of a house", "three cups", "the sea"]
ARGUMENTS = [
    *COMPONENTS, "adapter.mumbles=true", "seed=3", "rounds=2",
    "generate.batch=2", "ground.batch=3", "judge.batch=2", "evaluate.batch=2",
    "train.max_cells=32", "train.save_every=2", "train.epochs=2", "train.lr=0.01", "train.warmup=1", "lora.rank=2",
]  # fmt: skip


def train(*arguments: str, message: Path | None = None, **environment: str) -> None:
    """`srum-train` with the toy, in a process of its own. The environment says where it dies; stderr goes to `told`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    if message is not None:
        os.dup2(os.open(message, os.O_WRONLY | os.O_CREAT), 2)
    sys.path.insert(0, str(HERE))
    os.environ.update(environment)
    from srum_core.cli.main import train_main

    sys.exit(train_main([*ARGUMENTS, *arguments]))


@pytest.fixture(scope="session")
def spawn() -> Callable[..., int]:
    """Runs a function in a fresh process that has torch loaded already; returns the exit code."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "accelerate", "peft", "toy", "srum_core.training.trainer"])

    def run(*arguments: str, **more: Any) -> int:
        process = context.Process(target=train, args=arguments, kwargs=more)
        process.start()
        process.join(120)
        assert process.exitcode is not None
        return process.exitcode

    return run


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ids that give these tests the seeds that they count on."""
    path = tmp_path_factory.mktemp("prompts") / "words.jsonl"
    records = [{"id": f"words-{number:05d}", "text": text} for number, text in enumerate(WORDS, 1)]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def result(folder: Path) -> dict[str, object]:
    """All that a run must reproduce: records (sorted), images, metrics, tables and weights, by path."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl" and path.name.startswith("part-"):
            lines = path.read_bytes().split(b"\n")
            found[name] = sorted(line for line in lines if not line.endswith(b"\x18"))
        elif path.name in ("metrics.jsonl", "table.json", "prompts.jsonl") or path.suffix in (".png", ".safetensors"):
            found[name] = path.read_bytes()
    return {name: value for name, value in found.items() if "/latents/" not in name}


@pytest.fixture(scope="session")
def whole(spawn: Callable[..., int], prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert spawn(f'prompts="{prompts}"', "--out", str(folder)) == 0
    return folder


@pytest.mark.slow
def test_a_whole_run_makes_everything_it_should(whole: Path) -> None:
    for k in (1, 2):
        for stage in STAGES:
            assert (whole / f"round-{k}" / FOLDERS[stage] / "DONE").exists(), (k, stage)
    assert len(list((whole / "round-1/candidates/images").glob("*.png"))) == len(WORDS)
    tables = {k: (whole / k / "evaluation/tables/rules/table.json").read_text() for k in ("base", "round-1", "round-2")}
    assert len(set(tables.values())) == 3
    lines = (whole / "round-1/metrics.jsonl").read_text().splitlines()
    assert len(lines) > 2
    assert "second" not in lines[0]


@pytest.mark.slow
def test_killed_in_every_stage_and_resumed_it_ends_the_same(
    whole: Path, spawn: Callable[..., int], prompts: Path, tmp_path: Path
) -> None:
    arguments = (f'prompts="{prompts}"', "--out", str(tmp_path / "run"))
    deaths = {
        "draw:1": "base/evaluation",  # before anything is there
        "measure:2": "base/evaluation",  # images without a table
        "draw:3": "round-1/candidates",
        "look:4": "round-1/regions",
        "answer:6": "round-1/judgements",  # while asking again
        "encode:1": "round-1/checkpoint",
        "train:4": "round-1/checkpoint",  # two steps after the last save
        "measure:3": "round-1/evaluation",
        "train:3": "round-2/checkpoint",
    }
    for where, folder in deaths.items():
        assert spawn(*arguments, SRUM_TOY_KILL=where) == -signal.SIGKILL, where
        assert not (tmp_path / "run" / folder / "DONE").exists(), where
    assert spawn(*arguments) == 0
    expected, got = result(whole), result(tmp_path / "run")
    assert got.keys() == expected.keys()
    assert [name for name in expected if got[name] != expected[name]] == []


@pytest.mark.slow
def test_redo_makes_the_same_again_and_other_settings_are_refused(
    whole: Path, spawn: Callable[..., int], prompts: Path, tmp_path: Path
) -> None:
    before = result(whole)
    arguments = (f'prompts="{prompts}"', "--out", str(whole))
    assert spawn(*arguments, "judge.retries=1", message=tmp_path / "told") == 2
    message = (tmp_path / "told").read_text()
    assert "judge.retries was 2 and is now 1" in message
    assert "--redo judge" in message
    assert "Traceback" not in message
    assert spawn(*arguments, "--redo", "judge:2") == 0
    assert result(whole) == before


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(spawn: Callable[..., int], prompts: Path, tmp_path: Path) -> None:
    arguments = (f'prompts="{prompts}"', "--out", str(tmp_path / "run"))
    assert spawn(*arguments, "--redo", "judge", message=tmp_path / "told", SRUM_TOY_INTERRUPT="draw:4") == 130
    message = (tmp_path / "told").read_text()
    assert "evaluate (base): 3 of 3" in message
    assert "generate (round 1): 2 of 5" in message
    assert message.strip().splitlines()[-1].startswith("  srum-train --adapter")
    assert "--redo" not in message
    assert "Traceback" not in message


# ---- without a model ------------------------------------------------------------------------------------------------


def make(folder: Path, prompts: Path, **changes: object) -> Run:
    parts = {
        "adapter": Use("toy:ToyModel", {"checkpoint": "", "mumbles": False}),
        "grounder": Use("toy:ToyGrounder"),
        "judges": (Use("toy:ToyJudge"),),
        "map": Use("srum_losses.maps:Paper"),
        "loss": Use("srum_losses.objectives:SrumLoss"),
    }
    settings = config.Settings(prompts=str(prompts), **{**parts, **changes})  # type: ignore[arg-type]
    return Run(folder, settings, plugins.discover())


def test_a_plan_has_its_own_ids_and_seeds_and_never_changes(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path, prompts, generate=config.Generate(candidates=3))
    plan = run.planned(1)
    assert [item.prompt.text for item in plan] == [word for word in WORDS for _ in range(3)]
    assert len({item.id for item in plan}) == len({item.seed for item in plan}) == 15
    assert plan == make(tmp_path, prompts, generate=config.Generate(candidates=3)).planned(1)
    more = make(tmp_path, prompts, generate=config.Generate(candidates=4)).planned(1)
    assert {item.id for item in plan} < {item.id for item in more}
    assert not {item.id for item in plan} & {item.id for item in run.planned(2)}
    other = make(tmp_path, prompts, seed=1, generate=config.Generate(candidates=3)).planned(1)
    assert not {item.seed for item in plan} & {item.seed for item in other}
    assert all(0 <= item.seed < 2**31 for item in plan)
    assert plan[0].id == "bde79e9e44bb32a4f26e"  # a change of the rule would orphan the images of old runs


def test_the_random_numbers_of_a_round_are_those_of_runs_that_counted_from_0(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path, prompts)
    assert [run.round_seed("noise", round, 3, 1) for round in (1, 2)] == [1651360865, 488037729]
    assert run.round_seed("evaluate", None, "x") == run.derive_seed("evaluate", None, "x") == 1018629604


def test_a_folder_with_a_round_0_is_refused_with_its_version(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(tmp_path / "run", prompts)
    Run.create(run.folder, run.settings, run.registry)
    old = run.folder / "round-0" / "evaluation"
    (run.folder / "round-1" / "judgements").mkdir(parents=True)
    old.mkdir(parents=True)
    (old / "table.json").write_text("{}")
    words = r"rounds were counted from 0 .*The run was made with srum \d"
    for use in (Run.open, comparison.read_tables, lambda folder: make(folder, prompts)):
        with pytest.raises(RecordError, match=words):
            use(run.folder)
    assert main.train_main([*COMPONENTS, "--out", str(run.folder), "--redo", "judge"]) == 2
    assert (run.folder / "round-1" / "judgements").is_dir()
    with pytest.raises(RecordError, match=words):
        started_from(f"{run.folder}:1", run.registry)
    message = " ".join(capsys.readouterr().err.split())
    assert "Choose another folder with --out" in message


def test_there_is_no_round_0(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", prompts, rounds=(("map=uniform",), ("map=sparse",)))
    assert run.settings.changes(0) == run.settings.changes(None) == run.settings.changes(3) == ()
    Run.create(run.folder, run.settings, run.registry)
    with pytest.raises(RecordError, match=r"Rounds count from 1\."):
        started_from(f"{run.folder}:0", run.registry)
    assert main.train_main([*COMPONENTS, "--out", str(run.folder), "--redo", "judge:0"]) == 2
    assert "--redo judge:0: it should be" in " ".join(capsys.readouterr().err.split())
    assert main.main(["export", str(run.folder), "--out", str(tmp_path / "out"), "--round", "0"]) == 2
    assert "There are no judgements of round 0" in " ".join(capsys.readouterr().err.split())


def test_a_prompt_list_edited_later_changes_nothing_in_a_round(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("one\n\ntwo\n")
    run = make(tmp_path / "run", path)
    run.keep_prompts(1)
    path.write_text("three\n")
    assert [prompt.text for prompt in run.prompts(1)] == ["one", "two"]
    assert [prompt.text for prompt in run.prompts(2)] == ["three"]


def test_redo_deletes_a_stage_and_what_follows(tmp_path: Path, prompts: Path) -> None:
    names = [*FOLDERS.values(), "latents", "training"]
    for stage in STAGES:
        run = make(tmp_path / stage, prompts, rounds=3)
        for folder in ["base/evaluation", *(f"round-{k}/{name}" for k in (1, 2, 3) for name in names)]:
            (run.folder / folder).mkdir(parents=True)
        for k in (1, 2, 3):
            (run.folder / f"round-{k}/prompts.jsonl").touch()
            (run.folder / f"round-{k}/metrics.jsonl").touch()
        run.redo(stage, 2)
        there = {str(path.relative_to(run.folder)) for path in run.folder.glob("*/*")}
        expected = {f"round-1/{name}" for name in [*names, "prompts.jsonl", "metrics.jsonl"]} | {"base/evaluation"}
        index = STAGES.index(stage)
        if stage == "evaluate":
            rest = [name for name in [*names, "prompts.jsonl", "metrics.jsonl"] if name != "evaluation"]
            expected |= {f"round-{k}/{name}" for k in (2, 3) for name in rest}
        elif index:
            expected |= {"round-2/prompts.jsonl"} | {f"round-2/{FOLDERS[earlier]}" for earlier in STAGES[:index]}
        assert there == expected, stage
        for step in steps(make(tmp_path, prompts, rounds=3, benchmark=Use("toy:ToyBenchmark"))):
            gone = not run.stage_folder(step.stage, step.round).exists()
            assert undone(stage, 2, step) == gone, (stage, step)


def test_redoing_all_evaluations_includes_the_base(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path, prompts)
    for folder in ("base/evaluation", "round-1/evaluation", "round-1/checkpoint"):
        (tmp_path / folder).mkdir(parents=True)
    run.redo("evaluate")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")} == {"round-1/checkpoint"}


def test_the_same_settings_take_a_run_up_and_others_are_refused(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path, prompts)
    Run.create(tmp_path, run.settings, run.registry)
    assert Run.open(tmp_path).settings == run.settings
    run.candidates(1).mark_done()
    Run.create(tmp_path, run.settings, run.registry)
    written = (tmp_path / "run.toml").read_text()
    other = make(tmp_path, prompts, generate=config.Generate(batch=3))
    with pytest.raises(RecordError, match=r"generate\.batch was 8 and is now 3.*--redo generate"):
        Run.create(tmp_path, other.settings, other.registry)
    assert (tmp_path / "run.toml").read_text() == written
    more = make(tmp_path, prompts, rounds=2)  # what is there does not depend on how many rounds follow
    Run.create(tmp_path, more.settings, more.registry)
    with pytest.raises(RecordError, match=r"no run\.toml"):
        Run.open(tmp_path / "round-1")


def test_options_of_the_adapter_that_only_change_its_speed_may_change_within_a_run(
    tmp_path: Path, prompts: Path
) -> None:
    def bagel(**options: Any) -> Run:
        return make(tmp_path, prompts, adapter=Use("bagel", {"rows": 64, "think": False, **options}))

    run = bagel()
    for stage in ("generate", "evaluate"):
        assert "rows" not in run.stage_settings(stage, 1)["adapter"]
    Run.create(tmp_path, run.settings, run.registry)
    run.candidates(1).mark_done()
    run = bagel(rows=8)
    Run.create(tmp_path, run.settings, run.registry)
    run = bagel(think=True)
    with pytest.raises(RecordError, match=r"adapter\.think was False and is now True"):
        Run.create(tmp_path, run.settings, run.registry)


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(RecordError, match="Another process"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_stages_need_those_before_them(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path, prompts, rounds=2, benchmark=Use("toy:ToyBenchmark"))
    assert steps(run)[0] == Step("evaluate", None)
    assert len(steps(run)) == 11
    assert len(steps(make(tmp_path, prompts, rounds=2))) == 8
    assert needed(run, Step("generate", 1)) is None
    assert needed(run, Step("generate", 2)) == Step("train", 1)
    assert needed(run, Step("ground", 1)) == Step("generate", 1)
    assert count(run, Step("generate", 1)) == (0, 5)
    with pytest.raises(RecordError, match=r"judge \(round 1\) needs ground \(round 1\)"):
        perform(run, "judge", 1)
    with pytest.raises(RecordError, match="not finished"):
        run.model(1)


# ---- prompts --------------------------------------------------------------------------------------------------------


def test_prompts_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\n\n two \r\n", encoding="utf-8")
    one, two = read_prompts(tmp_path / "a.txt")
    assert (one.text, two.text) == ("one", "two")
    (tmp_path / "other.txt").write_text("two\nzero\none\n")  # ids come from the texts, not from their places
    assert read_prompts(tmp_path / "other.txt")[::2] == [two, one]
    official = [{"Question": "a cat", "Question_id": 701, "Category": "3d_spatial"}]
    (tmp_path / "b.json").write_text(json.dumps(official))
    (prompt,) = read_prompts(tmp_path / "b.json")
    assert (prompt.id, prompt.text, prompt.tags) == ("701", "a cat", {"category": "3d_spatial"})
    (tmp_path / "c.jsonl").write_text('{"id": "x", "text": "t", "tags": {"n": 1}, "more": 2}\n\n"bare"\n')
    first, second = read_prompts(tmp_path / "c.jsonl")
    assert (first.id, first.tags) == ("x", {"more": 2, "n": 1})
    assert (second.id, second.text, second.tags) == ("9b828d53402d", "bare", {})
    (tmp_path / "d.csv").write_text('\ufeffPrompt,Category\n"a cat, a dog",animals\nbare,\n')
    third, fourth = read_prompts(tmp_path / "d.csv")
    assert (third.text, third.tags, fourth) == ("a cat, a dog", {"category": "animals"}, second)
    assert load_prompts(["bare", "one"], plugins.discover()) == [second, one]


def test_duplicates_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n\n a cat\na cat\n")
    assert [prompt.text for prompt in load_prompts(str(tmp_path / "a.txt"), plugins.discover())] == ["a cat", "a dog"]
    said = capsys.readouterr().err
    assert "left out as duplicates (2):\n  line 4 repeats line 1\n  line 5 repeats line 1" in said
    load_prompts(str(tmp_path / "a.txt"), plugins.discover())
    assert capsys.readouterr().err == ""  # once
    rows = [{"id": 1, "text": "a cat"}, {"id": 2, "text": "a cat"}, {"id": 1, "text": "a cat"}]
    (tmp_path / "b.json").write_text(json.dumps(rows))
    assert [prompt.id for prompt in read_prompts(tmp_path / "b.json")] == ["1", "2"]
    said = capsys.readouterr().err
    assert "entry 2 has the text of entry 1" in said
    assert "entry 3 repeats entry 1" in said


@each_row(
    "key", ["image", "Images", "image_path", "input-image", "source_image", "ref_images", "init_image", "mask",
            "edit", "edit_instruction", "negative_prompt", "Negative Prompt", "control", "controlnet", "control_image"],
)  # fmt: skip
def test_prompts_that_ask_for_another_task_are_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a cat"}) + "\n" + json.dumps({"text": "make it red", key: "x.png"}))
    with pytest.raises(ConfigError, match=f"line 2: .*{key.lower()} would be ignored.*not supported"):
        read_prompts(path)
    path.write_text(json.dumps({"text": "a cat", key: None}))
    assert read_prompts(path)


def test_fields_that_nothing_knows_are_named_once_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}", "Seed": i, "category": "x"}) + "\n" for i in range(3)))
    assert [prompt.tags["seed"] for prompt in read_prompts(path)] == [0, 1, 2]
    assert capsys.readouterr().err.count("kept as tags: seed.") == 1


@each_row(
    "name, text, message",
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: this is not JSON"),
        ("a.jsonl", '{"text": "x"}\n\n{"words": "y"}\n', "line 3: no text"),
        ("a.jsonl", "7\n", "line 1: a prompt is"),
        ("a.jsonl", '{"text": "x", "id": [1]}\n', "line 1: the id"),
        ("a.jsonl", '{"text": "x", "tags": 1}\n', 'line 1: "tags"'),
        ("a.json", '[{"text": "x"}, {"text": " "}]', "entry 2: no text"),
        ("a.json", '{"text": "x"}', "JSON list"),
        ("a.xls", "x", "files named"),
        (
            "a.csv",
            "Text;b\na;b\n",
            'name the columns, separated by commas, one of them "text" or "prompt", but it is "Text;b"',
        ),
        ("a.csv", "text,id\na cat, a dog, a cow\n", "line 2: there are more cells"),
        ("a.csv", 'text\n"a cat\n', "behind line 1: this is not CSV"),
        ("a.jsonl", '{"text": "x", "n": 1e400}', "line 1: this is not JSON (1e400 is no finite number)"),
        ("a.jsonl", '{"text": "x", "n": NaN}', "NaN is no finite number"),
        ("a.jsonl", "[" * 100000, "line 1: this is not JSON (it is nested too deeply)"),
        ("a.jsonl", '{"text": "x", "n": ' + "1" * 5000 + "}", "line 1: this is not JSON (Exceeds the limit"),
        ("a.jsonl", '"a \\ud800"', "line 1: the prompt holds something that is no text"),
        ("a.jsonl", '{"text": "a", "id": "\\u0000"}', "line 1: the prompt holds a NUL character"),
        ("a.jsonl", '{"text": "a", "more": ["\\ud800"]}', "line 1: the prompt holds something that is no text"),
        ("a.txt", "\n\n", "no prompt"),
        ("a.jsonl", '{"id": "x", "text": "1"}\n{"id": "x", "text": "2"}\n', 'the id "x" and differ, line 1 and line 2'),
        ("a.jsonl", '{"text": "1", "n": 1}\n{"text": "1", "n": 2}\n', "and differ, line 1 and line 2"),
    ],
)
def test_prompt_files_that_cannot_be_read_say_where(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(tmp_path / name), plugins.discover())
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_unknown_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_prompts(tmp_path / "latin.txt")
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name, message in (("folder", "a folder"), ("pipe", "a device or a pipe"), ("zero", "a device or a pipe")):
        with pytest.raises(ConfigError, match=f"{name}.txt cannot be read: it is {message}"):
            load_prompts(str(tmp_path / f"{name}.txt"), plugins.discover())
    for source in ("startr", "a\0b.txt", "a cat " * 100, "~nobody-here/a.txt"):
        with pytest.raises(ConfigError, match="neither a list"):
            load_prompts(source, plugins.discover())
    for prompt in (Prompt("a", "x\ud800"), Prompt("\0", "x")):  # of a plugin or a benchmark
        with pytest.raises(ConfigError, match=r'mine: the prompt ".?" holds'):
            check_prompts([prompt], "mine")
    for texts in ([], [" "], ["a", 7]):
        with pytest.raises(ConfigError, match=r"no prompt|entry 1: no text|entry 2: a prompt is"):
            load_prompts(texts, plugins.discover())  # type: ignore[arg-type]
