"""The Python API: what `import srum_core` gives, in a script, in a notebook, inside a running event loop."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy
from loopback import forget_servers, serving
from near import off
from PIL import Image
from rich.console import Console
from rows import each_row
from toy import ToyModel

import srum_core
from srum_core import Run, evaluate, judge, load_model, reward_map, train
from srum_core.cli.main import main, train_main
from srum_core.errors import CheckpointError, ConfigError, PluginError, RecordError, TrainingError
from srum_core.flow import flow_step
from srum_core.records import Judgement, Region, Sample, Score
from srum_core.runs import progress as progress_module
from srum_core.runs.progress import NORMAL, QUIET, log_file, progress, set_verbosity, tell
from srum_losses.objectives import SrumLoss

PARTS: dict[str, Any] = {
    "grounder": "toy:ToyGrounder",
    "judges": ["toy:ToyJudge"],
    "benchmark": "toy:ToyBenchmark",
    "map": "srum_losses.maps:Paper",
    "loss": "srum_losses.objectives:SrumLoss",
    "prompts": ["a cup", "a bird"],
    "train.steps": 2,
    "train.lr": 0.01,
}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def normal() -> Iterator[None]:
    yield
    set_verbosity(NORMAL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("toy:ToyModel", out=tmp_path_factory.mktemp("api") / "run", overrides=PARTS)


@pytest.fixture
def image() -> Image.Image:
    return Image.new("RGB", (8, 8), (255, 128, 0))


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [each.tobytes() for each in images]


# ---- the import ------------------------------------------------------------------------------------------------------


def test_neither_the_import_nor_the_api_imports_torch() -> None:
    names = [name for name in srum_core.__all__ if name not in ("Component", "hookimpl")]
    code = (
        "import sys, srum_core\n"
        "assert 'srum_core.api' not in sys.modules, 'the API is not lazy'\n"
        f"assert set({names}) <= set(dir(srum_core))\n"
        f"found = [getattr(srum_core, name) for name in {names}]\n"
        "assert {'torch', 'numpy', 'PIL', 'transformers'}.isdisjoint(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        srum_core.trian  # noqa: B018


# ---- a model ---------------------------------------------------------------------------------------------------------


def test_a_model_generates_what_the_command_does(tmp_path: Path) -> None:
    model = load_model("toy:ToyModel", overrides={"generate.batch": 2})
    made = model.generate(["a cup", "a bird", "a cup"], seeds=[3, 3, 4])
    assert len(set(pixels(made))) == 3
    assert pixels(model.generate("a bird", seeds=[3])) == pixels(made[1:2])
    assert pixels(model.generate(["a cup"] * 2)) == pixels(model.generate(["a cup"] * 2, seeds=[0, 0]))
    assert isinstance(model.unified, ToyModel)
    assert main(["generate", "--adapter=toy:ToyModel", "a cup", "--seed=3", "--count=2", f"--out={tmp_path}"]) == 0
    assert pixels([Image.open(path) for path in sorted(tmp_path.iterdir())]) == pixels([made[0], made[2]])


def test_what_is_no_image_is_an_error(monkeypatch: pytest.MonkeyPatch, image: Image.Image) -> None:
    model = load_model("toy:ToyModel")
    with pytest.raises(ConfigError, match="2 prompts need as many seeds, not 1"):
        model.generate(["a cup", "a bird"], seeds=[0])
    monkeypatch.setattr(model.unified, "generate", lambda *_: [Sample(image, failure="It is not finite.")])
    with pytest.raises(CheckpointError, match=r'no image for "a cup" \(seed 0\): It is not finite'):
        model.generate("a cup")
    monkeypatch.setattr(model.unified, "generate", lambda *_: [])
    with pytest.raises(PluginError, match="generated 0 images for 1 prompts"):
        model.generate("a cup")


def test_a_model_answers_about_an_image_and_about_a_file(image: Image.Image, tmp_path: Path) -> None:
    model = load_model("toy:ToyModel")
    image.save(tmp_path / "image.png")
    answers = model.answer(image, ["How is it?", "Region ID: 7"])
    assert [each.splitlines()[0] for each in answers] == ["Score: 1.00", "Region ID: 7"]
    assert model.answer(tmp_path / "image.png", "How is it?") == answers[:1]


class OnlyGenerates:
    def generate(self, prompts: list[str], seeds: list[int]) -> list[Sample]:
        if "exit" in prompts:
            sys.exit("no licence")
        return [Sample(Image.new("RGB", (8, 8), "green")) for _ in prompts]


def test_a_model_that_only_generates_says_so(image: Image.Image) -> None:
    model = load_model("test_api:OnlyGenerates")
    assert model.generate("a cup")[0].size == (8, 8)
    with pytest.raises(PluginError, match="OnlyGenerates only generates images"):
        model.answer(image, "How is it?")
    with pytest.raises(PluginError, match="OnlyGenerates only generates images"):
        judge(model, image, "a cup", [], ["toy:ToyJudge"])


# ---- judging and rewards ---------------------------------------------------------------------------------------------


def test_the_judges_of_the_settings_or_those_named_score_your_boxes(image: Image.Image) -> None:
    model = load_model("toy:ToyModel", overrides={"judges": ["toy:ToyJudge"]})
    found = judge(model, image, "a cup", [LEFT, Region("cup", RIGHT)])
    assert [(score.region, score.value) for score in found.scores] == [(None, 1.0), ("1", 1.0), ("cup", 1.0)]
    assert [region.box for region in found.regions] == [LEFT, RIGHT]
    assert found.scores == judge(load_model("toy:ToyModel"), image, "a cup", found.regions, ["toy:ToyJudge"]).scores
    twice = judge(model, image, "a cup", [], ["toy:ToyJudge", {"use": "toy:ToyJudge"}])
    assert [each.asked_by for each in twice.exchanges] == ["toy:ToyJudge", "toy:ToyJudge 2"]


def test_an_answer_that_cannot_be_read_becomes_a_failure(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("toy:ToyModel")
    monkeypatch.setattr(model.unified, "answer", lambda questions: ["I would rather not say."] * len(questions))
    found = judge(model, image, "a cup", [LEFT], ["toy:ToyJudge"])
    assert found.scores == ()
    assert [each.region for each in found.failures] == [None, "1"]


def scored(whole: float, part: float) -> Judgement:
    return Judgement("mine", (Region("1", LEFT),), (Score(whole), Score(part, "1")))


def test_a_reward_map_of_your_own_boxes_and_scores() -> None:
    weight = reward_map("paper", scored(0.5, 0.8), (2, 4))
    inside = (0.5 + 1) / 2 * 0.8
    assert off(weight, torch.tensor([[inside, inside, 0.0, 0.0]] * 2)) < 1e-5
    weight = reward_map({"use": "paper", "outside": "global"}, scored(0.5, 0.8), (2, 4))
    assert off(weight, torch.tensor([[inside, inside, 0.375, 0.375]] * 2)) < 1e-5


def test_a_map_that_compares_needs_the_others() -> None:
    good, bad = scored(1.0, 1.0), scored(-1.0, -1.0)
    with pytest.raises(TrainingError, match=r"among=\[all judgements"):
        reward_map("advantage", good, (2, 4))
    above = reward_map("advantage", good, (2, 4), among=[good, bad])
    below = reward_map("advantage", bad, (2, 4), among=[good, bad])
    assert (above[:, :2] > 0).all()
    assert (below[:, :2] < 0).all()
    assert not torch.equal(above, reward_map("advantage", good, (2, 4), among=[good]))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_training_step_by_hand_changes_what_is_trained_and_nothing_else(method: str, image: Image.Image) -> None:
    model = load_model("toy:ToyModel", overrides={"train.method": method, "lora.rank": 2})
    tuned = model.tune()
    before = {name: each.detach().clone() for name, each in tuned.module.named_parameters()}
    clean = model.unified.encode([image])
    grid = (clean[0].shape[0], clean[0].shape[1])
    optimizer = torch.optim.AdamW(tuned.parameters.values(), lr=0.1)
    for _ in range(2):  # LoRA's second matrix begins at 0, and the first one's gradient with it
        rng = torch.Generator().manual_seed(0)
        weight = [reward_map("paper", scored(0.5, 0.8), grid)]
        condition = model.unified.condition(["a cup"])
        step = flow_step(tuned.module, clean, condition, torch.tensor([0.5]), weight, rng)
        loss, _ = SrumLoss()(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(tuned.module.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(tuned.parameters)
    assert 0 < len(tuned.parameters) <= len(before)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_has_its_table_judgements_and_models(run: Run) -> None:
    table = run.table()
    stored = json.loads((run.run.stage_folder("evaluate", None) / "tables" / "rules" / "table.json").read_text())
    assert list(table.columns) == ["base", "round 1"]
    assert table["base"]["green"].value == stored["rows"][0]["value"]
    assert table["round 1"]["green"].value != table["base"]["green"].value
    assert "green" in str(table)
    images, judgements = run.candidates(round=1), run.judgements(round=1)
    assert {each.candidate for each in judgements} == images.keys()
    assert sorted(each.prompt.text for each in images.values()) == ["a bird", "a cup"]
    base, trained = (pixels(run.model(round=k).generate("a cup")) for k in (0, 1))
    assert base == pixels(load_model("toy:ToyModel").generate("a cup"))
    assert base != trained
    assert trained == pixels(run.model().generate("a cup"))
    assert trained == pixels(load_model(trained=run.folder).generate("a cup"))


def test_rounds_are_counted_from_1(run: Run) -> None:
    for round in (0, 2, -1):
        with pytest.raises(RecordError, match=f"the rounds 1 to 1, not {round}"):
            run.judgements(round=round)
    with pytest.raises(RecordError, match="the rounds 1 to 1, not 2"):
        run.model(round=2)


def test_what_is_done_to_a_model_stays_there(run: Run) -> None:
    first = run.model(round=1)
    with torch.no_grad():
        for parameter in first.unified.denoiser.parameters():
            parameter.zero_()
    assert pixels(run.model(round=1).generate("a cup")) != pixels(first.generate("a cup"))


def test_the_same_call_again_makes_nothing_and_the_command_agrees(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def made() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name == "DONE"}

    before = made()
    again = train("toy:ToyModel", out=run.folder, overrides=PARTS)
    assert again.folder == Run.open(run.folder).folder
    assert train_main(["--config", str(run.folder / "run.toml"), "--out", str(run.folder)]) == 0
    assert made() == before
    assert capsys.readouterr().err.count("done before") == 12
    with pytest.raises(RecordError, match="other settings"):
        train("toy:ToyModel", out=run.folder, overrides={**PARTS, "train.steps": 3})


def test_a_run_without_an_evaluation_has_no_table(tmp_path: Path) -> None:
    made = train("toy:ToyModel", out=tmp_path, overrides={**PARTS, "benchmark": None})
    with pytest.raises(RecordError, match="no evaluation that is finished"):
        made.table()


def test_runs_of_another_precision_in_one_process(run: Run, tmp_path: Path) -> None:
    """Accelerate remembers its precision for the whole process."""
    made = train("toy:ToyModel", out=tmp_path, overrides={**PARTS, "benchmark": None, "train.mixed_precision": "bf16"})
    assert (made.run.stage_folder("train", 1) / "DONE").exists()


def test_an_evaluation_gives_the_numbers_of_the_command(tmp_path: Path, run: Run) -> None:
    options = {"evaluate.batch": 2}
    table = evaluate("toy:ToyModel", benchmark="toy:ToyBenchmark", out=tmp_path / "one", overrides=options)
    command = ["eval", "run", "--adapter=toy:ToyModel", "--benchmark=toy:ToyBenchmark", "evaluate.batch=2"]
    assert main([*command, f"--out={tmp_path / 'two'}"]) == 0
    one, two = ((tmp_path / name / "tables" / "rules" / "table.json").read_text() for name in ("one", "two"))
    assert one == two
    assert table["value"]["green"].value == json.loads(one)["rows"][0]["value"]
    trained = evaluate(trained=run.folder, benchmark="toy:ToyBenchmark", out=tmp_path / "trained", overrides=options)
    assert trained["value"]["green"].value != table["value"]["green"].value
    assert "coverage 100.0%: 3 of 3" in str(trained)


def test_a_benchmark_with_questions_needs_a_judge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name a judge"):
        evaluate("toy:ToyModel", benchmark="toy:AskingBenchmark", out=tmp_path)
    assert not list(tmp_path.glob("[!.]*"))
    table = evaluate("toy:ToyModel", benchmark="toy:AskingBenchmark", judge="self", out=tmp_path)
    assert "judged its own" in str(table)
    assert len(list((tmp_path / "answers").iterdir())) == 1


# ---- errors ----------------------------------------------------------------------------------------------------------


@each_row(
    "adapter, preset, overrides, message",
    [
        ("toy:ToyModel", (), {"train.stepps": 1}, r'train\.stepps \(in overrides\).*Did you mean "steps"'),
        ("toy:ToyModel", (), {"train": {"steps": "many"}}, r"train\.steps \(in overrides\)"),
        ("bagel", "shape", {}, 'no preset "shape"'),
        ("", (), {}, "No adapter is named"),
        ("bagle", (), {}, "bagle"),
        ("toy:ToyModel", (), {"judges": None}, "judges"),
    ],
)
def test_settings_that_cannot_be_used_are_a_config_error(
    adapter: str, preset: str, overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for call in (train, evaluate):
        with pytest.raises(ConfigError, match=message):
            call(adapter, preset, out=tmp_path / "run", overrides=overrides)
    with pytest.raises(ConfigError, match=message):
        load_model(adapter, preset, overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_plugin_that_exits_ends_no_process(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("exit\n")
    with pytest.raises(PluginError, match=r"test_api\.py, line \d+ called sys\.exit\(no licence\)"):
        evaluate("test_api:OnlyGenerates", benchmark="test_api:Exit", out=tmp_path / "run")


class Exit(toy.ToyBenchmark):
    def prompts(self, split: str) -> Any:
        return [srum_core.records.Prompt("exit", "exit")]


# ---- notebooks -------------------------------------------------------------------------------------------------------


def test_all_of_it_works_inside_a_running_event_loop(
    tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook; a server is asked over the network there."""
    forget_servers(monkeypatch)

    async def cell(url: str) -> tuple[Run, Judgement]:
        made = train("toy:ToyModel", out=tmp_path, overrides=PARTS)
        remote = {"answerer": {"use": "remote", "url": url, "model": "m"}}
        return made, judge(load_model("toy:ToyModel", overrides=remote), image, "a cup", [LEFT], ["toy:ToyJudge"])

    with serving() as server:
        server.act = lambda handler: handler.say("Score: 0.25")
        made, judgement = asyncio.run(cell(server.url))
    assert list(made.table().columns) == ["base", "round 1"]
    assert [score.value for score in judgement.scores] == [0.25, 0.25]


