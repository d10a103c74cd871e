"""The packages in examples/, each installed into a clean environment from its own pyproject and tested there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clean_environment import ROOT, CleanEnvironment


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    return CleanEnvironment.create(tmp_path_factory.mktemp("clean"))


def test_the_clean_environment_sees_the_wheel_and_nothing_of_the_checkout(clean: CleanEnvironment) -> None:
    where = clean.python("-c", "import srum_core, srum_bagel; print(srum_core.__file__); print(srum_bagel.__file__)")
    assert [Path(line).parent.parent for line in where.split()] == [clean.packages, clean.packages]
    assert "toy" not in clean.python("-c", "import importlib.util; print(importlib.util.find_spec('toy') or '')")


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


def check(clean: CleanEnvironment, name: str, component: str) -> None:
    """Install a package, see its component listed, and run its tests, out of a copy without its sources."""
    project = ROOT / "examples" / name
    clean.install(project)
    row = next(line for line in clean.run("srum", "plugins").splitlines() if f" {name} " in line)
    assert f" {component} " in row
    shutil.copytree(project / "tests", clean.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    clean.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(clean.folder / name), name)
