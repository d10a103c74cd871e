"""`srum eval`: from prompts to tables, interrupted anywhere, with judges that misbehave."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import compbench_folder, geneval_folder, reasonbench_folder, wise_folder
from PIL import Image
from warm import shared

from srum_benchmarks.wise.prompts import LEGACY
from srum_core.cli.main import main
from srum_core.evaluation import answers, plan, tables
from srum_core.evaluation.run import Evaluation
from srum_core.records import Answer, Question, Sample

HERE = "test_evaluation"
LEFT: dict[str, int] = {}
"""How many more calls end well, by kind; after them the process is as good as killed."""
COUNT = 20


class Killed(BaseException):
    """Nothing catches it."""


def called(what: str) -> None:
    LEFT[what] = LEFT.get(what, 10**9) - 1
    if os.environ.get("SRUM_TEST_KILL") == what and LEFT[what] < 10**9 - 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if LEFT[what] < 0:
        raise Killed


class Generates:
    """Generates one colour, and cannot answer."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        called("draw")
        colours = [hashlib.sha256(f"{p}{s}".encode()).digest()[:3] for p, s in zip(prompts, seeds, strict=True)]
        return [Sample(Image.new("RGB", (32, 32), tuple(colour))) for colour in colours]


class Overflows(Generates):
    """The first of every batch is black, because what it was made from is not finite."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        bad = Sample(Image.new("RGB", (32, 32)), failure="not finite")
        return [bad, *super().generate(prompts, seeds)[1:]]


class GeneratesAndAnswers(Generates):
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return Judges().answer(questions)


class Judges:
    """Grades by the image's bytes; of some images it talks in prose, and of some of those also when asked again."""

    converses = True

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        called("answer")
        return [self.about(question) for question in questions]

    def about(self, question: Question) -> str:
        number = hashlib.sha256(question.image.read_bytes()).digest()[0]
        again = hashlib.sha256(f"{question.image.name}{question.seed}".encode()).digest()[0]
        if number % 4 == 0 and not (question.temperature and again % 3 == 0):
            return "What a lovely picture!"
        if '"detections"' in question.text:
            dogs = [{"label": "dog", "box": [0, 0, 9, 9], "score": 0.9}]
            return json.dumps({"detections": dogs * (number % 2)})
        if "Its rule:" in question.text:
            assert question.history
            return json.dumps({"reason": ["so", "so"], "score": [1, 0.5 if number % 2 else 0]})
        grade = number % 3
        return json.dumps({"score": number % 101}) + f"\nConsistency: {grade}\nRealism: {grade}\nAesthetic Quality: 1"


class Wordy(Judges):
    """Never says a grade."""

    def about(self, question: Question) -> str:
        return "I would rather talk about the weather."


class Refuses(Judges):
    """A server that refuses some images, and changes its model on the way."""

    count = 0

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        if hashlib.sha256(question.image.read_bytes()).digest()[1] % 3 == 0:
            return Answer(refused="The server said 400.")
        Refuses.count += 1
        return Answer(self.about(question), model="m-1" if Refuses.count < 9 else "m-2")


class Another(Judges):
    """A server that says who answers."""

    def identity(self) -> str:
        return os.environ.get("SRUM_TEST_MODEL", "one")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    LEFT.clear()
    yield
    LEFT.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up(tmp_path_factory.mktemp("data"))


def made_up(folder: Path) -> Path:
    """Made-up prompts of every benchmark, in one folder."""
    return wise_folder(reasonbench_folder(compbench_folder(geneval_folder(folder))), LEGACY)


def use(name: str, data: Path, **options: Any) -> str:
    if name == "shapes":
        return name
    more = "".join(f", {key}={json.dumps(value)}" for key, value in options.items())
    return f'{{use="{name}", data="{data}", verify=false{more}}}'


def model(benchmark: str, out: Path, *more: str, limit: int = COUNT) -> list[str]:
    named = ["--adapter", f"{HERE}:Generates", "--benchmark", benchmark]
    return [*named, "--out", str(out), f"evaluate.limit={limit}", "evaluate.batch=4", *more]


def srum(*words: str | Path) -> int:
    return main(["eval", *map(str, words)])


