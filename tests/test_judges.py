"""Judges: what they ask, and what they make of answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srum_core.errors import ConfigError
from srum_core.records import Candidate, Prompt, Question, Region, Score, Unreadable
from srum_judges import templates
from srum_judges.layout import GlobalLayout
from srum_judges.options import LayoutOptions, RegionsOptions, ScriptedOptions
from srum_judges.regions import LocalRegions, show
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
    judges = [GlobalLayout(LayoutOptions(require_reason=strict)), LocalRegions(RegionsOptions(require_reason=strict))]
    for judge, expected in zip(judges, ([None], ["1", "2", "3"]), strict=True):
        found = judge.scores(CANDIDATE, REGIONS, [text])
        assert [item.region for item in found] == expected
        for item in found:
            assert isinstance(item, Unreadable) or -1 <= item.value <= 1
            assert isinstance(item, Score) or (item.question == 0 and item.why)
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
    judge = LocalRegions(RegionsOptions(per_question=2, require_reason=False))
    first, second = judge.questions(CANDIDATE, REGIONS)
    assert "Region ID: 3\nBounding" not in first.text
    assert "Region ID: 3\nBounding" in second.text
    found = judge.scores(CANDIDATE, REGIONS, ["Region ID: 1\nScore: 0.1\nRegion ID: 3\nScore: 0.9", "nothing"])
    assert [(item.region, getattr(item, "value", None)) for item in found] == [("1", 0.1), ("2", None), ("3", None)]
    assert [item.question for item in found if isinstance(item, Unreadable)] == [0, 1]


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
    assert templates.packaged() == ["layout", "regions", "short-layout", "short-regions"]


def test_scripted_replies_are_readable_and_repeatable(tmp_path: Path) -> None:
    image = tmp_path / "c.png"
    image.write_bytes(b"picture one")
    candidate = Candidate("c", Prompt("p", "a cup"), image, (64, 48), 0)
    scripted = Scripted()
    for judge in (GlobalLayout(), LocalRegions(), LocalRegions(RegionsOptions("short-regions"))):
        questions = judge.questions(candidate, REGIONS)
        scores: list[Any] = list(judge.scores(candidate, REGIONS, scripted.answer(questions)))
        assert all(isinstance(score, Score) for score in scores)
        assert scripted.answer(questions) == scripted.answer(questions)
    before = scripted.answer([Question(image, "x")] * 1)
    values = {tuple(scripted.answer([Question(_written(tmp_path, n), "x")])) for n in range(20)}
    assert len(values) > 3
    assert before[0].startswith("Score: ")
    assert Scripted(ScriptedOptions("hello")).answer([Question(image, "x")]) == ["hello"]


def _written(folder: Path, number: int) -> Path:
    path = folder / f"{number}.png"
    path.write_bytes(bytes([number]))
    return path


def test_no_heavy_import() -> None:
    code = (
        "import sys, srum_losses;"
        "import srum_judges.layout, srum_judges.regions, srum_judges.scripted, srum_judges.components;"
        "print({'torch', 'numpy', 'PIL', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
