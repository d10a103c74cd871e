"""One table of all that was measured: work, ours, the other way, their ratio and its spread."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

ROUNDS = 5
ROWS: list[dict[str, Any]] = []
"""What was measured in this session."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def peak() -> float:
    """Multiplications and additions a second of `torch.matmul` in float32, at best."""
    a, b = torch.randn(1160, 512), torch.randn(512, 1408)
    best = min(_seconds(lambda: a @ b) for _ in range(200))
    return 2 * 1160 * 512 * 1408 / best


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., None]:
    """`compare(work, ours, other, …)`: both in turns, so that whatever else the machine does meets both."""

    def run(
        work: str,
        ours: Callable[[], object],
        other: Callable[[], object],
        target: float | None = None,
        **more: Any,
    ) -> None:
        others: list[float] = []
        benchmark.pedantic(ours, setup=lambda: others.append(_seconds(other)), rounds=ROUNDS, warmup_rounds=1)
        own = list(benchmark.stats.stats.data)
        others = others[-ROUNDS:]
        ratios = sorted(b / a for a, b in zip(own, others, strict=True))
        row = {"work": work, "ours": median(own), "other": median(others), "ratio": median(ratios)}
        row |= {"low": ratios[1], "high": ratios[-2], "target": target, **more}
        if "products" in more:
            row["share"] = more["products"] / median(own) / more["peak"]
        benchmark.extra_info |= row
        ROWS.append(row)

    return run


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not ROWS:
        return
    write = terminalreporter.write_line
    write("")
    write(
        f"| work | ours, s | other way, s | ratio (2nd to {ROUNDS - 1}th of {ROUNDS}) | target | of the matmul peak |"
    )
    write("|---|---:|---:|---:|---:|---:|")
    for row in ROWS:
        share, target = row.get("share"), row["target"]
        write(
            f"| {row['work']} | {row['ours']:.4g} | {row['other']:.4g} | {row['ratio']:.2f} [{row['low']:.2f}, "
            f"{row['high']:.2f}] | {target or ''} | {'' if share is None else f'{share:.0%}'} |"
        )
    out = config.getoption("--table", default=None)
    if out:
        Path(out).write_text(json.dumps(ROWS, indent=1) + "\n", encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", help="a file for the rows as JSON")
