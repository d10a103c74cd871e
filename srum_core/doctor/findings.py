"""Findings of a check: a verdict and a sentence. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from srum_core.evaluation.formatting import Grid
from srum_core.runs.progress import clock

Verdict = Literal["fine", "wrong", "undecided"]


@frozen
class Finding:
    """`undecided` is no failure: these weights or settings cannot show it."""

    check: str
    verdict: Verdict
    text: str
    """The observation; for a fault also the likely cause and the fix."""


@frozen
class Cost:
    """Time and memory of one call."""

    operation: str
    count: int
    """Images (or questions) in the call."""
    seconds: float
    memory: float
    """MiB by which the call raised this process's memory."""
    device_memory: float | None = None
    """Peak MiB on the accelerator, weights included; None on a CPU."""


def verdicts(findings: Sequence[Finding]) -> Grid:
    """Return a table with the worst verdict of each check."""
    order = ("fine", "undecided", "wrong")
    worst: dict[str, Verdict] = {}
    for finding in findings:
        worst[finding.check] = max(worst.get(finding.check, finding.verdict), finding.verdict, key=order.index)
    return Grid(["check", "verdict"], list(worst.items()), words=frozenset({1}))


def costs(calls: Sequence[Cost]) -> Grid:
    on_device = ["accelerator"] if any(cost.device_memory is not None for cost in calls) else []
    rows = []
    for cost in calls:
        times = [f"{each:.3g}" if each < 60 else clock(each) for each in (cost.seconds, cost.seconds / cost.count)]
        more = [f"{cost.device_memory or 0:.0f} MiB"] * len(on_device)
        rows.append([cost.operation, str(cost.count), *times, f"+{cost.memory:.0f} MiB", *more])
    return Grid(["operation", "at once", "seconds", "each", "memory", *on_device], rows)
