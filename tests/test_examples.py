"""The packages in examples/, each installed into a clean environment from its own pyproject and tested there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from clean_environment import ROOT, CleanEnvironment

pytestmark = pytest.mark.slow


def test_the_clean_environment_sees_the_wheel_and_nothing_of_the_checkout(clean: CleanEnvironment) -> None:
    where = clean.python("-c", "import srum_core, srum_bagel; print(srum_core.__file__); print(srum_bagel.__file__)")
    assert [Path(line).parent.parent for line in where.split()] == [clean.packages, clean.packages]
    assert "toy" not in clean.python("-c", "import importlib.util; print(importlib.util.find_spec('toy') or '')")


def test_a_clean_environment_has_no_plugins_but_those_installed_into_it(tmp_path: Path) -> None:
    bare = CleanEnvironment.create(tmp_path, srum=False)
    code = "from importlib.metadata import entry_points as e; print([each.name for each in e(group='srum')])"
    assert bare.python("-c", code).strip() == "[]"


def test_a_dependency_that_is_not_there_is_an_error(clean: CleanEnvironment, tmp_path: Path) -> None:
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    about = '[project]\nname = "needy"\nversion = "1"\ndependencies = ["srum-that-is-not-there"]\n'
    (tmp_path / "pyproject.toml").write_text(build + about)
    (tmp_path / "needy.py").write_text("")
    with pytest.raises(AssertionError, match="srum-that-is-not-there"):
        clean.install(tmp_path)


@pytest.mark.slow
def test_the_pair_adapter_passes_its_tests_where_it_is_installed(clean: CleanEnvironment) -> None:
    check(clean, "srum-pair", "pair")


def test_the_counting_judge_passes_its_tests_where_it_is_installed(clean: CleanEnvironment) -> None:
    check(clean, "srum-count", "count")


@pytest.mark.slow
def test_the_clip_judge_passes_its_tests_where_it_is_installed(clean: CleanEnvironment) -> None:
    check(clean, "srum-clip", "clip")


@pytest.mark.slow
def test_the_counting_judge_takes_part_in_a_run(clean: CleanEnvironment) -> None:
    clean.install(ROOT / "examples" / "srum-count")
    (clean.folder / "words.txt").write_text("two red circles\na green square\n")
    shown = clean.run("srum", "count", "words.txt").splitlines()
    assert shown == ["two red circles: 2 red circles", "a green square: nothing is counted"]
    says = r'answerer={use="scripted", text="Score: 0.5\nReason: because\nCount: 3"}'
    judges = 'judges=["global-layout", {use="count", strict=true}]'
    less = ("generate.candidates=1", "adapter.sampling.steps=2", "train.steps=1", 'benchmark=""')
    clean.run(
        *("srum-train", "--adapter", "bagel", "--preset", "shapes", "--out", "run"),
        *("prompts=words.txt", judges, says, *less),
    )
    parts = (clean.folder / "run" / "round-1" / "judgements").glob("part-*.jsonl")
    judgements = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    counts = [score for each in judgements for score in each["scores"] if score["judge"] == "count"]
    assert len(judgements) == 2
    assert [(score["value"], score["reason"]) for score in counts] == [(-1.0, "red circles: 2 asked for, 3 seen")]


def check(clean: CleanEnvironment, name: str, component: str) -> None:
    """Install a package, see its component listed, and run its tests, out of a copy without its sources."""
    project = ROOT / "examples" / name
    clean.install(project)
    rows = [line for line in clean.run("srum", "plugins").splitlines() if f" {name} " in line]
    assert [f" {component} " in row for row in rows] == [True]
    tests = clean.folder / f"{name}-tests"
    shutil.copytree(project / "tests", tests, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    clean.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests))
