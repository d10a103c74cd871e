"""`srum report RUN RUN`: what is paired, what is shown, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reporting import make_run, score
from rows import each_row
from toy import COMPONENTS

from srum_core.cli import main
from srum_core.config import load_settings
from srum_core.errors import RecordError
from srum_core.evaluation.statistics import Z
from srum_core.plugins import discover
from srum_core.report.comparison import gather_comparison
from srum_core.report.page import write
from srum_core.runs.run import Run

MEAN = "benchmark=reporting:Mean"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of two rounds: `reference`, `better`, and `other`, which has another seed."""
    home = tmp_path_factory.mktemp("runs")
    score(make_run(home / "reference", 4, 2, MEAN), 2, 0, 0, 1, 1)
    score(make_run(home / "better", 4, 2, MEAN, "train.lr=1e-4"), 2, 1, 0, 1, 1)
    score(make_run(home / "other", 4, 2, MEAN, "seed=7"), 2, 0, 1, 0, 0)
    return home


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """Copies to be changed."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def three(home: Path) -> list[Path]:
    return [home / name for name in ("reference", "better", "other")]


# ---- what is paired --------------------------------------------------------------------------------------------------


def test_a_change_is_against_the_first_run_with_a_paired_interval(made: Path) -> None:
    data, table = gather_comparison(three(made), 0)
    changes = data["run"]["changes"]
    assert list(changes) == ["better − reference", "other − reference"]
    better = changes["better − reference"]["correct"]
    half = Z * 0.5 / 2  # of 1, 0, 0, 0: standard deviation 0.5, four images
    assert (better.value, better.low, better.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert changes["other − reference"]["correct"].value == pytest.approx(-0.25)
    assert changes["other − reference"]["correct"].low is not None  # paired by prompt, although seeds differ
    assert table.head == ["measure", "n", "reference", "better", "other", *changes]
    assert table.rows[0][2:5] == ["50.0 [−6.6, 106.6]", "75.0 [26.0, 124.0]", "25.0 [−24.0, 74.0]"]
    assert table.rows[0][5] == "+25.0 [−24.0, +74.0]"


def test_whether_seeds_are_the_same_is_noted(made: Path) -> None:
    for names, word in (
        (["reference", "better"], "the same image seeds"),
        (["reference", "other"], "other image seeds"),
    ):
        data, table = gather_comparison([made / name for name in names], 0)
        assert word in table.caption
        assert word in data["run"]["notes"][0]


def test_images_of_the_same_prompt_are_beside_each_other(made: Path) -> None:
    found = gather_comparison(three(made), 0)[0]["run"]["pairs"]
    assert found["names"] == ["reference", "better", "other"]
    assert [len(each["images"]) for each in found["pairs"]] == [3] * 4
    assert [[image["values"]["correct"] for image in each["images"]] for each in found["pairs"]] == [
        [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 0],
    ]  # fmt: skip
    assert [len(each["seeds"]) for each in found["pairs"]] == [2] * 4
    assert gather_comparison(three(made), 2)[0]["run"]["pairs"]["left_out"] == 2


def test_a_round_can_be_chosen(made: Path) -> None:
    data, table = gather_comparison(three(made)[:2], 0, 1)
    assert "reference after round 1, better after round 1" in table.caption
    assert data["run"]["changes"]["better − reference"]["correct"].value == 0


def test_runs_of_one_name_are_named_by_their_paths(own: Path) -> None:
    for home in ("one", "two"):
        (own / home).mkdir()
    folders = [(own / name).rename(own / home / "run") for home, name in (("one", "reference"), ("two", "better"))]
    assert gather_comparison(folders, 0)[1].head[2:4] == ["one/run", "two/run"]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_curves_of_several_runs_share_axes(made: Path) -> None:
    text = write(made / "page.html", gather_comparison(three(made), 0)[0]).read_text(encoding="utf-8")
    charts = re.findall(r"<figcaption><b>(.*?)</b>.*?</figcaption>(<svg.*?</svg>)", text)
    known = dict(charts)
    for title in ("Loss", "Learning rate", "correct"):
        assert [known[title].count(f'class="line s{index}" d="M5') > 0 for index in range(3)] == [True] * 3, title
        for name in ("reference", "better", "other"):
            assert f">{name} " in known[title]
    assert "round (0: before training)" in known["correct"]
    for words in ("train.lr", "0.0001", "seed", "better − reference"):
        assert words in text
    assert "judges" not in text.partition('id="settings"')[2].partition("</table>")[0]  # which do not differ


def test_the_command_prints_the_table_and_writes_the_page(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["report", *map(str, three(made)), "--out", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    for words in ("better − reference", "+25.0 [", "−25.0 [", f"The report is in {tmp_path / 'page.html'}"):
        assert words in out
    assert all(len(line) <= 80 for line in out.splitlines()[:-1])


# ---- what is refused -------------------------------------------------------------------------------------------------


def limited(home: Path) -> Path:
    return make_run(home / "limited", 4, 1, MEAN, "evaluate.limit=2").folder


def unfinished(home: Path) -> Path:
    (home / "better" / "round-2" / "evaluation" / "DONE").unlink()
    return home / "better"


def other_judge(home: Path) -> Path:
    score(Run.open(home / "better"), 2, 1, 1, 1, 0, judge="another")
    return home / "better"


def more_images(home: Path) -> Path:
    return make_run(home / "more", 4, 1, MEAN, "evaluate.images=2").folder


def without_benchmark(home: Path) -> Path:
    registry, given = discover(), [each.lstrip("-") for each in COMPONENTS if "benchmark" not in each]
    return Run.create(home / "bare", load_settings(None, (), None, given, registry), registry).folder


def linked(home: Path) -> Path:
    (home / "link").symlink_to("reference")
    return home / "link"


def unevaluated(home: Path) -> Path:
    for folder in (home / "better").glob("*/evaluation"):
        shutil.rmtree(folder)
    return home / "better"


@each_row(
    "other, words",
    [
        (limited, r"do not share their prompts: 2 images have the same ones, of 4 and 2\. .*evaluate\.limit"),
        (unfinished, r"better has not finished the evaluation after round 2; evaluated is base, round 1, round 2"),
        (other_judge, r"not evaluated in the same way.*judge is none of reference, another of better"),
        (more_images, r"do not share their prompts: 4 images have the same ones, of 4 and 8\. .*evaluate\.images"),
        (without_benchmark, r"bare has no benchmark, so there is nothing to compare"),
        (lambda home: home / "reference", r"A run is named twice"),
        (lambda home: home / "better/../reference", r"A run is named twice"),
        (linked, r"A run is named twice"),
        (unevaluated, r"better has not finished the evaluation after round 2; evaluated is nothing\. Finish it"),
        (lambda home: home, r"is not the folder of a run"),
    ],
)
def test_runs_that_cannot_be_compared_are_a_sentence(
    other: Callable[[Path], Path], words: str, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = Path(shutil.copytree(made, tmp_path_factory.mktemp("refused") / "runs"))
    with pytest.raises(RecordError, match=words):
        gather_comparison([home / "reference", other(home)], 0)


def test_a_round_of_one_run_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report", str(made / "better"), "--round", "1"]) == 2
    assert "takes two runs or more" in capsys.readouterr().err


def test_runs_on_several_drives_are_named_by_their_whole_paths(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_on_windows(paths: list[Path]) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("srum_core.report.comparison.os.path.commonpath", as_on_windows)
    assert gather_comparison(three(made)[:2], 0)[1].head[2:4] == [str(made / "reference"), str(made / "better")]


def test_a_limit_below_zero_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report", str(made / "better"), "--limit", "-5"]) == 2
    assert "--limit -5: it is a number of images, or 0 for all." in capsys.readouterr().err


def test_images_without_a_score_leave_the_change_without_an_interval(own: Path) -> None:
    path = own / "better" / "round-2" / "evaluation" / "tables" / "rules" / "images.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= {"values": {}, "unreadable": ["no answer"]}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gather_comparison(three(own)[:2], 0)[0]["run"]["changes"]["better − reference"]["correct"]
    assert (found.value, found.low) == (0.25, None)
