"""The shapes benchmark: held-out prompts, and images judged by the exact checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srum_benchmarks import ShapesOptions, summary
from srum_benchmarks.shapes import crowded, world
from srum_benchmarks.shapes.checker import Verdict, check, layout, read
from srum_benchmarks.summary import Cell, Scored
from srum_core.evaluation.statistics import SHARE
from srum_core.evaluation.tables import EXTRA_OBJECTS
from srum_core.records import Candidate, Prompt, Question, Row


class Shapes:
    """`correct` = all required objects and no others, as in the prompt; `fidelity` = share of the required objects."""

    world: Any = world
    measures: tuple[str, ...] = ("fidelity",)

    def __init__(self, options: ShapesOptions | None = None) -> None:
        self.options = options or ShapesOptions()

    def prompts(self, split: str) -> Sequence[Prompt]:
        return self.world.prompts(split, self.options.count or None, self.options.seed, self.options.category)

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return ()

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        verdict = self._check(candidate)
        return {"correct": float(verdict.correct), "fidelity": verdict.fidelity}

    def explain(self, candidate: Candidate, answers: Sequence[str]) -> str:
        verdict = self._check(candidate)
        return "" if verdict.correct else verdict.detail

    def rubrics(self, candidate: Candidate) -> Mapping[str, float]:
        """Layout, whatever the forms are; and detail, wherever things stand. Exact, also for unfinished images."""
        verdict = self._check(candidate)
        return {"layout": layout(verdict.things, candidate.prompt.tags), "detail": verdict.fidelity}

    def _check(self, candidate: Candidate) -> Verdict:
        return check(read(candidate, "The shapes benchmark"), candidate.prompt.tags)

    def table(self, scored: Scored) -> Sequence[Row]:
        """Accuracy per category, then over all images, then the other measures."""
        by_category = {
            name: [(c, s) for c, s in scored if c.prompt.tags["category"] == name] for name in self.world.CATEGORIES
        }
        rows = [_row(name, images, "correct") for name, images in by_category.items() if images]
        if scored:
            rows += [_row("accuracy", scored, "correct"), *(_row(name, scored, name) for name in self.measures)]
        return rows


class Crowded(Shapes):
    """Prompts of the crowded world; one measure more: `extra objects` = how many more objects an image holds than were
    asked for, as a share of those; negative where there are fewer."""

    world = crowded
    measures = ("fidelity", EXTRA_OBJECTS)

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        verdict = self._check(candidate)
        count = len(candidate.prompt.tags["objects"])
        return {
            "correct": float(verdict.correct),
            "fidelity": verdict.fidelity,
            EXTRA_OBJECTS: len(verdict.things) / count - 1,
        }


def _row(name: str, scored: Scored, measure: str) -> Row:
    """Mean, standard error and 95 % interval. Images of one prompt are not independent: the error is clustered by
    prompt text (Liang & Zeger's sandwich with the G / (G - 1) correction), and prompts are resampled for the interval;
    neither with a single prompt."""
    values = np.array([score[measure] for _, score in scored])
    mean = values.mean()
    sums: dict[str, float] = {}
    for (candidate, _), value in zip(scored, values, strict=True):
        sums[candidate.prompt.text] = sums.get(candidate.prompt.text, 0.0) + float(value - mean)
    groups = len(sums)
    error = None
    if groups > 1:
        error = float(np.sqrt(groups / (groups - 1) * sum(s * s for s in sums.values())) / len(values)) or None
    cells = [Cell(candidate.prompt.text, score[measure]) for candidate, score in scored]
    bounds = (-1.0, 3.0) if measure == EXTRA_OBJECTS else SHARE  # 16 cells, 4 objects
    generated = summary.row(name, [(1.0, summary.part(cells))], bounds=bounds)
    return Row(name, float(mean), len(values), error, generated.low, generated.high)
