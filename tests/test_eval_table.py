"""`srum eval table`: the paper's numbers add up, say what is doubtful about them, and stand above ours."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from math import fsum
from pathlib import Path

import attrs
import pytest
from rows import each_row

from srum_benchmarks import published
from srum_core.cli.main import main
from srum_core.errors import PluginError
from srum_core.evaluation import tables
from srum_core.evaluation.comparison import Comparison, as_csv, compare, page, read_tables
from srum_core.evaluation.published import Published
from srum_core.evaluation.tables import BenchmarkTable
from srum_core.plugins import discover
from srum_core.records import Row

BENCHMARKS = ("compbench", "geneval", "reasonbench")
IDIOM = BenchmarkTable(
    "reasonbench", "test", "bagel (mine)", (Row("idiom", 41.234, 9, low=30.0, high=52.5), Row("overall", 44.0, 40)),
    judge="remote (qwen)", planned=40, images=40,
)  # fmt: skip


def unequal(published: Published) -> dict[str, float]:
    """Rows whose mean column is not the mean of the others within rounding: by how much it is off."""
    if not published.mean:
        return {}
    place = list(published.columns).index(published.mean)
    off = {}
    for name, values in published.rows.items():
        others = [value for k, value in enumerate(values) if k != place]
        # The mean of rounded numbers is off by half a digit at most, and so is the printed one.
        if abs(fsum(others) / len(others) - values[place]) > 10**-published.digits + 1e-9:
            off[name] = fsum(others) / len(others) - values[place]
    return off


def written(folder: Path, table: BenchmarkTable = IDIOM, judge: str = "j") -> Path:
    tables.write(folder / "tables" / judge / "table.json", table)
    return folder


# ---- what is published -----------------------------------------------------------------------------------------------


def test_the_papers_means_are_the_means_of_their_rows() -> None:
    counted = 0
    for name in BENCHMARKS:
        found = published.read(name)
        assert unequal(found) == {}
        if found.mean:
            place = list(found.columns).index(found.mean)
            for values in found.rows.values():
                others = values[:place] + values[place + 1 :]
                assert sum(others) / len(others) == pytest.approx(values[place], abs=0.006)
                counted += 1
    assert counted == 13 + 3


@each_row(
    "name, about, said",
    [
        ("compbench", "3d Spatial", "Show-O2 has 88.61"),
        ("compbench", "Spatial", "it is BLIP3o's"),
        ("compbench", "Complex", "270 prompts twice"),
        ("compbench", "Overall", "formula of the released script changed"),
        ("compbench", "Bagel (CoT) + SRUM", "82.18 to 86.55, and 84.46 to 88.37"),
        ("geneval", "Color attr.", "0.63 here and 0.82 as its overall"),
        ("geneval", "Bagel", "rewritten prompts"),
        ("reasonbench", "Overall", "49.7"),
        ("reasonbench", "Entity", "cannot be run"),
    ],
)
def test_where_the_paper_contradicts_itself_there_is_a_note(name: str, about: str, said: str) -> None:
    assert said in published.read(name).notes[about]


def test_columns_are_rows_of_the_benchmark() -> None:
    """Names that nobody's table has would leave our cells empty for ever."""
    from srum_benchmarks.compbench import benchmark as scoring
    from srum_benchmarks.geneval.prompts import TAGS
    from srum_benchmarks.reasonbench.prompts import DIMENSIONS

    assert set(published.read("compbench").columns.values()) == {*scoring.BASE, "complex (composite)", "overall"}
    assert list(published.read("geneval").columns.values()) == list(TAGS)
    assert list(published.read("reasonbench").columns.values()) == [*DIMENSIONS, "overall"]


def test_a_row_that_does_not_add_up_is_found() -> None:
    odd = Published(
        "t", "s", {"a": "a", "b": "b", "all": "all"}, {"good": (1.0, 2.0, 1.5), "bad": (1.0, 2.0, 1.6)}, 2, "all"
    )
    assert unequal(odd) == {"bad": pytest.approx(-0.1)}