def test_a_notebook_draws_its_own_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[dict[str, str]] = []

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Any:
        shown.append(data)
        return SimpleNamespace(update=lambda data, raw: shown.append(data))

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))  # type: ignore[misc]
    console = Console(file=io.StringIO(), force_jupyter=True)
    with progress(4, "train <1>", console=console) as advance:
        advance(4, "loss 0.25")
    assert '<progress value="0" max="4">' in shown[0]["text/html"]
    assert '<progress value="4" max="4">' in shown[-1]["text/html"]
    assert "train &lt;1&gt;: 4/4" in shown[-1]["text/html"]
    assert "loss 0.25" in shown[-1]["text/plain"]
    assert capsys.readouterr().err == ""
    set_verbosity(QUIET)
    with progress(4, "train", console=console) as advance:
        advance(4)
    assert "train: 4/4" not in shown[-1]["text/plain"]


def test_a_notebook_shows_a_table(run: Run) -> None:
    bundle = run.table()._repr_mimebundle_((), ())
    assert "green" in bundle["text/plain"]
    assert "green" in bundle["text/html"]


# ---- the log, quiet and verbose --------------------------------------------------------------------------------------


def lines(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text().splitlines()


def test_the_log_holds_what_was_printed_with_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*toy.COMPONENTS, "prompts=['a cup']", "train.steps=1", "--out", str(tmp_path)]
    assert train_main(command) == 0
    printed = capsys.readouterr()
    log = lines(tmp_path)
    stamped = [line for line in log if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line)]
    assert sum("─" not in line and "│" not in line and "┃" not in line for line in log) >= len(stamped) > 10
    text = "\n".join(re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in log)
    for line in [*printed.err.splitlines(), *printed.out.splitlines()]:
        assert line.strip() in text
    assert "srum-train --adapter=toy:ToyModel" in log[0]
    assert train_main(command) == 0
    assert lines(tmp_path)[: len(log)] == log  # appended


