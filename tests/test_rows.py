"""Every row of a table fails by itself, and leaves nothing to the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TABLE = """
import os
from rows import each_row

@each_row("number, word", [(1, "one"), (2, "two"), (3, "three")])
def test_numbers(number, word, tmp_path, monkeypatch, capsys):
    assert "ROW" not in os.environ and not list(tmp_path.iterdir())
    monkeypatch.setenv("ROW", word)
    (tmp_path / "made").touch()
    print(word)
    assert capsys.readouterr().out == f"{word}\\n"
    assert number != 2, "no two"
"""


def test_a_row_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_table.py").write_text(TABLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "SUBPASSED[1, 'one']" in done.stdout
    assert "SUBFAILED[2, 'two']" in done.stdout
    assert "no two" in done.stdout
    assert "SUBPASSED[3, 'three']" in done.stdout
