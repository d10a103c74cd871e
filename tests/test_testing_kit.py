"""The testing kit: its suites catch what is broken and let pass what is sound; its fixtures and its scripted model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import broken_adapters
import broken_plugins
import pytest
from PIL import Image
from rows import each_row

from srum_core import testing
from srum_core.errors import AnswerError
from srum_core.records import Exchange, Question, Score
from srum_core.stages.interview import Interview, conduct
from srum_core.testing import (
    THREE_REGIONS,
    AdapterConformance,
    JudgeConformance,
    ScriptedModel,
    Transcript,
    read_transcripts,
    sample_candidate,
    sample_image,
    sample_judgement,
    sample_regions,
    table8,
    write_transcripts,
)
from srum_judges.judges import LocalRegions
from srum_judges.options import RegionsOptions

BROKEN = [
    (name, test, words) for _, _, cases, _ in broken_plugins.KINDS.values() for name, (_, test, words) in cases.items()
]


ALONE = (
    "RandomEncode", "DeafToText", "LeakingNeighbour", "OneSizeOnly", "MissingBlocks", "MissingLora", "DrawsOnePicture",
    "AnswersOnce", "VelocityUnpackedAcross", "TransposedGrid", "DeafTextWeights",
)  # fmt: skip
"""Broken adapters whose fault many tests would notice."""


class Recorder:
    """What came of every test: outcome by "class::test", and the messages of those that failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[str]] = {}
        self.messages: dict[str, str] = {}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome == "failed":
            key = "::".join(report.nodeid.split("::")[1:]).split("[")[0]
            self.outcomes.setdefault(key, []).append(report.outcome)
            if report.failed:
                crash = report.longrepr.reprcrash.message
                self.messages[key] = f"{self.messages.get(key, '')}\n{crash}"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Recorder:
    """Every sound plugin before its whole suite, every broken one before the test that must notice, some before all."""
    recorder, path = Recorder(), Path(broken_plugins.__file__)
    chosen = [f"TestSound_{name}" for name in broken_plugins.SOUND]
    chosen += [f"Test{name}" if name in ALONE else f"Test{name}::{test}" for name, test, _ in BROKEN]
    folder = tmp_path_factory.mktemp("inner")
    (folder / "pytest.ini").write_text("[pytest]\n")
    options = ["-qq", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder / 'tmp'}", "-W", "ignore"]
    where = ["-c", str(folder / "pytest.ini"), "--rootdir", str(path.parent)]
    pytest.main([*options, *where, *(f"{path}::{each}" for each in chosen)], plugins=[recorder])
    return recorder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "test", "words"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_plugin_is_caught_by_the_test_that_names_its_fault(
    results: Recorder, name: str, test: str, words: str
) -> None:
    key = f"Test{name}::{test}"
    assert "failed" in results.outcomes[key]
    message = " ".join(results.messages[key].split())
    assert re.search(words, message), message
    assert message.startswith(("AssertionError: ", "srum_core.errors."))


@each_row("name", ALONE)
def test_one_fault_gives_one_message(results: Recorder, name: str) -> None:
    """Tests that build on what fails are skipped, and do not lead astray."""
    failed = [key for key, found in results.outcomes.items() if key.startswith(f"Test{name}::") and "failed" in found]
    assert failed == [f"Test{name}::{broken_adapters.CASES[name][1]}"]


@each_row("name", broken_plugins.SOUND)
def test_what_is_sound_passes_everything(results: Recorder, name: str) -> None:
    own = {key: found for key, found in results.outcomes.items() if key.startswith(f"TestSound_{name}::")}
    assert len(own) >= 6
    assert {outcome for found in own.values() for outcome in found} <= {"passed", "skipped"}, results.messages


def test_every_named_test_is_one_of_its_suite() -> None:
    for base, _, cases, _ in broken_plugins.KINDS.values():
        assert not [test for _, test, _ in cases.values() if not hasattr(base, test)]


# ---- without torch -------------------------------------------------------------------------------------------------