def test_the_log_holds_warnings_and_the_traceback_of_what_ended_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        with log_file(tmp_path):
            logging.getLogger("srum").warning("%d images are odd", 3)
            with log_file(tmp_path):
                tell("once\nonly")
            raise RecordError("it broke")

    with pytest.raises(RecordError):
        work()
    tell("afterwards")
    text = "\n".join(lines(tmp_path))
    assert "3 images are odd" in text
    assert text.count("once") == 1
    assert "Traceback" in text
    assert "it broke" in text
    assert "afterwards" not in text


def test_a_warning_is_printed_once_where_logging_is_not_set_up(tmp_path: Path) -> None:
    code = (
        "import logging, pathlib, srum_core.runs.progress as p\n"
        f"with p.log_file(pathlib.Path({str(tmp_path)!r})): logging.getLogger('srum').warning('odd')\n"
        "logging.basicConfig(format='set up: %(message)s'); logging.getLogger('srum').warning('even')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["odd", "set up: even"]
    assert [line.split()[-1] for line in lines(tmp_path)] == ["odd"]


def test_quiet_leaves_results_and_errors_and_verbose_adds_details(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*toy.COMPONENTS, "prompts=['a cup']", "train.steps=1", "--out", str(tmp_path / "run")]
    assert train_main([*command, "-q"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "The run is in" in printed.out
    assert any("train round" in line for line in lines(tmp_path / "run"))
    assert train_main([*command, "--redo=train", "--verbose"]) == 0
    assert "MiB" in capsys.readouterr().err
    assert train_main([*command, "--redo=train"]) == 0
    assert "MiB" not in capsys.readouterr().err
    assert train_main([*command, "train.steps=2", "-q"]) == 2
    printed = capsys.readouterr()
    assert "other settings" in printed.err
    assert "Traceback" not in printed.err
    assert train_main([*command, "train.steps=2", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_other_commands_are_quiet_too(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-q", "--trained", str(run.folder), "a cup", f"--out={tmp_path / 'images'}"]) == 0
    assert capsys.readouterr().err == ""
    command = ["eval", "run", "--adapter=toy:ToyModel", "--benchmark=toy:ToyBenchmark", f"--out={tmp_path / 'run'}"]
    assert main([*command, "-q"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "The evaluation is in" in printed.out
    assert any("The evaluation is in" in line for line in lines(tmp_path / "run"))
    with pytest.raises(SystemExit):
        main([*command, "-q", "-v"])


def test_a_stage_that_is_launched_is_as_quiet() -> None:
    code = "import srum_core.runs.progress as p; print(p.verbosity())"
    for given, read in (("-1", "-1"), ("1", "1"), ("", "0"), ("loud", "0")):
        environment = {**progress_module.os.environ, progress_module.VERBOSITY: given}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == read


def test_a_package_that_diffusers_imports_says_nothing() -> None:
    """bitsandbytes warns of kernels that srum does not use, in whatever order things are imported."""
    code = "import srum_core, logging; print(logging.getLogger('bitsandbytes').isEnabledFor(logging.WARNING))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
