"""Metrics of a training step, and the guard against diverging net-negative cells.

A cell's net coefficient in the SRUM loss is its weight + lambda (paper equation 3). Where that is negative, the loss
falls without bound as the error grows: the paper wants a little of this, but it must not dominate a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path

import psutil
import torch
from attrs import define, field
from torch import Tensor

from srum_core.errors import TrainingError
from srum_core.flow import FlowStep

FIRST = 5
"""Steps with net-negative cells that the guard compares later ones with."""


@define
class Tally:
    """Sums over the cells of a step, in float64, so that batches and processes of any size add up to one mean.

    They are computed on the CPU: some accelerators have no float64, and the step waits for the copy only once."""

    constraint: float
    """lambda of the loss: a cell with weight + lambda < 0 is net-negative."""
    batches: list[tuple[dict[str, Tensor], Tensor, Tensor, bool]] = field(factory=list)
    """(means over the cells, each cell's squared error, each cell's weight, whether it counts)."""

    @torch.no_grad()
    def add(self, step: FlowStep, loss: Tensor, parts: Mapping[str, Tensor], counts: bool) -> None:
        """Add a batch, whose `loss` and `parts` are means over its cells; one that does not count adds nothing."""
        pairs = zip(step.velocity, step.target, strict=True)
        error = torch.cat([(v.float() - goal.float()).square().mean(dim=-1).flatten() for v, goal in pairs])
        means = {"loss": loss.detach(), **{f"loss_{name}": part.detach() for name, part in parts.items()}}
        self.batches.append((means, error, torch.cat([cells.flatten() for cells in step.weight]), counts))

    def sums(self) -> dict[str, Tensor]:
        """Return the sums over this process's batches, by name: float64 scalars on the CPU."""
        total: dict[str, Tensor] = {}
        for means, error, weight, counts in self.batches:
            error, weight = error.cpu().double(), weight.cpu().double()
            negative = weight + self.constraint < 0
            cells = len(weight)
            sums = {
                **{name: mean.cpu().double() * cells for name, mean in means.items()},
                "error": error.sum(),
                "mean_weight": weight.sum(),
                "negative": negative.sum().double(),
                "negative_error": error[negative].sum(),
                "cells": torch.tensor(float(cells), dtype=torch.float64),
            }
            for name, value in sums.items():
                total[name] = total.get(name, torch.zeros_like(value)) + (value if counts else 0)
        return total

    def means(self, add_up: Callable[[Tensor], Tensor]) -> dict[str, float | int | None]:
        """Return means per cell. `add_up` sums over all processes; an error without cells is None."""
        sums = self.sums()
        total = dict(zip(sums, add_up(torch.stack(list(sums.values()))).tolist(), strict=True))
        cells, negative, negative_error = (total.pop(name) for name in ("cells", "negative", "negative_error"))
        return {
            **{name: value / cells for name, value in total.items()},
            "negative_share": negative / cells,
            "negative_error": negative_error / negative if negative else None,
            "cells": int(cells),
        }


@define
class Guard:
    """Stops a run whose net-negative cells' mean error exceeds `factor` times its own average over the first `FIRST`
    steps that had such cells. A factor of 0 never stops."""

    factor: float
    first: list[float] = field(factory=list)
    """The errors of those steps; saved with `warning` for a resumed run."""
    warning: str = ""
    """The reason to stop the run; empty if there is none."""

    def watch(self, error: float | None) -> None:
        """Check one step's mean error of net-negative cells (None: there were none)."""
        if error is None:
            return
        if len(self.first) < FIRST:
            self.first.append(error)
            return
        usual = sum(self.first) / len(self.first)
        if not self.factor or error <= self.factor * usual:
            return
        self.warning = (
            f"The net-negative cells run away: their mean squared error is {error:.4g}, which is {error / usual:.1f} "
            f"times the {usual:.4g} of the first steps (train.guard allows {self.factor:g} times). Those are cells "
            "whose weight + loss.constraint is below 0, so the loss rewards any error there. Raise loss.constraint, "
            "lower train.lr, or use map=released, whose weights are never negative, or loss=bounded, whose push dies "
            "out; train.guard=0 switches this check off."
        )


def refuse_infinite(metrics: Mapping[str, float | int | None], step: int, redo: str) -> None:
    """Raise TrainingError if a metric of a step is not finite; `redo` is the option that trains again."""
    wrong = [name.replace("_", " ") for name, value in metrics.items() if value is not None and not isfinite(value)]
    if wrong:
        raise TrainingError(
            f"The {' and the '.join(wrong)} of step {step} {'is' if len(wrong) == 1 else 'are'} no finite number, so "
            "training stops before this update spoils the weights. Lower train.lr, raise train.warmup, or use "
            f"train.mixed_precision=no, and train again with {redo}."
        )


def forget_peaks() -> None:
    """Reset `peaks`, where the system allows it; elsewhere they count from the start of the process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    if torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]  # without, a numbered device is not known
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)


def peaks() -> dict[str, float]:
    """Return the peak memory of this process, and the largest of its GPUs' peaks, in MiB."""
    values = memory()
    values["memory_peak"] = values.pop("memory")
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        high = next((line for line in lines if "VmHWM" in line), "")
        values["memory_peak"] = max(values["memory_peak"], int(high.split()[1]) / 2**10 if high else 0.0)
    return values


def memory() -> dict[str, float]:
    """Return this process's memory, and the largest of its GPUs' peaks, in MiB."""
    values = {"memory": psutil.Process().memory_info().rss / 2**20}
    if gpus := range(torch.cuda.device_count()):
        values["gpu_memory_peak"] = max(map(torch.cuda.max_memory_allocated, gpus)) / 2**20
    return values
