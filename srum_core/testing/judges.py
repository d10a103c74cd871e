"""Requirements of every judge."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest

from srum_core.errors import SrumError
from srum_core.plugins.registry import require_protocol
from srum_core.protocols import Judge
from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_core.stages.interview import MOST_TURNS, Interview, listed, without_echo
from srum_core.testing.fixtures import after, called, check_questions, sample_candidate, sample_regions, shown
from srum_core.testing.malformed_answers import NOTHING, QUESTIONS, WELL_FORMED, odd_answers, out_of_range
from srum_core.testing.transcripts import Transcript, read_transcripts

Results = list[Score | Unreadable]


class JudgeConformance:
    """Subclass it as `Test…` with a fixture `judge`. `valid`: answers in the form that the judge asks for.
    `transcripts`: a file of `srum record`. `openers`, for a judge that asks in turns: answers to its first questions
    that lead to further ones."""

    valid: tuple[str, ...] = ()
    transcripts: Path | None = None
    openers: tuple[str, ...] = (QUESTIONS,)
    needs_torch: bool = False
    """True for a judge with a model of its own instead of a language model (CLIP, a detector, a reward model)."""

    @pytest.fixture
    def candidate(self, tmp_path: Path) -> Candidate:
        """The image that is asked about."""
        return sample_candidate(tmp_path)

    @pytest.fixture
    def regions(self) -> list[Region]:
        """Its regions."""
        return list(sample_regions())

    # ---- asking -----------------------------------------------------------------------------------------------------

    def test_it_is_a_judge(self, judge: Judge, candidate: Candidate) -> None:
        who = type(judge).__name__
        require_protocol(judge, Judge, who)
        called(f"{who}.questions", partial(asked, judge, candidate, sample_regions()))

    @after("test_it_is_a_judge")
    def test_asking_is_pure(self, judge: Judge, candidate: Candidate, regions: list[Region], tmp_path: Path) -> None:
        before = deepcopy((candidate, regions))
        first = list(judge.questions(candidate, regions))
        judge.questions(sample_candidate(tmp_path, id="other", prompt="two dogs", size=(48, 64)), regions[:1])
        check_questions(first, list(judge.questions(candidate, regions)), candidate, type(judge).__name__)
        assert (candidate, regions) == before, f"{type(judge).__name__}.questions changed what it was given."

    @after("test_it_is_a_judge")
    def test_an_image_without_regions_is_no_problem(self, judge: Judge, candidate: Candidate) -> None:
        who = f"{type(judge).__name__} cannot handle an image without regions"
        questions = called(who, lambda: list(judge.questions(candidate, [])))
        check_questions(questions, list(judge.questions(candidate, [])), candidate, type(judge).__name__)
        for text in (WELL_FORMED[1], *self._leading(judge)) if questions else ():
            answers = replies(judge, candidate, [], text)
            called(who, partial(read, judge, candidate, [], answers))

    @pytest.mark.parametrize("number", [1, 2, 12])
    @after("test_it_is_a_judge")
    def test_any_number_of_regions_will_do(self, judge: Judge, candidate: Candidate, number: int) -> None:
        regions = [Region(f"r{i}", (i / 16, 0.0, (i + 1) / 16, 1.0)) for i in range(number)]
        for text in (WELL_FORMED[1], *self._leading(judge)):
            read(judge, candidate, regions, replies(judge, candidate, regions, text))

    @after("test_it_is_a_judge")
    def test_asking_further_is_pure(
        self, judge: Judge, candidate: Candidate, regions: list[Region], tmp_path: Path
    ) -> None:
        further, who = getattr(judge, "further", None), f"{type(judge).__name__}.further"
        if further is None:
            return
        for text in self._leading(judge):
            answers = [text] * len(judge.questions(candidate, regions))
            before = deepcopy((candidate, regions, answers))
            first = list(called(who, partial(further, candidate, regions, answers)))
            other = sample_candidate(tmp_path, id="other", prompt="two dogs", size=(48, 64))
            further(other, regions[:1], [text] * len(judge.questions(other, regions[:1])))
            check_questions(
                first, list(further(candidate, regions, answers)), candidate, type(judge).__name__, "further"
            )
            assert (candidate, regions, answers) == before, f"{who} changed what it was given."
        assert any(self._follow_ups(judge, candidate, regions, "")), (
            f"{who} gave no question for any of the answers {', '.join(map(shown, self._leading(judge)))}: nothing "
            "that follows was tested. Put an answer that leads on into the attribute `openers`."
        )

    # ---- reading ----------------------------------------------------------------------------------------------------

    @after("test_it_is_a_judge")
    def test_a_valid_answer_gives_a_score(self, judge: Judge, candidate: Candidate, regions: list[Region]) -> None:
        if not self.valid and not self.transcripts and asked(judge, candidate, regions):
            pytest.skip("no answers in the judge's own form: put some into `valid`; without them no score is tested")
        for text in self.valid:
            results = read(judge, candidate, regions, replies(judge, candidate, regions, text))
            reasons = [each.why for each in results if isinstance(each, Unreadable)]
            assert len(reasons) < len(results), (
                f"{type(judge).__name__} gives no score for the answer {shown(text)} in `valid` ({' '.join(reasons)})."
            )

    @after("test_it_is_a_judge")
    def test_reading_is_pure(self, judge: Judge, candidate: Candidate, regions: list[Region]) -> None:
        for text in (*WELL_FORMED, *self._leading(judge)):
            answers = replies(judge, candidate, regions, text)
            before = deepcopy((candidate, regions, answers))
            first = read(judge, candidate, regions, answers)
            assert (candidate, regions, answers) == before, f"{type(judge).__name__}.scores changed what it was given."
            read(judge, candidate, regions, replies(judge, candidate, regions, "Score: 0.1\nReason: another"))
            assert read(judge, candidate, regions, answers) == first, (
                f"{type(judge).__name__}.scores read the same answer differently the second time ({shown(text)}). "
                "Reading must depend on its arguments alone, or recorded answers cannot be read again."
            )

    @after("test_it_is_a_judge")
    def test_odd_answers_are_scores_or_unreadable(
        self, judge: Judge, candidate: Candidate, regions: list[Region]
    ) -> None:
        for text in odd_answers(self._recorded()) if judge.questions(candidate, regions) else ():
            read(judge, candidate, regions, replies(judge, candidate, regions, text))
            self._follow_ups(judge, candidate, regions, text)

    @after("test_it_is_a_judge")
    def test_scores_stay_between_minus_one_and_one(
        self, judge: Judge, candidate: Candidate, regions: list[Region]
    ) -> None:
        questions = judge.questions(candidate, regions)
        for text in out_of_range([region.id for region in regions], self._recorded()) if questions else ("",):
            read(judge, candidate, regions, replies(judge, candidate, regions, text))
            self._follow_ups(judge, candidate, regions, text)

    @after("test_it_is_a_judge")
    def test_empty_answers_never_give_a_score(self, judge: Judge, candidate: Candidate, regions: list[Region]) -> None:
        for text in NOTHING:
            answers = replies(judge, candidate, regions, text)
            _check_silence(judge, text, read(judge, candidate, regions, answers), range(len(answers)))
            for results, later in self._follow_ups(judge, candidate, regions, text):
                _check_silence(judge, text, results, later)

    def test_recorded_answers_read_as_before(self, judge: Judge) -> None:
        recorded = self._transcripts()
        if not recorded:
            pytest.skip("no transcripts: record some with `srum record` and name the file in `transcripts`")
        for transcript in recorded:
            try:
                interview = Interview.replay(
                    transcript.judge,
                    judge,
                    transcript.candidate,
                    transcript.regions,
                    transcript.exchanges,
                    reworded=True,  # another wording of a question needs no new transcript
                )
            except SrumError as error:
                raise AssertionError(f"{error} (Transcripts: {self.transcripts})") from error
            outcome = interview.outcome()
            expected: Results = [*transcript.scores, *transcript.failures]
            changed = [each for each in outcome if each not in expected]
            changed += [each for each in expected if each not in outcome]
            assert not changed, (
                f"Of image {transcript.candidate.id} in {self.transcripts}, {changed[0]} is not what it was "
                f"(before: {expected}; now: {outcome}). If the change is wanted, record the transcripts again."
            )

    # ---- scoring in batches -----------------------------------------------------------------------------------------

    def test_no_score_depends_on_the_batch(
        self, judge: Judge, candidate: Candidate, regions: list[Region], tmp_path: Path
    ) -> None:
        """A resumed run may score an image again, in another batch or order."""
        many, who = getattr(judge, "score_many", None), f"{type(judge).__name__}.score_many"
        if many is None:
            return
        sizes = ((64, 48), (48, 64), (3, 2), (64, 64))
        more = [
            sample_candidate(tmp_path, id=f"other-{i}", prompt=f"{i} dogs", size=size, seed=i)
            for i, size in enumerate(sizes)
        ]
        pairs: list[tuple[Candidate, list[Region]]] = [(candidate, regions), (more[0], [])]
        pairs += [(each, regions[:1]) for each in more[1:]]
        ids = [each.id for each, parts in pairs if judge.questions(each, parts)]
        assert not ids, f"{type(judge).__name__} asks questions: one that has `score_many` asks none."

        def scored(images: list[tuple[Candidate, list[Region]]]) -> list[Results]:
            results = called(
                f"{who} failed on {len(images)} images",
                lambda: [list(each) for each in many([each for each, _ in images], [parts for _, parts in images])],
            )
            assert len(results) == len(images), f"{who} gave {len(results)} results for {len(images)} images."
            return results

        before, batch = deepcopy(pairs), scored(pairs)
        assert pairs == before, f"{who} changed what it was given."
        for (one, parts), results in zip(pairs, batch, strict=True):
            check_results(judge, parts, results, 0, f"the image {one.id} in a batch")
        repetitions: dict[str, list[Results]] = {
            "the second time": scored(pairs),
            "in another order": scored(pairs[::-1])[::-1],
            "alone": [scored([pair])[0] for pair in pairs],
            "by `scores`": [list(judge.scores(one, parts, [])) for one, parts in pairs],
        }
        for where, elsewhere in repetitions.items():
            for (one, _), result, other in zip(pairs, batch, elsewhere, strict=True):
                assert _alike(result, other), (
                    f"{who} gives image {one.id} {result} in a batch of {len(pairs)}, and {other} {where}. A score may "
                    "depend on its own image alone, up to rounding: no statistics of the batch, no padding that is "
                    "seen, results in the order of the images."
                )

    # ---- torch ------------------------------------------------------------------------------------------------------

    def test_its_module_imports_no_torch(self, judge: Judge) -> None:
        if self.needs_torch:
            return
        module = type(judge).__module__
        code = f"import sys; sys.path[:] = {sys.path!r}; import {module}; sys.exit(3 * ('torch' in sys.modules))"
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert process.returncode != 3, (
            f"Importing {module}, where {type(judge).__name__} is, imports torch. Judges are loaded by the command "
            "line and tested without it: import heavy modules inside the functions that need them, or not at all. A "
            "judge with a model of its own sets in its test: `needs_torch = True`."
        )
        assert process.returncode == 0, f"{module} cannot be imported alone:\n{process.stderr[-2000:]}"

    @after("test_it_is_a_judge")
    def test_judging_imports_no_torch(
        self, judge: Judge, candidate: Candidate, regions: list[Region], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if self.needs_torch:
            return
        monkeypatch.setitem(sys.modules, "torch", None)  # from here on, importing it fails
        try:
            for text in (*WELL_FORMED, *self._leading(judge)):
                judge.scores(candidate, regions, replies(judge, candidate, regions, text))
        except ImportError as error:
            raise AssertionError(f"{type(judge).__name__} imports torch while it asks or reads: {error}") from error

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _transcripts(self) -> list[Transcript]:
        return read_transcripts(self.transcripts) if self.transcripts else []

    def _leading(self, judge: Judge) -> Sequence[str]:
        """Return first answers to try for a judge that asks in turns: the openers, and recorded ones."""
        if not hasattr(judge, "further"):
            return ()
        first = (next(iter(transcript.exchanges), None) for transcript in self._transcripts()[:3])
        return (*self.openers, *(exchange.answer for exchange in first if exchange is not None))

    def _follow_ups(
        self, judge: Judge, candidate: Candidate, regions: list[Region], later: str
    ) -> list[tuple[Results, range]]:
        """Return scores and indices of follow-up questions, after a good first answer and `later` to all others."""
        count, pairs = len(judge.questions(candidate, regions)), []
        for first in self._leading(judge):
            answers = replies(judge, candidate, regions, first, later)
            if len(answers) > count:
                pairs.append((read(judge, candidate, regions, answers), range(count, len(answers))))
        return pairs

    def _recorded(self) -> list[str]:
        return [exchange.answer for transcript in self._transcripts() for exchange in transcript.exchanges]


def asked(judge: Judge, candidate: Candidate, regions: Sequence[Region]) -> list[Question]:
    """The judge's first questions. Raises PluginError if they are no list of questions."""
    return listed("`questions`", judge.questions(candidate, regions), Question)


