"""`srum new-plugin`: what it writes is clean, installs, passes its tests and works in a run; names it refuses."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from clean_environment import ROOT, CleanEnvironment
from fake_plugins import install
from rows import each_row

from srum_core.cli.main import main
from srum_core.errors import PluginError
from srum_core.plugins import Registry, discover
from srum_core.plugins.hookspecs import KINDS
from srum_core.plugins.scaffold import choose_names, write

TINY = [
    "generate.candidates=1", "generate.limit=2", "train.steps=1", "adapter.sampling.steps=2", "benchmark=",
    "judges.0.max_new_tokens=20", "judges.1.max_new_tokens=100",
]  # fmt: skip
LONG = "a-name-of-thirty-characters-xx"


def names_of(kind: str) -> str:
    return f"my-{kind}"


@pytest.fixture(scope="session")
def clean(clean: CleanEnvironment) -> CleanEnvironment:
    """With what its own `srum new-plugin` writes, of every kind."""
    for kind in KINDS:
        clean.run("srum", "new-plugin", kind, names_of(kind))
        clean.install(clean.folder / f"srum-my-{kind}")
    return clean


def command(clean: CleanEnvironment, kind: str) -> list[str]:
    """The run that the package's README shows, and that the command prints."""
    lines = (clean.folder / f"srum-my-{kind}" / "README.md").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(("srum-train ", "srum eval "))]
    return shlex.split(found)


# ---- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_passes_its_tests_where_only_it_and_srum_are_installed(clean: CleanEnvironment, kind: str) -> None:
    early = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")  # as it starts warm
    said = clean.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *early, cwd=clean.folder / f"srum-my-{kind}")
    assert " passed" in said
    assert "warning" not in said


@pytest.mark.slow
def test_new_plugins_are_listed(clean: CleanEnvironment) -> None:
    said = clean.run("srum", "plugins")
    for kind in KINDS:
        (line,) = [line for line in said.splitlines() if f" my-{kind} " in line]
        assert f" {kind} " in line
        assert f" srum-my-{kind} " in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("adapter", "generator")])
def test_a_new_plugin_works_in_a_run(clean: CleanEnvironment, kind: str) -> None:
    own = ["benchmark=my-benchmark", "evaluate.limit=1"] if kind == "benchmark" else []
    fewer = [each for each in TINY if not (kind == "judge" and each.startswith("judges."))]
    said = clean.run(*command(clean, kind), *fewer, *own, "--out", f"runs/{kind}")
    assert "The run is in" in said
    run = clean.folder / "runs" / kind
    assert (run / "round-1" / "checkpoint" / "DONE").is_file()
    assert f'"my-{kind}"' in (run / "run.toml").read_text()


@pytest.mark.slow
def test_a_new_adapter_draws_and_is_trained(clean: CleanEnvironment) -> None:
    clean.run(*command(clean, "adapter"), "--out", "runs/adapter")
    assert (clean.folder / "runs" / "adapter" / "round-1" / "checkpoint" / "adapter_model.safetensors").is_file()
    assert "untrained weights?" in clean.run("srum", "doctor", "--adapter", "my-adapter", "generate.limit=4")


@pytest.mark.slow
def test_a_new_generator_is_evaluated(clean: CleanEnvironment) -> None:
    said = clean.run(*command(clean, "generator"), "--out", "runs/generator")
    assert "coverage 100.0%: 4 of 4 images" in said
    assert "my-generator" in said


def test_what_is_written_is_clean_under_our_rules(tmp_path: Path) -> None:
    for kind in KINDS:
        for name in ("x1", LONG):
            write(choose_names(kind, name, discover()), tmp_path / f"{kind}-{name}")
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    ruff = [sys.executable, "-m", "ruff"]
    select = ["--select", ",".join(rules["select"]), "--ignore", ",".join(rules["ignore"])]
    for arguments in (["check", *select, "."], ["format", "--check", "--diff", "."]):
        done = subprocess.run([*ruff, *arguments, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    assert not [path for path in tmp_path.rglob("*") if "$" in path.name or ".txt" in path.name]
    assert not [path for path in tmp_path.rglob("*.*") if path.is_file() and "${" in path.read_text()]


def test_three_commands_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "map", "Mine_Own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[1:]] == [
        "pip install -e './srum-mine-own[dev]'",
        "pytest ./srum-mine-own",
        "srum-train --adapter bagel --preset shapes map=mine-own",
    ]
    assert (tmp_path / "srum-mine-own" / "srum_mine_own" / "reward_map.py").is_file()
    assert (tmp_path / "srum-mine-own" / "tests" / "test_mine_own.py").is_file()


def test_it_can_be_put_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "judge", "mine", "--out", str(tmp_path / "a b")]) == 0
    assert f"pip install -e '{tmp_path}/a b/srum-mine[dev]'" in capsys.readouterr().out
    assert "class Mine:" in (tmp_path / "a b" / "srum-mine" / "srum_mine" / "judge.py").read_text()