def test_the_kit_is_there_without_torch_and_pytest() -> None:
    code = """
import sys
sys.modules |= {"torch": None, "pytest": None, "numpy": None}
from pathlib import Path
from srum_core.testing import *  # noqa
"""
    names = "ScriptedModel, sample_candidate, sample_regions, sample_judgement, table8, THREE_REGIONS, read_transcripts"
    code = code.replace("*  # noqa", names) + "table8(); sample_judgement(); print(len(sample_regions()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "3\n"


@pytest.mark.slow
def test_a_judge_is_tested_where_there_is_no_torch(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "from srum_core.testing import BenchmarkConformance, GrounderConformance, JudgeConformance\n"
        "from srum_judges.judges import GlobalLayout\n"
        "class TestMine(JudgeConformance):\n"
        "    @pytest.fixture\n"
        "    def judge(self):\n"
        "        return GlobalLayout()\n"
    )
    code = "import sys; sys.modules['torch'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"1\d passed, 2 skipped", done.stdout)


def test_every_name_of_the_kit_is_there() -> None:
    assert [name for name in testing.__all__ if not hasattr(testing, name)] == []
    with pytest.raises(AttributeError, match="Judgment"):
        testing.JudgmentConformance  # noqa: B018


# ---- fixtures ------------------------------------------------------------------------------------------------------


def test_the_three_regions_are_all_read_where_the_official_rule_keeps_one(tmp_path: Path) -> None:
    blocks = THREE_REGIONS.split("\n\n")
    assert [re.findall(r"Region ID:\s*(\d+)", block)[0] for block in blocks] == ["1"]  # its first match in each block
    judge = LocalRegions(RegionsOptions(penalty=False, grounded=False))
    found = judge.scores(sample_candidate(tmp_path), sample_regions(), [THREE_REGIONS])
    assert [(each.region, each.value) for each in found if isinstance(each, Score)] == [
        ("1", 0.8),
        ("2", 0.4),
        ("3", -0.6),
    ]


def test_table_8_is_the_papers() -> None:
    candidate, judgement = table8()
    assert (candidate.prompt.text, candidate.size) == ("a microwave hidden by a horse", (1024, 1024))
    values = {score.region: score.value for score in judgement.scores}
    assert values.pop(None) == 1.0
    assert list(values) == [region.id for region in judgement.regions] == [str(i) for i in range(1, 11)]
    assert sorted(values.values()) == [0.0, 0.0, 0.5] + [0.95] * 7
    pixels = [tuple(round(1024 * edge) for edge in region.box) for region in judgement.regions]
    assert (pixels[0], pixels[3], pixels[-1]) == ((164, 97, 957, 990), (349, 28, 920, 389), (430, 607, 755, 780))


def test_samples_are_the_same_every_time(tmp_path: Path) -> None:
    assert sample_image((40, 24), 3).tobytes() == sample_image((40, 24), 3).tobytes()
    assert sample_image((40, 24), 3).tobytes() != sample_image((40, 24), 4).tobytes()
    assert sample_image((1, 1)).size == (1, 1)
    candidate = sample_candidate(tmp_path / "new", id="a", prompt="two dogs", size=(40, 24), seed=3)
    assert (candidate.prompt.text, candidate.size, candidate.image.name) == ("two dogs", (40, 24), "a.png")
    assert Image.open(candidate.image).tobytes() == sample_image((40, 24), 3).tobytes()
    known = {region.id for region in sample_regions()}
    assert known == {score.region for score in sample_judgement().scores if score.region}


# ---- the scripted model --------------------------------------------------------------------------------------------


def question(text: str, image: str = "a.png", crop=None) -> Question:
    return Question(Path(image), text, crop)


def test_the_kth_time_gets_the_kth_answer_then_the_last() -> None:
    model = ScriptedModel({"how many?": ["one", "two"], "which?": "that"})
    asked = [question(text) for text in ("how many?", "which?", "how many?", "how many?", "which?")]
    assert model.answer(asked) == ["one", "that", "two", "two", "that"]
    assert model.asked == asked


