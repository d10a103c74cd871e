"""The models that an analysis compares, and the samples to measure: some to select clusters of neurons, others to
report."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from srum_core.errors import ConfigError, RecordError
from srum_core.plugins import Registry
from srum_core.records import Question
from srum_core.runs.progress import progress, shown, tell
from srum_core.runs.prompts import load_prompts
from srum_core.runs.run import Planned, Run, made_with, started_from
from srum_core.runs.store import check_settings, to_json, write_atomic
from srum_core.stages.interview import put

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Activity = NDArray[np.float64]

Neurons = Mapping[str, "Sequence[nn.Module]"]
TASKS = ("understanding", "generation")
BASE = "base"
"""The model that the first run started from."""
_TOKENS = 16
"""Limit of an answer's tokens: most tokens that pass the neurons are those of the question."""


@frozen
class Subject:
    """A model under analysis: `run.model(rounds)`."""

    name: str
    run: Run
    rounds: int

    def settings(self) -> dict[str, Any]:
        """Return the settings that its measurements depend on."""
        return {
            "adapter": made_with(self.run.registry, "adapter", self.run.settings.adapter),
            "start": self.run.settings.start,
            "trained": self.run.fingerprint(self.rounds) if self.rounds else "",
        }


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN[:ROUND]",
        help="a model that srum-train made; the one that the first RUN started from is added as base",
    )
    add("--out", type=Path, default=Path("runs") / out, help=f"folder of the results (default: runs/{out})")
    add("--prompts", metavar="SOURCE", help="the prompts (default: the prompts that the first RUN is evaluated with)")
    add("--count", type=int, default=64, metavar="N", help="so many samples of a kind (default: 64)")


def subjects(texts: Sequence[str], registry: Registry) -> list[Subject]:
    """Return the base, then the runs in order. Raises ConfigError for equal names, and for models of two adapters."""
    trained = []
    for name, start in map(_named, texts):
        trained.append(Subject(name, *started_from(start, registry)))
        tell(f"{name}: the model after round {trained[-1].rounds} of {shown(trained[-1].run.folder)}.")
    models = [Subject(BASE, trained[0].run, 0), *trained]
    names = [each.name for each in models]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ConfigError(f'Two models would be called "{duplicates[0]}". Name them: NAME=RUN; "{BASE}" is taken.')
    adapters = [each.run.settings.adapter.use for each in models]
    for name, adapter in zip(names, adapters, strict=True):
        if adapter != adapters[0]:
            raise ConfigError(
                f'{name} is a model of the adapter "{adapter}", and {names[1]} of "{adapters[0]}": only models of one '
                "adapter have the same steps and neurons."
            )
    return models


def _named(text: str) -> tuple[str, str]:
    """Return (name, RUN[:ROUND]); the default name is the folder's."""
    name, equals, start = text.partition("=")
    if equals and name and "/" not in name:
        return name, start
    folder = Path(text) if Path(text).is_dir() else Path(text.rpartition(":")[0] or text)
    return folder.absolute().name, text


def plan(run: Run, source: str | None, count: int) -> list[Planned]:
    """Plan the first `count` images, one per prompt."""
    if source is None:
        return list({item.prompt.id: item for item in run.planned_evaluation()}.values())[:count]
    return [run.plan(prompt, 0, "evaluate") for prompt in load_prompts(source, run.registry, count)]


def refuse_without(model: Any, members: Sequence[str], subject: Subject, what: str) -> None:
    """Raise ConfigError for an adapter that lacks optional members."""
    missing = [name for name in members if not hasattr(model, name)]
    if missing:
        raise ConfigError(
            f'The adapter "{subject.run.settings.adapter.use}" has no {" and no ".join(missing)}, which {what} needs '
            "(optional members of UnifiedModel in srum_core/protocols.py)."
        )


# ---- samples ---------------------------------------------------------------------------------------------------------


@frozen
class Samples:
    """Samples of one kind: `probe` finds the clusters, `report` is measured. No image or prompt is in both."""

    probe: Sequence[Question | Planned]
    report: Sequence[Question | Planned]


def understanding(run: Run, count: int) -> Samples:
    """Take questions that the judges asked in the run's first round, one per image. Raises RecordError for too few."""
    questions: list[Question] = []
    for judgement in run.judgements(1):
        first = [each.question for each in judgement.exchanges if not each.question.history]
        if first:
            question = first[len(questions) % len(first)]
            limit = min(_TOKENS, question.max_new_tokens)
            questions.append(attrs.evolve(question, max_new_tokens=limit, temperature=0.0))
        if len(questions) == 2 * count:
            return Samples(questions[:count], questions[count:])
    raise RecordError(
        f"{shown(run.folder)} has questions about {len(questions)} images in its round 1, and {2 * count} are needed "
        "(half of them find the clusters). Ask for fewer with --count."
    )


def generation(run: Run, report: Sequence[Planned], count: int) -> Samples:
    """Take prompts that the run trained on, and others to report. Raises RecordError for too few."""
    probe = list({item.prompt.id: item for item in run.planned(1)}.values())[:count]
    if min(len(probe), len(report)) < count:
        raise RecordError(
            f"{shown(run.folder)} has {len(probe)} prompts to train on and {len(report)} to report, and {count} "
            "of each are needed. Ask for fewer with --count."
        )
    return Samples(probe, report)


def activities(
    subject: Subject, samples: Sequence[Question | Planned], folder: Path, sizes: Sequence[int]
) -> Iterator[Activity]:
    """Yield (neurons,) per sample, in order. Each is stored in a file and measured once."""
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


class _Sum:
    """Sum and count over the tokens that pass one module; `size` is 0 before the first."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = self.size = 0

    def __call__(self, module: Any, inputs: Any, output: Tensor) -> None:
        """Add `output`: (rows, tokens, units), of which only the first row counts, or (tokens, units)."""
        tokens = output[0] if output.dim() == 3 else output
        part = tokens.detach().cpu().double().sum(dim=0)
        self.total = part if self.total is None else self.total + part
        self.count, self.size = self.count + len(tokens), tokens.shape[-1]


@contextmanager
def recording(neurons: Neurons) -> Iterator[list[_Sum]]:
    """Yield the sums of all modules, by expert and layer; remove the hooks afterwards."""
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
    """Call `act` on one sample, and return (neurons,) float64: each neuron's mean over the tokens that pass it, and in
    generation over all steps; NaN without tokens. A neuron is a unit of an MLP's activation in one layer of one expert
    (paper, Appendix B)."""
    import numpy as np

    with recording(neurons) as sums:
        act()
    parts = [
        np.full(size, np.nan) if each.total is None or not each.count else (each.total / each.count).numpy()
        for each, size in zip(sums, sizes, strict=True)
    ]
    return np.concatenate(parts)