def replies(
    judge: Judge, candidate: Candidate, regions: Sequence[Region], first: str, later: str | None = None
) -> list[str]:
    """Answer all first questions with `first`, and all further ones with `later` (None: with `first`)."""
    questions = list(judge.questions(candidate, regions))
    answers, further = [first] * len(questions), getattr(judge, "further", None)
    if further is None:
        return answers
    for turn in range(MOST_TURNS if questions else 0):
        who = f"{type(judge).__name__}.further must give questions, or none, after the answer {shown(answers[-1])}"
        cleaned = [without_echo(answer, each.text) for answer, each in zip(answers, questions, strict=True)]
        more: list[Question] = list(called(who, partial(further, candidate, regions, cleaned)))
        if not more:
            return cleaned
        check_questions(more, list(further(candidate, regions, cleaned)), candidate, type(judge).__name__, "further")
        questions += more
        answers += [first if later is None else later] * len(more)
        assert turn < MOST_TURNS - 1, (
            f"{type(judge).__name__}.further still gives questions after {MOST_TURNS} turns (the answers begin with "
            f"{shown(first)}). It must come to an end: [] when the judge knows enough."
        )
    return answers


def _check_silence(judge: Judge, text: str, results: Results, questions: range) -> None:
    """Check that an empty answer gives no score, and that every question without an answer is reported."""
    if not questions:
        return
    scored = [each for each in results if isinstance(each, Score)]
    assert not scored, (
        f"{type(judge).__name__} gives the score {scored[0].value} for the answer {text!r}, which says "
        "nothing: an answer that cannot be read is Unreadable, never a default such as 0."
    )
    silent = set(questions) - {each.question for each in results if isinstance(each, Unreadable)}
    assert not silent, (
        f"{type(judge).__name__} reports nothing for its questions {sorted(silent)} when the answer is "
        f"{text!r}: without an Unreadable for it a question is not asked again, and its score is "
        "missing without a trace."
    )


