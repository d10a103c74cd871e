"""What one judge's answers about one image add up to: retries, votes, and reading recorded answers again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from rows import each_row

from srum_core.errors import PluginError, RecordError
from srum_core.records import Answer, Candidate, Exchange, Prompt, Question, Region, Score, Unreadable
from srum_core.stages.interview import Interview, conduct, without_echo

CANDIDATE = Candidate("c", Prompt("p", "a cup"), Path("c.png"), (64, 48), 0)
REGIONS = (Region("1", (0.0, 0.0, 0.5, 1.0)), Region("2", (0.5, 0.0, 1.0, 1.0)))


class Numbers:
    """One question a region; the answer is the number itself."""

    wording = "How good is region {}?"

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> list[Question]:
        return [Question(candidate.image, self.wording.format(region.id)) for region in regions]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> list[Score | Unreadable]:
        return [
            Unreadable(index, f'"{answer}" is no number', region.id)
            if answer == "?"
            else Score(float(answer), region.id, reason=f"said {answer}")
            for index, (region, answer) in enumerate(zip(regions, answers, strict=True))
        ]


class Sighted:
    """Needs no language model, so it asks nothing."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> list[Question]:
        return []

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> list[Score]:
        return [Score(0.25)]


class Script:
    """Answers by (region, how often it was asked)."""

    def __init__(self, **answers: str) -> None:
        self.left = {key: value.split() for key, value in answers.items()}
        self.asked: list[Question] = []

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        self.asked += questions
        return [self.left["one" if "region 1" in question.text else "two"].pop(0) for question in questions]


def seed(*what: object) -> int:
    return hash(what) & 0x7FFFFFFF


def received(script: Script, votes: int = 1, retries: int = 2) -> Interview:
    interview = Interview.open("numbers", Numbers(), CANDIDATE, REGIONS, votes)
    conduct([interview], script, retries, 0.7, seed)
    return interview


def test_only_what_cannot_be_read_is_asked_again_and_sampled() -> None:
    script = Script(one="0.5", two="? ? -0.25")
    interview = received(script)
    assert [(score.region, getattr(score, "value", None)) for score in interview.outcome()] == [
        ("1", 0.5),
        ("2", -0.25),
    ]
    assert [(each.question.text[-2], each.question.temperature) for each in interview.exchanges] == [
        ("1", 0.0), ("2", 0.0), ("2", 0.7), ("2", 0.7),
    ]  # fmt: skip
    assert len({question.seed for question in script.asked if question.temperature}) == 2
    assert [each.index for each in interview.exchanges] == [0, 1, 1, 1]


def test_what_stays_unreadable_is_a_failure_and_no_number() -> None:
    first, second = received(Script(one="0.5", two="? ? ?")).outcome()
    assert isinstance(first, Score)
    assert isinstance(second, Unreadable)
    assert second.region == "2"


def test_votes_are_sampled_and_the_median_counts() -> None:
    script = Script(one="0.1 0.9 0.2", two="-1 -1 -1")
    interview = received(script, votes=3)
    first, second = interview.outcome()
    assert isinstance(first, Score)
    assert first.value == 0.2
    assert first.votes == (0.1, 0.9, 0.2)
    assert first.spread == pytest.approx((0.1 + 0.7 + 0.0) / 3)
    assert first.reason == "said 0.2"
    assert isinstance(second, Score)
    assert (second.value, second.spread) == (-1.0, 0.0)
    assert all(question.temperature == 0.7 for question in script.asked)
    assert len({question.seed for question in script.asked}) == 6
    assert sorted({each.vote for each in interview.exchanges}) == [0, 1, 2]


def test_disagreement_counts_only_where_doubt_is_set() -> None:
    interview = received(Script(one="1 0 1", two="-1 -1 0"), votes=3)
    spread = 1 / 3
    plain, half = interview.outcome(), interview.outcome(doubt=0.5)
    assert [getattr(score, "value", None) for score in plain] == [1.0, -1.0]
    assert [getattr(score, "value", None) for score in half] == pytest.approx([1 - spread / 2, spread / 2 - 1])


def test_a_median_needs_half_of_the_votes() -> None:
    enough = received(Script(one="0.5 ? 0.7 ?", two="0 0 0 0"), votes=4, retries=0).outcome()[0]
    assert isinstance(enough, Score)
    assert enough.value == pytest.approx(0.6)
    assert enough.votes == (0.5, 0.7)
    few = received(Script(one="0.5 ? ? ?", two="0 0 0 0"), votes=4, retries=0).outcome()[0]
    assert isinstance(few, Unreadable)
    assert few.why == 'Only 1 of 4 answers could be read. "?" is no number'


