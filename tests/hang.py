"""Fail a test where code hangs, instead of waiting for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 4.0
"""Of this process's own processor time, so that a busy machine changes nothing. Linear reading of the longest answer
takes under a hundredth of it, quadratic reading many times as long."""


class Hang(AssertionError):
    """Code ran for so long that it cannot be linear."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise `Hang` inside the block once it has used `SECONDS`, also within a regular expression."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"still running after {SECONDS} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
