"""A clean environment for tests of packages: made in seconds, without network, and without a second PyTorch.
The fixture `clean` (conftest.py) is one:

    def test_the_package(clean: CleanEnvironment) -> None:
        clean.install(folder_with_a_pyproject)
        clean.python("-m", "pytest", "-q", cwd=folder_with_a_pyproject)

It is a venv of its own. It sees what the development environment has installed through links, except for srum, plugins
of srum and anything editable; srum itself is installed as the wheel that people would get. pip does its usual work
there, offline: a dependency that is not declared or not satisfied is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from attrs import frozen
from warm import Warm, started

ROOT = Path(__file__).parent.parent
_LEFT_OUT = ("PYTHONPATH", "PYTEST_", "SRUM_", "VIRTUAL_ENV", "COV_")


@frozen
class CleanEnvironment:
    """A venv in `folder/venv` in which only what is installed on purpose can be imported from this repository."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, srum: bool = True) -> CleanEnvironment:
        """A new environment below `folder`, with srum's wheel in it unless `srum` is false. A few seconds."""
        environment = cls(folder)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        (folder / "third-party").mkdir()
        for path in _third_party():
            link = folder / "third-party" / path.name
            if not link.exists():
                link.symlink_to(path)
        (environment.packages / "third-party.pth").write_text(f"{folder / 'third-party'}\n")
        if srum:
            environment.install(ROOT)
        return environment

    @property
    def scripts(self) -> Path:
        """The folder with `python`, `srum` and `srum-train`."""
        return self.folder / "venv" / "bin"

    @property
    def packages(self) -> Path:
        """site-packages, where wheels go."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "venv" / "lib" / version / "site-packages"

    def install(self, project: Path) -> None:
        """Build the wheel of a project and install it, as pip does but offline. AssertionError with pip's words."""
        wheels = self.folder / "wheels" / project.name
        pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
        offline = ("--no-index", "--no-build-isolation")
        self.python(*pip, "wheel", *offline, "--no-deps", "--wheel-dir", str(wheels), str(project))
        self.python(*pip, "install", "--no-index", *map(str, wheels.glob("*.whl")))

    def python(self, *arguments: str, cwd: Path | None = None, timeout: float = 600) -> str:
        """What python prints (both streams). AssertionError, with all of it, if it fails."""
        return self.run(str(self.scripts / "python"), *arguments, cwd=cwd, timeout=timeout)

    def run(self, program: str, *arguments: str, cwd: Path | None = None, timeout: float = 600) -> str:
        """The same for any program; the name of one in `scripts` is enough. Runs in `folder` unless `cwd` is given."""
        path = self.scripts / program  # an absolute path stays what it is
        command = [str(path) if path.exists() else program, *arguments]
        if program in ("srum", "srum-train") or arguments[:2] == ("-m", "pytest"):
            words = arguments if arguments[:1] == ("-m",) else command
            process = self._warm.run(words, cwd or self.folder, self._variables())
            assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}:\n{process.output}"
            return process.output
        both: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        completed = subprocess.run(command, cwd=cwd or self.folder, env=self._variables(), timeout=timeout, **both)
        assert completed.returncode == 0, f"{' '.join(command)} ended with {completed.returncode}:\n{completed.stdout}"
        return completed.stdout

    @cached_property
    def _warm(self) -> Warm:
        """Programs that import torch start from this one."""
        return started(self.scripts / "python")

    def _variables(self) -> dict[str, str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
        path = os.pathsep.join([str(self.scripts), variables.get("PATH", os.defpath)])
        fixed = {"PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        return {**variables, **fixed, "PATH": path}


def _third_party() -> Iterator[Path]:
    """Everything in the site-packages of this process that is neither srum nor a plugin of it."""
    for folder in [Path(each) for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]:
        ours = {name for each in distributions(path=[str(folder)]) if _of_srum(each) for name in _top_level(each)}
        for path in folder.iterdir():
            if path.name not in ours and path.suffix != ".pth" and path.name != "__pycache__":
                yield path


def _of_srum(distribution: Distribution) -> bool:
    return distribution.name == "srum" or any(each.group == "srum" for each in distribution.entry_points)


def _top_level(distribution: Distribution) -> set[str]:
    return {each.parts[0] for each in distribution.files or () if each.parts[0] != ".."}
