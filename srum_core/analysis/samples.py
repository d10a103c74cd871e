"""The samples whose activity is measured: texts and images, for selecting clusters and, separately, for reporting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
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
from srum_core.stages.interview import put

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Activity = NDArray[np.float64]

Neurons = Mapping[str, "Sequence[nn.Module]"]
TASKS = ("understanding", "generation")
_TOKENS = 16
"""The most tokens of an answer: the prompt's tokens are most of what passes the neurons."""


@frozen
class Samples:
    """Samples of one kind: `probe` finds the clusters, `report` is measured. No image or prompt is in both."""

    probe: Sequence[Question | Planned]
    report: Sequence[Question | Planned]


def understanding(run: Run, count: int) -> Samples:
    """The judges' questions of the run's first round, one an image, in turn. Raises RecordError for too few."""
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
        f"{shown(run.folder)} has questions about {len(questions)} images in its round 1, and {2 * count} are needed "
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
                model: Any = subject.run.model(subject.rounds)
                buffer = BytesIO()
                np.save(buffer, measure(model.neurons(), sizes, lambda: act_on(model, sample)))  # noqa: B023
                write_atomic(path, buffer.getvalue())
            advance(1)
            yield np.load(path)


def act_on(model: Any, sample: Question | Planned) -> None:
    """Let the model process or generate a sample."""
    if isinstance(sample, Question):
        put(model, [sample])
    else:
        model.generate([sample.prompt.text], [sample.seed])


def _name(sample: Question | Planned) -> str:
    if isinstance(sample, Planned):
        return sample.id
    message = repr((sample.image.name, sample.text, sample.crop, sample.max_new_tokens, sample.think))
    return hashlib.sha256(message.encode("utf-8", "surrogatepass")).hexdigest()[:20]


# ---- hooks ----------------------------------------------------------------------------------------------------------


class _Sum:
    """Sum and count over the tokens that pass one module; `size` is 0 for one that none passes."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = self.size = 0

    def __call__(self, module: Any, given: Any, output: Tensor) -> None:
        """output: (rows, tokens, units), of which the first row counts, or (tokens, units)."""
        tokens = output[0] if output.dim() == 3 else output
        added = tokens.detach().cpu().double().sum(dim=0)
        self.total = added if self.total is None else self.total + added
        self.count, self.size = self.count + len(tokens), tokens.shape[-1]


@contextmanager
def recorded(neurons: Neurons) -> Iterator[list[_Sum]]:
    """Sums of all modules, expert by expert and layer by layer; the hooks are gone afterwards."""
    sums, handles = [], []
    try:
        for module in (module for modules in neurons.values() for module in modules):
            sums.append(_Sum())
            handles.append(module.register_forward_hook(sums[-1]))
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def measure(neurons: Neurons, sizes: Sequence[int], act: Callable[[], object]) -> Activity:
    """(neurons,) float64 of whatever `act` makes the model do, for one sample: each neuron's mean over the tokens that
    pass it, and in generation over all steps; NaN where none did. A neuron is a unit of an MLP's activation, of one
    layer and one expert (paper, Appendix B)."""
    import numpy as np

    with recorded(neurons) as sums:
        act()
    parts = [
        np.full(size, np.nan) if each.total is None or not each.count else (each.total / each.count).numpy()
        for each, size in zip(sums, sizes, strict=True)
    ]
    return np.concatenate(parts)
