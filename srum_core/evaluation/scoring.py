"""answers -> tables: a pure function of the records, without a model, torch or a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
from attrs import evolve, frozen

from srum_core.errors import ConfigError, PluginError, RecordError, clean
from srum_core.evaluation import tables
from srum_core.evaluation.answers import SELF, Answers
from srum_core.evaluation.run import Evaluation
from srum_core.evaluation.tables import BenchmarkTable
from srum_core.options import Use
from srum_core.protocols import Benchmark
from srum_core.records import Candidate, Unreadable
from srum_core.runs.files import redo_option
from srum_core.runs.run import started_from
from srum_core.runs.store import write_list

POLICIES = ("exclude", "reference", "zero")


@frozen
class Measures:
    """The measures of one image, and its unreadable answers."""

    id: str
    prompt: str
    number: int
    values: dict[str, float]
    unreadable: tuple[str, ...] = ()
    again: int = 0
    """How many of the unreadable answers may be retried."""

    @property
    def scored(self) -> bool:
        return bool(self.values) or not self.unreadable


def score(run: Evaluation, name: str, judge: Use | None, policy: str = "", partial: bool = False) -> BenchmarkTable:
    """Write `tables/NAME`, and return the table. `judge` is None if the benchmark has no judge.

    Raises RecordError for images with unanswered questions; `partial` leaves them out."""
    use = run.settings.benchmark
    assert use is not None
    use = _with_policy(run, use, policy)
    benchmark: Benchmark = run.registry.create("benchmark", use)
    images = run.generated(partial)
    answers = Answers(run, name, judge) if judge else None
    measured = _measure_all(run, benchmark, images, answers, partial)
    by_id = {each.id: each for each in measured}
    pairs = [(each, by_id[each.id].values) for each in images if each.id in by_id and by_id[each.id].scored]
    if not pairs and answers:
        why = next((text for each in measured for text in each.unreadable), "")
        raise RecordError(
            f"None of the {len(measured)} images of {run.folder} can be scored: {clean(why)} Use another answerer, and "
            f"{redo_option(answers.records.folder)}."
        )
    about: dict[str, Any] = {
        "split": run.settings.evaluate.split,
        "limit": run.settings.evaluate.limit,
        "model": model_name(run),
        "judge": judged_by(answers),
        "self_judged": bool(judge and judge.use == SELF),
        "planned": len(run.plan_images()),
        "again": sum(each.again for each in measured),
        "borders": run.settings.evaluate.borders,
    }
    table = _beside_reference(run, use, tables.make(benchmark, use, pairs, **about), pairs, about)
    folder = run.folder / "tables" / name
    write_list(folder / "images.jsonl", measured)
    tables.write(folder / "table.json", table)
    return table


def model_name(run: Evaluation) -> str:
    """Return the model's name, and its training."""
    name = tables.component_name(run.settings.adapter)
    if run.source and run.source[1] is not None:
        return f"{name}, after round {run.source[1]}"
    if not run.settings.start:
        return f"{name}, before any training" if run.source else name
    trained, rounds = started_from(run.settings.start, run.registry)
    return f"{name}, trained in {trained.folder} to the end of round {rounds}"


def judged_by(answers: Answers | None) -> str:
    """Return the judge's name and, if replies name other models than the requested one, all models that answered."""
    if answers is None:
        return ""
    use = Use(answers.judge.use, {**answers.judge.options, **({"model": answers.by} if answers.by else {})})
    models, name = sorted(answers.models), tables.component_name(use)
    return name if models in ([], [str(use.options.get("model", ""))]) else f"{name}, answered by {', '.join(models)}"


def _with_policy(run: Evaluation, use: Use, policy: str) -> Use:
    options = run.registry.component("benchmark", use.use).options
    has_policy = options is not None and "policy" in attrs.fields_dict(options)
    if policy and not has_policy:
        raise ConfigError(f"{use.use} has no policy for unreadable answers: leave out --failures.")
    return Use(use.use, {**use.options, "policy": policy}) if policy else use


def _measure_all(
    run: Evaluation, benchmark: Benchmark, images: Sequence[Candidate], answers: Answers | None, partial: bool
) -> list[Measures]:
    numbers = run.numbers()
    results = [_measure(benchmark, image, numbers[image.id], answers) for image in images]
    measured = [each for each in results if each is not None]
    unasked = len(results) - len(measured)
    if unasked and not partial:
        raise RecordError(
            f"{unasked} of {len(images)} images of {run.folder} are not judged yet. Judge them with srum eval judge, "
            "or add --partial to score the others."
        )
    if not measured:
        raise RecordError(f"There is nothing to score in {run.folder}.")
    return measured


def _measure(benchmark: Benchmark, image: Candidate, number: int, answers: Answers | None) -> Measures | None:
    """Measure an image; None if a question has no answer. If a question was refused, the image has no measures, unless
    the benchmark has `unreadable`: without it, an empty answer would count as wrong."""
    about = (image.id, image.prompt.id, number)
    if answers is None:
        return Measures(*about, _values(benchmark, image, ()))
    interview, waiting = answers.recall(image)
    vote = interview.votes[0]
    if not all(entry.times for entry in vote):
        return None
    why = tuple(each.why for each in interview.outcome() if isinstance(each, Unreadable))
    refused = any(entry.refused for entry in vote) and not hasattr(benchmark, "unreadable")
    values = {} if refused else _values(benchmark, image, interview.texts(0))
    if vote and not values:
        why = why or ("The benchmark gives no measure.",)
    return Measures(*about, values, why, len(waiting))


def _values(benchmark: Benchmark, image: Candidate, answers: Sequence[str]) -> dict[str, float]:
    """Return the measures of one image. Raises PluginError for one that is not finite."""
    values = {key: float(value) for key, value in benchmark.score(image, answers).items()}
    odd = [key for key, value in values.items() if not math.isfinite(value)]
    if odd:
        who = f"{type(benchmark).__module__}:{type(benchmark).__qualname__}"
        raise PluginError(f"{who} gave image {image.id} a {' and a '.join(odd)} that is not a finite number.")
    return values


def _beside_reference(
    run: Evaluation,
    use: Use,
    table: BenchmarkTable,
    pairs: Sequence[tuple[Candidate, dict[str, float]]],
    about: dict[str, Any],
) -> BenchmarkTable:
    """Return the table, with the rows of the policy "reference" if they differ."""
    if not table.policy or table.policy == "reference" or table.readable == 1.0:
        return table
    other = Use(use.use, {**use.options, "policy": "reference"})
    try:
        reference = tables.make(run.registry.create("benchmark", other), other, pairs, **about)
    except RecordError as error:  # the policy has no result; the error gives the reason
        return evolve(table, reference_refused=str(error))
    one, two = ({row.name: row.value for row in rows} for rows in (table.rows, reference.rows))
    return table if one == two else evolve(table, reference=reference.rows)
