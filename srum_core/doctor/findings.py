"""What a check found, as a sentence and a verdict. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import frozen
from rich.table import Table

from srum_core.runs.progress import clock

Verdict = Literal["fine", "wrong", "undecided"]


@frozen
class Finding:
    """`undecided` is no failure: these weights or settings cannot tell."""

    check: str
    verdict: Verdict
    text: str
    """What was seen; where something is wrong also the likely cause and the mend."""


@frozen
class Cost:
    """What one call took."""

    operation: str
    count: int
    """Pictures (or questions) in the call."""
    seconds: float
    memory: float
    """MiB of this process's memory that the call took on top of what was there."""
    device_memory: float | None = None
    """MiB on the accelerator at its height, weights included; None on a CPU."""


def verdicts(findings: Sequence[Finding]) -> Table:
    """One line a check: the worst verdict that it gave."""
    order = {"fine": "green", "undecided": "yellow", "wrong": "bold red"}
    table = Table("check", "verdict")
    for check in dict.fromkeys(finding.check for finding in findings):
        worst = max((f.verdict for f in findings if f.check == check), key=list(order).index)
        table.add_row(check, f"[{order[worst]}]{worst}[/]")
    return table


def costs(found: Sequence[Cost]) -> Table:
    table = Table("operation")
    on_device = any(cost.device_memory is not None for cost in found)
    for name in ("at once", "seconds", "each", "memory", *(["accelerator"] if on_device else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in found:
        cells = [str(cost.count), _short(cost.seconds), _short(cost.seconds / cost.count), f"+{cost.memory:.0f} MiB"]
        extra = [] if cost.device_memory is None else [f"{cost.device_memory:.0f} MiB"]
        table.add_row(cost.operation, *cells, *extra)
    return table


def _short(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 60 else clock(seconds)