def test_what_is_enqueued_comes_first() -> None:
    model = ScriptedModel({"how many?": "one"})
    model.enqueue("I", "do not know")
    assert model.answer([question("how many?")] * 3) == ["I", "do not know", "one"]


def test_an_unknown_question_is_an_error_that_shows_the_nearest() -> None:
    model = ScriptedModel({"Is the cup red?": "yes", "How many dogs are there?": "two"})
    with pytest.raises(AnswerError, match=r"no answer to the question 'Is the cup blue\?'.* 'Is the cup red\?'"):
        model.answer([question("Is the cup blue?")])
    with pytest.raises(AnswerError, match="It knows none"):
        ScriptedModel().answer([question("Is the cup blue?")])
    assert ScriptedModel(default="no").answer([question("Is the cup blue?")]) == ["no"]


LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def test_transcripts_tell_questions_apart_by_text_crop_and_image(tmp_path: Path) -> None:
    def exchange(image: str, crop, answer: str) -> Exchange:
        return Exchange("mine", question("what?", image, crop), answer)

    said = (
        exchange("a.png", LEFT, "a, left"),
        exchange("a.png", RIGHT, "a, right"),
        exchange("b.png", LEFT, "b, left"),
    )
    model = ScriptedModel([Transcript("mine", sample_candidate(tmp_path), exchanges=said)])
    wanted = [("b.png", LEFT), ("a.png", RIGHT), ("a.png", LEFT), ("elsewhere.png", LEFT), ("elsewhere.png", LEFT)]
    answers = model.answer([question("what?", image, crop) for image, crop in wanted])
    assert answers == ["b, left", "a, right", "a, left", "a, left", "b, left"]
    with pytest.raises(AnswerError, match="not about the crop None"):
        model.answer([question("what?")])


# ---- transcripts ---------------------------------------------------------------------------------------------------


def recorded(folder: Path, judge: LocalRegions) -> Path:
    """What `srum record` makes: an interview in which the first answer could not be read."""
    candidate, regions = sample_candidate(folder), sample_regions()
    interview = Interview.open("local-regions", judge, candidate, regions)
    model = ScriptedModel({interview.questions[0].text: ["I would rather not.", THREE_REGIONS]})
    conduct([interview], model.answer, retries=2, temperature=1.0, seed=lambda *_: 0)
    scores = tuple(each for each in interview.outcome() if isinstance(each, Score))
    assert len(scores) == 3
    path = folder / "recorded.jsonl"
    write_transcripts(
        path, [Transcript("local-regions", candidate, regions, exchanges=tuple(interview.exchanges), scores=scores)]
    )
    return path


def test_recorded_answers_are_read_again_and_a_change_is_noticed(tmp_path: Path) -> None:
    suite = JudgeConformance()
    suite.transcripts = recorded(tmp_path, LocalRegions())
    (tmp_path / "sample.png").unlink()  # reading needs no image
    suite.test_recorded_answers_read_as_before(LocalRegions())
    with pytest.raises(AssertionError, match=r"Of image sample .* is not what it was .* record the transcripts again"):
        suite.test_recorded_answers_read_as_before(LocalRegions(RegionsOptions(penalty=False)))
    with pytest.raises(AssertionError, match="asks 3 questions about image sample today"):
        suite.test_recorded_answers_read_as_before(LocalRegions(RegionsOptions(per_question=1)))


def test_a_recorded_hearing_is_answered_again_from_its_transcript(tmp_path: Path) -> None:
    (transcript,) = read_transcripts(recorded(tmp_path, LocalRegions()))
    interview = Interview.open("local-regions", LocalRegions(), transcript.candidate, transcript.regions)
    model = ScriptedModel([transcript])
    conduct([interview], model.answer, retries=2, temperature=1.0, seed=lambda *_: 0)
    assert tuple(interview.outcome()) == transcript.scores
    assert len(model.asked) == 2


def test_a_suite_names_the_missing_reload() -> None:
    class Bare:
        pass

    with pytest.raises(NotImplementedError, match=r"Bare has no attrs `options` .* Override `reload"):
        AdapterConformance().reload(Bare(), Path("x"))
