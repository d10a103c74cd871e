"""checkpoint -> tables: evaluate a benchmark's images, with the same seeds before and after every round."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from math import isclose

from attrs import frozen

from srum_core.errors import clean
from srum_core.evaluation import scoring, tables
from srum_core.evaluation.answers import Answers, StoredAnswer, judge
from srum_core.evaluation.formatting import Grid, estimate, measures
from srum_core.evaluation.plan import keep_judge, own_judge
from srum_core.evaluation.run import Evaluation, generate_images
from srum_core.evaluation.statistics import Estimate
from srum_core.evaluation.tables import BenchmarkTable
from srum_core.options import Use
from srum_core.protocols import Benchmark
from srum_core.records import Candidate, Row
from srum_core.runs.run import Run
from srum_core.runs.store import Records, read_list, write_atomic
from srum_core.stages.chunks import Output
from srum_core.training.selection import duplicates
from srum_core.training.trackers import Example, Trackers

log = logging.getLogger("srum")


@frozen
class ImageResult:
    """One image of a benchmark and its measures; a failed image has none."""

    id: str
    candidate: Candidate
    values: dict[str, float]
    usable: bool = True
    """False for a failed image, and if a question about it was refused."""
    answers: tuple[StoredAnswer, ...] = ()
    """In order."""


# ---- evaluating ------------------------------------------------------------------------------------------------------


def evaluate(run: Run, round: int | None) -> None:
    """Generate and score the benchmark's images by the model after a round (None: before training)."""
    evaluation = Evaluation.after(run, round)
    evaluation.begin()
    if table := perform(evaluation, *own_judge(evaluation)):
        write_atomic(evaluation.folder / "DONE", f"{table.planned}\n")
        track(run, round)
        if warning := duplicates(_objects(run, None), _objects(run, round)):
            log.warning(warning)


def track(run: Run, round: int | None) -> None:
    """Log the table so far, and the first images with their measures."""
    if not run.settings.train.trackers:
        return
    tracked = Trackers(run, round, "evaluate")
    ids = [item.id for item in run.planned_evaluation()][: run.settings.train.samples]
    tracked.images("evaluation", lambda: [_example(each) for each in scored(run, round, ids) if each.usable])
    if table := compare(run):
        values = {name: row.value for name, row in (read_table(run, round) or {}).items()}
        tracked.table("evaluation", values, table.head, table.rows)
    tracked.close()


def _example(image: ImageResult) -> Example:
    measures = [f"{name} {value:.3g}" for name, value in image.values.items()]
    return Example(image.candidate.image, "\n".join([clean(image.candidate.prompt.text), *measures]))


def perform(run: Evaluation, name: str, use: Use | None) -> BenchmarkTable | None:
    """Generate, judge (unless `use` is None) and score; return None while other processes are working."""
    generate_images(run)
    done = run.images().done
    if use is not None:
        keep_judge(run, name, use)
        judge(run, name, use, partial=run.source is not None)
        done = run.images().done and Answers(run, name, use).records.done
    return scoring.score(run, name, use) if done else None


def finished(run: Run, round: int | None) -> Output:
    """Return the finished records of the evaluation after a round: answers, or images without a judge."""
    evaluation = Evaluation.after(run, round)
    name, use = own_judge(evaluation)
    return evaluation.images() if use is None else Answers(evaluation, name, use)


# ---- reading ---------------------------------------------------------------------------------------------------------


def scored(run: Run, round: int | None, ids: Iterable[str] | None = None) -> list[ImageResult]:
    """Return the images by the model after a round (None: before training) with measures: all, or `ids` in order."""
    evaluation = Evaluation.after(run, round)
    answers, measured = dict[str, list[StoredAnswer]](), dict[str, scoring.Measures]()
    for path in evaluation.folder.glob("tables/*/images.jsonl"):
        measured = {each.id: each for each in read_list(path, scoring.Measures)}
    for folder in evaluation.folder.glob("answers/*"):
        for answer in Records(folder, StoredAnswer):
            answers.setdefault(answer.image, []).append(answer)
    results = []
    for image in evaluation.images() if ids is None else evaluation.images().select(ids):
        result = measured.get(image.id)
        values, usable = (result.values, result.scored) if result else ({}, False)
        results.append(ImageResult(image.id, image, values, usable, tuple(answers.get(image.id, ()))))
    return results