# ---- names -----------------------------------------------------------------------------------------------------------


@each_row(
    "given, name, package, class_name",
    [
        ("mine", "mine", "srum_mine", "Mine"),
        ("My_Judge", "my-judge", "srum_my_judge", "MyJudge"),
        ("srum-mine", "mine", "srum_mine", "Mine"),
        ("v2", "v2", "srum_v2", "V2"),
        ("score", "score", "srum_score", "ScoreJudge"),  # the template imports a class Score
        ("exception", "exception", "srum_exception", "ExceptionJudge"),  # and Python has one
    ],
)
def test_names_follow_from_one(given: str, name: str, package: str, class_name: str) -> None:
    names = choose_names("judge", given, discover())
    assert (names.name, names.package, names.class_name) == (name, package, class_name)
    assert names.distribution == f"srum-{name}"


def test_a_class_name_never_hides_what_its_template_uses(tmp_path: Path) -> None:
    for kind in KINDS:
        for word in ("question", "sequence", "path", "options", "tensor", "component", "image", "test"):
            write(choose_names(kind, word, discover()), tmp_path / kind / word)
    for path in tmp_path.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "F", str(tmp_path)]
    checked = subprocess.run(ruff, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@each_row(
    "kind, given, sentence",
    [
        ("judge", "2fast", 'cannot be called "2fast": a name begins with a letter'),
        ("judge", "my judge", "letters, digits and single dashes, such as my-judge"),
        ("judge", "größe", "a name begins with a letter and has letters"),
        ("judge", "a--b", "single dashes"),
        ("judge", "../up", "a name begins with a letter"),
        ("judge", "module:Class", "a name begins with a letter"),
        ("judge", "", "a name begins with a letter"),
        ("judge", "-out", "a name begins with a letter"),
        ("judge", "class", "a word of Python itself"),
        ("judge", "none", "a word of Python itself"),
        ("judge", "global-layout", 'The judge "global-layout" of srum'),
        ("judge", "Global_Layout", 'The judge "global-layout" of srum'),
        ("map", "paper", 'The reward map "paper" of srum'),
        ("answerer", "bagel", 'The adapter "bagel" of srum'),
        ("adapter", "scripted", 'The answerer "scripted" of srum'),
        ("judge", "core", "There is a package srum_core in this environment already"),
        ("grounder", "judges", "There is a package srum_judges in this environment already"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, kind: str, given: str, sentence: str) -> None:
    with pytest.raises(PluginError) as caught:
        choose_names(kind, given, discover())
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_name_of_somebody_elses_plugin_says_whose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from srum_core import Component, hookimpl\n@hookimpl\n"
        "def srum_judges(): return [Component('stern', 'somewhere:Stern')]\n"
    )
    install(tmp_path, "other-judges", "1.3", source)
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry = discover()
    with pytest.raises(PluginError, match=r'The judge "stern" of other-judges 1\.3 .* has this name already'):
        choose_names("judge", "stern", registry)
    assert choose_names("map", "stern", registry).name == "stern"  # another kind may be called so


def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "srum-mine").mkdir()
    (tmp_path / "srum-mine" / "notes.txt").write_text("mine")
    assert main(["new-plugin", "loss", "mine"]) == 2
    assert "srum-mine is there already. Choose another name, another --out" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "srum-mine").iterdir()] == ["notes.txt"]


def test_a_kind_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["new-plugin", "critic", "mine"])
    assert "invalid choice: 'critic'" in capsys.readouterr().err
