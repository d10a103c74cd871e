"""The verifier: what it asks, which verdicts it reads, and which it refuses."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_core.errors import ConfigError
from srum_core.records import Candidate, Prompt, Question, Region, Score, Unreadable
from srum_judges.judges import LocalRegions, VerifyBoxes
from srum_judges.options import RegionsOptions, VerifyOptions
from srum_judges.parsing import read_verdicts
from srum_judges.scripted import Scripted

CANDIDATE = Candidate("c", Prompt("p", 'a "red" {regions} cup'), Path("c.png"), (64, 48), 0)
REGIONS = (Region("1", (0.0, 0.0, 0.5, 0.5)), Region("2", (0.25, 0.5, 1.0, 1.0)), Region("3", (0.1, 0.1, 0.2, 0.2)))


def verdicts(text: str, *known: str) -> dict[str, bool]:
    readings = read_verdicts(text, known or ("1", "2", "3"))
    assert list(readings) == list(known or ("1", "2", "3"))
    assert all((reading.value is None) == bool(reading.why) for reading in readings.values())
    assert {reading.value for reading in readings.values()} <= {1.0, -1.0, None}
    return {name: reading.value > 0 for name, reading in readings.items() if reading.value is not None}


def test_the_question_lists_regions_as_the_local_judge_does() -> None:
    (question,) = VerifyBoxes().questions(CANDIDATE, REGIONS)
    listed = "Region ID: 1\nBounding Box: [0, 0, 32, 24]\n---\nRegion ID: 2\nBounding Box: [16, 24, 64, 48]\n---\n"
    assert listed in question.text
    (asked,) = LocalRegions().questions(CANDIDATE, REGIONS)
    assert listed in asked.text
    assert 'picture: "a "red" {regions} cup"' in question.text
    assert "Verdict: yes or no" in question.text
    assert (question.image, question.crop, question.think) == (CANDIDATE.image, None, False)
    for options in ({"per_question": 2}, {"boxes": "thousand", "per_question": 1}):
        pairs = zip(
            VerifyBoxes(VerifyOptions(**options)).questions(CANDIDATE, REGIONS),
            LocalRegions(RegionsOptions(**options)).questions(CANDIDATE, REGIONS),
            strict=True,
        )
        for ours, theirs in pairs:
            (listing,) = re.findall(r"(?:Region ID: \S+\nBounding Box: \[.*\]\n(?:---\n)?)+(?=\n)", ours.text)
            assert listing in theirs.text
    assert VerifyBoxes().questions(CANDIDATE, ()) == []
    assert VerifyBoxes().scores(CANDIDATE, (), []) == []


def test_templates_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Keep which, for {prompt}?")
    with pytest.raises(ConfigError, match=r"does not contain \{regions\}"):
        VerifyBoxes(VerifyOptions(template=str(file)))


def test_scores_are_plus_and_minus_one() -> None:
    judge = VerifyBoxes(VerifyOptions(per_question=2))
    first = (
        "Region ID: 1\nIdentified Object: a cup\nVerdict: yes\nReason: it was asked for\n---\n"
        "Region ID: 2\nIdentified Object: wall\nVerdict: no"
    )
    found = list(judge.scores(CANDIDATE, REGIONS, [first, "Region ID: 3\nVerdict: maybe"]))
    assert found[:2] == [
        Score(1.0, "1", "it was asked for", "verify-boxes", "a cup"),
        Score(-1.0, "2", "The answer gives no reason.", "verify-boxes", "wall"),
    ]
    assert isinstance(found[2], Unreadable)
    assert (found[2].question, found[2].region, found[2].judge) == (1, "3", "verify-boxes")
    assert '"maybe"' in found[2].why


@each_row(
    "written, keep",
    [
        ("yes", True),
        ("No", False),
        ("KEEP", True),
        ("drop", False),
        ("true", True),
        ("False", False),
        ("yes.", True),
        ("**Yes**", True),
        ("**no**.", False),
        ("[yes]", True),
        ('"no"', False),
        ("`keep`", True),
        ("\nyes", True),
        ("yes, because it shows the cup", True),
        ("no because it is a sliver", False),
        ("no - it is a sliver", False),
        ("yes – the cup", True),
        ("yes (the whole cup)", True),
        ("Yes; nothing is cut off", True),
        ("No, it is false colour, so what", False),
        ("yes Reason: it shows the cup", True),
    ],
)
def test_verdicts_that_are_read(written: str, keep: bool) -> None:
    for text in (
        f"Region ID: 2\nIdentified Object: cup\nVerdict: {written}",
        f"Region 2:\nVerdict: {written}\nReason: x",
    ):
        for ends in (text, text.replace("\n", "\r\n")):
            assert verdicts(ends) == {"2": keep}


@each_row(
    "written",
    [
        "",
        "maybe",
        "yes or no",
        "yes/no",
        "yes|no",
        "[yes/no]",
        "yes and no",
        "yes, no",
        "yes, or rather no",
        "no, wait, yes",
        "yes (no)",
        "no. Yes.",
        "not really",
        "not yes",
        "no doubt it should stay",
        "yes?",
        "partly yes",
        "yesterday",
        "nothing",
        "0.8",
        "1",
        "ja",
        "✓",
        "\nReason: no idea",
    ],
)
def test_verdicts_that_are_refused(written: str) -> None:
    assert verdicts(f"Region ID: 2\nIdentified Object: cup\nVerdict: {written}") == {}


BLOCKS = [
    "Region ID: 1\nIdentified Object: cup\nVerdict: yes\nReason: fine\nhandle",
    "Region ID: 2\nIdentified Object: pot\nVerdict: no\nReason: a sliver",
]


BETWEEN = ["\n\n", "\n---\n", "\n\n---\n\n", "\n", "\n***\n", "\n \t\n"]


@each_row("between, ends, markup", product(BETWEEN, ["\n", "\r\n"], ["plain", "bold", "shouted", "thought"]))
def test_layouts(between: str, ends: str, markup: str) -> None:
    text = between.join(BLOCKS)
    if markup == "bold":
        text = re.sub(r"(?m)^(\w[\w ]*:)", r"**\1**", text)
    if markup == "shouted":
        text = re.sub(r"(?m)^(\w[\w ]*:)", lambda match: match[0].upper(), text)
    if markup == "thought":
        text = f"<think>Region ID: 1\nVerdict: no\n\nRegion ID: 3\nVerdict: no</think>\n{text}"
    readings = read_verdicts(text.replace("\n", ends), ("1", "2", "3"))
    found = {name: (reading.value, reading.label, reading.reason) for name, reading in readings.items()}
    assert found == {"1": (1.0, "cup", "fine\nhandle"), "2": (-1.0, "pot", "a sliver"), "3": (None, "", "")}


@each_row(
    "text, expected",
    [
        ('[{"region_id": 1, "verdict": true}, {"region_id": "2", "verdict": "no", "reason": "a sliver"}]', "1+ 2-"),
        ("Region ID: 1 Verdict: yes Reason: a. Region ID: 2 Verdict: no Reason: b", "1+ 2-"),
        ("Verdict: yes\nRegion ID: 1\n\nVerdict: no\nRegion ID: 2", "1+ 2-"),
        ("Region ID: 01\nVerdict: yes\n\nRegion ID: 7\nVerdict: no", "1+"),
        ("Region ID: 1\nVerdict: yes\n\nRegion ID: 1\nVerdict: yes", "1+"),
        ("Region ID: 1\nVerdict: yes\n\nOverall verdict: no", "1+"),
        ("Region ID: 1\nReason: unlike Region ID: 2.\nVerdict: yes\n\nRegion ID: 2\nVerdict: no", "1+ 2-"),
        ("Region ID: 1\nVerdict: yes\nScore: -0.5", "1+"),
        # in doubt
        ("Region ID: 1\nVerdict: yes\n\nRegion ID: 1\nVerdict: no\n\nRegion ID: 2\nVerdict: no", "2-"),
        ("Region ID: 1\nVerdict: yes\nVerdict: no", ""),
        ("Region ID: 1\nVerdict: yes\nFinal Verdict: drop", ""),
        ("Verdict: yes\nRegion ID: 1\nVerdict: no\nRegion ID: 2", ""),
        ("Region ID: 1\nyes", ""),
        ("Region ID: 1\nScore: 0.9", ""),
        ("Regions 1 and 2: keep", ""),
        ("yes", ""),
        ("", ""),
        ("<think>Region ID: 1\nVerdict: yes", ""),
    ],
)
def test_answers(text: str, expected: str) -> None:
    found = verdicts(text)
    assert " ".join(f"{name}{'+' if keep else '-'}" for name, keep in found.items()) == expected


PIECES = [
    "Region ID: ",
    "Region 2",
    "Verdict: ",
    "Reason: ",
    "Identified Object: ",
    "1",
    "2",
    "yes",
    "no",
    "maybe",
    "---",
    "\n",
]
PIECES += ["\n\n", "\r\n", "**", "<think>", "</think>", " ", ",", "or", ":", '"', "Overall ", "x", "\x00", "(", "-"]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)))
def test_any_answer_gives_verdicts_or_unreadable(text: str) -> None:
    found = VerifyBoxes().scores(CANDIDATE, REGIONS, [text])
    assert [item.region for item in found] == ["1", "2", "3"]
    for item in found:
        if isinstance(item, Unreadable):
            assert item.question == 0
            assert item.why
        else:
            assert item.value in (1.0, -1.0)
            assert item.reason
            assert re.search("yes" if item.value > 0 else "no", text, re.IGNORECASE)


def test_scripted_answers_let_every_box_stay(tmp_path: Path) -> None:
    image = tmp_path / "c.png"
    image.write_bytes(b"picture")
    candidate = Candidate("c", Prompt("p", "a cup"), image, (64, 48), 0)
    questions: list[Question] = list(VerifyBoxes(VerifyOptions(per_question=2)).questions(candidate, REGIONS))
    found = VerifyBoxes(VerifyOptions(per_question=2)).scores(candidate, REGIONS, Scripted().answer(questions))
    assert [(item.region, getattr(item, "value", None)) for item in found] == [("1", 1.0), ("2", 1.0), ("3", 1.0)]
