"""Judges: what they ask, and what they make of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_core.config import load_settings
from srum_core.errors import ConfigError
from srum_core.models import templates
from srum_core.plugins import discover
from srum_core.records import BoxFormat, Candidate, Prompt, Question, Region, Score, Unreadable
from srum_judges.grounders.native import Native
from srum_judges.judges import GlobalLayout, LocalRegions, Sample, Zoom, show, widened
from srum_judges.options import LayoutOptions, RegionsOptions, SampleOptions, ScriptedOptions, ZoomOptions
from srum_judges.rules import penalised
from srum_judges.scripted import Scripted

CANDIDATE = Candidate("c", Prompt("p", 'a "red" {regions} cup'), Path("c.png"), (64, 48), 0)
REGIONS = (Region("1", (0.0, 0.0, 0.5, 0.5)), Region("2", (0.25, 0.5, 1.0, 1.0)), Region("3", (0.1, 0.1, 0.2, 0.2)))


PIECES = [
    "Region ID: ",
    "Region 2",
    "Score: ",
    "Reason: ",
    "Identified Object: ",
    "1",
    "2",
    "0.5",
    "-",
    "−",
    ".",
    "8/10",
]
PIECES += [
    "---",
    "\n",
    "\n\n",
    "\r\n",
    "**",
    "<think>",
    "</think>",
    " ",
    "1.0",
    "9",
    ":",
    '"',
    "Overall ",
    "x",
    "½",
    "\x00",
]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)), st.booleans())
def test_any_answer_gives_scores_in_range_or_unreadable(text: str, strict: bool) -> None:
    judges = [
        (GlobalLayout(LayoutOptions(require_reason=strict)), [None]),
        (Sample(SampleOptions(require_reason=strict)), [None]),
        (LocalRegions(RegionsOptions(require_reason=strict)), ["1", "2", "3"]),
        (Zoom(ZoomOptions(require_reason=strict)), ["1", "2", "3"]),
    ]
    for judge, expected in judges:
        asked = len(judge.questions(CANDIDATE, REGIONS))
        found = judge.scores(CANDIDATE, REGIONS, [text] * asked)
        assert [item.region for item in found] == expected
        for index, item in enumerate(found):
            assert isinstance(item, Unreadable) or -1 <= item.value <= 1
            assert isinstance(item, Score) or (item.question == min(index, asked - 1) and item.why)
            assert isinstance(item, Unreadable) or (item.stated is None) == (not item.rules)
            assert item.judge == judge.name


def test_layout_question() -> None:
    (question,) = GlobalLayout(LayoutOptions(max_new_tokens=7, think=False)).questions(CANDIDATE, REGIONS)
    assert question.image == CANDIDATE.image
    assert 'picture: "a "red" {regions} cup"' in question.text
    assert (question.max_new_tokens, question.think, question.temperature) == (7, False, 0.0)
    for word in (
        "-1.0 to 1.0",
        "- 1.0:",
        "- 0.5 to 0.9:",
        "- -0.4 to 0.4:",
        "- -0.9 to -0.5:",
        "- -1.0:",
        "Score:",
        "Reason:",
    ):
        assert word in question.text


def test_regions_question() -> None:
    (question,) = LocalRegions(RegionsOptions()).questions(CANDIDATE, REGIONS[:2])
    assert (
        "Region ID: 1\nBounding Box: [0, 0, 32, 24]\n---\nRegion ID: 2\nBounding Box: [16, 24, 64, 48]\n"
        in question.text
    )
    assert "{regions} cup" in question.text  # braces in a prompt are left alone
    for word in (
        "- 1.0:",
        "- 0.5 to 0.9:",
        "- -0.4 to 0.4:",
        "- -0.9 to -0.5:",
        "- -1.0:",
        "Identified Object:",
        "Reason:",
    ):
        assert word in question.text
    assert LocalRegions().questions(CANDIDATE, ()) == []
    assert LocalRegions().scores(CANDIDATE, (), []) == []


def test_regions_are_asked_about_in_groups() -> None:
    judge = LocalRegions(RegionsOptions(per_question=2, require_reason=False, grounded=False))
    first, second = judge.questions(CANDIDATE, REGIONS)
    assert "Region ID: 3\nBounding" not in first.text
    assert "Region ID: 3\nBounding" in second.text
    found = judge.scores(CANDIDATE, REGIONS, ["Region ID: 1\nScore: 0.1\nRegion ID: 3\nScore: 0.9", "nothing"])
    assert [(item.region, getattr(item, "value", None)) for item in found] == [("1", 0.1), ("2", None), ("3", None)]
    assert [item.question for item in found if isinstance(item, Unreadable)] == [0, 1]


PENALTY = [
    (-1.0, -0.9),
    (-0.9, -0.842857),
    (-0.8, -0.785714),
    (-0.6, -0.671429),
    (-0.5, -0.614286),
    (-0.3, -0.5),
    (-0.2, -0.333333),
    (-0.1, -0.166667),
    (0.0, 0.0),
    (0.1, 0.1),
    (0.55, 0.55),
    (1.0, 1.0),
]


@each_row("stated, counts", PENALTY)
def test_penalty(stated: float, counts: float) -> None:
    assert penalised(stated) == pytest.approx(counts, abs=1e-6)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_the_penalty_keeps_the_order_and_its_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert penalised(low) <= penalised(high)
    assert abs(penalised(high) - penalised(low)) <= 5 / 3 * (high - low) + 1e-12  # no jump
    for value in (low, high):
        if value >= 0:
            assert penalised(value) == value
        elif value <= -0.3:
            assert -0.9 <= penalised(value) <= -0.5
        else:
            assert -0.5 <= penalised(value) < 0 or penalised(value) == 0  # the smallest numbers there are


HORSE = Candidate("c", Prompt("p", "a microwave hidden by a horse"), Path("c.png"), (64, 48), 0)
TABLE_8 = [
    ("A brown horse with a white blaze and white socks.", "0.95"),
    ("A microwave.", "0.50"),
    ("The floor.", "0.00"),
]


def region_score(label: str, stated: str, candidate: Candidate = HORSE, **options: Any) -> Score:
    """What the local judge and the zoom judge, which must agree, make of it."""
    said = f"Identified Object: {label}\nScore: {stated}\nReason: x"
    (local,) = LocalRegions(RegionsOptions(**options)).scores(candidate, REGIONS[:1], [f"Region ID: 1\n{said}"])
    (zoomed,) = Zoom(ZoomOptions(**options)).scores(candidate, REGIONS[:1], [said])
    assert isinstance(local, Score)
    assert isinstance(zoomed, Score)
    assert (local.judge, zoomed.judge) == ("local-regions", "zoom")
    assert (local.value, local.stated, local.rules, local.label) == (zoomed.value, zoomed.stated, zoomed.rules, label)
    return local


@each_row("label, stated", TABLE_8)
def test_the_rules_leave_the_scores_of_table_8_alone(label: str, stated: str) -> None:
    score = region_score(label, stated)
    assert (score.value, score.stated, score.rules) == (float(stated), None, ())


def test_an_object_that_the_prompt_does_not_name_stays_in_the_neutral_band() -> None:
    score = region_score("The floor.", "0.95")
    assert (score.value, score.stated) == (0.4, 0.95)
    (rule,) = score.rules
    for words in ("The floor.", "microwave, horse", "0.4"):
        assert words in rule
    assert region_score("", "0.95").value == 0.4  # nothing said is nothing named
    assert region_score("The floor.", "0.95", neutral_band=0.1).value == 0.1
    assert region_score("The floor.", "0.3").stated is None
    assert region_score("The floor.", "0.95", grounded=False).value == 0.95
    assert region_score("The floor.", "0.95", neutral_band=1.0).value == 0.95
    unreadable = Candidate("c", Prompt("p", "一匹马"), Path("c.png"), (64, 48), 0)
    assert region_score("The floor.", "0.95", unreadable).value == 0.95


def test_severe_distortions_are_penalised_whatever_they_are() -> None:
    for label in ("A horse", "The floor."):
        score = region_score(label, "-0.6")
        assert score.value == pytest.approx(-0.671429, abs=1e-6)
        assert score.stated == -0.6
        assert score.rules == ("Non-linear penalty: -0.6 counts as -0.671.",)
    assert region_score("A horse", "-0.6", penalty=False).value == -0.6
    assert region_score("A horse", "-0.6", penalty=False).rules == ()


def test_synonyms_are_an_option_of_the_regional_judges(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("horse, steedlet", encoding="utf-8")
    assert region_score("a steedlet", "0.9").value == 0.4
    assert region_score("a steedlet", "0.9", synonyms=str(file)).value == 0.9
    for judge in (
        lambda: LocalRegions(RegionsOptions(synonyms="none.txt")),
        lambda: Zoom(ZoomOptions(synonyms="none.txt")),
    ):
        with pytest.raises(ConfigError, match=r"none\.txt"):
            judge()


@pytest.mark.parametrize("preset", ["shapes", "released"])
def test_presets_that_take_the_numbers_as_they_come(preset: str) -> None:
    """Neither the bundled model's calibrated labels nor the release know the rules."""
    registry = discover()
    settings = load_settings("bagel", [preset], None, [], registry)
    layout, local = (registry.create("judge", use) for use in settings.judges)
    candidate = Candidate("c", Prompt("p", "a picture of a tree"), Path("c.png"), (64, 48), 0)
    for value in (-1.0, -0.6, 0.8, 1.0):
        said = f"Identified Object: floor\nScore: {value}\nReason: x"
        (whole,) = layout.scores(candidate, REGIONS[:1], [said])
        (part,) = local.scores(candidate, REGIONS[:1], [f"Region ID: 1\n{said}"])
        assert (whole.value, whole.rules, part.value, part.rules) == (value, (), value, ())
    if preset == "released":
        assert settings.grounder.options["top"] == 10
        assert (settings.grounder.use, settings.ground.duplicates, settings.verifier) == ("sam", 1.0, None)


