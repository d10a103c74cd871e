"""Output of a running command: messages, progress with rate and remaining time, and the log of both.

Progress is a bar on a terminal and in a notebook, plain lines elsewhere; by the first process only.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from html import escape
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from srum_core.errors import mask
from srum_core.runs.store import rank_and_world

LISTED = 20
"""Lines of a long list that are shown."""
EVERY = 10.0
"""Seconds between plain lines."""
QUIET, NORMAL, VERBOSE = -1, 0, 1
VERBOSITY = "SRUM_VERBOSITY"
"""The environment variable with which a process begins: -1, 0 or 1. Stages that are launched get it."""
LOG = "log.txt"
"""The printed messages of a run, with times, in its folder."""
_logs: dict[Path, FileIO] = {}
_level = {"-1": QUIET, "1": VERBOSE}.get(os.environ.get(VERBOSITY, ""), NORMAL)


# ---- messages --------------------------------------------------------------------------------------------------------


def set_verbosity(level: int) -> None:
    """QUIET: results, warnings and errors only. VERBOSE: also details such as the duration of each stage."""
    global _level
    _level = level


def verbosity() -> int:
    return _level


def tell(text: str, least: int = QUIET) -> None:
    """On standard error, from the verbosity `least` on; in any case to the logs that are open."""
    write_log(text)
    if _level >= least:
        print(printable(text), file=sys.stderr, flush=True)


def write_log(text: str) -> None:
    """Append to the logs that are open. A log that cannot be written stops nothing: results are checked elsewhere."""
    if _logs and text.strip():
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text).strip()}\n".encode(errors="replace")
        for file in _logs.values():
            with suppress(OSError):
                file.write(line)  # one write to a file opened for appending: processes do not mix within a line


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Also write printed messages to FOLDER/log.txt, and an exception that ends the run with its traceback."""
    path = folder / LOG
    if path in _logs:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        _logs[path] = file
        try:
            yield
        except BaseException as error:
            write_log("".join(traceback.format_exception(error)))
            raise
        finally:
            del _logs[path]


class _Warnings(logging.Handler):
    """To the logs; to standard error where logging is not set up, as `logging.lastResort` does."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            write_log(record.getMessage())
        else:
            tell(record.getMessage())


logging.getLogger("srum").addHandler(_Warnings(logging.WARNING))


# ---- progress --------------------------------------------------------------------------------------------------------


@contextmanager
def progress(total: int, label: str, done: int = 0, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Yield `advance(count, note="")`; the last note is shown. Earlier work does not count towards the rate."""
    if rank_and_world()[0]:
        yield lambda count, note="": None
        return
    console = console or Console(stderr=True)
    if console.is_jupyter and _level > QUIET:
        lines: _Lines = _Notebook(total, label, done)
    else:
        lines = _Lines(total, label, done, write_log if console.is_terminal else lambda text: tell(text, NORMAL))
    if not console.is_terminal or _level == QUIET:
        yield lines.advance
        lines.finish()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with _Bar(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")

        def advance(count: int, note: str = "") -> None:
            bar.update(task, advance=count, note=note)
            lines.advance(count, note)

        yield advance
    lines.finish()


class _Bar(Progress):
    """Put notes on a line below the bar: on the same line they would truncate the numbers at 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(f"  {task.fields['note']}") for task in self.tasks if task.fields["note"])


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed) if speed else "")


class _Lines:
    """Plain lines: the first, one every `EVERY` seconds, the last."""

    def __init__(self, total: int, label: str, done: int, show: Callable[[str], None] = write_log) -> None:
        self.total, self.label, self.before, self.count, self.show, self.note = total, label, done, done, show, ""
        self.start = time.monotonic()
        self._show()

    def advance(self, count: int, note: str = "") -> None:
        self.count, self.note = self.count + count, note
        if time.monotonic() - self.last >= EVERY:
            self._show()

    def finish(self) -> None:
        if self.last_count != self.count:
            self._show()

    def _show(self) -> None:
        self.last, self.last_count = time.monotonic(), self.count
        self.show(self.text())

    def text(self) -> str:
        seconds, advance = time.monotonic() - self.start, self.count - self.before
        text = f"{self.label}: {self.count}/{self.total}"
        if advance and seconds > 0:
            text += f" · {rate(advance / seconds)} · {clock(seconds)} so far"
            if self.count < self.total:
                text += f", {clock((self.total - self.count) * seconds / advance)} left"
        return f"{text} · {self.note}" if self.note else text


class _Notebook(_Lines):
    """A bar shown by the notebook, with the text next to it. rich's own needs ipywidgets, and this only IPython."""

    def __init__(self, total: int, label: str, done: int) -> None:
        super().__init__(total, label, done)
        self.handle: Any = None
        self._display()

    def advance(self, count: int, note: str = "") -> None:
        super().advance(count, note)
        if time.monotonic() - self.displayed >= 0.2:
            self._display()

    def finish(self) -> None:
        super().finish()
        self._display()

    def _display(self) -> None:
        bar = f'<progress value="{self.count}" max="{max(self.total, 1)}"></progress>'
        content = {"text/plain": self.text(), "text/html": f"<div>{bar} {escape(self.text())}</div>"}
        if self.handle is None:
            self.handle = import_module("IPython.display").display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)
        self.displayed = time.monotonic()


def rate(per_second: float) -> str:
    """Items a second, or a minute where that is the readable one."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def printable(text: str) -> str:
    """Line breaks stay; other control characters and secrets do not reach the terminal."""
    return "".join(one if one.isprintable() or one == "\n" else " " for one in mask(text))


def shown(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def listed(lines: Sequence[object], elsewhere: str = "") -> str:
    """The first lines of a list, a line each, and how many more there are."""
    more = [f"… and {len(lines) - LISTED} more{elsewhere}"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:LISTED], *more])
