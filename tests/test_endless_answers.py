"""No answer holds up a run: whatever reads answers takes linear time, and absurdly long ones are unreadable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import compbench_original as original
import pytest
import released_parsers
from benchmark_data import compbench_folder, geneval_folder, reasonbench_folder, wise_folder
from hang import Hang, no_hang
from rows import each_row

from srum_benchmarks.wise.prompts import LEGACY, VERIFIED
from srum_core import plugins
from srum_core.analysis import steps
from srum_core.evaluation import answers
from srum_core.records import Candidate, Unreadable
from srum_core.stages.ground import _Proposing
from srum_core.stages.interview import LONGEST_ANSWER, Interview, legible, without_echo
from srum_core.testing.fixtures import sample_candidate, sample_regions
from srum_lmms import asking

LONG = 200_000

STARTS = (
    "", "Score: ", "Identified Object: ", "Region ID: 1\nScore: 0.5\nReason: ", "Verdict: yes", "Answer: ",
    '{"score": ', "Consistency", "Score", "<think>", '[{"bbox_2d": [', "1. Is there a ",
)  # fmt: skip
REPEATED = ("a", " ", "\n", "1", "[", '"', "-", "*", "_", "é")
PIECES = (
    "{", "?", ".", ",", "(", "```", "</think>", "<think>", "</think ", "a-", "a ", "a\n", "1.", "1,", "1,111", "9.9e",
    "[1,", '{"a":', '{"score":', '{"score":1}', '"score": [', '"score": [1', "[[1]", '["', "[" * 900 + "x", "[1]", "[]",
    '{"a":{"b":[]}}', '{"bbox_2d":[1,2,3,4]}', '{"detections":[', "Score: 0.5\n", "Score: ", "Score ", "Region ID: 1\n",
    "region id 2 ", "see region id 2, ", "region 2:\n", "region 2 *", "region ", "region ___", "bounding box",
    "Reason: region id 1 ", "Verdict: yes, ", "Verdict: no, or yes ", "yes. ", "no\n", "Is it a cup? ", "a? ", "Q1: ",
    "(1) Is it? ", "identified object: a cat", "cat of a cat and ", "cat-like-", "no cat or ", "---\n", " \n", "\n\n1",
    "Consistency: 1\n", "Consistency  ", "Consistency: ", "answer is ", "option ", "is a\n", "Final answer: ", "=",
)  # fmt: skip


def worst_cases(length: int, starts: Sequence[str]) -> Iterator[str]:
    within = [(STARTS[3], piece) for piece in PIECES if "egion" in piece]
    for start, piece in [*product(starts, REPEATED), *product([""], PIECES), *within]:
        text = start + piece * ((length - len(start)) // len(piece))
        yield text
    for start in ("Score: 0.5\n" * 999, "[" * 900):  # what belongs to everything after it
        yield (start + "Region ID: 1\n" * length)[:length]
        yield (start + '{"a":1},' * length)[:length]


def check(read: Callable[[str], Any], length: int, starts: Sequence[str] = STARTS) -> None:
    slow = []
    for text in worst_cases(length, starts):
        try:
            with no_hang():
                read(text)
        except Hang:
            slow.append(f"{text[:30]!r} … {text[-20:]!r}")
    assert not slow


def receive(interview: Interview, text: str) -> Interview:
    """The same answer to every question."""
    while waiting := interview.follow(0):
        for index in waiting:
            interview.receive(0, index, interview.votes[0][index].question, text)
    interview.read(0)
    return interview


COMPONENTS = [(each.kind, each.component.name) for each in plugins.discover().listing()]
READERS = [pair for pair in COMPONENTS if pair[0] in ("judge", "grounder", "benchmark")]
DATA: dict[str, Callable[[Path], Path]] = {
    "compbench": compbench_folder,
    "geneval": geneval_folder,
    "reasonbench": reasonbench_folder,
    "wise": lambda folder: wise_folder(folder, LEGACY),
    "wise-verified": lambda folder: wise_folder(folder, VERIFIED),
}
"""Benchmarks whose prompts are files of the user's."""
MUTE = {("grounder", "sam"), ("grounder", "file")}
"""They need files and ask nothing."""


def opened(kind: str, name: str, folder: Path) -> Interview:
    registry, candidate, regions = plugins.discover(), sample_candidate(folder), sample_regions()[:1]
    if kind == "judge":
        return Interview.open(name, registry.create("judge", name), candidate, regions)
    if kind == "grounder":
        return Interview.open(name, _Proposing(registry.create("grounder", name)), candidate, ())
    options = {"data": str(DATA[name](folder / "data")), "verify": False} if name in DATA else {}
    benchmark = registry.create("benchmark", name, **options)
    prompt = benchmark.prompts("test")[0]
    candidate = Candidate("c", prompt, candidate.image, candidate.size, 0)
    return answers.open_interview(name, benchmark, candidate)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in READERS if pair not in MUTE])
def test_no_component_is_held_up_by_an_answer(kind: str, name: str, tmp_path: Path) -> None:
    base = opened(kind, name, tmp_path)
    if not base.questions:
        pytest.skip("it asks nothing")

    def read(text: str) -> None:
        again = Interview.open(name, base.judge, base.candidate, base.regions)
        measured = receive(again, text)
        if kind == "benchmark":
            base.judge.benchmark.score(base.candidate, measured.texts(0))  # type: ignore[attr-defined]

    check(read, LONGEST_ANSWER)
    with no_hang():
        read("Identified Object: " + "a" * LONG)


FUNCTIONS: dict[str, Callable[[str], Any]] = {
    "echo": lambda text: without_echo(text, "a" * 4000),
    "repeated question": lambda text: without_echo("a" * 4000, text),
    "stop words": lambda text: asking.cut(text, {"until": ["\n\n", "aaaa"]}),
    "steps": steps.grade,
    "release, layout": released_parsers.layout,
    "release, sample": released_parsers.sample,
    "release, regions": released_parsers.regions,
    "compbench, levels": lambda text: original.level_score("color", [text]),
    "compbench, GPT-4V": original.gpt4v_score,
}  # fmt: skip


@each_row("name", FUNCTIONS)
def test_no_function_is_held_up_by_an_answer(name: str) -> None:
    check(FUNCTIONS[name], LONG, starts=("", "Answer: ", '{"score": '))


def test_an_answer_that_is_too_long_is_unreadable_and_says_so(tmp_path: Path) -> None:
    interview = receive(opened("judge", "zoom", tmp_path), "Score: 0.5\nReason: " + "good " * LONGEST_ANSWER)
    found = interview.outcome()
    assert found
    assert all(isinstance(each, Unreadable) and "160019 characters" in each.why for each in found)


def test_long_thoughts_make_no_answer_too_long(tmp_path: Path) -> None:
    answer = f"<think>{'well ' * LONGEST_ANSWER}</think>\nScore: 0.5\nReason: good"
    assert legible(answer) == "\nScore: 0.5\nReason: good"
    assert [each.value for each in receive(opened("judge", "global-layout", tmp_path), answer).outcome()] == [0.5]