def test_zoom_asks_about_a_part_of_the_image_for_every_region() -> None:
    judge = Zoom(ZoomOptions(margin=0.1, max_new_tokens=9, think=False))
    questions = judge.questions(CANDIDATE, REGIONS)
    assert [question.crop for question in questions] == [widened(region.box, 0.1) for region in REGIONS]
    assert {question.text for question in questions} == {questions[0].text}
    assert 'picture: "a "red" {regions} cup"' in questions[0].text
    assert (questions[0].image, questions[0].max_new_tokens, questions[0].think) == (CANDIDATE.image, 9, False)
    assert judge.questions(CANDIDATE, ()) == []
    answers = ["Identified Object: cup\nScore: 0.5\nReason: x", "none", "Score: -1\nReason: y"]
    first, second, third = judge.scores(CANDIDATE, REGIONS, answers)
    assert first == Score(0.5, "1", "x", "zoom", "cup")
    assert isinstance(second, Unreadable)
    assert (second.question, second.region) == (1, "2")
    assert (third.region, getattr(third, "value", None)) == ("3", -0.9)


def test_a_widened_box_stays_in_the_image() -> None:
    assert widened((0.25, 0.5, 0.75, 1.0), 0.5) == (0.0, 0.25, 1.0, 1.0)
    assert widened((0.25, 0.5, 0.75, 0.75), 0.0) == (0.25, 0.5, 0.75, 0.75)
    assert widened((0.0, 0.9, 0.001, 1.0), 1.0) == pytest.approx((0.0, 0.8, 0.002, 1.0))


