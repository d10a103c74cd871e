"""Score images during sampling (the paper's Figure 4): the clean estimate at chosen steps, layout and detail.

srum analyze steps sft=RUN srum=RUN
srum analyze steps sft=RUN srum=RUN --judge '{use="remote", url="http://localhost:8000/v1"}'

Prompts and seeds are those that the first RUN is evaluated with, the same for every model. Without --judge the
benchmark itself must know layout and detail (shapes does, exactly). Results: steps.md, .json and a figure per rubric.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import astuple, field, frozen

from srum_core import config, plugins
from srum_core.analysis import subjects
from srum_core.analysis.subjects import BASE, Subject
from srum_core.cli.common import show_table
from srum_core.errors import ConfigError, PluginError, RecordError
from srum_core.evaluation.answers import SELF
from srum_core.evaluation.formatting import Grid, markdown, number
from srum_core.evaluation.statistics import Estimate, difference, estimate
from srum_core.options import Use
from srum_core.protocols import Answerer, Benchmark
from srum_core.records import Candidate, Question
from srum_core.report import charts
from srum_core.runs.files import lock
from srum_core.runs.progress import progress, shown, tell
from srum_core.runs.run import Planned, made_with
from srum_core.runs.store import Records, to_json, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Table = NDArray[np.float64]

RUBRICS = ("layout", "detail")
USUAL = (0, 2, 4, 8, 12, 16, 24, 32, 40, 48)
"""The default steps, as far as they exist; the last step is always included."""
_QUESTIONS = {
    "layout": (
        "Grade only the layout: whether every thing that the words ask for is there, as often as asked, and where they "
        "say, in a sensible size. Pay no heed to blur, noise or texture."
    ),
    "detail": (
        "Grade only the details: whether each thing that can be seen has the colour, material and form that the words "
        "give it, and how cleanly it is drawn. Pay no heed to where things stand or to what is missing."
    ),
}
"""The wording is ours: the paper gives none."""
_GRADE = re.compile(r'"score"\s*:\s*(-?\d+(?:\.\d+)?)\s*[,}]')


@frozen
class Snapshot:
    """The scores of an image at one step; `id` is IMAGE-STEP. A rubric with an unreadable answer is not in `scores`."""

    id: str
    image: str
    step: int
    scores: dict[str, float] = field(hash=False)
    """From 0 to 1."""


Snapshots = Mapping[str, Sequence[Snapshot]]


def arguments(parser: argparse.ArgumentParser) -> None:
    subjects.add_arguments(parser, "analyze-steps")
    add = parser.add_argument
    add("--steps", default="", metavar="N,N,…", help="which steps, from 0 (default: 0, 2, 4, 8, … and the last)")
    add("--judge", metavar="USE", help="who grades: an answerer or adapter, or self, the model under analysis itself")


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when the curves are written."""
    registry = plugins.discover()
    models = subjects.subjects(parsed.runs, registry)
    first = models[0].run
    benchmark, use = first.benchmark(), None if parsed.judge is None else Use(SELF)
    if use and parsed.judge != SELF:
        use = config.component("answerer", parsed.judge, registry, "--judge")
    if use is None and not hasattr(benchmark, "rubrics"):
        raise ConfigError(
            f'The benchmark "{first.settings.benchmark.use if first.settings.benchmark else ""}" cannot separate '
            'layout from detail without a judge. Name one: --judge \'{use="remote", url="http://localhost:8000/v1"}\'.'
        )
    plan = subjects.plan(first, parsed.prompts, parsed.count)
    with lock(parsed.out):
        settings: dict[str, Any] = {
            "judge": use and (made_with(registry, "answerer", use) if use.use != SELF else {"use": SELF}),
            "benchmark": first.settings.benchmark and made_with(registry, "benchmark", first.settings.benchmark),
        }
        outside: Answerer | None = registry.create("answerer", use) if use and use.use != SELF else None
        snapshots, times = {}, sampling_times(models[0])
        steps = parse_steps(parsed.steps, len(times))
        for subject in models:
            if sampling_times(subject) != times:
                raise ConfigError(f"{subject.name} samples in other steps than {BASE}: they cannot be compared.")
            judge = subject.run.model(subject.rounds) if use and use.use == SELF else outside
            folder = parsed.out / "models" / subject.name
            snapshots[subject.name] = trace(subject, plan, steps, benchmark, judge, folder, settings)
            subject.run.release()
        by = "the benchmark, exactly, without a model" if use is None else use.use
        if use is not None and use.use == SELF:
            by = "each model itself (self-judged: do not compare with other models' numbers)"
        for part in write(parsed.out, snapshots, times, by):
            show_table(part)
    tell(f"The curves are in {shown(parsed.out)}")
    return 0