def read(judge: Judge, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Results:
    """Return the judge's scores; fail with a message if it raises or returns invalid scores."""
    who = f"{type(judge).__name__}.scores"
    message = f"the answer {shown(answers[0])}" if answers else "no answers"
    results: Results = called(
        f"{who} must give a Score or Unreadable for {message} (Unreadable also for a number outside [-1, 1])",
        lambda: listed("`scores`", judge.scores(candidate, regions, answers), Score, Unreadable),
    )
    check_results(judge, regions, results, len(answers), message)
    return results


def _alike(one: Results, other: Results) -> bool:
    """Return whether results are equal, in order; values up to rounding."""

    def about(results: Results) -> list[tuple[str | None, str, str | None]]:
        return [(each.region, each.judge, each.why if isinstance(each, Unreadable) else None) for each in results]

    values = [[each.value for each in results if isinstance(each, Score)] for results in (one, other)]
    return about(one) == about(other) and all(abs(a - b) <= 1e-4 for a, b in zip(*values, strict=True))


def check_results(judge: Judge, regions: Sequence[Region], results: Results, count: int, message: str) -> None:
    """Check that results are scores in range or failures, of known regions and asked questions."""
    who = f"{type(judge).__name__}.scores"
    ids = {None, *(region.id for region in regions)}
    for each in results:
        assert isinstance(each, Score | Unreadable), (
            f"{who} gave {each!r} for {message}; only Score and Unreadable count."
        )
        assert each.region in ids, f'{who} scores region "{each.region}" for {message}; the image has {ids}.'
        if isinstance(each, Score):
            assert -1 <= each.value <= 1, f"{who} gave the score {each.value} for {message}; scores lie in [-1, 1]."
        else:
            assert 0 <= each.question < max(count, 1), (
                f"{who} calls the answer to question {each.question} unreadable, but there were {count} "
                "questions: `Unreadable.question` is the index of the one to ask again."
            )
