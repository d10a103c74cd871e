"""Programs started from a warm server are like any others: folder, variables, output, exit status, and death."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from warm import shared


def run(tmp_path: Path, *program: str, **variables: str) -> tuple[int, str]:
    done = shared().run(program, tmp_path, {**os.environ, **variables})
    return done.returncode, done.output


@pytest.mark.slow
def test_a_program_has_its_own_folder_variables_output_and_status(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['A'])\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.py").write_text("WHAT = 7\n")
    (tmp_path / "script").write_text("import other, sys; print(other.WHAT); sys.exit('no')\n")
    assert run(tmp_path, "-m", "mine", "x", A="b") == (0, f"{tmp_path} ['x'] b\n")
    assert run(tmp_path, str(tmp_path / "script"), PYTHONPATH=str(tmp_path / "more")) == (1, "7\nno\n")
    assert run(tmp_path, "-c", "import sys; print(__name__, sys.argv); sys.exit(3)", "y") == (
        3,
        "__main__ ['-c', 'y']\n",
    )
    code, said = run(tmp_path, "-c", "import other")
    assert code == 1
    assert "ModuleNotFoundError: No module named 'other'" in said


@pytest.mark.slow
def test_nothing_of_srum_is_there_before_the_program(tmp_path: Path) -> None:
    code = (
        "import sys; print([name for name in sys.modules if name.startswith(('srum', 'toy'))], 'torch' in sys.modules)"
    )
    assert run(tmp_path, "-c", code) == (0, "[] True\n")


@pytest.mark.slow
def test_a_program_can_be_killed(tmp_path: Path) -> None:
    done = shared().run(
        ["-c", "import time; time.sleep(60)"],
        tmp_path,
        os.environ,
        watch=lambda process: os.kill(process, signal.SIGKILL),
    )
    assert done.returncode == -signal.SIGKILL
    assert run(tmp_path, "-c", "print(1)") == (0, "1\n")