def test_a_judge_that_asks_nothing_scores_all_the_same() -> None:
    interview = Interview.open("sighted", Sighted(), CANDIDATE, REGIONS, votes=5)
    conduct([interview], Script(), 2, 0.7, seed)
    assert interview.outcome() == [Score(0.25)]


def test_a_replay_ends_as_the_hearing_did() -> None:
    for votes, script in ((1, Script(one="0.5", two="? 0.1")), (3, Script(one="? 1 0 1", two="0 ? 0.5 0.1"))):
        before = received(script, votes)
        again = Interview.replay("numbers", Numbers(), CANDIDATE, REGIONS, before.exchanges)
        assert again.outcome(0.5) == before.outcome(0.5)
        assert again.answers == before.answers
        other = [attrs.evolve(each, asked_by="somebody else", answer="?") for each in before.exchanges]
        among = Interview.replay("numbers", Numbers(), CANDIDATE, REGIONS, [*before.exchanges, *other])
        assert (among.answers, among.exchanges) == (again.answers, again.exchanges)


def test_answers_to_other_questions_are_not_read() -> None:
    exchanges = received(Script(one="0.5", two="0.1")).exchanges
    with pytest.raises(RecordError, match="asks 1 questions about image c today"):
        Interview.replay("numbers", Numbers(), CANDIDATE, REGIONS[:1], exchanges)
    with pytest.raises(RecordError, match="judge again with --redo judge"):
        Interview.replay("numbers", Numbers(), CANDIDATE, REGIONS, exchanges[:1])
    judge = Numbers()
    judge.wording = "Rate region {}."
    with pytest.raises(RecordError, match="its template"):
        Interview.replay("numbers", judge, CANDIDATE, REGIONS, exchanges)
    again = Interview.replay("numbers", judge, CANDIDATE, REGIONS, exchanges, reworded=True)
    assert [getattr(each, "value", None) for each in again.outcome()] == [0.5, 0.1]


@each_row(
    "scores, message",
    [
        ([Unreadable(7, "odd", "1")], "a question unreadable that it did not ask"),
        ([Score(0.5, "9")], 'scores region "9"'),
        ([0.5], '`scores` of "odd" must return a list of Score and Unreadable records, .* holds float'),
        (Score(0.5), "but it returned Score"),
        (None, "but it returned NoneType"),
        ({"1": Score(0.5)}, "but it returned dict"),
    ],
)
def test_nonsense_of_a_judge_is_named(scores: Any, message: str) -> None:
    class Odd(Numbers):
        def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Any:
            return scores

    interview = Interview.open("odd", Odd(), CANDIDATE, REGIONS)
    with pytest.raises(PluginError, match=message):
        interview.read(0)


@each_row(
    "asked, message",
    [
        ("How good?", '`questions` of "odd" must return a list of Question records, but it returned str'),
        (Question(CANDIDATE.image, "How good?"), "but it returned Question"),
        (["How good?"], "but it returned one that holds str"),
    ],
)
def test_questions_that_are_none_are_named(asked: Any, message: str) -> None:
    class Odd(Numbers):
        def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Any:
            return asked

    class OddLater(Numbers):
        def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Any:
            return asked

    with pytest.raises(PluginError, match=message):
        Interview.open("odd", Odd(), CANDIDATE, REGIONS)
    with pytest.raises(PluginError, match=message.replace("questions", "further")):
        conduct([Interview.open("odd", OddLater(), CANDIDATE, REGIONS)], Script(one="1", two="1"), 0, 0.7, seed)


def test_an_exchange_of_before_counts_as_the_first_question() -> None:
    exchange = Exchange("numbers", Numbers().questions(CANDIDATE, REGIONS)[0], "0.5")
    interview = Interview.replay("numbers", Numbers(), CANDIDATE, REGIONS[:1], [exchange])
    assert interview.outcome() == [Score(0.5, "1", reason="said 0.5")]


EXAMPLE = "Score: -0.8\nReason: The lamp stands on the wrong side of the sofa."
QUESTION = "Judge the picture. " * 12 + f"For instance:\n{EXAMPLE}\n"


@each_row(
    "answer, left",
    [
        ("Score: 0.5\nReason: fine", "Score: 0.5\nReason: fine"),
        (f"user\n{QUESTION}\nassistant\nScore: 0.5", "\n\nassistant\nScore: 0.5"),
        (f"{QUESTION}", ""),
        (EXAMPLE, ""),  # word for word
        ("lamp", "lamp"),  # a short answer may well stand in the question
    ],
)
def test_a_repeated_question_is_no_answer(answer: str, left: str) -> None:
    assert without_echo(answer, QUESTION).strip() == left.strip()
    assert without_echo("It is a cup: 0.5", "a cup") == "It is a cup: 0.5"


