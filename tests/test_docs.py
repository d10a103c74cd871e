"""What the documentation tells people to type works, and what it points to is there.

The pages of `RUN` are followed from top to bottom in an empty folder: code blocks that begin with a file name are
written to it, and commands are run. On other pages, `srum-train` lines are tried as dry runs.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import believed, compbench_entries, wise_folder, write
from fake_plugins import describe, install
from rows import each_row
from warm import shared

from srum_benchmarks.wise.prompts import LEGACY
from srum_core.cli.main import main, train_main
from srum_core.errors import ConfigError
from srum_core.plugins import discover
from srum_core.records import Candidate, Prompt, Region, Score, Unreadable

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("tutorial", "data", "writing-a-judge", "writing-an-adapter", "testing")
GOLDEN = ROOT / "tests" / "golden" / "bagel" / "checkpoint"
ELSEWHERE = {"make", "pip", "vllm", "sglang", "transformers", "export"}
"""Programs that are not run from a page: they install something, serve a large model, or belong to a checkout."""
ACCEPTED = (0, 1)
"""Of a dry run: 1 if this machine lacks what the page is about; 2 would be a command that nobody can run."""
MINE = """
from srum_core import Component, hookimpl

@hookimpl
def srum_judges():
    return [Component("mine", "srum_mine.judge:Mine")]
"""
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) in order."""
    return [(found[1], found[2]) for found in _BLOCK.finditer(page.read_text("utf-8"))]


def lines(page: Path) -> list[str]:
    """What a page tells people to type, line by line, without comments."""
    text = "\n".join(text for language, text in blocks(page) if language == "sh").replace("\\\n", " ")
    return [line for each in text.splitlines() if (line := each.split(" #")[0].replace("…", "").strip(" #"))]


def tried() -> list[str]:
    pages = [page for page in PAGES if page.stem not in RUN]
    return sorted({line for page in pages for line in lines(page) if line.startswith(("srum-train ", "srum "))})


def test_there_are_commands_to_check() -> None:
    assert len(tried()) >= 4
    assert all(any(line.startswith("srum") for line in lines(ROOT / "docs" / f"{name}.md")) for name in RUN)


@each_row("command", tried())
def test_a_command_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a dry run, with the placeholders filled in: every option, preset and setting must be known."""
    monkeypatch.chdir(tmp_path)
    if '"mine"' in command:  # what `srum new-plugin judge mine` makes
        install(tmp_path, "srum-mine", "0.1.0", MINE)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setitem(sys.modules, "srum_mine", None)  # so that it is gone afterwards
        del sys.modules["srum_mine"]
    (tmp_path / "my_prompts.txt").write_text("a red boat on a lake\n", encoding="utf-8")
    if "=wise:" in command:  # prompts that are not part of srum
        believed(monkeypatch)
        command = command.replace("DIR", str(wise_folder(tmp_path / "prompts", LEGACY)))
    if "=compbench:" in command:
        believed(monkeypatch)
        write(tmp_path / "prompts" / "train_comp.json", compbench_entries("train"))
        command = command.replace("compbench:train:DIR", f"compbench:train:{tmp_path / 'prompts'}")
    program, *arguments = shlex.split(command.replace("DIR", str(GOLDEN)))
    if arguments[0] == "eval":
        evaluation_is_accepted(arguments[1], arguments[2:])
    elif arguments[0] == "analyze":
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(f"srum_core.analysis.{arguments[1]}").arguments(parser)
        parser.parse_intermixed_args(arguments[2:])
    elif program == "srum":
        dry = arguments[0] == "ablate"
        assert main([*arguments, *(["--dry-run"] if dry else [])]) in (ACCEPTED if dry else (0,))
    else:
        assert train_main([*arguments, "--dry-run"]) in ACCEPTED


def evaluation_is_accepted(action: str, arguments: list[str]) -> None:
    """Its options are known; where no run has to be there before, also its settings, as a dry run."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    import_module(f"srum_core.evaluation.commands.{action}").arguments(parser)
    parsed = parser.parse_intermixed_args(arguments)
    if action in ("generate", "run") and not parsed.trained:
        assert main(["eval", action, *arguments, "--dry-run"]) in ACCEPTED


@pytest.mark.slow
def test_the_tutorial_and_what_builds_on_its_run(tmp_path: Path) -> None:
    follow(ROOT / "docs" / "tutorial.md", tmp_path)
    follow(ROOT / "docs" / "data.md", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN[2:])
