"""Score pictures while they are drawn (the paper's Figure 4): the clean estimate at chosen steps, layout and detail.

srum analyze steps sft=RUN srum=RUN
srum analyze steps sft=RUN srum=RUN --judge '{use="remote", url="http://localhost:8000/v1"}'

Prompts and seeds are those that the first RUN is evaluated with, the same for every model. Without --judge the
benchmark itself must know layout and detail (shapes does, exactly). Results: steps.md, .json and a figure per rubric.
"""

from __future__ import annotations

import argparse
from typing import Any

from srum_core import config, plugins
from srum_core.analysis import models, steps
from srum_core.analysis.curves import write
from srum_core.errors import ConfigError
from srum_core.evaluation.answers import SELF
from srum_core.files import lock
from srum_core.options import Use
from srum_core.protocols import Answerer
from srum_core.runs.progress import shown, tell
from srum_core.runs.run import made_with


def arguments(parser: argparse.ArgumentParser) -> None:
    models.add_arguments(parser, "analyze-steps")
    add = parser.add_argument
    add("--steps", default="", metavar="N,N,…", help="which steps, from 0 (default: 0, 2, 4, 8, … and the last)")
    add("--judge", metavar="USE", help="who grades: an answerer or adapter, or self, the model under analysis itself")


def run(parsed: argparse.Namespace) -> int:
    """0 when the curves are written."""
    registry = plugins.discover()
    found = models.subjects(parsed.runs, registry)
    first = found[0].run
    benchmark, use = first.benchmark(), _judge(parsed.judge, registry)
    if use is None and not hasattr(benchmark, "rubrics"):
        raise ConfigError(
            f'The benchmark "{first.settings.benchmark.use if first.settings.benchmark else ""}" cannot tell layout '
            'from detail without asking. Say who grades: --judge \'{use="remote", url="http://localhost:8000/v1"}\'.'
        )
    plan = models.plan(first, parsed.prompts, parsed.count)
    with lock(parsed.out):
        settings: dict[str, Any] = {
            "judge": use and (made_with(registry, "answerer", use) if use.use != SELF else {"use": SELF}),
            "benchmark": made_with(registry, "benchmark", first.settings.benchmark)
            if first.settings.benchmark
            else None,
        }
        outside: Answerer | None = registry.create("answerer", use) if use and use.use != SELF else None
        measured, times = {}, list[float]()
        for subject in found:
            here = steps.times(subject)
            if times and here != times:
                raise ConfigError(f"{subject.name} draws in other steps than {found[0].name}: they cannot be compared.")
            times, chosen = here, steps.chosen(parsed.steps, len(here))
            judge = subject.run.model(subject.rounds) if use and use.use == SELF else outside
            folder = parsed.out / "models" / subject.name
            measured[subject.name] = steps.trace(subject, plan, chosen, benchmark, judge, folder, settings)
            subject.run.release()
        by = "the benchmark, exactly, without a model" if use is None else use.use
        if use is not None and use.use == SELF:
            by = "each model itself (self-judged: do not compare with other models' numbers)"
        print(write(parsed.out, measured, times, by))
    tell(f"The curves are in {shown(parsed.out)}")
    return 0


def _judge(text: str | None, registry: plugins.Registry) -> Use | None:
    if text is None:
        return None
    return Use(SELF) if text == SELF else config.component("answerer", text, registry, "--judge")
