"""`srum report`: what is gathered, and that it is one page with nothing outside it and nothing that escapes."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reporting import ODD, draw, make_ablation, make_run
from rows import each_row
from toy import COMPONENTS

from srum_core.cli import main
from srum_core.errors import RecordError
from srum_core.evaluation.statistics import Estimate
from srum_core.report import charts
from srum_core.report.gallery import choose_ids, data_uri
from srum_core.report.gather import gather
from srum_core.report.page import embedded, render, write_report
from srum_core.runs.run import Run


class Page(HTMLParser):
    """Every element with its attributes, the text of scripts and styles, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.own: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.own[self.cdata_elem].append(data)
        else:
            self.text += data

    @property
    def data(self) -> Any:
        return json.loads(self.own["script"][0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "run", count=7, rounds=2).folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "run"))


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_outside_it(page: Page) -> None:
    links = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href", "data")]
    assert links
    assert all(value and value.startswith(("data:", "#")) for value in links)
    assert not [tag for tag, _ in page.elements if tag in ("iframe", "object", "embed", "base")]
    assert "@import" not in page.own["style"][0]
    assert "url(" not in page.own["style"][0]


def test_nothing_in_the_records_becomes_markup(page: Page) -> None:
    assert len(page.own["script"]) == 2  # the data and ours
    assert not [found for _, found in page.elements if any(name.startswith("on") for name in found)]
    assert not [found for tag, found in page.elements if tag == "img" and found.get("src") == "x"]
    assert ODD in page.text  # settings and measures
    assert "134217728" not in page.text  # no template in them is filled in


