"""Progress with rate and remaining time: a bar on a terminal, plain lines elsewhere; by the first process only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from srum_core.errors import mask
from srum_core.runs.store import rank_and_world

LISTED = 20
"""Lines of a long list that are shown."""
EVERY = 10.0
"""Seconds between plain lines."""


@contextmanager
def progress(total: int, label: str, done: int = 0, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Yield `advance(count, note="")`; the last note is shown. What was done before does not count towards the rate."""
    if rank_and_world()[0]:
        yield lambda count, note="": None
        return
    console = console or Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(total, label, done)
        yield lines.advance
        lines.finish()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with _Bar(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")
        yield lambda count, note="": bar.update(task, advance=count, note=note)


class _Bar(Progress):
    """Notes have a line below the bar: beside it they would cut the numbers short at 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(f"  {task.fields['note']}") for task in self.tasks if task.fields["note"])


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed) if speed else "")


class _Lines:
    """Plain lines on stderr: the first, one every `EVERY` seconds, the last."""

    def __init__(self, total: int, label: str, done: int) -> None:
        self.total, self.label, self.before, self.count = total, label, done, done
        self.start = self.last = time.monotonic()
        self.shown, self.note = -1, ""
        self._show()

    def advance(self, count: int, note: str = "") -> None:
        self.count += count
        self.note = note
        if time.monotonic() - self.last >= EVERY:
            self._show()

    def finish(self) -> None:
        if self.shown != self.count:
            self._show()

    def _show(self) -> None:
        self.last, self.shown = time.monotonic(), self.count
        seconds, made = self.last - self.start, self.count - self.before
        text = f"{self.label}: {self.count}/{self.total}"
        if made and seconds > 0:
            text += f" · {rate(made / seconds)} · {clock(seconds)} so far"
            if self.count < self.total:
                text += f", {clock((self.total - self.count) * seconds / made)} left"
        print(f"{text} · {self.note}" if self.note else text, file=sys.stderr, flush=True)


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
    return "".join(each if each.isprintable() or each == "\n" else " " for each in mask(text))


def tell(text: str) -> None:
    """To people, not to what reads the output."""
    print(printable(text), file=sys.stderr, flush=True)


def shown(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def listed(lines: Sequence[object], elsewhere: str = "") -> str:
    """The first lines of a list, a line each, and how many more there are."""
    more = [f"… and {len(lines) - LISTED} more{elsewhere}"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:LISTED], *more])
