"""Every model's activity on every sample, and the table that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srum_core.analysis import clusters, samples
from srum_core.analysis.curves import shown
from srum_core.analysis.models import Subject, refuse_without
from srum_core.records import Question
from srum_core.runs.store import to_json, write_atomic


def compare(subjects: Sequence[Subject], tasks: Mapping[str, samples.Samples], share: float, folder: Path) -> str:
    """Measure, find the clusters on the first subject, write activations.json and .md; returns the Markdown."""
    import numpy as np

    base = subjects[0]
    model: Any = base.run.model(base.rounds)
    refuse_without(model, ("neurons",), base, "srum analyze activations")
    sizes, layers, experts = _shape(model, tasks)
    probes = {
        task: np.stack(list(samples.measured(base, each.probe, folder / "models" / base.name / task / "probe", sizes)))
        for task, each in tasks.items()
    }
    found = clusters.find(probes, layers, share)
    report: dict[str, Any] = {}
    for subject in subjects:
        report[subject.name] = {
            task: np.stack(
                list(samples.measured(subject, each.report, folder / "models" / subject.name / task / "report", sizes))
            )
            for task, each in tasks.items()
        }
        subject.run.release()
    data = {
        "hash": found.hash,
        "clusters": found.clusters,
        "eligible": len(found.eligible),
        "stability": found.stability,
        "samples": {task: (len(each.probe), len(each.report)) for task, each in tasks.items()},
        "rows": clusters.table(report, probes, found, layers),
        "experts": clusters.architecture(report, experts),
    }
    write_atomic(folder / "activations.json", to_json(data))
    text = _markdown(data)
    write_atomic(folder / "activations.md", text)
    return text


def _shape(model: Any, tasks: Mapping[str, samples.Samples]) -> tuple[list[int], Any, dict[str, list[int]]]:
    """(units of each module, which module each neuron is of, indices of each expert's neurons)."""
    import numpy as np

    from srum_core.stages.asking import put

    neurons = model.neurons()

    def act() -> None:
        for each in tasks.values():
            sample: Any = each.probe[0]
            if isinstance(sample, Question):
                put(model, [sample])
            else:
                model.generate([sample.prompt.text], [sample.seed])

    sizes = samples.widths(neurons, act)
    layers = np.repeat(np.arange(len(sizes)), sizes)
    experts, first = {}, 0
    for name, modules in neurons.items():
        inside = (layers >= first) & (layers < first + len(modules))
        experts[name] = [int(k) for k in np.flatnonzero(inside)]
        first += len(modules)
    return sizes, layers, experts


def _markdown(data: Mapping[str, Any]) -> str:
    held = ", ".join(f"{task} {value:.2f}" for task, value in data["stability"].items())
    weak = [task for task, value in data["stability"].items() if value < clusters.STABLE]
    lines = [
        f"Clusters {data['hash']}, found on the base among {data['eligible']} neurons that are active in both tasks. "
        f"Overlap of the clusters of two halves of the samples: {held}."
        + (f" Below {clusters.STABLE}: ask for more samples with --count." if weak else ""),
        "",
        "| task | cluster (neurons) | model | S | S, rectified | S in deviations of the base | change to base "
        "| random clusters change by |",
        "| --- " * 8 + "|",
    ]
    for row in data["rows"]:
        cells = [shown(row[name]) for name in ("raw", "rectified", "z")] + [shown(row["change"], signed=True)]
        cells.append(shown(row["random_change"], signed=True))
        lines.append(f"| {row['task']} | {row['cluster']} ({row['neurons']}) | {row['model']} | {' | '.join(cells)} |")
    lines += ["", "All units of an expert:", "", "| task | expert | model | S |", "| --- " * 4 + "|"]
    for row in data["experts"]:
        lines.append(
            f"| {row['task']} | {row['expert']} | {row['model']} | {shown(row['raw']) if row['raw'] else 'n/a'} |"
        )
    return "\n".join(lines) + "\n"
