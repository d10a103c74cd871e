"""Clusters of neurons found once on the base model, and what a model's activity in them is (paper, Appendix B)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from srum_core.analysis.effect_size import sample_strength, select
from srum_core.analysis.models import BASE
from srum_core.analysis.samples import TASKS
from srum_core.errors import RecordError
from srum_core.evaluation.statistics import Estimate, difference, estimate

if TYPE_CHECKING:
    from srum_core.analysis.activity import Activity

RANDOM = 100
"""Clusters with as many neurons of each layer, drawn at random, as a control."""
STABLE = 0.5
"""Least overlap of the clusters that two halves of the probe samples find."""
Probes = Mapping[str, "Activity"]
"""Task -> (samples, neurons)."""


@frozen
class Found:
    """Indices of neurons by name of the cluster."""

    clusters: Mapping[str, tuple[int, ...]]
    eligible: tuple[int, ...]
    """Neurons that were active in both tasks."""
    stability: Mapping[str, float]
    """Jaccard index of the clusters of two halves of the samples."""

    @property
    def hash(self) -> str:
        return hashlib.sha256(repr(sorted(self.clusters.items())).encode()).hexdigest()[:16]


def find(probes: Probes, layers: Activity, share: float) -> Found:
    """`share` of each layer's eligible neurons, at least one, most particular to each task (see `strength.select`).

    layers  (neurons,), which expert and layer each neuron belongs to
    Raises RecordError if no neuron is active in both tasks."""
    import numpy as np

    known = ~np.isnan(np.concatenate([probes[task] for task in TASKS])).any(axis=0)
    eligible = np.flatnonzero(known)
    if not len(eligible):
        raise RecordError("No neuron is active both in understanding and in generation, so no clusters can be found.")
    whole = _select(probes, layers, eligible, share)
    halves = [_select({t: p[k::2] for t, p in probes.items()}, layers, eligible, share) for k in (0, 1)]
    stability = {task: _overlap(*(set(half[task]) for half in halves)) for task in TASKS}
    return Found(whole, tuple(map(int, eligible)), stability)


def _overlap(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(1, len(one | other))


def _select(probes: Probes, layers: Activity, eligible: Any, share: float) -> dict[str, tuple[int, ...]]:
    import numpy as np

    found: dict[str, list[int]] = {task: [] for task in TASKS}
    for layer in np.unique(layers[eligible]):
        inside = eligible[layers[eligible] == layer]
        one, other = (probes[task][:, inside] for task in TASKS)
        chosen = select(one, other, max(1, round(share * len(inside))))
        found["understanding"] += [int(inside[k]) for k in chosen.understanding]
        found["generation"] += [int(inside[k]) for k in chosen.generation]
    return {task: tuple(sorted(each)) for task, each in found.items()}


def drawn(found: Found, cluster: Sequence[int], layers: Activity) -> list[list[int]]:
    """RANDOM clusters of eligible neurons with the same number of each layer, the same ones at every call."""
    import numpy as np

    rng, eligible = np.random.default_rng(0), np.array(found.eligible)
    counts = [(layer, int((layers[list(cluster)] == layer).sum())) for layer in np.unique(layers[list(cluster)])]
    return [
        [int(k) for layer, n in counts for k in rng.choice(eligible[layers[eligible] == layer], n, replace=False)]
        for _ in range(RANDOM)
    ]


def row(here: Activity, base: Activity, probes: Probes, cluster: Sequence[int], random: Sequence[Sequence[int]]) -> Any:
    """One model, task and cluster as plain data: S_final raw, rectified and in the base's standard deviations, with
    intervals over samples; the change of the last to the base, and what random clusters change by (mean, 95 % of them).

    here, base  (samples, neurons), the same samples"""
    import numpy as np

    pooled = np.concatenate([probes[task] for task in TASKS])
    chosen = sorted({*cluster, *(k for each in random for k in each)})
    mean, deviation = pooled[:, chosen].mean(axis=0), pooled[:, chosen].std(axis=0) + 1e-12
    place = {neuron: k for k, neuron in enumerate(chosen)}

    def score(values: Activity, indices: Sequence[int]) -> Activity:
        return sample_strength((values[:, chosen] - mean) / deviation, [place[k] for k in indices])

    changes = [float((score(here, each) - score(base, each)).mean()) for each in random]
    low, high = (float(each) for each in np.quantile(changes, (0.025, 0.975))) if changes else (None, None)
    return {
        "raw": plain(estimate(sample_strength(here, cluster)[None], bounds=None)),
        "rectified": plain(estimate(sample_strength(np.maximum(here, 0), cluster)[None], bounds=None)),
        "z": plain(estimate(score(here, cluster)[None], bounds=None)),
        "change": plain(difference(score(here, cluster)[None], score(base, cluster)[None])),
        "random_change": (float(np.mean(changes)), low, high) if changes else None,
    }


def table(report: Mapping[str, Probes], probes: Probes, found: Found, layers: Activity) -> list[dict[str, Any]]:
    """A row per model, task and cluster. `report`: model -> task -> (samples, neurons)."""
    rows = []
    for task in TASKS:
        for name, cluster in found.clusters.items():
            if not cluster:
                continue
            random = drawn(found, cluster, layers)
            for model, tasks in report.items():
                measures = row(tasks[task], report[BASE][task], probes, cluster, random)
                rows.append({"model": model, "task": task, "cluster": name, "neurons": len(cluster), **measures})
    return rows


def architecture(report: Mapping[str, Probes], experts: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """All units of each expert, which need no selection; `raw` is None where no token passed any of them."""
    import numpy as np

    rows = []
    for model, tasks in report.items():
        for task in TASKS:
            for expert, units in experts.items():
                values = tasks[task][:, list(units)]
                values = values[:, ~np.isnan(values).any(axis=0)]
                raw = plain(estimate(values.mean(axis=1)[None], bounds=None)) if values.size else None
                rows.append({"model": model, "task": task, "expert": expert, "raw": raw})
    return rows


def plain(value: Estimate) -> tuple[float, float | None, float | None]:
    return value.value, value.low, value.high