def test_only_our_script_may_run(page: Page) -> None:
    import hashlib

    policy = next(found["content"] for tag, found in page.elements if tag == "meta" and "http-equiv" in found)
    digest = base64.b64encode(hashlib.sha256(page.own["script"][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in str(policy)
    assert "default-src 'none'" in str(policy)


def test_words_arrive_as_they_were_said(page: Page) -> None:
    found = page.data["candidates"][0]
    assert found["prompt"] == f"{ODD} picture 0"
    assert found["thought"] == ODD
    assert found["scores"][0]["reason"] == f"{ODD} whole"
    assert found["regions"][0]["label"] == found["scores"][1]["label"] == ODD
    assert found["answers"] == [{"by": ODD, "text": f"{ODD} and \ud800 half a character"}]
    assert page.data["candidates"][1]["failures"][0]["why"] == f"{ODD} unreadable"
    assert page.data["pairs"]["pairs"][2]["prompt"] == f"{ODD} number 2"


def test_embedded_data_is_ascii_and_ends_no_element() -> None:
    text = str(embedded({"a": [ODD, None, 1.5]}))
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"a": [ODD, None, 1.5]}


def test_the_loop_is_told_with_its_failures(page: Page) -> None:
    assert page.text.count("generate\n") == 2
    assert page.text.count("14 regions, 2.0 per image") == 2
    assert page.text.count("1 left out: an answer could not be read") == 2
    assert page.text.count("on 6 images") == 2
    assert "so far" not in page.text


def test_the_tables_are_there_with_the_change(page: Page) -> None:
    for word in ("base", "round 1", "round 2", "50.0", "[40.2, 59.8]", "+10.0", "numbers are in %"):
        assert word in page.text


def test_before_and_after_say_what_is_wrong(page: Page) -> None:
    first = page.data["pairs"]["pairs"][0]
    assert [each["why"] for each in first["images"]] == [f"{ODD} why e0"] * 2


def test_the_settings_are_those_that_the_run_was_made_with(own: Path) -> None:
    path = own / "run.toml"
    path.write_text(path.read_text(encoding="utf-8") + 'torch-then = "0.1"\n', encoding="utf-8")
    assert 'torch-then = "0.1"' in Page(write_report(own).read_text(encoding="utf-8")).text


# ---- what is gathered -----------------------------------------------------------------------------------------------


def test_a_map_is_what_the_runs_map_computes(folder: Path, page: Page) -> None:
    run = Run.open(folder)
    reward_map = run.registry.create("map", run.settings.map)
    judged = {each.candidate: each for each in run.judgements(1)}
    checked = 0
    for found in page.data["candidates"]:
        weights = found["weights"]
        if found["round"] == 1 and "cells" in weights:
            expected = reward_map(judged[found["id"]], (weights["rows"], weights["columns"])).flatten().tolist()
            cells = [(byte - 100) / 100 * weights["scale"] for byte in base64.b64decode(weights["cells"])]
            assert cells == pytest.approx(expected, abs=0.005 + 1e-6)
            assert (weights["rows"], weights["columns"]) == (4, 4)
            checked += 1
    assert checked == 5


def test_where_there_is_no_map_the_reason_is_told(page: Page) -> None:
    _, failed, unknown, *_ = page.data["candidates"]
    assert "could not be read" in failed["weights"]["why"]
    assert "grid is not known" in unknown["weights"]["why"]


def test_weights_are_of_the_scores_that_training_reads(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 7, 1, "select.least=0")
    found = gather(run.folder, 0)["run"]["candidates"]
    assert ["cells" in each["weights"] for each in found] == [True, False, False, True, False, False, False]
    assert all("under select" in each["weights"]["why"] for each in found[4:])


def test_a_map_that_a_judgement_does_not_suffice_for_says_so(own: Path) -> None:
    path = own / "round-1" / "judgements" / "part-0.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8", "surrogatepass").split("\n")[:-1]]
    lines[0]["scores"] = [each for each in lines[0]["scores"] if each["region"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "global" in gather(own, 0)["run"]["candidates"][0]["weights"]["why"]


def test_pairs_are_the_same_prompts_and_seeds_of_the_first_and_last_model(folder: Path, page: Page) -> None:
    found, plan = page.data["pairs"], Run.open(folder).planned_evaluation()
    assert found["names"] == ["base", "round 2"]
    assert [(each["id"], each["seeds"]) for each in found["pairs"]] == [(item.id, [item.seed]) for item in plan]
    before, after = zip(*[each["images"] for each in found["pairs"]], strict=True)
    assert [each["values"]["correct"] for each in before] == [0, 1, 0, 1]
    assert [each["values"]["correct"] for each in after] == [0, 0, 1, 1]
    assert before[0]["src"] != after[0]["src"]
    assert found["measures"] == [{"name": "correct", "binary": True}, {"name": "green", "binary": False}]


def test_a_round_says_what_its_scores_are_like(folder: Path) -> None:
    (judged,) = (each for each in gather(folder, 0)["run"]["rounds"][0]["stages"] if each["stage"] == "judge")
    assert judged["facts"][1:3] == ["local -0.25 on average", "71% of 14 local scores negative"]


def test_a_limit_keeps_the_worst_the_best_and_what_changed_most(folder: Path) -> None:
    found = gather(folder, 3)["run"]
    names = [int(each["prompt"].split()[-1]) for each in found["candidates"] if each["round"] == 1]
    assert len(names) == 3
    assert {0, 6} <= set(names)  # by construction the best and the worst
    assert found["left_out"] == 8
    assert [each["prompt"].split()[-1] for each in found["pairs"]["pairs"]] == ["1", "2", "3"]
    assert found["pairs"]["left_out"] == 1
    assert "8 candidates are not shown" in Page(render(gather(folder, 3))).text


def test_a_choice_is_exact_in_number_and_keeps_the_order() -> None:
    ids = [f"{index:03}" for index in range(100)]
    for limit in (1, 2, 5, 50, 99):
        kept = choose_ids(ids, {name: float(name) for name in ids[::2]}, limit)
        assert len(kept) == limit
        assert kept == sorted(kept)
    assert choose_ids(ids, {}, 0) == ids


def test_small_images_stay_as_they_are_and_large_ones_become_small(tmp_path: Path) -> None:
    tiny, crisp = data_uri(draw(tmp_path / "a.png", 1, 32))
    large, smooth = data_uri(draw(tmp_path / "b.png", 1, 1024))
    assert (crisp, smooth) == (True, False)
    for uri, kind, side in ((tiny, "PNG", 32), (large, "WEBP", 256)):
        with Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            assert (image.format, image.size) == (kind, (side, side))
            assert uri.startswith(f"data:image/{kind.lower()};base64,")


def test_a_run_under_way_is_shown_as_far_as_it_is(own: Path) -> None:
    shutil.rmtree(own / "round-2")
    shutil.rmtree(own / "base")
    for name in ("judgements", "checkpoint", "evaluation", "latents"):
        shutil.rmtree(own / "round-1" / name)
    (own / "round-1" / "metrics.jsonl").unlink()
    found = Page(write_report(own).read_text(encoding="utf-8"))
    assert "so far" in found.text
    assert [each["judged"] for each in found.data["candidates"]] == [False] * 7
    assert found.data["pairs"] is None
    shutil.rmtree(own / "round-1")
    assert "Nothing was made yet" in write_report(own).read_text(encoding="utf-8")


def test_an_image_that_is_gone_is_a_sentence(own: Path) -> None:
    next((own / "round-1" / "candidates" / "images").iterdir()).unlink()
    with pytest.raises(RecordError, match=r"\.png cannot be read .*--redo generate "):
        write_report(own)


@pytest.mark.parametrize("line", ["[1]", '{"step": "a"}', '{"step": 1e400}', '{"step": [1]}'])
def test_a_log_that_holds_no_numbers_is_a_sentence(own: Path, line: str) -> None:
    with (own / "round-1" / "metrics.jsonl").open("a") as log:
        log.write(f"{line}\n")
    with pytest.raises(RecordError, match=r"metrics\.jsonl cannot be read .*--redo train "):
        write_report(own)


# ---- ablations ------------------------------------------------------------------------------------------------------


def test_an_ablation_alone_makes_a_page(tmp_path: Path) -> None:
    make_ablation(tmp_path / "grid")
    found = Page(write_report(tmp_path / "grid").read_text(encoding="utf-8"))
    for word in (f"{ODD} ablation", "0.500", "[0.250, 0.750]", "9.00", "−0.125", "failed", "seed-0/sft"):
        assert word in found.text
    assert "srum ablate --adapter toy" in found.text
    assert len(found.own["script"]) == 2
    (image,) = [value for tag, value in found.elements if tag == "img"]
    assert str(image["src"]).startswith("data:image/svg+xml;base64,")
    assert image["alt"] == ODD


def test_an_ablation_beside_a_run_is_on_its_page(own: Path) -> None:
    make_ablation(own)
    found = Page(write_report(own).read_text(encoding="utf-8"))
    assert "[0.250, 0.750]" in found.text
    assert found.data["candidates"]


@pytest.mark.parametrize("name", ["../secret.svg", "gone.svg"])
def test_a_figure_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    make_ablation(tmp_path / "grid")
    (tmp_path / "secret.svg").write_text("<svg/>")
    path = tmp_path / "grid" / "ablation.json"
    path.write_text(path.read_text().replace("left.svg", name))
    with pytest.raises(RecordError, match=re.escape(name)):
        write_report(tmp_path / "grid")


def test_an_ablation_of_another_form_is_a_sentence(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"title": "a"}'):
        (tmp_path / "ablation.json").write_text(text)
        with pytest.raises(RecordError, match=r"ablation\.json cannot be read"):
            write_report(tmp_path)


# ---- charts ---------------------------------------------------------------------------------------------------------


def test_lines_differ_in_style_and_carry_their_names_and_last_values() -> None:
    lines = {name: [(1.0, value), (2.0, value + 1)] for name, value in (("a<b", 0.0), ("c", 0.01))}
    svg = charts.line_chart("Title", lines, {1.0: "round 1"})
    assert 'class="line s0"' in svg
    assert 'class="line s1"' in svg
    assert "a&lt;b 1" in svg
    assert "c 1.01" in svg
    places = [float(y) for y in re.findall(r'<text class="label" x="[\d.]+" y="([\d.]+)"', svg)]
    assert abs(places[0] - places[1]) >= 12  # labels that would lie on each other are moved apart


def test_what_was_not_measured_is_a_gap_and_no_zero() -> None:
    svg = charts.line_chart("T", {"a": [(1.0, 1.0), (2.0, None), (3.0, 1.0)]}, {})
    assert svg.count("M") - svg.count('class="grid"') >= 2
    path = re.findall(r'class="line s0" d="(M[^"]+)"', svg)[0]
    assert path.count("M") == 2
    assert not charts.line_chart("T", {"a": [(1.0, None)]}, {})


@each_row("low, high", [(0, 1), (-3, 7), (0.0019, 0.0021), (1e-9, 1e-8), (-1e6, 1)])
def test_ticks_hold_the_data_between_them(low: float, high: float) -> None:
    marks = charts.ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 8


@each_row("value", [0.0, 5.0, -2.5, 3e-4])
def test_a_constant_curve_has_no_other_numbers_at_its_axis(value: float) -> None:
    near = value * (1 + 1e-9)
    svg = charts.line_chart("T", {"a": [(1.0, value), (2.0, near), (3.0, value)]}, {}, smooth=True)
    labels = re.findall(r'<text class="tick"[^>]*text-anchor="end">([^<]*)<', svg)
    assert labels == [charts.number(value)]
    assert {float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)(?=[LMh\"])", svg.split('class="line s0" d="')[1])} == {
        97.0
    }
    rows = {"measure": Estimate(value)}
    same = charts.dumbbells("T", {"base": rows, "round 1": rows})
    assert same.count(f">{charts.number(value)}<") == 1


def test_the_axis_of_shares_is_in_percent_as_the_table_below_it_is() -> None:
    svg = charts.dumbbells("T", {"base": {"measure": Estimate(0.5, 0.0, 1.0)}}, percent=True)
    assert re.findall(r'text-anchor="middle">([^<]*)<', svg) == ["0", "20", "40", "60", "80", "100"]
    assert "base: measure 50" in svg


def test_many_steps_are_smoothed_within_their_round_over_the_raw_ones() -> None:
    points = [(float(x), float(x % 2 + 10 * (x > 100))) for x in range(1, 201)]
    means = charts.smoothed(points, [1.0, 101.0])
    values = [y for _, y in means if y is not None]
    assert all(0.3 < y < 0.7 for y in values[:100])
    assert all(10.3 < y < 10.7 for y in values[100:])
    assert charts.smoothed(points[:39], [1.0]) == []
    assert charts.smoothed([*points[:99], (100.0, None)], [1.0])[-1] == (100.0, None)
    svg = charts.line_chart("T", {"a": points}, {1.0: "round 1", 101.0: "round 2"}, smooth=True)
    assert [svg.count('class="line s0 raw"'), svg.count('class="line s0" d="M5')] == [1, 1]
    assert svg.index("raw") < svg.index('class="line s0" d="M5')
    assert "raw" not in charts.line_chart("T", {"a": points}, {})


def test_long_trainings_are_thinned_by_means() -> None:
    thinned = charts.thin([(float(x), float(x % 2)) for x in range(3000)])
    assert len(thinned) == 300
    assert {y for _, y in thinned} == {0.5}


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_the_command_says_where_the_page_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["report", str(folder), "--out", "page.html", "--limit", "2"]) == 0
    assert capsys.readouterr().out == "The report is in page.html\n"
    assert len(Page((tmp_path / "page.html").read_text(encoding="utf-8")).data["candidates"]) == 4


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report", str(tmp_path)]) == 2
    assert "There is nothing to report" in capsys.readouterr().err


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    (tmp_path / "words.txt").write_text("a cat\na dog\n")
    small = ["train.steps=2", "train.mixed_precision=no", "--out", str(tmp_path / "run")]
    return [*COMPONENTS, f'prompts="{tmp_path / "words.txt"}"', *small]


@pytest.mark.slow
def test_training_ends_with_the_report(training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.train_main(training) == 0
    path = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out.endswith(f"The report is in {path}\n")
    found = Page(path.read_text(encoding="utf-8")).data
    assert len(found["candidates"]) == 2
    assert all("cells" in each["weights"] for each in found["candidates"])
    assert len(found["pairs"]["pairs"]) == 3


@pytest.mark.slow
def test_a_report_that_fails_leaves_the_run_finished(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> Path:
        raise RecordError("The image x.png cannot be read.")

    monkeypatch.setattr("srum_core.report.page.write_report", fails)
    assert main.train_main(training) == 2
    said = capsys.readouterr()
    assert "The run is in" in said.out
    assert "The image x.png cannot be read." in said.err
    assert "srum report" in said.err
    assert (tmp_path / "run" / "round-1" / "evaluation" / "DONE").exists()
