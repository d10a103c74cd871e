"""Processes of Python that begin with the large libraries already imported, for tests that start many.

Importing torch, diffusers and peft takes longer than what most tests then do with them. A server process imports them
once, and each program is a fork of it: a process of its own, with its own folder, variables, output and exit status,
that can be killed like any other. Nothing of srum is imported before the fork. What a program imports by itself cannot
be tested in this way.

    with Warm.start(Path(sys.executable)) as warm:
        done = warm.run(["-c", "print(3)"], cwd=folder, environment=os.environ)

A program is written as the arguments of python: `-c CODE …`, `-m MODULE …` or `SCRIPT …`.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen

LIBRARIES = ("torch", "diffusers.models.autoencoders.autoencoder_kl", "peft", "accelerate", "transformers", "pytest")


@frozen
class Done:
    """How a program ended: its exit status (-9: killed), and both of its streams."""

    returncode: int
    output: str


@frozen
class Warm:
    """The server, and programs run by it one after another."""

    server: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def start(cls, python: Path) -> Iterator[Warm]:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1"
        }
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": variables}
        with subprocess.Popen([str(python), __file__], **pipes) as server:
            try:
                yield cls(server)
            finally:
                server.stdin.close()  # type: ignore[union-attr]

    def run(
        self,
        program: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        watch: Callable[[int], object] | None = None,
    ) -> Done:
        """`watch` is called with the number of the process while it runs."""
        assert self.server.stdin
        with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as log:
            request = {"program": list(program), "cwd": str(cwd), "environment": dict(environment), "log": log.name}
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            process = self._read_number()
            if watch:
                watch(process)
            return Done(os.waitstatus_to_exitcode(self._read_number()), log.read())

    def _read_number(self) -> int:
        assert self.server.stdout
        line = self.server.stdout.readline()
        assert line, "the server has ended"
        return int(line)


def started(python: Path) -> Warm:
    """A server that lives until the tests end."""
    server = Warm.start(python)
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()


@cache
def shared() -> Warm:
    """The server of this test process's own Python."""
    return started(Path(sys.executable))


# ---- in the server ---------------------------------------------------------------------------------------------------


def serve() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    out = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        process = os.fork()
        if not process:
            become(**request)
        print(process, file=out, flush=True)
        print(os.waitpid(process, 0)[1], file=out, flush=True)


def become(program: list[str], cwd: str, environment: dict[str, str], log: str) -> None:
    """Be that program, to the end of this process."""
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(path, flags), stream)
    os.dup2(1, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    folder = str(Path(program[0]).parent) if program[0] not in ("-c", "-m") else ""
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [folder or cwd, *added]
    importlib.invalidate_caches()
    os._exit(status(program))


def status(program: list[str]) -> int:
    code = 0
    try:
        execute(program)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    return code


def execute(program: list[str]) -> None:
    if program[0] == "-c":
        sys.argv = ["-c", *program[2:]]
        exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__"})
    elif program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    serve()
