"""Tables at a terminal: numbers and their intervals stay on one line, and intervals are 95 % everywhere."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from attrs import evolve
from rich.console import Console
from rows import each_row

from srum_benchmarks.summary import Cell, Part, part, row
from srum_core.doctor import findings
from srum_core.evaluation import stage, statistics
from srum_core.evaluation.comparison import Comparison, Line, grid
from srum_core.evaluation.formatting import Grid, all_shares, number
from srum_core.evaluation.stage import ImageResult, change
from srum_core.evaluation.statistics import Estimate
from srum_core.evaluation.tables import BenchmarkTable, show
from srum_core.records import Candidate, Prompt, Row

NUMBER = "57.8 [51.8, 63.9]"


def printed(made: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(made)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    return text


@each_row("columns, words", product([1, 2, 3, 5, 9], [0, 200]))
def test_numbers_do_not_wrap(columns: int, words: int) -> None:
    head = ["arm", *(f"measure {n}" for n in range(columns)), "what it is"]
    rows = [[name, *[NUMBER] * columns, "word " * (words // 5)] for name in ("paper", "a-name " * 9)]
    text = printed(Grid(head, rows, "title", "caption", frozenset({columns + 1})))
    assert text.count(NUMBER) == 2 * columns
    assert text.count("word ") >= 2 * (words // 5) - 20
    assert all(f"measure {n}" in text for n in range(columns))
    assert text.count("title") == text.count("caption") == 1


@each_row("width", [24, 30, 40])
def test_numbers_do_not_wrap_where_there_is_hardly_room(width: int) -> None:
    text = printed(Grid(["measure of something", "value"], [["attribute binding", NUMBER]]), width)
    assert NUMBER in text


def test_two_evaluations_stand_beside_each_other_at_80_columns() -> None:
    head = ["measure", "n", "base", "round 1", "change"]
    text = printed(Grid(head, [["attribute binding", "256", NUMBER, NUMBER, "−10.2"]]))
    assert len(text.splitlines()) == 5
    assert "┃   n ┃" in text  # right-aligned


def test_foreign_text_is_no_markup() -> None:
    assert "[/x]" in printed(Grid(["[/x]", "n"], [["[bold]a", "1"]], "[/t]", "[red]"))


@each_row(
    "value, interval, percent, signed, text",
    [
        (0.578125, (0.5176, 0.6392), True, False, "57.8 [51.8, 63.9]"),
        (1.0, (0.51, 1.0), True, False, "100.0 [51.0, 100.0]"),
        (-0.00001, (-0.0625, 0.04), True, True, "+0.0 [−6.2, +4.0]"),
        (0.5, None, True, False, "50.0"),
        (0.578125, (0.5176, 0.6392), False, False, "0.578 [0.518, 0.639]"),
        (7.25, (6.0, 8.5), False, False, "7.25 [6.00, 8.50]"),
        (41.234, (30.0, 52.5), False, False, "41.2 [30.0, 52.5]"),
    ],
)
def test_how_a_number_is_written(
    value: float, interval: tuple[float, float] | None, percent: bool, signed: bool, text: str
) -> None:
    assert number(Estimate(value, *(interval or ())), percent, signed) == text


def test_a_standard_error_is_shown_as_an_interval() -> None:
    assert number(Row("a", 0.5, 9, 0.1), True) == "50.0 [30.4, 69.6]"
    assert number(Row("a", 0.5, 9), True) == "50.0"
    assert number(Row("a", -0.5, 9), digits=2) == "−0.50"
    assert number(None, True) == ""
    assert all_shares([0.95, -1.0])
    assert not all_shares([0.95, 41.2])


def test_a_benchmark_s_table_at_80_columns() -> None:
    rows = tuple(Row(f"spatial relation {n}", 1.0, 1000, low=0.51, high=1.0) for n in range(3))
    reference = tuple(Row(each.name, 0.9, 1000, low=0.51, high=0.95) for each in rows)
    text = printed(show(BenchmarkTable("shapes", "test", "m" * 90, rows, policy="exclude", reference=reference)))
    assert text.count("100.0 [51.0, 100.0]") == text.count("90.0 [51.0, 95.0]") == 3


def test_a_comparison_at_80_columns() -> None:
    columns = tuple((f"column {n}", ()) for n in range(8))
    values = {name: Row(name, 41.2, 9, low=30.0, high=52.5) for name, _ in columns}
    text = printed(grid(Comparison("t", columns, (), (Line("bagel (mine)", values),), ("a note",), 2)))
    assert text.count("41.20 [30.00, 52.50]") == 8
    assert "1. a note" in text


def test_the_doctor_s_costs_at_80_columns() -> None:
    costs = [findings.Cost("training step", 16, 0.123456, 12345.0, 123456.0)]
    assert re.search(r"16 │ +0.123 │ 0.00772 │ \+12345 MiB │ +123456 MiB", printed(findings.costs(costs)))
    text = printed(findings.costs([evolve(costs[0], operation="generate " * 9)]))
    assert "+12345 MiB" in text
    assert "123456 MiB" in text


def test_the_doctor_s_verdicts_are_words() -> None:
    message = (("seeds", "fine"), ("seeds", "wrong"), ("words", "fine"))
    found = [findings.Finding(check, verdict, "") for check, verdict in message]  # type: ignore[arg-type]
    assert findings.verdicts(found).rows == [("seeds", "wrong"), ("words", "fine")]


def test_a_table_as_markdown() -> None:
    made = Grid(["model", "n", "what"], [["a|b", "1", "two\nlines"]], "title", "1. note", frozenset({2}))
    lines = [
        "**title**",
        "",
        "| model | n | what |",
        "| --- | ---: | --- |",
        r"| a\|b | 1 | two lines |",
        "",
        "1. note",
    ]
    assert made.markdown().splitlines() == lines


# ---- changes ---------------------------------------------------------------------------------------------------------


class Judged:
    """Rows that are means, one of them in per cent of a grade up to 100, and one that is none."""

    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> list[Row]:
        rows = (("accuracy", "right", 1.0, 1), ("accuracy, %", "right", 100.0, 1), ("grade", "grade", 1.0, 100))
        found = [
            row(name, [(weight, part(Cell(each.prompt.id, v[measure]) for each, v in scored))], bounds=(0, most))
            for name, measure, weight, most in rows
        ]
        best = max(values["right"] for _, values in scored)
        return [*found, Row("best", best, len(scored), 0.1)]


def changed(
    monkeypatch: pytest.MonkeyPatch, before: Sequence[float], after: Sequence[float], made: object
) -> dict[str, Estimate]:
    def evaluated(values: Sequence[float]) -> list[ImageResult]:
        made = [Candidate(str(n), Prompt(f"p{n}", "a cup"), Path("a.png"), (8, 8), 0) for n in range(len(values))]
        return [ImageResult(c.id, c, {"right": v, "grade": 90 * v}) for c, v in zip(made, values, strict=True)]

    there = {None: evaluated(before), 1: evaluated(after)}
    rows = {
        k: {r.name: r for r in Judged().table([(s.candidate, s.values) for s in each])} for k, each in there.items()
    }
    monkeypatch.setattr(stage, "read_table", lambda _, round: rows.get(round))
    monkeypatch.setattr(stage, "scored", lambda _, round: there[round])
    run = SimpleNamespace(
        settings=SimpleNamespace(round_numbers=(1, 2)), at=lambda *_: SimpleNamespace(benchmark=lambda: made)
    )
    return change(run)  # type: ignore[arg-type]


def test_a_change_is_paired_and_carries_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    found = changed(monkeypatch, before, after, Judged())
    by_hand = statistics.difference(np.array([after]), np.array([before]))
    for name, scale in (("accuracy", 1), ("accuracy, %", 100), ("grade", 90)):
        own = found[name]
        expected = [scale * end for end in (by_hand.value, by_hand.low or 0, by_hand.high or 0)]
        assert [own.value, own.low, own.high] == pytest.approx(expected)


def test_no_change_is_no_certainty_and_its_interval_lies_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = changed(monkeypatch, [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], Judged())
    for name, scale in (("accuracy", 1), ("accuracy, %", 100), ("grade", 100)):
        own = found[name]
        assert (own.value, own.low, own.high) == pytest.approx((0, -0.4899 * scale, 0.4899 * scale), abs=0.01 * scale)


def test_what_is_no_mean_has_a_change_and_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    found = changed(monkeypatch, [0.0, 0.25, 0.25], [0.5, 0.25, 0.0], Judged())
    assert found["best"].value == pytest.approx(0.25)
    found = changed(monkeypatch, [0.0, 0.5, 0.25], [0.25, 0.5, 0.0], Judged())
    assert found["best"] == Estimate(0.0)


def test_a_table_that_refuses_differences_costs_the_interval_only_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Judged):
        def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> list[Row]:
            raise ValueError("scores are 0 or 1")

    assert changed(monkeypatch, [0.0, 1.0], [1.0, 1.0], Refusing())["accuracy"] == Estimate(0.5)
    assert "no table of the differences: scores are 0 or 1" in caplog.text


# ---- groups of prompts -----------------------------------------------------------------------------------------------


def group(*values: float) -> Part:
    return part(Cell(str(n), value) for n, value in enumerate(values))


def test_four_of_four_right_is_no_certainty() -> None:
    found = row("all right", [(1.0, group(1, 1, 1, 1))])
    assert (found.low, found.high) == pytest.approx((0.5101, 1.0), abs=1e-4)
    assert found.error is None
    twice = part(Cell(str(n % 4), 1.0) for n in range(8))  # two images a prompt: prompts count
    assert row("all right", [(1.0, twice)]).low == pytest.approx(0.5101, abs=1e-4)
    grades = row("grades", [(1.0, group(70, 70, 70, 70))], bounds=(0, 100))
    assert (grades.low, grades.high) == pytest.approx((35.71, 84.70), abs=0.01)
    scaled = row("scaled", [(100.0, group(1, 1, 1, 1))])
    assert (scaled.low, scaled.high) == pytest.approx((51.01, 100.0), abs=0.01)


def test_a_group_that_is_all_right_widens_the_mean_of_groups() -> None:
    varied, right = group(1, 0, 1, 0), group(1, 1, 1, 1)
    alone = row("varied", [(0.5, varied)])
    both = row("mean", [(0.5, varied), (0.5, right)])
    assert (alone.low, alone.high) == (0.0, 0.5)
    assert both.value == 0.75
    assert both.low == pytest.approx(0.75 - (0.25**2 + (0.5 * 0.4899) ** 2) ** 0.5, abs=1e-4)
    assert both.high == 1.0


def test_a_group_that_varies_is_resampled_as_ever() -> None:
    varied = row("varied", [(1.0, group(1, 0))])
    assert (varied.low, varied.high) == (0.0, 1.0)
    assert varied.error is not None
