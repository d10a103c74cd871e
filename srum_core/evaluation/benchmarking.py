"""What running a benchmark takes, whoever runs it: a training run's last stage, or `srum eval`. No torch.

A benchmark's questions are asked like a judge's (`srum_core.stages.interview`): in turns, again where the benchmark
says that an answer cannot be read, and read again from records by the same lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from attrs import define

from srum_core.errors import PluginError
from srum_core.protocols import Benchmark
from srum_core.records import Candidate, Question, Region, Unreadable
from srum_core.runs.run import Run
from srum_core.stages.interview import Ask, Interview, conduct

EXTRA_OBJECTS = "extra objects"
"""The row of a benchmark that counts objects: how many more there are than were asked for, as a share of those."""


@define
class _AsJudge:
    """A benchmark, as interviews know those who ask. `further` is there only where the benchmark has it."""

    benchmark: Benchmark
    further: Callable[..., Sequence[Question]] | None = None

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return self.benchmark.questions(candidate)

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Unreadable]:
        why = getattr(self.benchmark, "unreadable", None)
        found = why(candidate, answers) if why is not None else {}
        return [Unreadable(index, text) for index, text in sorted(found.items())]


def opened(name: str, benchmark: Benchmark, candidate: Candidate) -> Interview:
    """An interview about one image; nothing is asked yet."""
    further = getattr(benchmark, "further", None)
    judge = _AsJudge(benchmark, further and (lambda candidate, regions, answers: list(further(candidate, answers))))
    return Interview.open(name, judge, candidate, ())


def ask_all(run: Run, benchmark: Benchmark, candidates: Sequence[Candidate], ask: Ask) -> list[Interview]:
    """Ask what the benchmark wants to know about some images, together."""
    settings, use = run.settings.evaluate, run.settings.benchmark
    interviews = [opened(use.use if use else "", benchmark, each) for each in candidates]
    conduct(interviews, ask, settings.retries, settings.temperature, partial(run.derive_seed, "evaluate"))
    return interviews


def measure(benchmark: Benchmark, candidate: Candidate, answers: Sequence[str] = ()) -> dict[str, float]:
    """The measures of one image. Raises PluginError for one that is no finite number."""
    values = {key: float(value) for key, value in benchmark.score(candidate, answers).items()}
    odd = [key for key, value in values.items() if not math.isfinite(value)]
    if odd:
        who = f"{type(benchmark).__module__}:{type(benchmark).__qualname__}"
        raise PluginError(f"{who} gave picture {candidate.id} a {' and a '.join(odd)} that is no finite number.")
    return values


def measure_heard(benchmark: Benchmark, interview: Interview) -> dict[str, float]:
    """The same out of answers. {} for an image that cannot be scored: a question was refused, and the benchmark does
    not know unreadable answers, so it would take no words for a wrong answer."""
    if interview.votes[0].refused() and getattr(benchmark, "unreadable", None) is None:
        return {}
    return measure(benchmark, interview.candidate, interview.said(0))
