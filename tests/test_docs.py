"""What the documentation tells people to type is accepted, and what it points to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from srum_core.cli import main, train_main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GOLDEN = ROOT / "tests" / "golden" / "bagel" / "checkpoint"


def commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    lines = [line.split("#")[0].replace("…", "").strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith(("srum-train ", "srum "))})


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("command", commands())
def test_a_command_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a dry run, with the placeholders filled in: every option, preset and setting must be known."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_prompts.txt").write_text("a red boat on a lake\n", encoding="utf-8")
    program, *arguments = shlex.split(command)
    arguments = [str(GOLDEN) if argument == "DIR" else argument for argument in arguments]
    if program == "srum":
        assert main(arguments) == 0
    else:
        assert train_main([*arguments, "--dry-run"]) == 0


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)", page.read_text("utf-8"))}
    assert named <= targets
