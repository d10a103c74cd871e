"""How well a run's judges agree with the exact checker: the figures are the checker's, for any judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from PIL import Image

from pretraining import agreement, rendered_control
from srum_benchmarks.shapes.appraisal import ShapesOracle
from srum_benchmarks.shapes.checker import check, look
from srum_core import config, plugins
from srum_core.errors import RecordError
from srum_core.options import Use
from srum_core.records import Candidate, Judgement, Prompt, Region
from srum_core.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """48 rendered scenes, half of which miss their prompt, called right by the judge "rendered"."""
    settings = config.Settings(
        adapter=Use("toy:ToyModel"), prompts="shapes:train:24", generate=config.Generate(candidates=2)
    )
    Run.create(tmp_path / "like", settings, plugins.discover()).keep_prompts(1)
    return rendered_control.make(Run.open(tmp_path / "like"), tmp_path / "run", 0.5)


def image(candidate: Candidate) -> np.ndarray:
    with Image.open(candidate.image) as image:
        return np.asarray(image)


def judged_by_the_checker(candidate: Candidate) -> Judgement:
    boxes = [thing.box for thing in look(image(candidate))]
    regions = tuple(Region(str(i), tuple(edge / 32 for edge in box)) for i, box in enumerate(boxes))
    return Judgement(candidate.id, regions, tuple(ShapesOracle().scores(candidate, regions, ())))


def test_a_judge_that_says_what_the_checker_says_agrees_and_a_pleased_one_does_not(run: Run) -> None:
    (pleased,) = agreement.agreement(run, 1).values()
    assert pleased["balanced accuracy"]["value"] == pleased["AUC"]["value"] == 0.5
    assert pleased["region AUC"]["value"] is None, "its one region is the whole image, which is no thing"
    candidates = list(run.candidates(1))
    shutil.rmtree(run.judgements(1).folder)
    judgements = run.judgements(1)
    judgements.extend(judged_by_the_checker(candidate) for candidate in candidates[:40])
    ((name, figures),) = agreement.agreement(run, 1).items()
    assert name == "shapes-oracle"
    assert {figure["value"] for figure in figures.values()} == {1.0}
    assert figures["AUC"]["count"] == 40, "what was not judged is left out"
    assert figures["region AUC"]["count"] == sum(len(look(image(each))) for each in candidates[:40])


def test_one_wrong_score_in_four_is_seen_as_such(run: Run) -> None:
    candidates = list(run.candidates(1))
    right = [each for each in candidates if check(image(each), each.prompt.tags).correct]
    some = [judged_by_the_checker(each) for each in right[:4]]
    whole, *parts = some[0].scores
    some[0] = evolve(some[0], scores=(evolve(whole, value=-0.4), *parts))
    shutil.rmtree(run.judgements(1).folder)
    wrong = [judged_by_the_checker(each) for each in candidates if each not in right]
    run.judgements(1).extend([*some, *wrong])
    figures = agreement.agreement(run, 1)["shapes-oracle"]
    assert figures["balanced accuracy"]["value"] == (3 / 4 + 1) / 2
    assert figures["region sign accuracy"]["value"] == 1.0


def test_the_command_prints_a_row_for_every_judge_or_says_what_is_wrong(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agreement.main([str(run.folder)]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.startswith("| run | judge | balanced accuracy |")
    assert row.startswith(f"| {run.folder}:1 | rendered | 0.500 [")
    shutil.rmtree(run.judgements(1).folder)
    assert agreement.main([str(run.folder)]) == 2
    assert "holds no judgement: run --only judge first." in capsys.readouterr().err
    cup = Candidate("c", Prompt("p", "a cup"), next(iter(run.candidates(1))).image, (32, 32), 0)
    with pytest.raises(RecordError, match="not of the world of shapes"):
        agreement._true(cup, Judgement("c"))
