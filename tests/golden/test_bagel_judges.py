"""The parser on recorded judge answers: it reads what a careful person reads, as the reference does where it is right.

Our reading departs from the reference's in these kinds of answers only; each has its rule in `plain_scores`, a second,
much simpler reader that splits on "region id:" and knows nothing of the first:
* cut off inside a think block: the reference reads the thoughts, we read nothing;
* scores outside [-1, 1] (such as 7, 8 or 8/10): the reference passes them on, we refuse;
* two different scores for one thing: the reference takes the first or the last, we refuse;
* `---` or CRLF between regions also makes it give a region its neighbour's number; we keep them apart;
* `---` or CRLF between regions, bold labels, `.5`, `+0.5`, a typographic minus: missed there, read here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from srum_judges.parsing import Reading, read_regions, read_whole

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def texts(goldens: Path) -> list[dict[str, Any]]:
    return json.loads((goldens / "bagel" / "judge_parsing.json").read_text(encoding="utf-8"))["texts"]


def spoken(text: str) -> str:
    text = text.split("</think>")[-1]
    if "<think>" in text:
        return ""
    text = re.sub("[−–—]", "-", text.replace("\r\n", "\n"))
    return re.sub(r"[*`_\[\]]", "", text)


def stated(text: str) -> list[str]:
    """The words that stand where a score should, such as "0.8", "8/10" or "0.5 to 0.9"."""
    found = re.findall(r"score:\s*([-+.]*[0-9]\S*(?:[ \t]*(?:/|out of|to)[ \t]*\S+)?)", text.lower())
    return [re.sub(r"\s*(/|out of)\s*1(\.0+)?$", "", word.rstrip(".,;)")) for word in found]


def plain_score(text: str) -> float | None:
    words = stated(text)
    if not words or not all(re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)", word) for word in words):
        return None
    numbers = {float(word) for word in words}
    return min(numbers) if len(numbers) == 1 and abs(min(numbers)) <= 1 else None


def parts(text: str) -> dict[str, str]:
    pieces = re.split(r"region id[\s:#]*(\d+)", spoken(text), flags=re.IGNORECASE)
    joined: dict[str, str] = {}
    for identity, words in zip(pieces[1::2], pieces[2::2], strict=True):
        joined[identity] = joined.get(identity, "") + words
    return joined


def plain_scores(text: str) -> dict[str, float]:
    scores = {identity: plain_score(words) for identity, words in parts(text).items()}
    return {identity: score for identity, score in scores.items() if score is not None}


def trapped(text: str) -> bool:
    """Whether the reference reads a number here that it should not: see the list at the top."""
    words = stated(text)
    return len({word.lstrip("+") for word in words}) != 1 or not re.fullmatch(r"[-+0-9.]+", words[0])


def same_words(ours: str, theirs: str) -> bool:
    """Equal but for markup; the reference ends a reason at a blank line, and lets it run on over a rule."""
    ours, theirs = (re.sub(r"[\W_]+", " ", words).strip() for words in (ours, theirs))
    return bool(ours) and (ours.startswith(theirs) or theirs.startswith(ours))


def ids(entry: dict[str, Any]) -> list[str]:
    return sorted({"1", "2", *parts(entry["text"]), *entry["regions"]})


def values(readings: dict[str, Reading]) -> dict[str, float]:
    return {identity: reading.value for identity, reading in readings.items() if reading.value is not None}


def test_every_region_is_read_as_a_careful_reader_would(texts: list[dict[str, Any]]) -> None:
    for entry in texts:
        readings = read_regions(entry["text"], ids(entry), require_reason=False)
        assert values(readings) == plain_scores(entry["text"]), entry["name"]
        assert all(reading.why for reading in readings.values() if reading.value is None), entry["name"]


def test_every_whole_image_score_is_read_as_a_careful_reader_would(texts: list[dict[str, Any]]) -> None:
    for entry in texts:
        ours = read_whole(entry["text"], require_reason=False)
        assert ours.value == plain_score(spoken(entry["text"])), entry["name"]


def test_regions_agree_with_the_reference_wherever_its_reading_is_sound(texts: list[dict[str, Any]]) -> None:
    agreed = 0
    for entry in texts:
        ours = read_regions(entry["text"], ids(entry), require_reason=False)
        said = parts(entry["text"])
        for identity, theirs in entry["regions"].items():
            own = said.get(identity, "")
            if not -1 <= theirs.get("score", 9) <= 1 or trapped(own) or theirs["score"] != float(stated(own)[0]):
                continue
            assert ours[identity].value == theirs["score"], entry["name"]
            agreed += 1
            if len(re.findall("region id", spoken(entry["text"]).lower())) > len(entry["regions"]):
                continue  # its blocks run on into the next region or overwrite one another, and so do their words
            for mine, name in ((ours[identity].label, "identified_object"), (ours[identity].reason, "reason")):
                assert name not in theirs or same_words(mine, theirs[name]), entry["name"]
    assert agreed


def test_whole_image_agrees_with_the_reference_wherever_its_reading_is_sound(texts: list[dict[str, Any]]) -> None:
    agreed = 0
    for entry in texts:
        theirs = entry["global_layout"]
        said = spoken(entry["text"])
        if not -1 <= theirs.get("global_layout_score", 9) <= 1 or trapped(said):
            continue
        ours = read_whole(entry["text"], require_reason=False)
        assert ours.value == theirs["global_layout_score"], entry["name"]
        if re.fullmatch(
            r"((?!reason:).)*score:((?!score:|reason:).)*reason:((?!score:|reason:).)*", said.lower(), re.DOTALL
        ):
            assert same_words(ours.reason, re.split("reason:", theirs["reason"], flags=re.IGNORECASE)[-1]), entry[
                "name"
            ]
        agreed += 1
    assert agreed


def test_a_mandatory_reason_only_ever_takes_scores_away(texts: list[dict[str, Any]]) -> None:
    for entry in texts:
        lenient = read_regions(entry["text"], ids(entry), require_reason=False)
        strict = read_regions(entry["text"], ids(entry))
        for identity, reading in lenient.items():
            assert strict[identity].value == (reading.value if reading.reason else None), entry["name"]
