"""The samples whose activity is measured: what models read and draw, for finding clusters and for reporting apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from srum_core.analysis.models import Subject
from srum_core.errors import RecordError
from srum_core.records import Question
from srum_core.runs.progress import progress, shown
from srum_core.runs.run import Planned, Run
from srum_core.runs.store import check_settings, to_json, write_atomic

if TYPE_CHECKING:
    from srum_core.analysis.activity import Activity

TASKS = ("understanding", "generation")
_TOKENS = 16
"""At most so many of an answer's tokens are said: what was read is most of what passes the neurons."""


@frozen
class Samples:
    """Samples of one kind: `probe` finds the clusters, `report` is measured. No picture or prompt is in both."""

    probe: Sequence[Question | Planned]
    report: Sequence[Question | Planned]


def understanding(run: Run, count: int) -> Samples:
    """The judges' questions of the run's first round, one a picture, in turn. Raises RecordError for too few."""
    questions: list[Question] = []
    for judgement in run.judgements(1):
        asked = [each.question for each in judgement.exchanges if not each.question.history]
        if asked:
            question = asked[len(questions) % len(asked)]
            questions.append(
                attrs.evolve(question, max_new_tokens=min(_TOKENS, question.max_new_tokens), temperature=0.0)
            )
        if len(questions) == 2 * count:
            return Samples(questions[:count], questions[count:])
    raise RecordError(
        f"{shown(run.folder)} has questions about {len(questions)} pictures in its round 1, and {2 * count} are needed "
        "(half of them find the clusters). Ask for fewer with --count."
    )


def generation(run: Run, report: Sequence[Planned], count: int) -> Samples:
    """Prompts that the run trained on, and others to report. Raises RecordError if there are too few."""
    probe = list({item.prompt.id: item for item in run.planned(1)}.values())[:count]
    if min(len(probe), len(report)) < count:
        raise RecordError(
            f"{shown(run.folder)} has {len(probe)} prompts to train on and {len(report)} to report, and {count} "
            "of each are needed. Ask for fewer with --count."
        )
    return Samples(probe, report)


def measured(
    subject: Subject, samples: Sequence[Question | Planned], folder: Path, sizes: Sequence[int]
) -> Iterator[Activity]:
    """(neurons,) per sample, in order. Each is a file, and is not measured again."""
    import numpy as np

    settings = subject.settings()
    check_settings(folder, settings, "analysis")
    write_atomic(folder / "settings.json", to_json(settings))
    with progress(len(samples), f"activations ({subject.name})") as advance:
        for sample in samples:
            path = folder / f"{_name(sample)}.npy"
            if not path.exists():
                _write(path, _measure(subject, sample, sizes))
            advance(1)
            yield np.load(path)


def _measure(subject: Subject, sample: Question | Planned, sizes: Sequence[int]) -> Activity:
    from srum_core.analysis.activity import measure
    from srum_core.stages.asking import put

    model: Any = subject.run.model(subject.rounds)
    if isinstance(sample, Question):
        return measure(model.neurons(), sizes, lambda: put(model, [sample]))
    return measure(model.neurons(), sizes, lambda: model.generate([sample.prompt.text], [sample.seed]))


def _name(sample: Question | Planned) -> str:
    if isinstance(sample, Planned):
        return sample.id
    told = repr((sample.image.name, sample.text, sample.crop, sample.max_new_tokens, sample.think))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _write(path: Path, activity: Activity) -> None:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, activity)
    write_atomic(path, buffer.getvalue())


def widths(neurons: Mapping[str, Any], act: Any) -> list[int]:
    """Units of every module, expert by expert and layer by layer, seen while the model acts; 0 for one never used."""
    found, handles = [0] * sum(map(len, neurons.values())), []

    def note(place: int) -> Any:
        def hook(module: Any, given: Any, output: Any) -> None:
            found[place] = int(output.shape[-1])

        return hook

    for place, module in enumerate(module for modules in neurons.values() for module in modules):
        handles.append(module.register_forward_hook(note(place)))
    try:
        act()
    finally:
        for handle in handles:
            handle.remove()
    return found
