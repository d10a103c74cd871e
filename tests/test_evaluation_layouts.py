"""`srum eval`: folders for original scorers, seeds, models that were trained here, judges on a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import compbench_released
import pytest
from benchmark_data import believed, compbench_folder, geneval_folder, reasonbench_folder, wise_folder
from loopback import Handler, Server, serving
from PIL import Image
from test_evaluation import Judges, made, model, srum, use
from toy import COMPONENTS

from srum_benchmarks.compbench.benchmark import SUFFIXES
from srum_benchmarks.geneval.benchmark import path, scored_files
from srum_benchmarks.wise.prompts import LEGACY
from srum_core.cli.main import train_main
from srum_core.evaluation import tables
from srum_core.evaluation.run import Evaluation
from srum_core.records import Question
from srum_remote import wire


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return wise_folder(reasonbench_folder(compbench_folder(geneval_folder(folder))), LEGACY)


def generated(name: str, data: Path, folder: Path, *more: str, limit: int = 3) -> Evaluation:
    assert srum("generate", *model(use(name, data), folder, *more, limit=limit)) == 0
    return Evaluation.open(folder)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "more", "expected"),
    [
        ("wise", "wise", [], ["1.png", "2.png", "3.png"]),
        ("reasonbench", "reasonbench", [], ["entity/0001.png", "entity/0002.png", "entity/0003.png"]),
        (
            "geneval",
            "geneval",
            ["evaluate.images=2"],
            [
                f"{i:05d}/{each}"
                for i in range(3)
                for each in ("metadata.jsonl", "samples/00000.png", "samples/00001.png")
            ],
        ),
        (
            "compbench",
            "compbench-srum",
            ["evaluate.images=2"],
            [*(f"3d_spatial_50_no_think/{i}.png" for i in (701, 702, 703)), "3d_spatial_50_think/output.jsonl"],
        ),
        (
            "compbench",
            "compbench-orig",
            ["evaluate.images=2"],
            [f"3d_spatial/samples/3d spatial {i // 10}_{i:06d}.png" for i in (0, 1, 10, 11, 20, 21)],
        ),
    ],
)  # fmt: skip
def test_images_lie_where_the_original_scorer_looks(
    name: str, target: str, more: list[str], expected: list[str], data: Path, tmp_path: Path
) -> None:
    if target == "compbench-orig":  # its names hold the prompts, which may hold no underscore
        entries = [{"Question": f"3d spatial {i}", "Category": "3d_spatial", "Question_id": 701 + i} for i in range(3)]
        (tmp_path / "val_comp.json").write_text(json.dumps(entries))
        data = tmp_path
    run = generated(name, data, tmp_path / "run", *more)
    to = tmp_path / "to"
    assert srum("layout", run.folder, "--target", target, "--to", to) == 0
    assert names(to) == expected
    own = {path.stat().st_ino for path in run.folder.glob("images/images/*")}
    images = list(to.rglob("*.png"))
    assert {path.stat().st_ino for path in images} <= own  # hard links
    before = {path: path.stat().st_mtime_ns for path in images}
    (to / SUFFIXES[0]).touch()  # ".png" is no image's name
    (to / ".srum-1-x.tmp").touch()  # what a killed layout leaves
    assert srum("layout", run.folder, "--target", target, "--to", to) == (2 if target == "wise" else 0)
    assert {path: path.stat().st_mtime_ns for path in images} == before


def test_what_the_scorers_read_beside_the_images(data: Path, tmp_path: Path) -> None:
    run = generated("geneval", data, tmp_path / "g", "evaluate.images=4", limit=2)
    assert srum("layout", run.folder, "--to", tmp_path / "to") == 0
    expected = [path(prompt, number) for prompt in ("00000", "00001") for number in range(4)]
    assert scored_files(tmp_path / "to") == expected
    line = json.loads((tmp_path / "to/00001/metadata.jsonl").read_text())
    assert line["prompt"] == "a photo of single_object 1"
    run = generated("compbench", data, tmp_path / "c", limit=2)
    assert srum("layout", run.folder, "--target", "compbench-srum", "--to", tmp_path / "srum") == 0
    found = compbench_released.items(tmp_path / "srum/3d_spatial_50_no_think")
    assert [(each.question_id, each.prompt) for each in found] == [
        (701, "3d_spatial prompt 0"),
        (702, "3d_spatial prompt 1"),
    ]


def test_a_copy_where_no_link_can_be_made(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = generated("wise", data, tmp_path / "run")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another file system")))
    assert srum("layout", run.folder, "--to", tmp_path / "to") == 0
    assert names(tmp_path / "to") == ["1.png", "2.png", "3.png"]
    assert (tmp_path / "to/1.png").read_bytes() == run.generated()[0].image.read_bytes()


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("compbench-orig", "color/samples/notes.txt"),
        ("wise", "7.png"),
        ("geneval", "00001/samples/00005.png.bak"),
        ("reasonbench", "idiom/0007.jpg"),
        ("compbench-srum", "color_50_think/1.jpeg"),
    ],
)
def test_an_extra_file_that_would_be_scored_gets_its_sentence(
    name: str, extra: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "compbench-orig":  # its names hold the prompts, which may hold no underscore
        data = tmp_path
        entry = {"Question": "a dog", "Category": "3d_spatial", "Question_id": 701}
        (data / "val_comp.json").write_text(json.dumps([entry]))
    run = generated(name.partition("-")[0], data, tmp_path / "run")
    (tmp_path / "to" / extra).parent.mkdir(parents=True)
    (tmp_path / "to" / extra).touch()
    target = ["--target", name] if name.startswith("compbench") else []
    assert srum("layout", run.folder, *target, "--to", tmp_path / "to") == 2
    assert f"{tmp_path / 'to' / extra} is not an image of this evaluation" in capsys.readouterr().err


def test_layouts_that_cannot_be_made_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = generated("compbench", data, tmp_path / "run", "evaluate.images=11", limit=1)
    to = ["--to", str(tmp_path / "to")]
    assert srum("layout", run.folder, *to) == 2
    assert '"compbench" has several layouts. Set --target' in capsys.readouterr().err
    assert srum("layout", run.folder, "--target", "compbench-orgi", *to) == 2
    assert 'Did you mean "compbench-orig"?' in capsys.readouterr().err
    assert srum("layout", run.folder, "--target", "compbench-orig", *to) == 2
    assert "10 at most" in capsys.readouterr().err
    assert srum("generate", *model("shapes", tmp_path / "shapes", limit=2)) == 0
    assert srum("layout", tmp_path / "shapes", *to) == 2
    assert 'The benchmark "shapes" has no layout of an original scorer' in capsys.readouterr().err


# ---- seeds -----------------------------------------------------------------------------------------------------------


def seeds(run: Evaluation) -> dict[tuple[str, int], int]:
    return {(each.prompt.id, run.numbers()[each.id]): each.seed for each in run.generated()}


@pytest.mark.slow
def test_an_images_seed_follows_from_its_published_name(data: Path, tmp_path: Path) -> None:
    assert seeds(generated("wise", data, tmp_path / "w", limit=1)) == {("1", 0): 2968960194}
    run = generated("geneval", data, tmp_path / "g", "evaluate.images=4", limit=181)
    assert seeds(run)["00180", 3] == 3658641391
    other = generated("geneval", data, tmp_path / "h", "evaluate.images=4", "seed=43", limit=2)
    assert not set(seeds(other).values()) & set(seeds(run).values())


def test_the_originals_seeds_where_they_can_be_had(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = generated("compbench", data, tmp_path / "c", "evaluate.seeds=reference", "evaluate.images=3", limit=2)
    assert set(seeds(run).items()) == {((name, k), 42 + k) for name in ("701", "702") for k in range(3)}
    assert srum("generate", *model(use("wise", data), tmp_path / "w", "evaluate.seeds=reference")) == 2
    assert 'evaluate.seeds = "reference" is not available for wise' in capsys.readouterr().err


# ---- trained models --------------------------------------------------------------------------------------------------


def test_figure_6_train_on_one_group_evaluate_on_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    believed(monkeypatch)
    train = [
        "generate.limit=2",
        "train.steps=2",
        "train.lr=0.3",
        "train.warmup=1",
        "benchmark=",
        "--out",
        str(tmp_path / "run"),
    ]
    assert train_main([*COMPONENTS, f"prompts=wise:cultural:{data}", *train]) == 0
    before = ["--adapter", "toy:ToyModel"]
    after = ["--trained", str(tmp_path / "run")]
    for name, words in (("before", before), ("after", after)):
        benchmark = f'{{use="wise", data="{data}", trained="cultural"}}'
        others = ["evaluate.split=not-cultural", "evaluate.limit=3", "--judge", "test_evaluation:Judges", "--as", "j"]
        out = ["--out", str(tmp_path / name)]
        assert srum("run", *words, "--benchmark", benchmark, *others, *out) == 0
    tabled = {name: tables.read(tmp_path / name / "tables/j/table.json") for name in ("before", "after")}
    assert tabled["after"].model == f"toy:ToyModel, trained in {tmp_path / 'run'} to the end of round 1"
    assert "trained on cultural, which is left out" in tabled["after"].rows[0].note
    one, other = (made(tmp_path / name) for name in ("before", "after"))
    images = [name for name in one if name.endswith(".png")]
    assert images == [name for name in other if name.endswith(".png")]  # the same prompts and seeds
    assert all(one[name] != other[name] for name in images)  # generated by another model
    capsys.readouterr()
    assert train_main([*COMPONENTS, f"prompts=wise:cultural:{data}", *train, "--redo", "train", "train.steps=3"]) == 0
    assert srum("generate", *after, "--benchmark", benchmark, *others[:2], *out) == 2
    assert "start.trained was" in " ".join(capsys.readouterr().err.split())


def test_a_training_that_is_not_finished_is_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--benchmark", "shapes", "--out", str(tmp_path / "e")]
    assert srum("generate", "--trained", tmp_path, *words) == 2
    assert "is not the folder of a run, nor FOLDER:ROUND of one" in capsys.readouterr().err
    (tmp_path / "words.txt").write_text("a cat\n")
    run = tmp_path / "run"
    only = ["--only", "generate", "--out", str(run)]
    assert train_main([*COMPONENTS, f'prompts="{tmp_path / "words.txt"}"', *only]) == 0
    assert srum("generate", "--trained", f"{run}:1", *words) == 2
    assert "has not trained its round 1 to the end" in capsys.readouterr().err


# ---- a server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving() as made:
        yield made


def test_reasonbench_is_a_conversation_with_the_server(data: Path, tmp_path: Path, server: Server) -> None:
    image = tmp_path / "any.png"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(image)

    def act(handler: Handler) -> None:
        messages = handler.body["messages"]
        text = messages[-1]["content"] if len(messages) > 1 else handler.asked()
        history = tuple(zip(messages[:-1:2], messages[1::2], strict=True))
        said = Judges().about(Question(image, text, history=history, temperature=0.1))
        handler.say(said if len(messages) > 1 else "a dog on a hill")

    server.act = act
    judge = f'{{use="remote", url="{server.url}", model="m"}}'
    assert srum("run", *model(use("reasonbench", data), tmp_path / "run", limit=4), "--judge", judge) == 0
    table = tables.read(tmp_path / "run/tables/remote/table.json")
    assert (table.judge, table.readable) == ("remote (m)", 1.0)
    roles = [[message["role"] for message in handler.body["messages"]] for handler in server.taken]
    assert sorted(map(len, roles)) == [1] * 4 + [3] * 4  # the made-up groups ask the same, which is sent once
    assert ["user", "assistant", "user"] in roles
    whole = next(handler.body["messages"] for handler in server.taken if len(handler.body["messages"]) == 3)
    assert [part["type"] for part in whole[0]["content"]] == ["image_url", "text"]
    assert whole[1]["content"] == "a dog on a hill"
    assert "Its rule:" in whole[2]["content"]


def test_a_server_may_be_told_all_at_once(data: Path, tmp_path: Path, server: Server) -> None:
    judge = f'{{use="remote", url="{server.url}", model="m", converses=false}}'
    words = [*model(use("reasonbench", data), tmp_path / "run", limit=1), "--judge", judge]
    assert srum("run", *words) == 0
    assert all(len(handler.body["messages"]) == 1 for handler in server.taken)
    assert any("You answered:\nanswer to " in text for text in server.asked)


def test_a_server_that_goes_away_loses_nothing(
    data: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.act = lambda handler: handler.say("Consistency: 2\nRealism: 1\nAesthetic Quality: 1")
    judge = f'{{use="remote", url="{server.url}", retries=0, cache="off", concurrency=1, model="m"}}'
    words = [*model(use("wise", data), tmp_path / "run", limit=20), "--judge", judge]
    server.acts = [server.act] * 9 + [lambda handler: handler.reply(500, "broken")]
    assert srum("run", *words) == 2
    assert "broken" in capsys.readouterr().err
    assert srum("run", *words) == 0
    assert tables.read(tmp_path / "run/tables/remote/table.json").by_name()["CULTURE"].value == pytest.approx(0.85)
    assert len(server.taken) == 10 + 12  # two batches of four are kept, the third is asked again
