"""Reading scores out of answers: what is read, what is refused, and why."""

from __future__ import annotations

import re
from itertools import product

from rows import each_row

from srum_judges.parsing import read_regions, read_whole


def whole(text: str, require_reason: bool = False) -> float | None:
    return read_whole(text, require_reason).value


def local(text: str, *known: str, require_reason: bool = False) -> dict[str, float]:
    readings = read_regions(text, known or ("1", "2", "3"), require_reason)
    assert all((reading.value is None) == bool(reading.why) for reading in readings.values())
    return {name: reading.value for name, reading in readings.items() if reading.value is not None}


@each_row(
    "written, value",
    [
        ("0.8", 0.8),
        ("-0.25", -0.25),
        ("0", 0.0),
        ("1", 1.0),
        ("-1.", -1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("+0.5", 0.5),
        ("−0.5", -0.5),
        ("–0.5", -0.5),
        ("**0.8**", 0.8),
        ("`-0.8`", -0.8),
        ("[0.8]", 0.8),
        ('"0.8"', 0.8),
        ("\n0.8", 0.8),
        ("0.8/1.0", 0.8),
        ("0.8 out of 1", 0.8),
        ("0.8, because of the handle", 0.8),
        ("0.8 (good)", 0.8),
        ("1. The cup is fine.", 1.0),
        ("0.8.", 0.8),
        ("0.8\n- 2 flaws", 0.8),
        ("-0", 0.0),
    ],
)
def test_numbers_that_are_read(written: str, value: float) -> None:
    assert whole(f"Score: {written}") == value
    assert local(f"Region ID: 2\nIdentified Object: cup\nScore: {written}") == {"2": value}


REFUSED = [
    "7",
    "-1.01",
    "1.0001",
    "8/10",
    "1/10",
    "0.8/1.5",
    "1 out of 5",
    "1 out of ten",
    "1%",
    "0,5",
    "0.8.1",
    "1e-1",
]
REFUSED += ["1_0", "0.5 to 0.9", "0.5-0.9", "0.2 or 0.3", "0.5, 0.7", "±0.5", "--0.5", "1st", "½", "1½", "nan", "inf"]
REFUSED += ["high", "", "-", "[a number between -1.0 and 1.0]", "\n1. Reason follows", "٠", "1:2", "9" * 400]


@each_row("written", REFUSED)
def test_numbers_that_are_refused(written: str) -> None:
    assert whole(f"Score: {written}") is None
    assert local(f"Region ID: 2\nIdentified Object: cup\nScore: {written}") == {}


@each_row(
    "text",
    [
        "SCORE: 0.5\nREASON: x",
        "**Score:** 0.5\n**Reason:** x",
        "**Score: 0.5**\n**Reason**: x",
        "__Score__: 0.5\nReason: x",
        "### Score: 0.5\nReason: x",
        "- Score: 0.5\r\n- Reason: x",
        "Reason: x\nScore: 0.5",
        "Score: 0.5 Reason: x",
        "<think>Score: -1</think>Score: 0.5\nReason: x",
        "<think>a</think> b <think>Score: 1</think>\n\nScore: 0.5\nReason: x",
        "Score: 0.5\nReason: x\n\nFinal Score: 0.50",
        '{"score": 0.5, "reason": "x"}',
        "\ufeffScore\u200b: 0.5\nJustification: x",
        "Score: 0.5\nx",
    ],
)
def test_whole_image_layouts(text: str) -> None:
    reading = read_whole(text)
    assert (reading.value, reading.reason) == (0.5, "x")


@each_row(
    "text, why",
    [
        ("", "empty"),
        ("<think>done</think> \n", "empty"),
        ("<think>Score: 0.5\nReason: x", "think"),
        ("<think>a</think>Score: 0.5\nReason: x<think>", "think"),
        ("The layout is neutral.", "No score"),
        ("Underscore: 0.5\nReason: x", "No score"),
        ("Score: 0.5", "reason"),
        ("Score: 0.5\nReason: -", "reason"),
        ("Score: 0.2\nReason: x\nScore: -0.9", "Different"),
        ("Score: 0.2\nReason: x\nScore: 8/10", "8/10"),
        ("Score: 7\nReason: x", "7"),
    ],
)
def test_unreadable_answers_say_why(text: str, why: str) -> None:
    reading = read_whole(text)
    assert reading.value is None
    assert why in reading.why


BLOCKS = [
    "Region ID: 1\nIdentified Object: cup\nScore: 0.4\nReason: fine\nhandle",
    "Region ID: 2\nIdentified Object: pot\nScore: -0.6\nReason: bent",
]


BETWEEN = ["\n\n", "\n---\n", "\n\n---\n\n", "\n", "\n***\n", "\n \t\n", "\n-----\n"]


@each_row("between, ends, markup", product(BETWEEN, ["\n", "\r\n"], ["plain", "bold"]))
def test_region_layouts(between: str, ends: str, markup: str) -> None:
    text = between.join(BLOCKS)
    if markup == "bold":
        text = re.sub(r"(?m)^(\w[\w ]*:)", r"**\1**", text)
    readings = read_regions(text.replace("\n", ends), ("1", "2"))
    found = {name: (reading.value, reading.label, reading.reason) for name, reading in readings.items()}
    assert found == {"1": (0.4, "cup", "fine\nhandle"), "2": (-0.6, "pot", "bent")}


@each_row(
    "text, expected",
    [
        ("Region ID: 3\n\nIdentified Object: lost\nScore: 1", {"3": 1.0}),
        ("Region ID: 1 Score: 0.1 Reason: a. Region ID: 2 Score: 0.2 Reason: b", {"1": 0.1, "2": 0.2}),
        ("Here is **Region ID: 1**\nScore: 0.1", {"1": 0.1}),
        ("Region 1\nScore: 0.1\n\n**Region 2:** pot\nScore: 0.2", {"1": 0.1, "2": 0.2}),
        ('[{"region_id": 1, "score": 0.1}, {"region_id": "2", "score": 0.2}]', {"1": 0.1, "2": 0.2}),
        ("Score: 0.1\nRegion ID: 1\n\nScore: 0.2\nRegion ID: 2", {"1": 0.1, "2": 0.2}),
        ("Region ID: 01\nScore: 0.1\nRegion ID: [2]\nScore: 0.2", {"1": 0.1, "2": 0.2}),
        ("Region ID: 1\nScore: 0.1\n\nRegion ID: 7\nScore: 0.7\n\nRegion ID: 2\nScore: 0.2", {"1": 0.1, "2": 0.2}),
        ("Region ID: 1\nScore: 0.1\n\nRegion ID: 2\nScore: 0.2\n\nOverall Score: 0.9", {"1": 0.1, "2": 0.2}),
        ("Region ID: 1\nScore: 0.1\n---\nScore: 0.9", {"1": 0.1}),
        ("Region ID: 1\nReason: hidden by Region ID: 2.\nScore: 0.1\n\nRegion ID: 2\nScore: 0.2", {"1": 0.1, "2": 0.2}),
        ("<think>Region ID: 3\nScore: -1</think>Region ID: 1\nScore: 0.1", {"1": 0.1}),
        ("Region ID: 1\nScore: 0.1\n\nRegion ID: 1\nScore: 0.1", {"1": 0.1}),
    ],
)
def test_regions_that_are_read(text: str, expected: dict[str, float]) -> None:
    assert local(text) == expected


@each_row(
    "text, expected",
    [
        ("Region ID: 1\nScore: 0.1\n\nRegion ID: 1\nScore: 0.9\n\nRegion ID: 2\nScore: 0.2", {"2": 0.2}),
        ("Region ID: 1\nScore: 0.1\n\nScore: 0.9", {}),
        ("Region ID: 1\nIdentified Object: cup\n\nRegion ID: 2\nScore: 0.2", {"2": 0.2}),
        ("Region ID: 1\nIdentified Object: cup\n\nScore: 0.2\nRegion ID: 2", {"2": 0.2}),
        ("Score: 0.8\nRegion ID: 1\nScore: 0.3\nRegion ID: 2", {}),
        ("Region ID: 1\n---\nScore: 0.3\n---\nRegion ID: 2", {}),
        ("Region IDs: 1 and 2\nScore: 0.3", {}),
        ("Score: 0.3\nReason: x", {}),
        ("<think>the first region, Region ID: 1, Score: -0.9 maybe", {}),
    ],
)
def test_regions_in_doubt_are_refused(text: str, expected: dict[str, float]) -> None:
    assert local(text) == expected


def test_labels_and_reasons_keep_their_own_quotes() -> None:
    text = 'Region ID: 1\nIdentified Object: "Stop" sign.\nScore: 0.1\nReason: It reads "Stpo" (sic)\n---\n'
    reading = read_regions(text, ["1"])["1"]
    assert (reading.label, reading.reason) == ('"Stop" sign.', 'It reads "Stpo" (sic)')
    text = '[{"region_id": 1, "score": 0.1, "reason": "bent"}, {"region_id": 2, "score": 0.2, "reason": "fine"}]'
    assert [reading.reason for reading in read_regions(text, ["1", "2"]).values()] == ["bent", "fine"]


def test_regions_need_their_reason_unless_told_otherwise() -> None:
    text = "Region ID: 1\nScore: 0.1\n\nRegion ID: 2\nScore: 0.2\nReason: bent"
    assert local(text, require_reason=True) == {"2": 0.2}
    assert local(text) == {"1": 0.1, "2": 0.2}


def test_long_hostile_answers_are_read_quickly_enough() -> None:
    for unit in (
        "Region ID: 1 ",
        "Score: ",
        " ",
        "\n",
        "*",
        "-",
        "Region ID: 1\nScore: 0.5\n\n",
        "Reason: Region ID: 2\n",
    ):
        text = unit * (6000 // len(unit))
        assert len(read_regions(text, ("1", "2"))) == 2
        read_whole(text)


@each_row(
    "said, missing",
    [
        ("", None),
        ("Missing: none\n", 0),
        ("**Missing:** None.\n", 0),
        ("Missing: nothing, all objects are there\n", 0),
        ("Missing: no\n", 0),
        ("Missing: -\n", 0),
        ("Missing: a red cup\n", 1),
        ("- missing objects: a red cup, a spoon and a plate\n", 3),
        ("Missing: nonetheless a cup\n", 1),
        ("Missing: 2\n", 2),
        ("Missing:\n", None),
        ("Missing: ?\n", None),
        ("It is not clear what is missing: perhaps a cup.\n", None),  # a label begins its line
    ],
)
def test_what_is_missing_is_counted_where_the_answer_says_so(said: str, missing: int | None) -> None:
    reading = read_whole(f"{said}Score: 0.5\nReason: so")
    assert (reading.value, reading.missing) == (0.5, missing)