def test_a_page_can_be_followed(name: str, tmp_path: Path) -> None:
    follow(ROOT / "docs" / f"{name}.md", tmp_path)


@pytest.mark.slow
def test_the_page_of_the_python_api_is_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(text for language, text in blocks(ROOT / "docs" / "python-api.md") if language == "python")
    exec(compile(code, "python-api.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert 'Did you mean "steps"' in printed


def follow(page: Path, folder: Path) -> None:
    """Do what the page says, in the folder. Packages that it makes are on the path, as if they were installed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, text in blocks(page):
        if language == "python":
            name = re.match(r"# (\S+\.py)\n", text)
            if name:
                (folder / name[1]).write_text(text, encoding="utf-8")
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if not line.strip() or line.startswith("#") or shlex.split(line)[0] in ELSEWHERE:
                continue
            for package in folder.glob("srum-*"):
                describe(package, package.name)
            made = os.pathsep.join(["", *map(str, folder.glob("srum-*"))])
            environment = {**os.environ, "PATH": path, "PYTHONPATH": made.lstrip(os.pathsep), "OMP_NUM_THREADS": "1"}
            status, said = typed(line, folder, environment)
            assert status == 0, f"{page.name}: {line}\n{said[-5000:]}"


def typed(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and output of a line in a shell; our own programs and pytest need none, and begin warm."""
    program, *arguments = shlex.split(line)
    if program in ("srum", "srum-train", "pytest") and not set("<>|&;$*") & set(line):
        script = str(Path(sys.executable).parent / program)
        done = shared().run([script, *arguments], folder, environment)
        return done.returncode, done.output
    both: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    ended = subprocess.run(line, shell=True, cwd=folder, env=environment, timeout=600, **both)
    return ended.returncode, ended.stdout


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_sites_contents() -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    named = set(re.findall(r"^([\w-]+)$", (ROOT / "docs" / "index.md").read_text("utf-8"), re.MULTILINE))
    assert pages == named - {""}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)", page.read_text("utf-8"))}
    assert named <= targets


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


# ---- tables of what goes wrong --------------------------------------------------------------------------------------


def rows(page: str, heading: str) -> list[tuple[str, str]]:
    """The rows of the table whose first heading is this one."""
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    table = text.split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [re.split(r"\s\|(?:\s|$)", row.removeprefix("| ")) for row in table]
    return [(left.removeprefix("`").removesuffix("`").strip(), right) for left, right, *_ in cells]


@each_row("typed, message", rows("errors", "typed"))
def test_a_mistake_is_told_as_the_page_says(
    typed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    program, *arguments = shlex.split(typed)
    assert (main if program == "srum" else train_main)(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


@each_row("answer, becomes", rows("errors", "the answer"))
def test_an_answer_becomes_what_the_page_says(answer: str, becomes: str) -> None:
    candidate = Candidate("c", Prompt("p", "a cup"), Path("c.png"), (200, 100), 0)
    (found,) = discover().create("judge", "global-layout").scores(candidate, (), [answer.replace("⏎", "\n")])
    number, _, why = becomes.partition(": ")
    if isinstance(found, Score):
        assert (found.value, bool(found.rules)) == (float(number), bool(why))
    else:
        assert becomes in found.why


@each_row("answer, becomes", rows("grounders", "the answer"))
def test_boxes_become_what_the_page_says(answer: str, becomes: str) -> None:
    candidate = Candidate("c", Prompt("p", "a cup"), Path("c.png"), (200, 100), 0)
    grounder = discover().create("grounder", {"use": "native", "boxes": "pixels"})
    found = grounder.regions(
        candidate, ["" if answer == "an empty answer" else answer.strip("` ").removeprefix("json")]
    )
    if becomes == "unreadable":
        assert [type(each) for each in found] == [Unreadable]
    else:
        assert [type(each) for each in found] == [Region] * int(becomes[0])


@each_row("entry, message", rows("grounders", "in the file"))
def test_a_file_of_boxes_is_refused_as_the_page_says(entry: str, message: str, tmp_path: Path) -> None:
    candidate = Candidate("c", Prompt("p", "a cup"), Path("c.png"), (200, 100), 0)
    path = tmp_path / "boxes.jsonl"
    path.write_text(entry if entry.startswith("{") else '{"image": "other", "boxes": []}', encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        discover().create("grounder", {"use": "file", "path": str(path)}).regions(candidate, ())
