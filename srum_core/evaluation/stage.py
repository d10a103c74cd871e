"""checkpoint -> tables: a benchmark's images with the same seeds before and after every round."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import isclose

from attrs import frozen

from srum_core.errors import RecordError, clean
from srum_core.evaluation import benchmarking, tables
from srum_core.evaluation.formatting import Grid, all_shares, estimate, number, units
from srum_core.evaluation.statistics import Estimate
from srum_core.evaluation.tables import BenchmarkTable
from srum_core.files import redo_option
from srum_core.options import Use
from srum_core.protocols import Benchmark
from srum_core.records import Candidate, Exchange, Row
from srum_core.runs.run import Run
from srum_core.runs.store import Records
from srum_core.stages.asking import ask
from srum_core.stages.chunks import Step, chunks
from srum_core.training.selection import duplicates

log = logging.getLogger("srum")
Scores = Sequence[tuple[Candidate, Mapping[str, float]]]


@frozen
class Scored:
    """One image of a benchmark and its measures, as the benchmark read them; none if it is a failure."""

    id: str
    candidate: Candidate
    values: dict[str, float]
    exchanges: tuple[Exchange, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it counts: False for no image of the model, and where a question about it was refused."""
        return not self.candidate.failure and bool(self.values or not self.exchanges)


def scored(run: Run, round: int | None) -> Records[Scored]:
    """What is known about the model after a round (None: before any)."""
    return run.records("evaluate", round, Scored)


def evaluate(run: Run, round: int | None) -> None:
    """Draw and score the benchmark's images, then write table.json."""
    from srum_core.stages.generate import draw

    run = run.at("evaluate", round)
    benchmark, records = run.benchmark(), scored(run, round)
    rounds = round or 0
    plan = {item.id: item for item in run.planned_evaluation()}
    batch, step = run.settings.evaluate.batch, Step("evaluate", round)
    for chunk in chunks(run, list(plan), batch, records, step, load=lambda: run.model(rounds)):
        items = [plan[identity] for identity in chunk]
        generated = draw(
            run.model(rounds), items, records.folder / "images", records, borders=run.settings.evaluate.borders
        )
        usable = [each for each in generated if not each.failure]
        failed = [Scored(each.id, each, {}) for each in generated if each.failure]
        records.extend([*_score(run, rounds, benchmark, usable), *failed])
    if records.done:
        found = list(records.select(plan))
        if found and not any(each.usable for each in found):
            refused = [each.refused for each in found[0].exchanges if each.refused]
            ways = "Ask another answerer" if refused else "Use another adapter.dtype or checkpoint"
            raise RecordError(
                f"None of the {len(found)} images in {records.folder} can be scored: "
                f"{clean([found[0].candidate.failure, *refused][-1])} {ways}, and {redo_option(records.folder)}."
            )
        tables.write(records.folder / "table.json", _table(run, round, benchmark, found))
        if warning := duplicates(_objects(run, None), _objects(run, round)):
            log.warning(warning)


def _table(run: Run, round: int | None, benchmark: Benchmark, found: Sequence[Scored]) -> BenchmarkTable:
    s = run.settings
    after = "before any training" if round is None else f"after round {round}"
    usable = [each for each in found if each.usable]
    pairs = [(each.candidate, each.values) for each in usable]
    asks = any(benchmark.questions(each.candidate) for each in usable)
    models = {exchange.model for each in found for exchange in each.exchanges}
    judge = "self" if s.answerer is None else tables.answered_by(s.answerer, models)
    return tables.make(
        benchmark,
        s.benchmark or Use(""),
        pairs,
        split=s.evaluate.split,
        limit=s.evaluate.limit,
        model=f"{tables.named(s.adapter)}, {after}",
        judge=judge if asks else "",
        self_judged=asks and s.answerer is None,
        planned=len(found),
        borders=run.settings.evaluate.borders,
    )


def _score(run: Run, rounds: int, benchmark: Benchmark, generated: Sequence[Candidate]) -> list[Scored]:
    interviews = benchmarking.ask_all(run, benchmark, generated, lambda questions: ask(run, rounds, questions))
    return [
        Scored(each.candidate.id, each.candidate, benchmarking.measure_heard(benchmark, each), tuple(each.exchanges))
        for each in interviews
    ]