def table(measurements: Snapshots, rubric: str) -> tuple[list[int], dict[str, Table]]:
    """Return (steps, model -> (images, steps)) of the images with scores at every step in every model.

    Raises RecordError if there is none."""
    import numpy as np

    values = {
        name: {(each.image, each.step): each.scores[rubric] for each in snapshots if rubric in each.scores}
        for name, snapshots in measurements.items()
    }
    first = next(iter(measurements.values()))
    steps = sorted({each.step for each in first})
    images = list(dict.fromkeys(each.image for each in first))
    complete = [p for p in images if all((p, step) in scores for scores in values.values() for step in steps)]
    if not complete:
        raise RecordError(f"No image could be graded for {rubric} at every step: the judge's answers hold no score.")
    return steps, {
        name: np.array([[scores[image, step] for step in steps] for image in complete])
        for name, scores in values.items()
    }


def area(scores: Table, steps: Sequence[int]) -> Table:
    """Return (images,), the mean height of each image's curve over the steps (trapezoidal rule)."""
    import numpy as np

    if len(steps) == 1:
        return scores[:, 0]
    heights: Table = ((scores[:, 1:] + scores[:, :-1]) / 2 * np.diff(steps)).sum(axis=1) / (steps[-1] - steps[0])
    return heights


def summary(measurements: Snapshots, times: Sequence[float]) -> dict[str, Any]:
    """Return everything that is printed, as plain data."""
    rubrics: dict[str, Any] = {}
    for rubric in RUBRICS:
        steps, tables = table(measurements, rubric)
        areas = {name: area(each, steps) for name, each in tables.items()}
        rubrics[rubric] = {
            "steps": steps,
            "times": [times[step] for step in steps],
            "images": len(tables[BASE]),
            "asked": len({each.image for each in measurements[BASE]}),
            "means": {n: [astuple(estimate(t[None, :, k])) for k in range(len(steps))] for n, t in tables.items()},
            "change": {
                n: [astuple(difference(t[None, :, k], tables[BASE][None, :, k])) for k in range(len(steps))]
                for n, t in tables.items()
                if n != BASE
            },
            "area": {n: astuple(estimate(each[None])) for n, each in areas.items()},
            "area_change": {n: astuple(difference(a[None], areas[BASE][None])) for n, a in areas.items() if n != BASE},
        }
    return rubrics


def write(folder: Path, measurements: Snapshots, times: Sequence[float], by: str) -> list[str | Grid]:
    """Write steps.json, steps.md and a figure per rubric; return the parts of the Markdown."""
    rubrics = summary(measurements, times)
    write_atomic(folder / "steps.json", to_json({"graded_by": by, **rubrics}))
    for rubric, curves in rubrics.items():
        lines = {
            name: [(float(step), Estimate(*mean)) for step, mean in zip(curves["steps"], means, strict=True)]
            for name, means in curves["means"].items()
        }
        name = f"{rubric.capitalize()} of the clean estimate"
        chart = charts.line_chart(name, lines, height=300, axis="sampling step", alone=True)
        write_atomic(folder / f"steps-{rubric}.svg", chart)
    parts: list[str | Grid] = [f"Graded by {by}.", *(_grid(rubric, curves) for rubric, curves in rubrics.items())]
    write_atomic(folder / "steps.md", markdown(parts))
    return parts


def _grid(rubric: str, curves: Mapping[str, Any]) -> Grid:
    heads = [f"{step} (t = {time:.2f})" for step, time in zip(curves["steps"], curves["times"], strict=True)]
    rows = []
    for name, means in curves["means"].items():
        cells = [number(Estimate(*each)) for each in (*means, curves["area"][name])]
        change = curves["area_change"].get(name)
        rows.append([name, *cells, number(Estimate(*change), signed=True) if change else ""])
    title = f"{rubric.capitalize()}, {curves['images']} of {curves['asked']} images readable at every step"
    return Grid(["model", *heads, "mean height", "its change to base"], rows, title)


