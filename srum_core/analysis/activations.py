"""Compare how active neurons are before and after training (the paper's Appendix B, Algorithm 1).

srum analyze activations sft=RUN srum=RUN

Neurons that are most particular to understanding and to generation are found once, on the base model: from questions
that the first RUN's judges asked in its round 1, and from prompts that it trained on. They are then measured in every
model on other such questions, and on the prompts of the evaluation. Results: activations.md and .json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srum_core import plugins
from srum_core.analysis import clusters, models, samples
from srum_core.cli.common import show_table
from srum_core.errors import ConfigError
from srum_core.evaluation.formatting import Grid, markdown, number
from srum_core.evaluation.statistics import Estimate
from srum_core.runs.files import lock
from srum_core.runs.progress import shown, tell
from srum_core.runs.store import to_json, write_atomic


def arguments(parser: argparse.ArgumentParser) -> None:
    models.add_arguments(parser, "analyze-activations")
    parser.add_argument(
        "--share", type=float, default=0.01, metavar="F", help="of each layer's neurons in a cluster (default: 0.01)"
    )


def run(parsed: argparse.Namespace) -> int:
    """0 when the table is written."""
    if not 0 < parsed.share <= 0.5 or parsed.count < 4:
        raise ConfigError("--share must be above 0 and at most 0.5, and --count at least 4.")
    found = models.subjects(parsed.runs, plugins.discover())
    first = found[0].run
    tasks = {
        "understanding": samples.understanding(first, parsed.count),
        "generation": samples.generation(first, models.plan(first, parsed.prompts, parsed.count), parsed.count),
    }
    with lock(parsed.out):
        for part in compare(found, tasks, parsed.share, parsed.out):
            show_table(part)
    tell(f"The table is in {shown(parsed.out)}")
    return 0


def compare(
    subjects: Sequence[models.Subject], tasks: Mapping[str, samples.Samples], share: float, folder: Path
) -> list[str | Grid]:
    """Measure, find the clusters on the first subject, write activations.json and .md; returns what the latter consists
    of."""
    import numpy as np

    base = subjects[0]
    model: Any = base.run.model(base.rounds)
    models.refuse_without(model, ("neurons",), base, "srum analyze activations")
    sizes, layers, experts = _shape(model, tasks)

    def measured(subject: models.Subject, kind: str) -> dict[str, Any]:
        found = {}
        for task, each in tasks.items():
            where = folder / "models" / subject.name / task / kind
            found[task] = np.stack(list(samples.measured(subject, getattr(each, kind), where, sizes)))
        return found

    probes = measured(base, "probe")
    found = clusters.find(probes, layers, share)
    report = {}
    for subject in subjects:
        report[subject.name] = measured(subject, "report")
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
    parts = _parts(data)
    write_atomic(folder / "activations.md", markdown(parts))
    return parts


def _shape(model: Any, tasks: Mapping[str, samples.Samples]) -> tuple[list[int], Any, dict[str, list[int]]]:
    """(units of each module, which module each neuron is of, indices of each expert's neurons)."""
    import numpy as np

    neurons = model.neurons()
    with samples.recorded(neurons) as sums:
        for each in tasks.values():
            samples.act_on(model, each.probe[0])
    sizes = [each.size for each in sums]
    layers = np.repeat(np.arange(len(sizes)), sizes)
    experts, first = {}, 0
    for name, modules in neurons.items():
        inside = (layers >= first) & (layers < first + len(modules))
        experts[name] = [int(k) for k in np.flatnonzero(inside)]
        first += len(modules)
    return sizes, layers, experts


def _parts(data: Mapping[str, Any]) -> list[str | Grid]:
    held = ", ".join(f"{task} {value:.2f}" for task, value in data["stability"].items())
    weak = [task for task, value in data["stability"].items() if value < clusters.STABLE]
    message = (
        f"Clusters {data['hash']}, found on the base among {data['eligible']} neurons that are active in both tasks. "
        f"Overlap of the clusters of two halves of the samples: {held}."
        + (f" Below {clusters.STABLE}: ask for more samples with --count." if weak else "")
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