def test_sample_scores_the_image_as_a_whole() -> None:
    judge = Sample(SampleOptions(max_new_tokens=9, think=False))
    (question,) = judge.questions(CANDIDATE, REGIONS)
    assert 'picture: "a "red" {regions} cup"' in question.text
    assert (question.crop, question.max_new_tokens, question.think) == (None, 9, False)
    (score,) = judge.scores(CANDIDATE, REGIONS, ["**Overall Impression:** A bent cup.\nScore: -0.8\nReason: bent"])
    assert score == Score(-0.8, None, "bent", "sample", "A bent cup.")
    (score,) = judge.scores(CANDIDATE, REGIONS, ["Overall Score: 0.8\nReason: fine"])
    assert score == Score(0.8, None, "fine", "sample")
    assert isinstance(judge.scores(CANDIDATE, (), ["Score: 0.8"])[0], Unreadable)


def test_boxes_are_shown_in_the_unit_asked_for() -> None:
    box = (0.1, 0.25, 21 / 30, 0.999)
    assert show(box, (30.0, 40.0)) == "[3, 10, 21, 40]"
    assert show(box, (1000.0, 1000.0)) == "[100, 250, 700, 999]"
    assert show(box, (1.0, 1.0)) == "[0.100, 0.250, 0.700, 0.999]"
    assert show((0.51, 0.51, 0.52, 0.52), (10.0, 10.0)) == "[5, 5, 6, 6]"


