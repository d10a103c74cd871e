"""The exact checker as a judge, and runs of rendered scenes: ceilings and controls of the world of shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretraining import rendered_control
from pretraining.captions import FEWER
from pretraining.scenes import Object, draw
from srum_benchmarks.shapes import appraisal, world
from srum_benchmarks.shapes.appraisal import ShapesOracle
from srum_benchmarks.shapes.checker import check
from srum_core import config, plugins
from srum_core.errors import RecordError
from srum_core.options import Use
from srum_core.records import Candidate, Prompt, Region
from srum_core.runs.run import Run
from srum_core.testing import JudgeConformance
from srum_losses.maps import Paper

RED, BLUE = Object("red", "circle", 2, 3, 9), Object("blue", "square", 18, 5, 10)
PROMPT = world.binding(RED.kind, BLUE.kind)


def stored(folder: Path, *things: Object, prompt: Prompt = PROMPT) -> Candidate:
    path = folder / "picture.png"
    Image.fromarray(draw(things)).save(path)
    return Candidate("c", prompt, path, (32, 32), 0)


def around(thing: Object) -> Region:
    box = (thing.x / 32, thing.y / 32, (thing.x + thing.size) / 32, (thing.y + thing.size) / 32)
    return Region(thing.colour, box)


class TestShapesOracle(JudgeConformance):
    @pytest.fixture
    def judge(self) -> ShapesOracle:
        return plugins.discover().create("judge", "shapes-oracle")

    @pytest.fixture
    def candidate(self, tmp_path: Path) -> Candidate:
        return stored(tmp_path, RED, BLUE)


def test_it_asks_nothing_and_says_what_the_lessons_say(tmp_path: Path) -> None:
    oracle, green = ShapesOracle(), Object("green", "square", 18, 5, 10)
    for things in ((RED, BLUE), (RED, green), (RED,), ()):
        candidate = stored(tmp_path, *things)
        regions = [around(thing) for thing in things]
        assert oracle.questions(candidate, regions) == ()
        whole, *parts = oracle.scores(candidate, regions, ())
        message = appraisal.appraise(draw(things), PROMPT)
        assert (whole.value, whole.region, whole.reason) == (message.score, None, message.reason)
        assert [(part.value, part.label, part.reason) for part in parts] == [
            (part.score, part.label, part.reason) for part in message.parts
        ]
        assert [part.region for part in parts] == [region.id for region in regions]
        assert {score.judge for score in (whole, *parts)} == {"shapes-oracle"}
    assert [score.value for score in oracle.scores(stored(tmp_path, RED, BLUE), [around(BLUE)], ())] == [1.0, 1.0]
    wrong = oracle.scores(stored(tmp_path, RED, green), [around(green), around(RED)], ())
    assert [score.value for score in wrong] == [-0.2, -0.6, 1.0]


def test_a_region_of_nothing_is_told_and_a_sliver_is_still_a_region(tmp_path: Path) -> None:
    candidate = stored(tmp_path, RED, BLUE)
    empty, sliver = Region("1", (0.0, 0.6, 0.3, 1.0)), Region("2", (0.999, 0.999, 1.0, 1.0))
    _, one, other = ShapesOracle().scores(candidate, [empty, sliver], ())
    assert one.value == other.value == appraisal.REGION_SCORES["distorted"]


def test_images_and_prompts_of_another_world_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r'its prompt "a cup" does not say which objects'):
        ShapesOracle().scores(stored(tmp_path, RED, prompt=Prompt("p", "a cup")), (), ())
    candidate = stored(tmp_path, RED)
    Image.new("RGB", (16, 8)).save(candidate.image)
    with pytest.raises(RecordError, match=r"reads images of 32×32 pixels, but .* has 16×8"):
        ShapesOracle().scores(candidate, (), ())


def test_it_is_listed_as_what_it_is() -> None:
    (found,) = [each for each in plugins.discover().listing() if each.component.name == "shapes-oracle"]
    assert found.component.summary.startswith("exact checker (not self-rewarding)")


# ---- rendered scenes ------------------------------------------------------------------------------------------------


@pytest.fixture
def like(tmp_path: Path) -> Run:
    settings = config.Settings(
        adapter=Use("toy:ToyModel"), prompts="shapes:train:24", generate=config.Generate(candidates=2), rounds=3
    )
    Run.create(tmp_path / "like", settings, plugins.discover()).keep_prompts(1)
    return Run.open(tmp_path / "like")


def correct(run: Run) -> list[bool]:
    found = []
    for candidate in run.candidates(1):
        with Image.open(candidate.image) as image:
            found.append(check(np.asarray(image), candidate.prompt.tags).correct)
    return found


def test_a_run_of_rendered_scenes_has_the_same_prompts_and_as_many_images(like: Run, tmp_path: Path) -> None:
    run = rendered_control.make(like, tmp_path / "real")
    assert [(each.id, each.prompt, each.seed) for each in run.candidates(1)] == [
        (each.id, each.prompt, each.seed) for each in like.planned(1)
    ]
    assert correct(run) == [True] * 48
    assert len({each.image.read_bytes() for each in run.candidates(1)}) == 48
    assert all(run.done(stage, 1) for stage in ("generate", "ground", "judge"))
    for judgement in run.judgements(1):
        assert Paper()(judgement, (4, 4)).tolist() == [[1.0] * 4] * 4
    assert [grounding.regions for grounding in run.groundings(1)] == [each.regions for each in run.judgements(1)]
    assert (run.settings.loss.use, run.settings.rounds) == ("sft", 1)
    run.check()
    assert not (like.round_folder(1) / "candidates").exists()


def test_a_share_of_the_scenes_can_miss_its_caption(like: Run, tmp_path: Path) -> None:
    half, again, other = (
        rendered_control.make(like, tmp_path / name, 0.5, seed)
        for name, seed in (("half", 0), ("again", 0), ("other", 1))
    )
    assert 8 < correct(half).count(False) < 36
    images = [[each.image.read_bytes() for each in run.candidates(1)] for run in (half, again, other)]
    assert images[0] == images[1] != images[2]
    none = rendered_control.make(like, tmp_path / "none", 1.0)
    asked = [candidate.prompt.tags["category"] for candidate in none.candidates(1)]
    assert {name for name, right in zip(asked, correct(none), strict=True) if right} <= set(FEWER)


def test_the_command_says_how_to_go_on_or_what_is_wrong(
    like: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--like", str(like.folder), "--out", str(tmp_path / "real"), "--missed", "0.35"]
    assert rendered_control.main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("48 rendered scenes are in ")
    assert f"srum-train --config {tmp_path}/real/run.toml --out {tmp_path}/real" in out
    assert rendered_control.main(command) == 2
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rendered_control.main([*command, "--missed", "35"])
    assert "35 is no share" in capsys.readouterr().err
    prompts = like.round_folder(1) / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "p", "text": "a cup"}) + "\n")
    assert rendered_control.main(["--like", str(like.folder), "--out", str(tmp_path / "other")]) == 2
    assert 'The prompt "a cup" is not of the world of shapes' in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