def table_of(run: Run, round: int | None) -> BenchmarkTable | None:
    """Read a finished evaluation's table, or return None."""
    paths = run.stage_folder("evaluate", round).glob("tables/*/table.json")
    return next((tables.read(path) for path in paths), None)


def read_table(run: Run, round: int | None) -> dict[str, Row] | None:
    """Read a finished evaluation's rows by name, or return None."""
    return table.by_name() if (table := table_of(run, round)) else None


def _objects(run: Run, round: int | None) -> float | None:
    """Return the objects in images per requested object; None if the benchmark does not count them."""
    row = (read_table(run, round) or {}).get(tables.EXTRA_OBJECTS)
    return None if row is None else 1 + row.value


def change(run: Run) -> dict[str, Estimate]:
    """Return the last evaluation minus the first, by row, paired by image; {} with fewer than two evaluations."""
    by_round = _tables(run)
    if len(by_round) < 2:
        return {}
    (start, first), *_, (end, last) = by_round.items()
    before = {each.id: each for each in scored(run, start)}
    pairs = [(before[each.id], each) for each in scored(run, end) if each.id in before]
    return difference(run, first, last, pairs)


def difference(
    run: Run, first: Mapping[str, Row], last: Mapping[str, Row], pairs: Iterable[tuple[ImageResult, ImageResult]]
) -> dict[str, Estimate]:
    """Return the last table minus the first, by row, with intervals over the paired images of both."""
    changes = {name: Estimate(last[name].value - row.value) for name, row in first.items() if name in last}
    usable = [(new.candidate, old.values, new.values) for old, new in pairs if old.usable and new.usable]
    try:
        paired = _paired(run.at("evaluate", None).benchmark(), usable)
    except Exception as error:  # a plugin's table need not accept differences of scores
        log.warning("The change has no interval: the benchmark made no table of the differences: %s", clean(str(error)))
        return changes
    for name, (value, below, above) in paired.items():
        if name in changes and isclose(value, changes[name].value, rel_tol=1e-6, abs_tol=1e-9):
            changes[name] = Estimate(value, value - below, value + above)
    return changes


def _paired(
    benchmark: Benchmark, pairs: Sequence[tuple[Candidate, Mapping[str, float], Mapping[str, float]]]
) -> dict[str, tuple[float, float, float]]:
    """Tabulate differences by the benchmark: by row the value, and the interval's extent below and above it.

    A benchmark's intervals assume the range of its measures (0 to 1, or to 100). So they are computed from halves of
    the differences, centred in that range. For a row that is not a mean of measures (the best of several), the value is
    not the difference of the rows."""
    above = {name for _, *both in pairs for values in both for name, value in values.items() if abs(value) > 1}
    differences = [(candidate, {n: new[n] - old[n] for n in new if n in old}) for candidate, old, new in pairs]
    halves = [
        (candidate, {n: ((100 if n in above else 1) + value) / 2 for n, value in each.items()})
        for candidate, each in differences
    ]
    half_rows = {row.name: estimate(row) for row in benchmark.table(halves)}
    return {
        row.name: (row.value, 2 * (half.value - half.low), 2 * (half.high - half.value))
        for row in benchmark.table(differences)
        if (half := half_rows.get(row.name)) and half.low is not None and half.high is not None
    }


def evaluated(run: Run) -> dict[str, dict[str, Row]]:
    """Return the rows of the finished evaluations by "base" or "round k", in order."""
    return {"base" if k is None else f"round {k}": rows for k, rows in _tables(run).items()}


def _tables(run: Run) -> dict[int | None, dict[str, Row]]:
    return {k: rows for k in (None, *run.settings.round_numbers) if (rows := read_table(run, k))}


def compare(run: Run) -> Grid | None:
    """Tabulate the base, every round, and the paired change from first to last; None if nothing was evaluated."""
    columns = evaluated(run)
    if not columns:
        return None
    name = run.settings.benchmark.use if run.settings.benchmark else ""
    notes = dict.fromkeys(row.note for rows in columns.values() for row in rows.values() if row.note)
    changes = {"change": change(run)} if len(columns) > 1 else {}
    return measures(columns, f"{name}, {run.settings.evaluate.split}", changes, "\n".join(notes))
