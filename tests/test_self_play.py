"""The judge `self-play`: which questions it reads out of an answer, puts, and what it makes of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_reread
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_core.cli import main
from srum_core.errors import ConfigError
from srum_core.plugins import discover
from srum_core.records import Candidate, Prompt, Question, Region, Score, Unreadable
from srum_core.stages.interview import Interview, conduct
from srum_core.testing import JudgeConformance, ScriptedModel, read_transcripts
from srum_judges.judges import widened
from srum_judges.options import SelfPlayOptions
from srum_judges.parsing import read_verdict
from srum_judges.scripted import Scripted
from srum_judges.self_play import SelfPlay, read_questions

CANDIDATE = Candidate("c", Prompt("p", 'a "red" {question} cup'), Path("c.png"), (64, 48), 0)
REGIONS = (Region("1", (0.0, 0.0, 0.5, 0.5)), Region("2", (0.25, 0.5, 1.0, 1.0)))
WRITTEN = "Is there a red circle?\nIs there a blue square?\nIs the red circle left of the blue square?\nIs that all?"


def judge(**options: Any) -> SelfPlay:
    return SelfPlay(SelfPlayOptions(**options))


def seed(*_: object) -> int:
    return 7


class TestLocal(JudgeConformance):
    """The other level; the default one is tested with all judges."""

    @pytest.fixture
    def judge(self) -> SelfPlay:
        return judge(level="local")


# ---- reading questions ---------------------------------------------------------------------------------------------


@each_row(
    "answer, questions",
    [
        (WRITTEN, WRITTEN.split("\n")),
        (
            "1. Is it red?\n2) Is it big?\n(3) Is it round?\n4.Is it new?",
            "Is it red? Is it big? Is it round? Is it new?",
        ),
        ("- Is it red?\n* Is it big?\n• Is it round?", "Is it red? Is it big? Is it round?"),
        ("**Question 1:** Is it red?\nQ2: **Is it big?**\n3: _Is it new?_", "Is it red? Is it big? Is it new?"),
        ("Here you are:\r\n\r\nIs it red?\r\n\r\n\r\nIs it big?\r\n", "Is it red? Is it big?"),
        ("Is it red?\nIs it  RED ?\n1. is it red?", "Is it red?"),
        ("Is it red? Yes.\nIs it big? (yes) Is it new? - yes", "Is it red? Is it big? Is it new?"),
        ('["Is it red?", "Is it big?"]', "Is it red? Is it big?"),
        ("How many cups are there?\nWhich one?\nIs it red?\nWould you like more questions?", "Is it red?"),
        ("<think>Is it blue?</think>Is it red?", "Is it red?"),
        ("Is it red\nIt is big.\n?\n- ??\n3. ?", ""),
        ("", ""),
        ("<think>Is it red?", ""),
    ],
)
def test_questions_are_read_as_a_careful_person_would(answer: str, questions: str | list[str]) -> None:
    wanted = [f"{each}?" for each in questions.split("? ")] if isinstance(questions, str) and questions else questions
    assert read_questions(answer) == [each.replace("??", "?") for each in wanted]


@each_row("line", ['"STOP" is on the sign?', 'Is "STOP" on the sign?', "3 cups are there?", "Is it 2.5 m?"])
def test_what_belongs_to_a_question_stays(line: str) -> None:
    assert read_questions(f"- {line}") == [line]


@given(st.text(max_size=60))
def test_whatever_is_read_is_a_question_and_reads_as_itself(text: str) -> None:
    found = read_questions(text)
    assert all(each.endswith("?") and "\n" not in each for each in found)
    assert len(found) == len(set(found))


def test_long_nonsense_is_read_at_once() -> None:
    for text in (
        "?" * 9000,
        "q" + "_" * 9000,
        "*" * 9000 + "?",
        "(" * 9000 + "1.?",
        "Is it? " * 1000,
        "\n" * 9000,
    ):
        read_questions(text)
        read_verdict(f"x{text}")


# ---- reading answers -----------------------------------------------------------------------------------------------


@each_row(
    "answer, value",
    [
        ("yes", 1.0),
        ("No.", -1.0),
        ("**Yes**", 1.0),
        ("Yes, there is a cup.", 1.0),
        ("Yes it is.", 1.0),
        ("Answer: no", -1.0),
        ("I looked twice.\n**Answer:** yes", 1.0),
        ("Verdict: no\nReason: yes and no are words", -1.0),
        ("<think>no</think>\nyes", 1.0),
        ("No\nThere is no cup.", -1.0),
        ("maybe", None),
        ("yes or no", None),
        ("yes\nno", None),
        ("Yes, no", None),
        ("Not at all sure", None),
        ("", None),
        ("Score: 1.0\nReason: fine", None),
    ],
)
def test_a_plain_yes_or_no_is_read_and_nothing_else(answer: str, value: float | None) -> None:
    reading = read_verdict(answer)
    assert reading.value == value
    assert bool(reading.why) == (value is None)


# ---- asking --------------------------------------------------------------------------------------------------------


def test_the_short_templates_are_those_that_the_bundled_model_learns() -> None:
    mine = judge(questions_template="short-self-play", answers_template="short-self-play-answer", max_new_tokens=9)
    assert mine.questions(CANDIDATE, REGIONS) == [
        Question(CANDIDATE.image, f"Prompt: {CANDIDATE.prompt.text}\nWrite questions.", max_new_tokens=9)
    ]
    asked = mine.further(CANDIDATE, REGIONS, [WRITTEN])
    assert [each.text for each in asked] == [
        f"Prompt: {CANDIDATE.prompt.text}\n{question}" for question in WRITTEN.split("\n")
    ]


def test_each_question_is_put_by_itself_and_about_the_whole_image() -> None:
    mine = judge(limit=3, think=True)
    (first,) = mine.questions(CANDIDATE, REGIONS)
    assert 'these words: "a "red" {question} cup"' in first.text
    assert "At most 3 questions" in first.text
    asked = list(mine.further(CANDIDATE, REGIONS, [f"{WRITTEN}\n{WRITTEN}"]))
    assert len(asked) == 3  # the limit
    for question, written in zip(asked, WRITTEN.split("\n"), strict=False):
        assert question.text.count("?") == 1
        assert written in question.text
        assert CANDIDATE.prompt.text not in question.text  # whoever knows what was wanted is inclined to see it
        assert (question.image, question.crop, question.think) == (CANDIDATE.image, None, True)
    assert list(mine.further(CANDIDATE, REGIONS, [WRITTEN, "yes", "yes", "no"])) == []


def test_the_written_example_reads_as_five_questions() -> None:
    (question,) = judge().questions(CANDIDATE, ())
    example = question.text.partition("For instance")[2].split("\n", 1)[1]
    assert len(read_questions(example)) == 5


@pytest.mark.parametrize("option", ["questions_template", "answers_template"])
def test_a_template_that_cannot_be_used_is_told_by_its_option(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Check the option `{option}`"):
        judge(**{option: "nowhere.txt"})
    file = tmp_path / "mine.txt"
    file.write_text("Well?")
    with pytest.raises(ConfigError, match=r"does not contain \{"):
        judge(**{option: str(file)})


# ---- scoring -------------------------------------------------------------------------------------------------------


def test_the_score_is_the_share_of_yes_and_the_reason_names_what_failed() -> None:
    answers = [WRITTEN, "yes", "Verdict: no\nReason: It is green.", "no", "Yes!"]
    (score,) = judge().scores(CANDIDATE, REGIONS, answers)
    assert score == Score(
        0.0,
        reason="2 of 4 answers are yes. Not so: Is there a blue square? (It is green.); "
        "Is the red circle left of the blue square? (no)",
        judge="self-play",
    )
    (score,) = judge().scores(CANDIDATE, REGIONS, [WRITTEN, *["yes"] * 4])
    assert score == Score(1.0, reason="4 of 4 answers are yes.", judge="self-play")
    for yes in range(4):
        (score,) = judge().scores(CANDIDATE, (), [WRITTEN, *["yes"] * yes, *["no"] * (4 - yes)])
        assert isinstance(score, Score)
        assert score.value == pytest.approx(yes / 2 - 1)


def test_what_is_neither_yes_nor_no_is_asked_again_and_gives_no_score() -> None:
    found = judge().scores(CANDIDATE, REGIONS, [WRITTEN, "yes", "maybe", "no", ""])
    assert [(each.question, each.region) for each in found if isinstance(each, Unreadable)] == [(2, None), (4, None)]
    assert len(found) == 2
    assert '"Is there a blue square?" is not answered: The verdict "maybe"' in found[0].why  # type: ignore[union-attr]


def test_without_a_question_the_first_answer_is_unreadable() -> None:
    for level, places in (("global", [None]), ("local", ["1", "2"])):
        mine = judge(level=level)
        assert list(mine.further(CANDIDATE, REGIONS, ["A cup."])) == []
        found = mine.scores(CANDIDATE, REGIONS, ["A cup."])
        assert [(type(each), each.region, getattr(each, "question", None)) for each in found] == [
            (Unreadable, place, 0) for place in places
        ]


def test_a_region_is_asked_whether_anything_that_was_wanted_is_there() -> None:
    mine = judge(level="local", margin=0.25)
    asked = list(mine.further(CANDIDATE, REGIONS, [WRITTEN]))
    crops = [widened(region.box, 0.25) for region in REGIONS]
    assert [each.crop for each in asked] == [crops[0], crops[0], crops[1], crops[1]]
    for index, words in enumerate(["a red circle", "a blue square"] * 2):  # neither relations nor "is that all"
        assert f"Is there {words}?" in asked[index].text
    found = mine.scores(CANDIDATE, REGIONS, [WRITTEN, "no", "yes", "no", "no: it is green"])
    assert found[0] == Score(1.0, "1", "Yes: Is there a blue square?", "self-play")
    assert found[1] == Score(
        -1.0,
        "2",
        "0 of 2 answers are yes. Not so: Is there a red circle? (no); Is there a blue square? (it is green)",
        "self-play",
    )
    assert mine.questions(CANDIDATE, ()) == []
    assert mine.scores(CANDIDATE, (), []) == []


def test_a_region_that_may_hold_something_is_asked_again() -> None:
    mine = judge(level="local")
    found = mine.scores(CANDIDATE, REGIONS, [WRITTEN, "hm", "yes", "hm", "no"])
    assert isinstance(found[0], Score)  # a yes is enough
    assert [(each.question, each.region) for each in found if isinstance(each, Unreadable)] == [(3, "2")]


@each_row(
    "written, put",
    [
        ("Are there three green crosses?\nIs that all?", ["Is there a green cross?"]),
        ("Are there exactly 2 orange boxes?", ["Is there an orange box?"]),
        ("Are there two sheep?", ["Are there any sheep?"]),
        ("Are there two cats?\nIs there a cat?", ["Is there a cat?"]),
        ("Does the picture show a cat?\nIs the cat black?", ["Does the picture show a cat?"]),
        ("Is the cat black?\nIs it asleep?", ["Is the cat black?", "Is it asleep?"]),
    ],
)
def test_what_a_region_cannot_tell_is_not_asked(written: str, put: list[str]) -> None:
    mine = judge(level="local", answers_template="short-self-play-answer")
    asked = mine.further(CANDIDATE, REGIONS[:1], [written])
    assert [each.text.split("\n")[1] for each in asked] == put


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["yes", "no", "maybe", "", "Yes, it is.", "No\n"]), min_size=8, max_size=8),
    st.sampled_from([WRITTEN, "Is it?", "Nothing."]),
    st.sampled_from(["global", "local"]),
)
def test_every_place_gets_a_score_or_what_it_lacks(said: list[str], written: str, level: str) -> None:
    mine = judge(level=level)
    count = len(mine.further(CANDIDATE, REGIONS, [written]))
    found = mine.scores(CANDIDATE, REGIONS, [written, *said[:count]])
    assert {each.region for each in found} == ({None} if level == "global" else {"1", "2"})
    scored = [each.region for each in found if isinstance(each, Score)]
    assert len(scored) == len(set(scored))
    assert not set(scored) & {each.region for each in found if isinstance(each, Unreadable)}


# ---- in an interview ------------------------------------------------------------------------------------------------


def test_unreadable_questions_are_written_again_and_then_answered() -> None:
    mine = judge(questions_template="short-self-play", answers_template="short-self-play-answer")
    start = f"Prompt: {CANDIDATE.prompt.text}\n"
    model = ScriptedModel(
        {
            f"{start}Write questions.": ["A cup, I think.", "Is there a cup?\nIs it red?"],
            f"{start}Is there a cup?": "yes",
            f"{start}Is it red?": ["perhaps", "no"],
        }
    )
    interview = Interview.open("self-play", mine, CANDIDATE, REGIONS)
    conduct([interview], model.answer, retries=1, temperature=0.7, seed=seed)
    assert interview.outcome() == [
        Score(0.0, reason="1 of 2 answers are yes. Not so: Is it red? (no)", judge="self-play")
    ]
    assert [(each.index, each.question.temperature) for each in interview.exchanges] == [
        (0, 0.0), (0, 0.7), (1, 0.0), (2, 0.0), (2, 0.7),
    ]  # fmt: skip
    again = Interview.replay("self-play", mine, CANDIDATE, REGIONS, interview.exchanges)
    assert again.outcome() == interview.outcome()


@pytest.mark.parametrize("level", ["global", "local"])
def test_scripted_replies_let_it_be_tried_without_a_model(level: str, tmp_path: Path) -> None:
    values = set()
    for number in range(12):
        image = tmp_path / f"{number}.png"
        image.write_bytes(bytes([number]))
        candidate = Candidate("c", Prompt("p", "a cup"), image, (64, 48), 0)
        mine = discover().create("judge", {"use": "self-play", "level": level})
        interview = Interview.open("self-play", mine, candidate, REGIONS)
        conduct([interview], Scripted().answer, retries=0, temperature=0.0, seed=seed)
        found = interview.outcome()
        assert all(isinstance(each, Score) for each in found)
        assert [each.region for each in found] == ([None] if level == "global" else ["1", "2"])
        values |= {each.value for each in found if isinstance(each, Score)}
    assert len(values) >= 2


@pytest.mark.parametrize("settings", [[], ["judge.votes=2"]], ids=["one answer", "votes"])
def test_a_run_is_read_again_and_recorded(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = test_reread.make(tmp_path / "run", "judges=['self-play']", "answerer=scripted", *settings)
    assert all(len(each.scores) == 1 and not each.failures for each in run.judgements(1))
    assert {exchange.index for each in run.judgements(1) for exchange in each.exchanges} == {0, 1, 2}
    test_reread.reread(run)
    assert "Nothing changes." in capsys.readouterr().out
    test_reread.reread(run, "judges.0.limit=1", code=2)  # what it would ask today is not what was answered
    assert "judge again with --redo judge" in test_reread.flat(capsys.readouterr().err)
    file = tmp_path / "t/self-play.jsonl"
    assert main.main(["record", str(run.folder), "--judge", "self-play", "--out", str(file)]) == 0
    suite = JudgeConformance()
    suite.transcripts = file
    suite.test_recorded_answers_read_as_before(judge())
    (first, *_) = read_transcripts(file)
    interview = Interview.open("self-play", judge(), first.candidate, first.regions)
    conduct([interview], ScriptedModel([first]).answer, retries=0, temperature=0.0, seed=seed)
    assert [getattr(each, "value", None) for each in interview.outcome()] == [score.value for score in first.scores]
