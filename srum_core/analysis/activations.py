"""Compare how active neurons are before and after training (the paper's Appendix B, Algorithm 1).

srum analyze activations sft=RUN srum=RUN

The neurons most specific to understanding and to generation are selected once, on the base model: with questions that
the first RUN's judges asked in its round 1, and with prompts that it trained on. Every model is then measured on other
such questions, and on the prompts of the evaluation. Results: activations.md and .json.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import astuple, frozen

from srum_core import plugins
from srum_core.analysis import subjects
from srum_core.analysis.subjects import BASE, TASKS, Samples, Subject
from srum_core.cli.common import show_table
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.formatting import Grid, markdown, number
from srum_core.evaluation.statistics import Estimate, difference, estimate
from srum_core.runs.files import lock
from srum_core.runs.progress import shown, tell
from srum_core.runs.store import to_json, write_atomic

if TYPE_CHECKING:
    from srum_core.analysis.subjects import Activity

RANDOM = 100
"""Number of random clusters with equally many neurons of each layer, as a control."""
STABLE = 0.5
"""Least overlap of the clusters from two halves of the probe samples."""
Probes = Mapping[str, "Activity"]
"""Task -> (samples, neurons)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    subjects.add_arguments(parser, "analyze-activations")
    parser.add_argument(
        "--share", type=float, default=0.01, metavar="F", help="of each layer's neurons in a cluster (default: 0.01)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when the table is written."""
    if not 0 < parsed.share <= 0.5 or parsed.count < 4:
        raise ConfigError("--share must be above 0 and at most 0.5, and --count at least 4.")
    models = subjects.subjects(parsed.runs, plugins.discover())
    first = models[0].run
    tasks = {
        "understanding": subjects.understanding(first, parsed.count),
        "generation": subjects.generation(first, subjects.plan(first, parsed.prompts, parsed.count), parsed.count),
    }
    with lock(parsed.out):
        for part in compare(models, tasks, parsed.share, parsed.out):
            show_table(part)
    tell(f"The table is in {shown(parsed.out)}")
    return 0


def compare(models: Sequence[Subject], tasks: Mapping[str, Samples], share: float, folder: Path) -> list[str | Grid]:
    """Measure all models, with clusters from the first; write activations.json and .md, and return the parts of the
    latter."""
    import numpy as np

    base = models[0]
    model: Any = base.run.model(base.rounds)
    subjects.refuse_without(model, ("neurons",), base, "srum analyze activations")
    sizes, layers, experts = _shape(model, tasks)

    def measure(subject: Subject, kind: str) -> dict[str, Any]:
        where = folder / "models" / subject.name
        return {
            task: np.stack(list(subjects.activities(subject, getattr(each, kind), where / task / kind, sizes)))
            for task, each in tasks.items()
        }

    probes = measure(base, "probe")
    clusters = find(probes, layers, share)
    report = {}
    for subject in models:
        report[subject.name] = measure(subject, "report")
        subject.run.release()
    data = {
        "hash": clusters.hash,
        "clusters": clusters.neurons,
        "eligible": len(clusters.eligible),
        "stability": clusters.stability,
        "samples": {task: (len(each.probe), len(each.report)) for task, each in tasks.items()},
        "rows": table(report, probes, clusters, layers),
        "experts": architecture(report, experts),
    }
    write_atomic(folder / "activations.json", to_json(data))
    parts = _parts(data)
    write_atomic(folder / "activations.md", markdown(parts))
    return parts


def _shape(model: Any, tasks: Mapping[str, Samples]) -> tuple[list[int], Any, dict[str, list[int]]]:
    """Return (units of each module, module of each neuron, indices of each expert's neurons)."""
    import numpy as np

    neurons = model.neurons()
    with subjects.recording(neurons) as sums:
        for samples in tasks.values():
            subjects.act_on(model, samples.probe[0])
    sizes = [each.size for each in sums]
    layers = np.repeat(np.arange(len(sizes)), sizes)
    experts, first = {}, 0
    for name, modules in neurons.items():
        inside = (layers >= first) & (layers < first + len(modules))
        experts[name] = [int(k) for k in np.flatnonzero(inside)]
        first += len(modules)
    return sizes, layers, experts


def _parts(data: Mapping[str, Any]) -> list[str | Grid]:
    overlap = ", ".join(f"{task} {value:.2f}" for task, value in data["stability"].items())
    weak = any(value < STABLE for value in data["stability"].values())
    message = (
        f"Clusters {data['hash']}, found on the base among {data['eligible']} neurons that are active in both tasks. "
        f"Overlap of the clusters of two halves of the samples: {overlap}."
        + (f" Below {STABLE}: ask for more samples with --count." if weak else "")
    )
    measures = {
        **{"raw": "S", "rectified": "S, rectified", "z": "S in deviations of the base", "change": "change to base"},
        "random_change": "random clusters change by",
    }
    rows = [
        [
            f"{row['task']}, {row['cluster']} ({row['neurons']}), {row['model']}",
            *(number(Estimate(*row[name]), signed="change" in name) for name in measures),
        ]
        for row in data["rows"]
    ]
    experts = [
        [f"{row['task']}, {row['expert']}, {row['model']}", number(Estimate(*row["raw"])) if row["raw"] else "n/a"]
        for row in data["experts"]
    ]
    first = Grid(["task, cluster (neurons), model", *measures.values()], rows)
    return [message, first, Grid(["task, expert, model", "S"], experts, "All units of an expert")]


# ---- clusters: selected once on the base model, and a model's activity in them ---------------------------------------


@frozen
class Clusters:
    """Indices of neurons by name of the cluster."""

    neurons: Mapping[str, tuple[int, ...]]
    eligible: tuple[int, ...]
    """Neurons that were active in both tasks."""
    stability: Mapping[str, float]
    """Jaccard index of the clusters of two halves of the samples."""

    @property
    def hash(self) -> str:
        return hashlib.sha256(repr(sorted(self.neurons.items())).encode()).hexdigest()[:16]


def find(probes: Probes, layers: Activity, share: float) -> Clusters:
    """Select for each task `share` of each layer's eligible neurons, at least one (see `select`).

    layers  (neurons,), the expert and layer of each neuron

    Raises RecordError if no neuron is active in both tasks."""
    import numpy as np

    active = ~np.isnan(np.concatenate([probes[task] for task in TASKS])).any(axis=0)
    eligible = np.flatnonzero(active)
    if not len(eligible):
        raise RecordError("No neuron is active both in understanding and in generation, so no clusters can be found.")
    clusters = _select(probes, layers, eligible, share)
    halves = [_select({t: p[k::2] for t, p in probes.items()}, layers, eligible, share) for k in (0, 1)]
    pairs = {task: (set(halves[0][task]), set(halves[1][task])) for task in TASKS}
    stability = {task: len(one & other) / max(1, len(one | other)) for task, (one, other) in pairs.items()}
    return Clusters(clusters, tuple(map(int, eligible)), stability)


def _select(probes: Probes, layers: Activity, eligible: Any, share: float) -> dict[str, tuple[int, ...]]:
    import numpy as np

    clusters: dict[str, list[int]] = {task: [] for task in TASKS}
    for layer in np.unique(layers[eligible]):
        inside = eligible[layers[eligible] == layer]
        one, other = (probes[task][:, inside] for task in TASKS)
        for task, indices in zip(TASKS, select(one, other, max(1, round(share * len(inside)))), strict=True):
            clusters[task] += [int(inside[k]) for k in indices]
    return {task: tuple(sorted(each)) for task, each in clusters.items()}


def random_clusters(clusters: Clusters, cluster: Sequence[int], layers: Activity) -> list[list[int]]:
    """Return RANDOM clusters of eligible neurons with the same number of each layer, the same at every call."""
    import numpy as np

    rng, eligible = np.random.default_rng(0), np.array(clusters.eligible)
    counts = [(layer, int((layers[list(cluster)] == layer).sum())) for layer in np.unique(layers[list(cluster)])]
    return [
        [int(k) for layer, n in counts for k in rng.choice(eligible[layers[eligible] == layer], n, replace=False)]
        for _ in range(RANDOM)
    ]


def row(
    values: Activity, base: Activity, probes: Probes, cluster: Sequence[int], random: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Measure one model on one task and cluster, as plain data: S_final raw, rectified and in the base's standard
    deviations, with intervals over samples; the change of the last to the base, and the changes of random clusters
    (mean, and the range of 95 % of them).

    values, base    (samples, neurons) of the model and of the base, for the same samples"""
    import numpy as np

    pooled = np.concatenate([probes[task] for task in TASKS])
    needed = sorted({*cluster, *(k for each in random for k in each)})
    mean, deviation = pooled[:, needed].mean(axis=0), pooled[:, needed].std(axis=0) + 1e-12
    place = {neuron: k for k, neuron in enumerate(needed)}

    def score(activity: Activity, indices: Sequence[int]) -> Activity:
        return sample_strength((activity[:, needed] - mean) / deviation, [place[k] for k in indices])

    changes = [float((score(values, each) - score(base, each)).mean()) for each in random]
    low, high = (float(each) for each in np.quantile(changes, (0.025, 0.975))) if changes else (None, None)
    return {
        "raw": astuple(estimate(sample_strength(values, cluster)[None], bounds=None)),
        "rectified": astuple(estimate(sample_strength(np.maximum(values, 0), cluster)[None], bounds=None)),
        "z": astuple(estimate(score(values, cluster)[None], bounds=None)),
        "change": astuple(difference(score(values, cluster)[None], score(base, cluster)[None])),
        "random_change": (float(np.mean(changes)), low, high) if changes else None,
    }


def table(report: Mapping[str, Probes], probes: Probes, clusters: Clusters, layers: Activity) -> list[dict[str, Any]]:
    """Return a row per model, task and cluster. `report`: model -> task -> (samples, neurons)."""
    rows = []
    for task in TASKS:
        for name, cluster in clusters.neurons.items():
            if not cluster:
                continue
            random = random_clusters(clusters, cluster, layers)
            for model, tasks in report.items():
                measures = row(tasks[task], report[BASE][task], probes, cluster, random)
                rows.append({"model": model, "task": task, "cluster": name, "neurons": len(cluster), **measures})
    return rows


def architecture(report: Mapping[str, Probes], experts: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return a row per model, task and expert, of all its units; `raw` is None if no token passed any of them."""
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


def sample_strength(activations: Activity, cluster: Sequence[int]) -> Activity:
    """Return (samples,), the mean of (samples, neurons) over the cluster's neurons (paper, Eq. 4)."""
    mean: Activity = activations[:, list(cluster)].mean(axis=1)
    return mean


def effect_size(one: Activity, other: Activity) -> Activity:
    """Return Cohen's d of each neuron between two sets of samples, (samples, neurons) each, with pooled variance."""
    import numpy as np

    n, m = len(one), len(other)
    pooled = ((n - 1) * one.var(axis=0, ddof=1) + (m - 1) * other.var(axis=0, ddof=1)) / (n + m - 2)
    size: Activity = (one.mean(axis=0) - other.mean(axis=0)) / np.sqrt(pooled + 1e-12)
    return size


def select(understanding: Activity, generation: Activity, k: int) -> tuple[list[int], list[int]]:
    """Return the sorted indices of the k neurons most specific to understanding, and to generation.

    A neuron without a difference is in neither; of equal ones, the first are taken."""
    effect = effect_size(understanding, generation)
    more, less = (
        sorted(int(i) for i in (-size).argsort(kind="stable")[:k] if size[i] > 0) for size in (effect, -effect)
    )
    return more, less