def test_short_templates_are_short() -> None:
    (layout,) = GlobalLayout(LayoutOptions("short-layout")).questions(CANDIDATE, ())
    assert layout.text == f"Prompt: {CANDIDATE.prompt.text}\nRate the layout."
    (regions,) = LocalRegions(RegionsOptions("short-regions", boxes="thousand")).questions(CANDIDATE, REGIONS[:1])
    listed = "Region ID: 1\nBounding Box: [0, 0, 500, 500]\n"
    assert regions.text == f"Prompt: {CANDIDATE.prompt.text}\n{listed}Rate each region."


def test_template_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Rate {prompt} – now", encoding="utf-8")
    (question,) = GlobalLayout(LayoutOptions(str(file))).questions(CANDIDATE, ())
    assert question.text == f"Rate {CANDIDATE.prompt.text} – now"
    with pytest.raises(ConfigError, match=r"does not contain \{regions\}"):
        LocalRegions(RegionsOptions(str(file)))
    with pytest.raises(ConfigError, match="short-regions"):
        LocalRegions(RegionsOptions("regoins"))
    file.write_bytes(b"\xff{prompt}")
    with pytest.raises(ConfigError, match="UTF-8"):
        GlobalLayout(LayoutOptions(str(file)))
    with pytest.raises(ConfigError, match="packaged"):
        GlobalLayout(LayoutOptions(str(tmp_path)))


def test_packaged_templates() -> None:
    assert templates.packaged("srum_judges") == sorted(
        [
            *(
                "crowded-layout",
                "layout",
                "native",
                "regions",
                "sample",
                "self-play",
                "self-play-answer",
                "short-layout",
            ),
            *("short-regions", "short-self-play", "short-self-play-answer", "verify", "zoom"),
        ]
    )


def test_scripted_replies_are_readable_and_repeatable(tmp_path: Path) -> None:
    image = tmp_path / "c.png"
    image.write_bytes(b"picture one")
    candidate = Candidate("c", Prompt("p", "a cup"), image, (64, 48), 0)
    scripted = Scripted()
    for judge in (GlobalLayout(), Sample(), LocalRegions(), LocalRegions(RegionsOptions("short-regions")), Zoom()):
        questions = judge.questions(candidate, REGIONS)
        scores: list[Any] = list(judge.scores(candidate, REGIONS, scripted.answer(questions)))
        assert all(isinstance(score, Score) for score in scores)
        assert scripted.answer(questions) == scripted.answer(questions)
    before = scripted.answer([Question(image, "x")] * 1)
    values = {tuple(scripted.answer([Question(_written(tmp_path, n), "x")])) for n in range(20)}
    assert len(values) > 3
    assert before[0].startswith("Score: ")
    assert Scripted(ScriptedOptions("hello")).answer([Question(image, "x")]) == ["hello"]


@each_row("boxes", [None, BoxFormat("pixels", (56, 28)), BoxFormat("thousand"), BoxFormat("fraction")])
def test_scripted_boxes_are_in_the_units_of_the_question(boxes: BoxFormat | None, tmp_path: Path) -> None:
    image = _written(tmp_path, 1)
    candidate = Candidate("c", Prompt("p", "a cup"), image, (64, 48), 0, boxes=boxes)
    native = Native()
    regions = native.regions(candidate, Scripted().answer(native.questions(candidate)))
    assert [region.box for region in regions if isinstance(region, Region)] == [
        (0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 1.0),
    ]  # fmt: skip


def _written(folder: Path, number: int) -> Path:
    path = folder / f"{number}.png"
    path.write_bytes(bytes([number]))
    return path