# ---- scores ---------------------------------------------------------------------------------------------------------


def question(rubric: str, candidate: Candidate) -> Question:
    """Return the question about a rubric; it does not name the step."""
    text = (
        f'A picture was asked for with these words: "{candidate.prompt.text}"\n{_QUESTIONS[rubric]}\nAnswer with JSON '
        'only: {"score": N, "reason": "one sentence"}, N from 0 (nothing of it) to 100 (perfect).'
    )
    return Question(candidate.image, text, max_new_tokens=200)


def grade(answer: str) -> float | None:
    """Return the score in an answer as a fraction; None if there is none, more than one, or one out of range."""
    grades = _GRADE.findall(answer)
    return float(grades[0]) / 100 if len(grades) == 1 and 0 <= float(grades[0]) <= 100 else None


def parse_steps(text: str, count: int) -> list[int]:
    """Parse steps such as "0,4,23", below `count`; without a text, return the usual ones. Raises ConfigError."""
    if not text:
        return sorted({*(step for step in USUAL if step < count), count - 1})
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) < count for word in words):
        raise ConfigError(f"--steps {text}: it should be numbers from 0 to {count - 1}, with commas between them.")
    return sorted({int(word) for word in words})


def sampling_times(subject: Subject) -> list[float]:
    """Return the start times of the model's steps. Raises ConfigError without `sampling_times` or `trace`."""
    model = subject.run.model(subject.rounds)
    subjects.refuse_without(model, ("sampling_times", "trace"), subject, "srum analyze steps")
    return [float(time) for time in model.sampling_times()][:-1]  # type: ignore[attr-defined]


def trace(
    subject: Subject,
    plan: Sequence[Planned],
    steps: Sequence[int],
    benchmark: Benchmark,
    judge: Answerer | None,
    folder: Path,
    settings: Mapping[str, Any],
) -> list[Snapshot]:
    """Generate every image, store its estimates at `steps`, and score them. Finished images are not repeated."""
    records = Records(folder, Snapshot, {**subject.settings(), **settings}, stage="analysis")
    size = subject.run.settings.evaluate.batch
    missing = [item for item in plan if not {f"{item.id}-{step}" for step in steps} <= records.ids()]
    with progress(len(plan), f"steps ({subject.name})", len(plan) - len(missing)) as advance:
        for start in range(0, len(missing), size):
            items = missing[start : start + size]
            model: Any = subject.run.model(subject.rounds)
            generated = model.trace([item.prompt.text for item in items], [item.seed for item in items], list(steps))
            if [len(images) for images in generated] != [len(steps)] * len(items):
                raise PluginError(f"{type(model).__qualname__}.trace did not give an image per prompt and step.")
            views = [
                (item, step, _store(item, step, image, folder))
                for item, images in zip(items, generated, strict=True)
                for step, image in zip(steps, images, strict=True)
            ]
            scores = _scores([view for *_, view in views], benchmark, judge)
            records.extend(
                Snapshot(view.id, item.id, step, grades)
                for (item, step, view), grades in zip(views, scores, strict=True)
            )
            advance(len(items))
    return list(records.select(f"{item.id}-{step}" for item in plan for step in steps))


def _store(item: Planned, step: int, image: Image, folder: Path) -> Candidate:
    path = folder / "images" / f"{item.id}-{step}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return Candidate(f"{item.id}-{step}", item.prompt, path, image.size, item.seed)


def _scores(candidates: Sequence[Candidate], benchmark: Benchmark, judge: Answerer | None) -> list[dict[str, float]]:
    if judge is None:
        rubrics: Any = benchmark.rubrics  # type: ignore[attr-defined]
        return [{name: float(rubrics(each)[name]) for name in RUBRICS} for each in candidates]
    from srum_core.stages.interview import put

    answers = iter(put(judge, [question(name, each) for each in candidates for name in RUBRICS]))
    grades = [{name: grade(next(answers)) for name in RUBRICS} for _ in candidates]
    return [{name: value for name, value in each.items() if value is not None} for each in grades]
