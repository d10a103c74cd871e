"""What was changed, lost or planted in a run's folder between two stages is noticed, with a sentence that leads on."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image
from rows import each_row
from test_stages import WORDS, make

import srum_core
from srum_core.config import load_settings
from srum_core.errors import ConfigError, RecordError, SrumError
from srum_core.evaluation.run import Evaluation
from srum_core.interchange import command_reread as reread
from srum_core.interchange import incoming
from srum_core.options import Use
from srum_core.records import Candidate, Judgement
from srum_core.runs.files import STAGES
from srum_core.runs.run import Run
from srum_core.runs.store import Records
from srum_core.stages.generate import generate
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge
from srum_core.training.selection import choose

Fault = Callable[[Run], object]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its judgements; two images a chunk."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    run = make(folder / "run", folder / "words.txt")
    generate(run, 1)
    ground(run, 1)
    judge(run, 1)
    return folder


def copied(judged: Path, tmp_path: Path) -> Run:
    shutil.copytree(judged / "run", tmp_path / "run")
    return make(tmp_path / "run", judged / "words.txt")


@pytest.fixture
def run(judged: Path, tmp_path: Path) -> Run:
    return copied(judged, tmp_path)


def again(run: Run) -> None:
    """Judge once more, from nothing."""
    shutil.rmtree(run.stage_folder("judge", 1))
    judge(run, 1)


def train(run: Run) -> None:
    """As far as training reads what is on disk."""
    from srum_core.training.latent_cache import Latents

    Latents(run.round_folder(1) / "latents", "").prepare(run.model(0), choose(run, 1).candidates)


def rewrite(run: Run, stage: str, change: Callable[[dict[str, Any]], object], line: int = 2) -> None:
    path = run.stage_folder(stage, 1) / "part-0.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[line])
    change(record)
    path.write_text("\n".join([*lines[:line], json.dumps(record), *lines[line + 1 :]]) + "\n")


def cut_line(path: Path, torn: bool = False) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + (lines[-1][:40] if torn else b""))


def edit_prompts(run: Run, change: Callable[[list[str]], list[str]]) -> None:
    path = run.round_folder(1) / "prompts.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def image(run: Run) -> Path:
    return run.stage_folder("generate", 1) / "images" / f"{run.planned(1)[2].id}.png"


def replaced(run: Run) -> None:
    Image.new("RGB", (8, 8)).save(image(run))


def cut(run: Run) -> None:
    image(run).write_bytes(image(run).read_bytes()[:60])


def fifo(run: Run) -> None:
    image(run).unlink()
    os.mkfifo(image(run))


def linked(run: Run) -> None:
    outside = run.folder.parent / "secret.png"
    shutil.move(image(run), outside)
    image(run).symlink_to(outside)


def names(key: str, value: str) -> Fault:
    return lambda run: rewrite(run, "generate", lambda record: record.update({key: value}))


FAULTS: dict[str, tuple[Fault, str]] = {
    "another image": (replaced, r"SHA-256.*--redo generate "),
    "an image that is cut off": (cut, r"SHA-256.*--redo generate "),
    "an image that is gone": (lambda run: image(run).unlink(), r"No such file.*--redo generate "),
    "a pipe for an image": (fifo, "no regular file"),
    "a link out": (linked, "lies outside of"),
    "a device": (names("image", "/dev/zero"), "lies outside of"),
    "a file of the system": (names("image", "/etc/passwd"), "lies outside of"),
    "a folder above": (names("image", "../../.."), "lies outside of"),
    "a reference outside": (names("reference", "/etc/passwd"), "lies outside of"),
    "a latent outside": (names("latent", "/etc/passwd"), "lies outside of"),
    "a folder for an image": (names("image", "images"), "it is a folder"),
    "NUL in a path": (names("image", "a\0.png"), "null byte"),
    "an id that leads out": (lambda run: rewrite(run, "generate", lambda r: r.update(id="../x")), "--redo generate"),
    "no size": (lambda run: rewrite(run, "generate", lambda r: r.update(size=[0, 0])), "size .* at least 1"),
    "other words": (
        lambda run: edit_prompts(run, lambda lines: [each.replace("two dogs", "two cats") for each in lines]),
        r'"two cats".*was "two dogs".*--redo generate ',
    ),
    "a new prompt": (
        lambda run: edit_prompts(run, lambda lines: [*lines, '{"id": "new", "text": "x", "tags": {}}']),
        r"no record .* although it was finished.*--redo generate ",
    ),
    "a lost candidate": (
        lambda run: cut_line(run.stage_folder("generate", 1) / "part-0.jsonl"),
        r"no record .*--redo generate ",
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("stage", [again, train])
@each_row("fault", FAULTS)
def test_what_was_changed_after_generation_is_noticed_where_it_is_used(
    judged: Path, tmp_path: Path, stage: Any, fault: str
) -> None:
    run, (damage, words) = copied(judged, tmp_path), FAULTS[fault]
    damage(run)
    with pytest.raises(RecordError, match=words):
        stage(run)


def twice(record: dict[str, Any]) -> None:
    record["regions"][1]["id"] = record["regions"][0]["id"]


JUDGED: dict[str, tuple[Fault, str]] = {
    "a lost judgement": (lambda run: cut_line(run.stage_folder("judge", 1) / "part-0.jsonl"), "holds no record"),
    "a torn one": (lambda run: cut_line(run.stage_folder("judge", 1) / "part-0.jsonl", torn=True), "holds no record"),
    "two regions with one id": (lambda run: rewrite(run, "judge", twice), 'have the id "1"'),
    "a prompt that is gone": (lambda run: edit_prompts(run, lambda lines: lines[1:]), "lacks the prompts of 1"),
    **{
        f"score {value!r:.20}": (
            lambda run, value=value: rewrite(run, "judge", lambda r: r["scores"][0].update(value=value)),  # type: ignore[misc]
            words,
        )
        for value, words in {
            "0.5": "value should be a number, but it is the text",
            True: "value should be a number, but it is true",
            float("nan"): "NaN is no finite",
            float("inf"): "Infinity is no finite",
            2.0: "must be <= 1",
            10**400: "should be a finite number",
        }.items()
    },
    "a fraction for an index": (
        lambda run: rewrite(run, "judge", lambda r: r["exchanges"][0].update(index=1.5)),
        "index should be a whole number, but it is 1.5",
    ),
    "a number for a text": (
        lambda run: rewrite(run, "judge", lambda r: r["scores"][0].update(reason=7)),
        "reason should be a text, but it is 7",
    ),
    "a text for a list": (lambda run: rewrite(run, "judge", lambda r: r.update(scores="")), "scores should be a list"),
}


@each_row("fault", JUDGED)
def test_what_was_changed_after_judging_is_not_trained_on(judged: Path, tmp_path: Path, fault: str) -> None:
    run, (damage, words) = copied(judged, tmp_path), JUDGED[fault]
    damage(run)
    with pytest.raises(SrumError, match=words) as caught:
        choose(run, 1)
    assert f"--redo {'generate' if 'prompt' in fault else 'judge'} " in str(caught.value)


ROWS = [
    tuple(part.strip() for part in line.strip(" |\n").split("|"))
    for line in (Path(__file__).parent.parent / "docs/errors.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and line.split("|")[1].strip() in {**FAULTS, **JUDGED}
]


@each_row("fault, message", ROWS)
def test_the_page_of_errors_says_what_is_told(judged: Path, tmp_path: Path, fault: str, message: str) -> None:
    run = copied(judged, tmp_path)
    {**FAULTS, **JUDGED}[fault][0](run)
    with pytest.raises(SrumError) as caught:
        train(run)
    assert message in str(caught.value)


@pytest.mark.parametrize("read", [lambda run: incoming.judged(run, 1), lambda run: reread._read_again(run, 1)])
def test_a_lost_judgement_is_not_left_out_of_what_is_made_from_a_finished_round(run: Run, read: Any) -> None:
    assert len(list(read(run))) == len(run.planned(1))
    cut_line(run.stage_folder("judge", 1) / "part-0.jsonl")
    with pytest.raises(RecordError, match=r"although it was finished.*--redo judge "):
        list(read(run))


def test_a_run_toml_that_is_a_pipe_or_a_device_is_not_read(run: Run) -> None:
    path = run.folder / "run.toml"
    path.unlink(missing_ok=True)
    for plant in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        plant()
        with pytest.raises(RecordError, match="no regular file"):
            Run.create(run.folder, run.settings, run.registry)
        with pytest.raises(RecordError, match="no regular file"):
            Evaluation(run.folder, run.settings, run.registry).keep()
        path.unlink()


def test_a_run_toml_that_is_no_text_is_written_again(run: Run) -> None:
    path = run.folder / "run.toml"
    path.write_bytes(b"\xff\0")
    Run.create(run.folder, run.settings, run.registry)
    assert Run.open(run.folder).settings.seed == run.settings.seed


def test_a_later_round_is_named_in_the_way_out(run: Run) -> None:
    run.round_folder(1).rename(run.folder / "round-2")
    (run.folder / "round-2/prompts.jsonl").unlink()  # ids of another round
    cut_line(run.stage_folder("judge", 2) / "part-0.jsonl")
    with pytest.raises(RecordError, match="--redo judge:2 "):
        choose(run, 2)


def test_the_record_says_what_the_files_were_and_older_ones_say_nothing(run: Run) -> None:
    import hashlib

    found = list(run.candidates(1))
    assert [each.sha256 for each in found] == [hashlib.sha256(each.image.read_bytes()).hexdigest() for each in found]
    rewrite(run, "generate", lambda record: record.pop("sha256"))
    replaced(run)
    again(run)
    train(run)


def test_the_report_warns_of_them(run: Run) -> None:
    from srum_core.report.gather import gather_run

    Run.create(run.folder, run.settings, run.registry)
    replaced(run)
    edit_prompts(run, lambda lines: [each.replace("two dogs", "two cats") for each in lines])
    message = gather_run(run, 0)["rounds"][0]["stages"][0]["failures"]
    assert [each[:10] for each in message] == ["1 images a", "1 images a"], message


LINES = {
    "nested too deeply": '{"candidate": "a", "regions": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "4300 digits": '{"candidate": "a", "regions": ' + "1" * 5000 + "}",
    "1e400 is no finite number": '{"candidate": "a", "scores": [{"value": 1e400}]}',
    "no Judgement": '{"candidate": "a", "scores": {}}',
    "exchanges should be a list": '{"candidate": "a", "exchanges": "abc"}',
}


@pytest.mark.parametrize("words", LINES)
def test_a_line_that_cannot_be_read_is_a_sentence(tmp_path: Path, words: str) -> None:
    folder = tmp_path / "round-3/judgements"
    folder.mkdir(parents=True)
    (folder / "part-0.jsonl").write_text(LINES[words] + "\n")
    with pytest.raises(RecordError, match=rf"Line 1 of .*{words}(.|\n)*--redo judge:3 "):
        list(Records(folder, Judgement))


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_a_record_file_that_is_none_is_a_sentence(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "round-1/judgements"
    folder.mkdir(parents=True)
    for name in ("part-0.jsonl", "settings.json"):
        make: dict[str, Callable[[Path], object]] = {
            "folder": Path.mkdir,
            "fifo": os.mkfifo,
            "device": lambda path: path.symlink_to("/dev/zero"),
        }
        make[kind](folder / name)
    with pytest.raises(RecordError, match=r"part-0.jsonl cannot be read.*--redo judge "):
        list(Records(folder, Judgement))
    with pytest.raises(RecordError, match=r"settings.json cannot be read.*--redo judge "):
        Records(folder, Judgement, {"a": 1})


def test_a_vote_that_nobody_gave_is_a_sentence(run: Run) -> None:
    from srum_core.stages.interview import Interview

    (judgement, *_), (candidate, *_) = run.judgements(1), run.candidates(1)
    (name, toy), *_ = run.judges()
    exchanges = [attrs.evolve(each, vote=10**9) for each in judgement.exchanges]
    with pytest.raises(RecordError, match="judge again with --redo judge"):
        Interview.replay(name, toy, candidate, judgement.regions, exchanges)


def test_a_candidate_outside_is_not_even_written(tmp_path: Path) -> None:
    from srum_core.records import Prompt

    records = Records(tmp_path / "run/round-1/candidates", Candidate)
    with pytest.raises(RecordError, match="lies outside of"):
        records.append(Candidate("a", Prompt("p", "x"), tmp_path / "a.png", (8, 8), 0))


# ---- settings that may differ ----------------------------------------------------------------------------------------


def test_options_that_only_change_speed_may_differ(run: Run) -> None:
    from srum_core.runs.run import made_with
    from srum_core.runs.store import differences

    def remembered(**options: object) -> dict[str, Any]:
        use = Use("remote", {"model": "m", "concurrency": 4, "url": "http://x", **options})
        return {"answerer": made_with(run.registry, "answerer", use)}

    assert differences(remembered(), remembered(concurrency=16, url="http://y")) == {}
    assert list(differences(remembered(), remembered(model="n"))) == ["answerer.model"]
    assert list(differences(remembered(gone=1), remembered())) == ["answerer.gone"]


def test_options_of_another_version_in_a_run_are_left_out_with_a_warning(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    Run.create(run.folder, run.settings, run.registry)
    path, made = run.folder / "run.toml", Run.open(run.folder)
    text = path.read_text().replace("[train]\n", "[train]\nturbo = true\n")
    path.write_text('colour = "red"\n' + text.replace("[adapter]\n", "[adapter]\nrapid = 1\n"))
    assert Run.open(run.folder).settings == made.settings
    assert [name for name in ("turbo", "rapid", "colour") if name not in caplog.text] == []
    with pytest.raises(ConfigError, match="turbo"):
        load_settings(None, (), path, (), run.registry)  # where it was typed


def test_a_report_warns_of_other_settings_and_does_not_refuse(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    from srum_core.report.gather import gather

    Run.create(run.folder, run.settings, run.registry)
    with pytest.raises(RecordError, match="other settings"):
        Run.open(run.folder).check()
    assert len(gather(run.folder, 0)["run"]["candidates"]) == len(WORDS)
    assert "other settings" in caplog.text


def test_no_message_names_a_stage_to_redo_without_its_round() -> None:
    """`--redo judge` deletes the first round and all after it: `redo_option` knows the round that is meant."""
    root = Path(srum_core.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}"
        for path in root.rglob("*.py")
        if path.relative_to(root).as_posix() not in ("cli/main.py", "runs/files.py")  # which explain the option
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if re.search(rf"--redo ({'|'.join(STAGES)})\b", line)
    ]
    assert not found
