"""The commands as people type them, in processes of their own where it matters."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from rows import each_row
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from toy import COMPONENTS

from srum_core.cli import launching, main
from srum_core.cli.stage import main as stages_main
from srum_core.stages.chunks import Step

HERE = Path(__file__).parent


def ended(*codes: int) -> ChildFailedError:
    """What torchrun raises when processes end with these exit statuses."""
    failures = {rank: ProcessFailure(rank, 1, code, os.devnull) for rank, code in enumerate(codes)}
    return ChildFailedError("stages", failures)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    (tmp_path / "words.txt").write_text("a cat\na dog\n")
    return f'prompts="{tmp_path / "words.txt"}"'


def test_the_list_of_plugins(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main.main(["plugins"])
    said = capsys.readouterr().out
    for word in ("distribution", "version", "summary"):
        assert word in said
    assert said.count("judge zoom") == 2  # beside the version, and beside the summary


def test_a_mistake_is_a_sentence_and_exit_status_2(capsys: pytest.CaptureFixture[str], prompts: str) -> None:
    assert main.train_main([*COMPONENTS, prompts, "train.lrr=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("srum: ")
    assert "train.lrr" in said
    assert main.train_main([*COMPONENTS, prompts, "--redo", "juge", "--out", "/nonexistent/x", "--dry-run"]) == 2
    assert "juge" in capsys.readouterr().err


@each_row(
    "words, message",
    [
        (["--adpter", "bagel"], 'Did you mean "--adapter"?'),
        (["--adapt", "bagel"], 'Did you mean "--adapter"?'),  # an abbreviation is not taken for the option
        (["--learning-rate", "1e-5"], "typed without dashes: train.lr=VALUE."),
        (["--train.lr=1e-5"], "typed without dashes: train.lr=VALUE."),
        (["--judge", "zoom"], "typed without dashes: judges=VALUE."),
        (["--seed", "3"], "typed without dashes: seed=VALUE."),
        (["--output-dir=x", "--dry_run"], 'Did you mean "--out"?\nDid you mean "--dry-run"?'),
        (["--zzzz"], "unrecognized arguments: --zzzz\n"),
    ],
)
def test_options_that_are_none(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.train_main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_other_commands_know_their_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["import", "x.jsonl", "--out", "run", "--skipbad", "--learning-rate", "1e-5"])
    assert 'Did you mean "--skip-bad"?\n--learning-rate is a setting' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["plugins", "--learning-rate", "1e-5"])
    assert "train.lr" not in capsys.readouterr().err  # it takes no settings


@each_row(
    "words, message",
    [
        (["repport", "run"], 'Did you mean "report"?'),
        (["eval", "judges"], 'Did you mean "judge"?'),
        (["new-plugin", "judges", "mine"], 'Did you mean "judge"?'),
        (["train", "--adapter", "bagel"], "Training is a program of its own: srum-train"),
    ],
)
def test_commands_that_are_none(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("word", ["a\0b", "caf\udce9"])
def test_arguments_that_are_no_text(
    word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (["--out", word], ["--config", word], [f"adapter.x={word}"]):
        assert main.train_main(["--adapter", "bagel", *given]) == 2
        assert "srum: the argument" in capsys.readouterr().err
    assert main.main(["report", word]) == 2
    assert "srum: the argument" in capsys.readouterr().err


def test_the_settings_are_printed_and_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, prompts: str
) -> None:
    assert (
        main.train_main([*COMPONENTS, prompts, "train.lr=0.125", "--checkpoint", "some/where", "--print-config"]) == 0
    )
    printed = capsys.readouterr().out
    assert "0.125" in printed
    assert "some/where" in printed
    (tmp_path / "again.toml").write_text(printed)
    assert main.train_main(["--config", str(tmp_path / "again.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_a_dry_run_tells_all_and_does_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = sorted(tmp_path.rglob("*"))
    assert main.train_main([*COMPONENTS, prompts, "adapter.checkpoint=there-is-none", "rounds=2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for stage in ("evaluate (base)", "generate (round 1)", "judge (round 2)", "evaluate (round 2)"):
        assert stage in said
    assert "runs/toy.ToyModel-default" in said
    assert "2 images" in said
    assert "3 images" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_the_way_to_go_on_is_the_same_command_without_redo() -> None:
    given = ["--adapter", "toy", "--redo", "judge", "train.lr=1e-5", "--redo=train", "--out", "my runs/a"]
    assert main.resume_command(given) == "srum-train --adapter toy train.lr=1e-5 --out 'my runs/a'"


def test_a_stage_in_a_process_group_of_its_own(tmp_path: Path) -> None:
    for launch in launching.LAUNCHES[1:]:
        command = main.launch_command(launching.Launch(launch, 4), tmp_path, Step("evaluate", None))
        assert command[-4:] == ["srum_core.cli.stage", "evaluate", str(tmp_path), "base"]
        assert command[command.index("--num_processes") + 1] == "4"
        assert Path(command[command.index("--config_file") + 1]).is_file()


def test_a_launcher_starts_the_same_stage_and_says_what_it_is_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prompts: str
) -> None:
    parsed = launching.Launch("fsdp2-offload", launcher="srun 'my torchrun' --nnodes=2")
    command = main.launch_command(parsed, tmp_path, Step("train", 2))
    assert command[:3] == ["srun", "my torchrun", "--nnodes=2"]
    assert command[3:] == ["-m", "srum_core.cli.stage", "train", str(tmp_path), "2", "--launch", "fsdp2-offload"]
    assert main.train_main([*COMPONENTS, prompts, "--out", str(tmp_path / "run"), "--launcher", "srun"]) == 2
    assert "--launcher needs --launch" in capsys.readouterr().err


@pytest.mark.parametrize(("launch", "offload"), [("ddp", None), ("fsdp2", "FALSE"), ("fsdp2-offload", "TRUE")])
def test_a_stage_takes_the_preset_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: str, offload: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert stages_main(["train", str(tmp_path), "1", "--launch", launch]) == 2  # no run is there
    assert os.environ.get("FSDP_OFFLOAD_PARAMS") == offload
    assert os.environ.get("ACCELERATE_USE_FSDP") == (None if offload is None else "true")


@each_row(
    "error, status, message",
    [
        (SignalException("interrupted", signal.SIGINT), 130, ""),
        (KeyboardInterrupt(), 130, ""),
        (ended(2, 1), 2, ""),
        (ended(-9, 1), 1, "process 0 was ended by SIGKILL"),
        (ended(-9), 1, "process 0 was ended by SIGKILL"),
        (None, 0, ""),
    ],
)
def test_a_launcher_adds_no_traceback_to_what_its_processes_say(
    error: BaseException | None,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def launch() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("accelerate.commands.launch.main", launch)
    monkeypatch.setattr(logging, "disable", lambda _: None)
    assert launching.main() == status
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == bool(message)


@pytest.mark.slow
def test_interrupted_in_several_processes_it_says_so_once_and_leaves_nothing_behind(
    tmp_path: Path, prompts: str
) -> None:
    (tmp_path / "words.txt").write_text("".join(f"cat {i}\n" for i in range(4000)))
    (tmp_path / "temporary").mkdir()
    paths = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    options = ["--launch=ddp", "--processes=2", "--only=generate", "generate.batch=1", f"--out={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "srum_core.cli.main", *COMPONENTS, prompts, *options]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as running:
        while running.poll() is None and not list(tmp_path.glob("run/round-1/candidates/images/*.png")):
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of them
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Traceback" not in said
    assert "SIGINT" not in said
    assert "nothing that is on disk is lost. To resume:" in said
    assert not list((tmp_path / "temporary").glob("torchelastic_*"))


@pytest.mark.slow
def test_launched_by_accelerate_two_processes_share_the_work(tmp_path: Path, prompts: str) -> None:
    paths = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    options = [
        "--launch",
        "ddp",
        "--processes",
        "2",
        "--only",
        "generate",
        "generate.batch=1",
        "--out",
        str(tmp_path / "run"),
    ]
    command = [sys.executable, "-m", "srum_core.cli.main", *COMPONENTS, prompts, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run/round-1/candidates"
    assert [len((folder / f"part-{rank}.jsonl").read_bytes().splitlines()) for rank in (0, 1)] == [1, 1]
    assert (folder / "DONE").exists()


def test_a_stream_that_lacks_a_character_does_not_end_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """As redirected output on Windows, which has no minus sign."""
    data = BytesIO()
    out = TextIOWrapper(data, "cp1252", write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(main.config, "describe", lambda *_: "−1 é\n")
    assert main.train_main([*COMPONENTS, "--print-config"]) == 0
    assert data.getvalue().decode("cp1252").splitlines() == ["\\u22121 é"]


def test_no_command_shows_what_bitsandbytes_lacks() -> None:
    """It warns on import, on processors with bfloat16 instructions, of a kernel that nothing here uses."""
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("round", ["0", "-1", "last"])
def test_a_stage_of_no_round_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], round: str) -> None:
    with pytest.raises(SystemExit):
        stages_main(["train", str(tmp_path), "--", round] if round == "-1" else ["train", str(tmp_path), round])
    assert "rounds count from 1" in capsys.readouterr().err
