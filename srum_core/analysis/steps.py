"""Scores along the sampling steps (paper, Figure 4): the clean estimate at chosen steps, for layout and for detail."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from srum_core.analysis.models import Subject, refuse_without
from srum_core.errors import ConfigError, PluginError
from srum_core.protocols import Answerer, Benchmark
from srum_core.records import Candidate, Question
from srum_core.runs.progress import progress
from srum_core.runs.run import Planned
from srum_core.runs.store import Records

if TYPE_CHECKING:
    from PIL.Image import Image

RUBRICS = ("layout", "detail")
USUAL = (0, 2, 4, 8, 12, 16, 24, 32, 40, 48)
"""The default steps, as far as there are so many; the last one is always included."""
_ASKED = {
    "layout": (
        "Grade only the layout: whether every thing that the words ask for is there, as often as asked, and where they "
        "say, in a sensible size. Pay no heed to blur, noise or texture."
    ),
    "detail": (
        "Grade only the details: whether each thing that can be seen has the colour, material and form that the words "
        "give it, and how cleanly it is drawn. Pay no heed to where things stand or to what is missing."
    ),
}
"""Our wording: the paper gives none."""
_GRADE = re.compile(r'"score"\s*:\s*(-?\d+(?:\.\d+)?)\s*[,}]')


@frozen
class Snapshot:
    """What an image was worth at one step; `id` is IMAGE-STEP. A rubric whose answer could not be read is not in
    `scores`."""

    id: str
    image: str
    step: int
    scores: dict[str, float] = field(hash=False)
    """From 0 to 1."""


def question(rubric: str, candidate: Candidate) -> Question:
    """The judge does not get the step."""
    text = (
        f'A picture was asked for with these words: "{candidate.prompt.text}"\n{_ASKED[rubric]}\nAnswer with JSON '
        'only: {"score": N, "reason": "one sentence"}, N from 0 (nothing of it) to 100 (perfect).'
    )
    return Question(candidate.image, text, max_new_tokens=200)


def grade(answer: str) -> float | None:
    """The one score in an answer as a fraction; None where there is none, several, or one out of range."""
    found = _GRADE.findall(answer)
    if len(found) != 1 or not 0 <= float(found[0]) <= 100:
        return None
    return float(found[0]) / 100


def chosen(text: str, count: int) -> list[int]:
    """Steps out of "0,4,23", of `count` there are; the usual ones without a text. Raises ConfigError."""
    if not text:
        return sorted({*(step for step in USUAL if step < count), count - 1})
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) < count for word in words):
        raise ConfigError(f"--steps {text}: it should be numbers from 0 to {count - 1}, with commas between them.")
    return sorted({int(word) for word in words})


def times(subject: Subject) -> list[float]:
    """The times that the model's steps start at. Raises ConfigError without `sampling_times` or `trace`."""
    model = subject.run.model(subject.rounds)
    refuse_without(model, ("sampling_times", "trace"), subject, "srum analyze steps")
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
    """Generate every image, store its estimates at `steps`, and score each. Existing files are not made again."""
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
            looked = [
                (item, step, _keep(item, step, image, folder))
                for item, images in zip(items, generated, strict=True)
                for step, image in zip(steps, images, strict=True)
            ]
            scores = _scores([each for *_, each in looked], benchmark, judge)
            records.extend(
                Snapshot(f"{item.id}-{step}", item.id, step, found)
                for (item, step, _), found in zip(looked, scores, strict=True)
            )
            advance(len(items))
    wanted = [f"{item.id}-{step}" for item in plan for step in steps]
    return list(records.select(wanted))


def _keep(item: Planned, step: int, image: Image, folder: Path) -> Candidate:
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
    found = [{name: grade(next(answers)) for name in RUBRICS} for _ in candidates]
    return [{name: value for name, value in each.items() if value is not None} for each in found]