def read_table(run: Run, round: int | None) -> dict[str, Row] | None:
    """A finished evaluation's rows by name, or None."""
    path = run.stage_folder("evaluate", round) / "table.json"
    return tables.read(path).by_name() if path.exists() else None


def _objects(run: Run, round: int | None) -> float | None:
    """Objects found for each one asked for; None where that is not counted."""
    row = (read_table(run, round) or {}).get(benchmarking.EXTRA_OBJECTS)
    return None if row is None else 1 + row.value


def change(run: Run) -> dict[str, Estimate]:
    """What the last evaluation has more than the first, by row, paired image by image; {} without two of them."""
    rounds = [k for k in (None, *run.settings.round_numbers) if read_table(run, k)]
    if len(rounds) < 2:
        return {}
    first, last = (read_table(run, k) or {} for k in (rounds[0], rounds[-1]))
    found = {name: Estimate(last[name].value - row.value) for name, row in first.items() if name in last}
    before = {each.id: each.values for each in scored(run, rounds[0]) if each.usable}
    after = [each for each in scored(run, rounds[-1]) if each.usable and each.id in before]
    try:
        benchmark = run.at("evaluate", rounds[-1]).benchmark()
        paired = _paired(benchmark, [(each.candidate, before[each.id], each.values) for each in after])
    except Exception as error:  # a plugin's table need not take anything but the scores of single images
        log.warning("The change has no interval: the benchmark made no table of the differences: %s", clean(str(error)))
        return found
    for name, (value, below, above) in paired.items():
        if name in found and isclose(value, found[name].value, rel_tol=1e-6, abs_tol=1e-9):
            found[name] = Estimate(value, value - below, value + above)
    return found


def _paired(
    benchmark: Benchmark, pairs: Sequence[tuple[Candidate, Mapping[str, float], Mapping[str, float]]]
) -> dict[str, tuple[float, float, float]]:
    """The benchmark's own table of differences: by row the value, and how far below and above it the interval goes.

    A benchmark knows between what a measure lies; differences lie elsewhere. So the interval comes of their halves, put
    around the middle of the measure (0 to 1, or to 100). For a row that is no mean of measures (the best of several)
    the value is not the difference of the rows."""
    above = {name for _, *both in pairs for values in both for name, value in values.items() if abs(value) > 1}
    differences = [(candidate, {n: new[n] - old[n] for n in new if n in old}) for candidate, old, new in pairs]
    halves = [
        (candidate, {n: ((100 if n in above else 1) + value) / 2 for n, value in each.items()})
        for candidate, each in differences
    ]
    around = {row.name: estimate(row) for row in benchmark.table(halves)}
    return {
        row.name: (row.value, 2 * (half.value - half.low), 2 * (half.high - half.value))
        for row in benchmark.table(differences)
        if (half := around.get(row.name)) and half.low is not None and half.high is not None
    }


def evaluated(run: Run) -> dict[str, dict[str, Row]]:
    """The finished evaluations in order, by what people call them: rows by name."""
    found = {f"round {k}": read_table(run, k) for k in run.settings.round_numbers}
    return {name: rows for name, rows in {"base": read_table(run, None), **found}.items() if rows}


def compare(run: Run) -> Grid | None:
    """The base, every round and the paired change from the first to the last; None if nothing was evaluated."""
    there = evaluated(run)
    if not there:
        return None
    name = run.settings.benchmark.use if run.settings.benchmark else ""
    every = list(there.values())
    changes = change(run)
    percent = all_shares(row.value for rows in every for row in rows.values())
    names = dict.fromkeys(row for rows in every for row in rows)
    notes = dict.fromkeys(row.note for rows in every for row in rows.values() if row.note)
    return Grid(
        ["measure", "n", *there, *(["change"] if len(there) > 1 else [])],
        [
            [
                row,
                str(next(rows[row].count for rows in every if row in rows)),
                *(number(rows.get(row), percent) for rows in every),
                *([number(changes.get(row), percent, signed=True)] if len(there) > 1 else []),
            ]
            for row in names
        ],
        f"{name}, {run.settings.evaluate.split} ({units(percent, 'n images, ')})",
        "\n".join(notes),
    )