@each_row(
    "text, said",
    [
        ('title="t"\nsource="s"\n[columns]\na="a"\n[rows]\nm=[1.0, 2.0]\n', "m does not fit its 1 columns"),
        ('title="t"\nsource="s"\n[columns]\na="a"\n[rows]\nm=[1.0]\n[notes]\nb="x"\n', "b does not fit"),
        ('title="t"\nsource="s"\nmean="c"\n[columns]\na="a"\n[rows]\nm=[1.0]\n', "c does not fit"),
        ("title=", "holds no published results"),
        ('title="t"\nextra=1\n', "holds no published results"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(PluginError, match=said):
        Published.read(tmp_path / "odd.toml")


# ---- beside ours -----------------------------------------------------------------------------------------------------


def test_ours_stand_below_with_intervals_and_what_must_be_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "table", str(written(tmp_path))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "**T2I-ReasonBench, reasoning accuracy from 0 to 100. Published: SRUM (arXiv 2510.12784), Table 4"
    )
    body = [line for line in lines if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in body] == [
        "| model", "| ---", "| Bagel", "| Bagel + SFT", "| Bagel + SRUM", "| ours: bagel (mine) [3] [4]",
    ]  # fmt: skip
    assert body[0] == "| model | Entity [1] | Idiom | Scientific | Textual | Overall [2] |"
    assert body[-1].endswith(" |  | 41.23 [30.00, 52.50] |  |  | 44.00 |")
    assert "3. judge: remote (qwen)" in lines
    assert "4. coverage 100.0%: 40 of 40 images" in lines


def test_an_incomplete_one_says_so_and_self_judging_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, attrs.evolve(IDIOM, images=39, self_judged=True))
    assert main(["eval", "table", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Incomplete: less than 99%" in said
    assert "The model judged its own images" in said


def test_benchmarks_and_splits_have_tables_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two forms of WISE above all, which must never share one."""
    row = (Row("overall", 0.5, 10),)
    made = [
        BenchmarkTable(name, split, "m", row)
        for name, split in (("wise", "test"), ("wise-verified", "test"), ("wise", "x"))
    ]
    for number, table in enumerate([*made, attrs.evolve(made[0], model="n")]):
        written(tmp_path / str(number), table)
    assert main(["eval", "table", *(str(tmp_path / str(number)) for number in range(4))]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("**")] == [
        "**wise, test**", "**wise-verified, test**", "**wise, x**",
    ]  # fmt: skip
    assert said.index("| n |") < said.index("wise-verified")
    assert "ours" not in said


def test_a_training_run_has_a_line_before_and_after(tmp_path: Path) -> None:
    for round in ("base", "round-1", "round-11", "round-10"):
        place = tmp_path / "run" / round / "evaluation" / "tables" / "j" / "table.json"
        tables.write(place, attrs.evolve(IDIOM, model=f"m, after {round}"))
    (made,) = compare_all(tmp_path / "run")
    names = [line.name for line in made.ours]
    assert names == [f"m, after {round}, run" for round in ("base", "round-1", "round-10", "round-11")]


def compare_all(*folders: Path) -> list[Comparison]:
    return compare([table for folder in folders for table in read_tables(folder)], discover())


def test_commas_keep_every_digit(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(compare_all(written(tmp_path))))))
    assert len(rows) == 3 * 5 + 2
    (idiom,) = [row for row in rows if row["whose"] == "ours" and row["column"] == "Idiom"]
    assert (idiom["value"], idiom["low"], idiom["high"], idiom["images"]) == ("41.234", "30.0", "52.5", "9")
    assert "judge: remote (qwen)" in idiom["notes"]


def test_a_page_is_well_formed_and_hides_no_markup(tmp_path: Path) -> None:
    text = page(compare_all(written(tmp_path, attrs.evolve(IDIOM, model="<script>x</script>"))))
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    Reader().feed(text)
    assert "script" not in seen
    assert seen.count("tr") == 5
    assert seen.count("td") == 4 * 6
    assert "http" not in text


@each_row("form, begin", [("markdown", "**T2I"), ("csv", "table,model"), ("html", "<!doctype html>")])
def test_it_can_be_written_to_a_file(form: str, begin: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["eval", "table", str(written(tmp_path)), "--format", form, "--out", str(out)]) == 0
    assert out.read_text("utf-8").startswith(begin)


def test_folders_without_a_table_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "table", str(tmp_path)]) == 2
    assert "is neither an evaluation nor a training run" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text("")
    assert main(["eval", "table", str(tmp_path)]) == 2
    assert "has no table yet. Write one with srum eval score" in capsys.readouterr().err
    (tmp_path / "table.json").write_text(json.dumps({"rows": 3}))
    assert main(["eval", "table", str(tmp_path / "table.json")]) == 2
    assert "is not a table of a benchmark" in capsys.readouterr().err


def test_a_benchmark_that_is_not_installed_is_shown_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "table", str(written(tmp_path, attrs.evolve(IDIOM, benchmark="gone")))]) == 0
    assert "**gone, test**" in capsys.readouterr().out


def test_no_heavy_library_is_needed(tmp_path: Path) -> None:
    code = (
        f"import sys; from srum_core.cli.main import main; main(['eval', 'table', {str(written(tmp_path))!r}]);"
        "print(sorted({'torch', 'transformers', 'diffusers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