def test_the_example_in_a_repeated_question_is_never_read_as_a_score() -> None:
    class Example(Numbers):
        wording = "1.0\n" * 60 + "for region {}"

        def scores(
            self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
        ) -> list[Score | Unreadable]:
            return super().scores(candidate, regions, [answer.split("\n")[0] or "?" for answer in answers])

    interview = Interview.open("example", Example(), CANDIDATE, REGIONS[:1])
    conduct([interview], lambda questions: [question.text for question in questions], 0, 0.7, seed)
    assert [type(each) for each in interview.outcome()] == [Unreadable]
    assert interview.exchanges[0].answer == interview.questions[0].text  # recorded as it came


# ---- in turns ------------------------------------------------------------------------------------------------------


class Turns:
    """Wants a list of things, then a number for each; a number above 1 is wanted again, in a third turn."""

    careful = True
    """Whether it goes on only once it can read the list."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> list[Question]:
        return [Question(candidate.image, "Which things?")]

    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> list[Question]:
        things = answers[0].split()
        if "?" in things and self.careful:
            return []
        if len(answers) == 1:
            return [Question(candidate.image, f"How is the {thing}?") for thing in things]
        if len(answers) == 1 + len(things):
            loud = [thing for thing, said in zip(things, answers[1:], strict=True) if said.isdigit() and int(said) > 1]
            return [Question(candidate.image, f"Really, the {thing}?") for thing in loud]
        return []

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> list[Score | Unreadable]:
        odd = [Unreadable(index, "what?") for index, answer in enumerate(answers) if "?" in answer]
        numbers = [max(-1.0, min(1.0, float(answer))) for answer in answers[1:] if "?" not in answer]
        return [*odd] or [Score(sum(numbers) / len(numbers), reason=" ".join(answers))]


class Batches:
    """Answers by question text, each a list for the first time, the second, …; keeps what was asked together."""

    def __init__(self, **answers: str) -> None:
        self.left = {key: value.split(",") for key, value in answers.items()}
        self.asked: list[list[str]] = []

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        self.asked.append([question.text for question in questions])
        return [self.left[question.text.split()[-1].strip("?")].pop(0) for question in questions]


def turned(ask: Batches, votes: int = 1, retries: int = 2, judge: Turns | None = None) -> Interview:
    interview = Interview.open("turns", judge or Turns(), CANDIDATE, REGIONS, votes)
    conduct([interview], ask, retries, 0.7, seed)
    return interview


def same_again(interview: Interview) -> None:
    again = Interview.replay("turns", interview.judge, CANDIDATE, REGIONS, interview.exchanges)
    assert (again.votes, again.exchanges, again.outcome()) == (
        interview.votes,
        interview.exchanges,
        interview.outcome(),
    )


def test_what_follows_from_answers_is_asked_until_nothing_does() -> None:
    ask = Batches(things="cup pot", cup="0.5", pot="9,1")
    interview = turned(ask)
    assert ask.asked == [["Which things?"], ["How is the cup?", "How is the pot?"], ["Really, the pot?"]]
    assert interview.outcome() == [Score(0.5 * 5 / 3, reason="cup pot 0.5 9 1")]
    assert [(each.index, each.question.temperature) for each in interview.exchanges] == [(i, 0.0) for i in range(4)]
    assert interview.questions == [Question(CANDIDATE.image, "Which things?")]
    same_again(interview)


def test_interviews_in_different_turns_are_asked_together() -> None:
    interviews = [Interview.open("turns", Turns(), CANDIDATE, REGIONS) for _ in range(2)]
    interviews.append(Interview.open("numbers", Numbers(), CANDIDATE, REGIONS[:1]))
    ask = Batches(things="cup,? ?,pot", cup="1", pot="-1", **{"1": "?,0.5"})
    conduct(interviews, ask, 2, 0.7, seed)
    first, further, last = ask.asked
    assert first == ["Which things?", "Which things?", "How good is region 1?"]
    assert further == ["How is the cup?", "Which things?", "How good is region 1?"]
    assert last == ["How is the pot?"]
    assert [getattr(each, "value", None) for interview in interviews for each in interview.outcome()] == [
        1.0,
        -1.0,
        0.5,
    ]


def test_nothing_follows_from_what_cannot_be_read() -> None:
    ask = Batches(things="?,cup", cup="?,?,1")
    interview = turned(ask)
    assert ask.asked == [["Which things?"]] * 2 + [["How is the cup?"]] * 3
    assert [(each.index, each.question.temperature) for each in interview.exchanges] == [
        (0, 0.0), (0, 0.7), (1, 0.0), (1, 0.7), (1, 0.7),
    ]  # fmt: skip
    assert interview.outcome() == [Score(1.0, reason="cup 1")]
    same_again(interview)
    lost = turned(Batches(things="?,?,?"))
    assert lost.outcome() == [Unreadable(0, "what?")]
    same_again(lost)


def test_another_answer_takes_along_what_followed_from_it() -> None:
    judge = Turns()
    judge.careful = False  # it goes on, and finds only in the end that it cannot read the list
    ask = Batches(things="cup ?,pot", cup="?", pot="0.5", **{"": "1"})
    interview = turned(ask, judge=judge)
    assert ask.asked == [
        ["Which things?"],
        ["How is the cup?", "How is the ??"],
        ["Which things?"],
        ["How is the pot?"],
    ]
    assert interview.answers == [["pot", "0.5"]]
    assert interview.outcome() == [Score(0.5, reason="pot 0.5")]
    assert [each.answer for each in interview.exchanges] == [
        "cup ?",
        "?",
        "1",
        "pot",
        "0.5",
    ]  # all that was said is kept
    same_again(interview)


def test_nothing_follows_from_a_repeated_question() -> None:
    class Wordy(Turns):
        def questions(self, candidate: Candidate, regions: Sequence[Region]) -> list[Question]:
            return [Question(candidate.image, "cup pot " * 30)]

    interview = Interview.open("turns", Wordy(), CANDIDATE, REGIONS)
    conduct([interview], lambda questions: [f"{each.text.strip()}0.5" for each in questions], 0, 0.7, seed)
    assert [entry.question.text for entry in interview.votes[0][1:]] == ["How is the 0.5?"]


def test_the_same_answer_again_keeps_what_followed_from_it() -> None:
    judge = Turns()
    judge.careful = False
    ask = Batches(things="cup ?,cup ?", cup="?,1", **{"": "1"})
    interview = turned(ask, retries=1, judge=judge)
    assert ask.asked[2:] == [["Which things?"], ["How is the cup?"]]
    assert interview.answers == [["cup ?", "1", "1"]]
    same_again(interview)


def test_each_vote_has_questions_of_its_own() -> None:
    interview = turned(Batches(things="cup pot,pot,cup", cup="0.1,0.3", pot="0.5,-1"), votes=3)
    assert [[entry.question.text for entry in vote[1:]] for vote in interview.votes] == [
        ["How is the cup?", "How is the pot?"], ["How is the pot?"], ["How is the cup?"],
    ]  # fmt: skip
    (score,) = interview.outcome()
    assert isinstance(score, Score)
    assert score.votes == (pytest.approx(0.3), -1.0, 0.3)
    assert all(each.question.temperature == 0.7 for each in interview.exchanges)
    same_again(interview)


def test_recorded_turns_are_only_read_where_the_same_follows_today() -> None:
    exchanges = turned(Batches(things="cup pot", cup="0.5", pot="9,1")).exchanges
    for some in (exchanges[:1], exchanges[:2], exchanges[:3], [*exchanges, attrs.evolve(exchanges[0], index=4)]):
        with pytest.raises(RecordError, match="judge again with --redo judge"):
            Interview.replay("turns", Turns(), CANDIDATE, REGIONS, some)
    other = [attrs.evolve(exchanges[0], answer="cup jug"), *exchanges[1:]]
    with pytest.raises(RecordError, match="asks 3 questions about image c today"):
        Interview.replay("turns", Turns(), CANDIDATE, REGIONS, other)
    reworded = Interview.replay("turns", Turns(), CANDIDATE, REGIONS, other, reworded=True)
    assert [type(each) for each in reworded.outcome()] == [Score]


def test_a_judge_that_never_comes_to_an_end_is_stopped() -> None:
    class Endless(Turns):
        def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> list[Question]:
            return [Question(candidate.image, "And then?")]

    interview = Interview.open("endless", Endless(), CANDIDATE, REGIONS)
    with pytest.raises(PluginError, match=r'"endless" still has questions about image c after 8 turns.*`further`'):
        conduct([interview], lambda questions: ["so"] * len(questions), 0, 0.7, seed)
    assert len(interview.exchanges) == 8


def test_a_refused_question_is_a_failure_with_its_reason_and_not_asked_again() -> None:
    script = Script(one="", two="0.5")
    interview = Interview.open("numbers", Numbers(), CANDIDATE, REGIONS)
    asked: list[Question] = []

    def ask(questions: Sequence[Question]) -> list[str]:
        asked.extend(questions)
        return [Answer("?", "m", "said 400") if "region 1" in each.text else script([each])[0] for each in questions]

    conduct([interview], ask, 3, 1.0, seed)
    assert len(asked) == 2
    assert interview.outcome() == [Unreadable(0, "said 400", "1"), Score(0.5, "2", reason="said 0.5")]
    again = Interview.replay("numbers", Numbers(), CANDIDATE, REGIONS, interview.exchanges)
    assert again.outcome() == interview.outcome()
    assert again.exchanges == interview.exchanges
    assert [(type(each.answer), each.model) for each in interview.exchanges] == [(str, "m"), (str, "")]
