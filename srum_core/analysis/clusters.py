"""Clusters of neurons, selected once on the base model, and a model's activity in them (paper, Appendix B)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import astuple, frozen

from srum_core.analysis.models import BASE
from srum_core.analysis.samples import TASKS
from srum_core.errors import RecordError
from srum_core.evaluation.statistics import difference, estimate

if TYPE_CHECKING:
    from srum_core.analysis.samples import Activity

RANDOM = 100
"""Clusters with as many neurons of each layer, chosen at random, as a control."""
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
    """`share` of each layer's eligible neurons, at least one, most particular to each task (see `select`).

    layers  (neurons,), which expert and layer each neuron belongs to
    Raises RecordError if no neuron is active in both tasks."""
    import numpy as np

    known = ~np.isnan(np.concatenate([probes[task] for task in TASKS])).any(axis=0)
    eligible = np.flatnonzero(known)
    if not len(eligible):
        raise RecordError("No neuron is active both in understanding and in generation, so no clusters can be found.")
    whole = _select(probes, layers, eligible, share)
    halves = [_select({t: p[k::2] for t, p in probes.items()}, layers, eligible, share) for k in (0, 1)]
    pairs = {task: (set(halves[0][task]), set(halves[1][task])) for task in TASKS}
    stability = {task: len(one & other) / max(1, len(one | other)) for task, (one, other) in pairs.items()}
    return Found(whole, tuple(map(int, eligible)), stability)


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


def random_clusters(found: Found, cluster: Sequence[int], layers: Activity) -> list[list[int]]:
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
        "raw": astuple(estimate(sample_strength(here, cluster)[None], bounds=None)),
        "rectified": astuple(estimate(sample_strength(np.maximum(here, 0), cluster)[None], bounds=None)),
        "z": astuple(estimate(score(here, cluster)[None], bounds=None)),
        "change": astuple(difference(score(here, cluster)[None], score(base, cluster)[None])),
        "random_change": (float(np.mean(changes)), low, high) if changes else None,
    }


def table(report: Mapping[str, Probes], probes: Probes, found: Found, layers: Activity) -> list[dict[str, Any]]:
    """A row per model, task and cluster. `report`: model -> task -> (samples, neurons)."""
    rows = []
    for task in TASKS:
        for name, cluster in found.clusters.items():
            if not cluster:
                continue
            random = random_clusters(found, cluster, layers)
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
                raw = astuple(estimate(values.mean(axis=1)[None], bounds=None)) if values.size else None
                rows.append({"model": model, "task": task, "expert": expert, "raw": raw})
    return rows


# ---- neurons --------------------------------------------------------------------------------------------------------


def sample_strength(activations: Activity, cluster: Sequence[int]) -> Activity:
    """(samples,) out of (samples, neurons): the mean over the cluster's neurons (paper, Eq. 4)."""
    mean: Activity = activations[:, list(cluster)].mean(axis=1)
    return mean


@frozen
class Clusters:
    """Indices of neurons, in order, and every neuron's effect size."""

    understanding: tuple[int, ...]
    generation: tuple[int, ...]
    effect: tuple[float, ...]


def effect_size(one: Activity, other: Activity) -> Activity:
    """Cohen's d of each neuron between two sets of samples, (samples, neurons) each; pooled variance."""
    import numpy as np

    n, m = len(one), len(other)
    pooled = ((n - 1) * one.var(axis=0, ddof=1) + (m - 1) * other.var(axis=0, ddof=1)) / (n + m - 2)
    size: Activity = (one.mean(axis=0) - other.mean(axis=0)) / np.sqrt(pooled + 1e-12)
    return size


def select(understanding: Activity, generation: Activity, k: int) -> Clusters:
    """The k neurons most particular to understanding, and to generation. A neuron without a difference is in neither;
    of equals the first ones are taken."""
    effect = effect_size(understanding, generation)
    order = sorted(range(len(effect)), key=lambda neuron: (-effect[neuron], neuron))
    back = sorted(range(len(effect)), key=lambda neuron: (effect[neuron], neuron))
    more = sorted(neuron for neuron in order[:k] if effect[neuron] > 0)
    less = sorted(neuron for neuron in back[:k] if effect[neuron] < 0)
    return Clusters(tuple(more), tuple(less), tuple(float(each) for each in effect))