def made(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on interruptions."""
    kept = [*folder.glob("tables/*/*"), *folder.glob("images/images/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def until_killed(act: Callable[[], object], **left: int) -> None:
    LEFT.update(left)
    with pytest.raises(Killed):
        act()
    LEFT.clear()


def detect(run: Path) -> Path:
    """A detector that sees a dog in every other image."""
    lines = []
    for number, path in enumerate(sorted(run.glob("images/images/*.png"))):
        found = [{"label": "dog", "box": [0, 0, 9, 9], "score": 0.9}] * (number % 2)
        lines.append({"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "detections": found})
    file = run / "seen.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


# ---- end to end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compbench", "geneval", "reasonbench"])
def test_killed_anywhere_and_resumed_the_tables_are_the_same(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path) -> int:
        return srum("run", *model(use(name, data), out, "seed=7", "--judge", f"{HERE}:Judges", "--as", "j"))

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole) == 0
    until_killed(lambda: run(parts), draw=2)
    until_killed(lambda: run(parts), draw=1)
    until_killed(lambda: run(parts), answer=3)
    with next((parts / "answers/j").glob("part-*.jsonl")).open("a") as file:
        file.write('{"id": "torn')  # what a killed writer leaves
    until_killed(lambda: run(parts), answer=2)
    assert run(parts) == 0
    assert made(parts) == made(whole)
    table = tables.read(whole / "tables/j/table.json")
    assert (table.images, table.planned, table.limit) == (COUNT, COUNT, COUNT)
    assert table.judge == f"{HERE}:Judges"
    assert table.readable < 1
    assert all(row.low is not None and row.low <= row.value <= row.high for row in table.rows if row.name != "readable")  # type: ignore[operator]
    said = capsys.readouterr().out
    assert "coverage" in said
    assert "Incomplete: less than 99%" in said
    assert ("own rubric" in said) == (name != "geneval")


def test_refused_images_are_unreadable_and_the_table_names_all_that_answered(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert srum("run", *model(use("compbench", data), run, "--judge", f"{HERE}:Refuses", "--as", "j")) == 0
    table = tables.read(run / "tables/j/table.json")
    assert table.judge == f"{HERE}:Refuses, answered by m-1, m-2"
    assert table.readable < 1
    lines = [json.loads(line) for line in (run / "tables/j/images.jsonl").read_text().splitlines()]
    refused = [each for each in lines if "The server said 400." in each["unreadable"]]
    assert 0 < len(refused) < COUNT
    assert not any(each["values"].get("score") for each in refused)
    before = made(run)
    for path in (run / "tables/j").iterdir():
        path.unlink()
    assert srum("score", run) == 0  # out of records
    assert made(run) == before


class RefusesAll(Judges):
    def about(self, question: Question) -> str:
        return Answer(refused="The server said 400.")


def test_images_that_are_all_refused_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert srum("run", *model("toy:AskingBenchmark", tmp_path, "--judge", f"{HERE}:RefusesAll")) == 2
    assert "None of the 3 images" in (said := capsys.readouterr().err)
    assert "The server said 400." in said


@pytest.mark.parametrize("name", ["compbench", "shapes"])
def test_an_image_that_is_a_failure_has_no_score_and_counts_against_coverage(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = [] if name == "shapes" else ["--judge", f"{HERE}:Judges", "--as", "rules"]
    words = model(use(name, data), tmp_path, *judge, limit=8)
    assert srum("run", *(f"{HERE}:Overflows" if word == f"{HERE}:Generates" else word for word in words)) == 0
    table = tables.read(tmp_path / "tables/rules/table.json")
    assert (table.images, table.planned) == (6, 8)
    assert "6 of 8 images" in capsys.readouterr().out
    run = Evaluation.open(tmp_path)
    failed = {each.id for each in run.images() if each.failure}
    assert len(failed) == 2
    answered = [json.loads(line) for path in tmp_path.glob("answers/*/part-*.jsonl") for line in path.open()]
    assert bool(answered) == bool(judge)
    assert not failed & {each["image"] for each in answered}


def test_images_that_are_all_failures_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        f"{HERE}:Overflows" if word == f"{HERE}:Generates" else word for word in model("shapes", tmp_path, limit=1)
    )
    assert srum("run", *words) == 2
    assert "None of the 1 images" in (said := capsys.readouterr().err)
    assert "not finite" in said
    assert "--redo images" in said


def test_shapes_needs_no_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    until_killed(lambda: srum("run", *model("shapes", tmp_path / "parts")), draw=3)
    for name in ("parts", "whole"):
        assert srum("run", *model("shapes", tmp_path / name)) == 0
    assert made(tmp_path / "parts") == made(tmp_path / "whole")
    assert tables.read(tmp_path / "parts/tables/rules/table.json").judge == ""
    assert "Only the first 20 prompts: a trial, not a result." in capsys.readouterr().out
    assert srum("judge", tmp_path / "parts", "--judge", "self") == 2
    assert "shapes needs no judge" in capsys.readouterr().err


def test_geneval_is_scored_from_detections(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = model(use("geneval", data), run, "evaluate.images=4", limit=5)
    until_killed(lambda: srum("generate", *words), draw=3)
    assert srum("generate", *words) == 0
    assert srum("score", run) == 2
    assert "are not judged yet" in capsys.readouterr().err
    file = detect(run)
    assert srum("score", run, f"benchmark.detections={file}") == 0
    first = made(run)
    table = tables.read(run / "tables/rules/table.json").by_name()
    assert (table["images"].value, table["images"].count, table["any of a prompt"].count) == (0.5, 20, 5)
    assert srum("score", run) == 0  # the option is remembered
    assert made(run) == first
    file.write_text(file.read_text().split("\n", 1)[1])
    assert srum("score", run) == 2
    assert "holds no detections of" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["shapes", "compbench", "geneval", "wise", "reasonbench"])
def test_killed_for_good_and_resumed(name: str, data: Path, tmp_path: Path) -> None:
    """With SIGKILL, in separate processes: while it generates, and while it is judged."""
    judge = [] if name == "shapes" else ["--judge", f"{HERE}:Judges", "--as", "j"]
    words = [*model(use(name, data), tmp_path / "run"), *judge]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    code = "import sys; from srum_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for kill in ("draw", "answer")[: 1 + bool(judge)]:
        killing = {**environment, "SRUM_TEST_KILL": kill}
        done = shared().run(["-c", code, "eval", "run", *words], tmp_path, killing)
        assert done.returncode == -signal.SIGKILL, done.output
        assert list(tmp_path.rglob("part-*.jsonl" if kill == "draw" else "answers/*/part-*.jsonl"))
    assert not list(tmp_path.rglob("table.json"))
    assert srum("run", *words) == 0
    assert srum("run", *model(use(name, data), tmp_path / "whole"), *judge) == 0
    assert made(tmp_path / "run") == made(tmp_path / "whole")


def test_scoring_needs_no_torch_no_model_and_no_network(data: Path, tmp_path: Path) -> None:
    assert srum("run", *model(use("wise", data), tmp_path), "--judge", f"{HERE}:Judges", "--as", "j") == 0
    before = made(tmp_path)
    code = (
        "import sys, socket\n"
        "socket.socket.connect = None\n"
        "from srum_core.cli.main import main\n"
        f"code = main(['eval', 'score', {str(tmp_path)!r}])\n"
        "print(code, sorted({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert made(tmp_path) == before


# ---- judges ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluated(data, tmp_path_factory.mktemp("judged") / "run")


def evaluated(data: Path, folder: Path) -> Path:
    """T2I-CompBench, judged under the name "j"."""
    assert srum("run", *model(use("compbench", data), folder), "--judge", f"{HERE}:Judges", "--as", "j") == 0
    return folder


@pytest.fixture
def run(judged: Path, tmp_path: Path) -> Path:
    """A copy: an evaluation can be moved."""
    return Path(shutil.copytree(judged, tmp_path / "run"))


def test_the_same_again_asks_no_judge(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(run)
    LEFT.update(draw=0, answer=0)
    monkeypatch.setattr(answers, "who_answers", lambda *_: pytest.fail("a judge is loaded without a question"))
    assert srum("judge", run) == 0
    assert srum("score", run) == 0
    assert made(run) == before


def test_what_is_answered_is_not_asked_along_with_what_follows(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = made(run), []
    (part,) = (run / "answers").rglob("part-*.jsonl")
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(line for line in lines if not json.loads(line)["question"]["temperature"]))
    answer = Judges.answer
    monkeypatch.setattr(Judges, "answer", lambda self, some: asked.extend(some) or answer(self, some))
    assert srum("judge", run) == 0
    assert asked
    assert all(question.temperature for question in asked), "first answers are there; only retries are missing"
    assert srum("score", run) == 0
    assert {k: v for k, v in made(run).items() if "tables" in k} == {k: v for k, v in whole.items() if "tables" in k}


@pytest.mark.parametrize("policy", ["reference", "zero", "exclude"])
def test_a_policy_changes_the_table_and_asks_no_judge(
    policy: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LEFT.update(answer=0)
    assert srum("score", run, "--failures", policy) == 0
    table = tables.read(run / "tables/j/table.json")
    measured = [json.loads(line) for line in (run / "tables/j/images.jsonl").read_text().splitlines()]
    read = [each["values"]["score"] for each in measured if "score" in each["values"]]
    lost = len(measured) - len(read)
    assert 0 < lost < COUNT / 2
    assert all(len(each["unreadable"]) == ("score" not in each["values"]) for each in measured)
    sums = {"exclude": sum(read) / len(read), "zero": sum(read) / COUNT, "reference": (sum(read) - lost) / COUNT}
    assert table.by_name()["3d_spatial"].value == pytest.approx(sums[policy])
    assert table.policy == policy
    assert table.coverage == pytest.approx(len(read) / COUNT)
    said = capsys.readouterr().out
    assert ("reference" in said.split("judge:")[0]) == bool(policy)  # the reference's number stands beside ours
    if policy != "reference":
        assert {row.name: row.value for row in table.reference}["3d_spatial"] == pytest.approx(sums["reference"])


def test_another_parser_needs_no_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srum_benchmarks.compbench import benchmark as scoring

    before = {row.name: row.value for row in tables.read(run / "tables/j/table.json").rows}
    monkeypatch.setattr(scoring, "read", lambda text: (7, ""))
    LEFT.update(answer=0)
    assert srum("score", run) == 0
    table = tables.read(run / "tables/j/table.json")
    assert table.by_name()["3d_spatial"].value == 7 != before["3d_spatial"]
    assert table.readable == 1


def test_what_a_new_parser_cannot_read_may_be_asked_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from srum_benchmarks.compbench import benchmark as scoring

    monkeypatch.setattr(scoring, "read", lambda text: (None, "no"))
    assert srum("score", run) == 0
    known = len((run / "answers/j/part-0.jsonl").read_text().splitlines())
    assert "unreadable answers have retries left: run srum eval judge" in capsys.readouterr().out
    assert srum("judge", run) == 0
    assert len((run / "answers/j/part-0.jsonl").read_text().splitlines()) == 3 * COUNT > known
    assert srum("score", run) == 0
    assert "asked for again" not in capsys.readouterr().out


def test_other_words_are_asked_about_anew(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tmp_path / "mine.txt"
    template.write_text('How well does it show {prompt}? Say {"score": N}.\n')
    assert srum("score", run, f"benchmark.template={template}") == 2
    assert "20 of 20 images" in capsys.readouterr().err
    assert srum("judge", run, f"benchmark.template={template}") == 0
    assert srum("score", run) == 0
    assert "rubric mine.txt" in capsys.readouterr().out


def test_a_model_that_judges_itself_is_labelled(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--adapter",
        f"{HERE}:GeneratesAndAnswers",
        "--benchmark",
        use("wise", data),
        "--out",
        str(tmp_path / "run"),
    ]
    assert srum("run", *words, "evaluate.limit=3", "--judge", "self") == 0
    table = tables.read(tmp_path / "run/tables/self/table.json")
    assert (table.self_judged, table.judge) == (True, "self")
    assert "The model judged its own images" in capsys.readouterr().out
    assert srum("run", *model(use("wise", data), tmp_path / "other"), "--judge", "self") == 2
    assert "only generates, so it cannot judge its own images" in capsys.readouterr().err


def test_two_judges_of_the_same_images_are_kept_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LEFT.update(draw=0)
    assert srum("judge", run, "--judge", f"{HERE}:Wordy", "--as", "j") == 2
    assert "was made with other settings: judge.use was" in " ".join(capsys.readouterr().err.split())
    assert srum("judge", run, "--judge", f"{HERE}:Another", "--as", "other") == 0
    assert srum("score", run) == 0
    assert sorted(path.name for path in (run / "tables").iterdir()) == ["j", "other"]
    lines = {name: (run / "answers" / name / "part-0.jsonl").read_text().splitlines() for name in ("j", "other")}
    ids = {name: {json.loads(line)["id"] for line in own} for name, own in lines.items()}
    assert not ids["j"] & ids["other"]  # the same questions about the same images, to others
    assert tables.read(run / "tables/other/table.json").judge == f"{HERE}:Another (one)"


def test_the_same_judge_is_not_asked_twice(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LEFT.update(answer=0)
    assert srum("judge", run, "--judge", f"{HERE}:Judges", "--as", "second") == 2
    assert f"{run / 'answers/j'} holds answers of the same judge" in capsys.readouterr().err
    assert not (run / "answers/second").exists()
    assert srum("judge", run, "--judge", f"{HERE}:Judges", "--as", "j") == 0  # that is to go on


@pytest.mark.parametrize("now", ["one", "two"])
def test_the_same_server_with_another_model_is_another_judge(
    now: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_light", lambda run: {f"{HERE}:Another"})
    words = [*model(use("wise", data), tmp_path, limit=4), "--judge", f"{HERE}:Another"]
    assert srum("run", *words, "--as", "a") == 0
    monkeypatch.setenv("SRUM_TEST_MODEL", now)
    assert srum("run", *words, "--as", "b") == (2 if now == "one" else 0)


def test_a_server_with_another_model_than_before_is_noticed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*model(use("wise", data), tmp_path, limit=8), "--judge", f"{HERE}:Another", "--as", "j"]
    until_killed(lambda: srum("run", *words), answer=1)
    monkeypatch.setenv("SRUM_TEST_MODEL", "two")
    assert srum("run", *words) == 2
    assert 'holds answers of "one", and now "two" answers' in capsys.readouterr().err
    assert srum("run", *words, "--redo", "answers") == 0


def test_a_judge_that_answers_prose_scores_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert srum("run", *model(use("wise", data), tmp_path), "--judge", f"{HERE}:Wordy", "--as", "j") == 0
    table = tables.read(tmp_path / "tables/j/table.json")
    assert [row.name for row in table.rows] == ["readable"]
    assert table.coverage == 0
    said = capsys.readouterr().out
    assert "Incomplete: less than 99% of the planned images could be scored." in said
    measured = json.loads((tmp_path / "tables/j/images.jsonl").read_text().splitlines()[0])
    assert measured["unreadable"] == ["The answer holds no grade for consistency, realism, aesthetic_quality."]
    asked = [json.loads(line) for line in (tmp_path / "answers/j/part-0.jsonl").read_text().splitlines()]
    assert len(asked) == 3 * COUNT  # each is asked for twice more
    assert srum("judge", tmp_path, "evaluate.retries=3") == 0
    assert len((tmp_path / "answers/j/part-0.jsonl").read_text().splitlines()) == 4 * COUNT


def test_a_missing_judge_is_reported_before_anything_is_generated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    words = model(use("wise", data), tmp_path / "run")
    assert srum("run", *words) == 2
    assert "The benchmark wise asks about its images. Name a judge: --judge" in capsys.readouterr().err
    assert srum("run", *words, "--judge", "remote") == 2
    assert "has no server" in capsys.readouterr().err
    assert srum("run", *words, "--judge", "remotely") == 2
    assert 'Did you mean "remote"?' in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_black_borders_can_be_cut_off_as_in_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(self: Generates, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        """A square in a black border, and every other image all black."""
        generated = [Image.new("RGB", (32, 32)) for _ in prompts]
        for image in generated[::2]:
            image.paste((255, 0, 1), (4, 6, 30, 31))
        return [Sample(image) for image in generated]

    monkeypatch.setattr(Generates, "generate", generate)
    sizes = {}
    for name in ("none", "reference"):
        run = tmp_path / name
        assert srum("generate", *model("shapes", run, f"evaluate.postprocess={name}", limit=4)) == 0
        sizes[name] = [each.size for each in Evaluation.open(run).generated()]
        assert sizes[name] == [Image.open(each.image).size for each in Evaluation.open(run).generated()]
    assert sizes == {"none": [(32, 32)] * 4, "reference": [(26, 25), (32, 32)] * 2}
    words = model("shapes", tmp_path / "none", "evaluate.postprocess=reference", limit=4)
    assert srum("generate", *words) == 2
    assert "drawn.postprocess was" in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_draws_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = ("--judge", f"{HERE}:Wordy")
    assert srum("run", *model(use("wise", data), tmp_path / "run"), *judge, "--dry-run") == 0
    assert "20" in capsys.readouterr().out
    assert srum("generate", *model('{use="wise", data="nowhere"}', tmp_path / "run"), "--dry-run") == 1
    assert "The evaluation would not start" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
