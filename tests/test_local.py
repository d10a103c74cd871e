"""The answerer `local`: a vision-language model of transformers in this process."""

from __future__ import annotations

import json
import shutil
from copy import copy
from pathlib import Path

import pytest
import torch
from attrs import evolve
from PIL import Image
from tiny_vlm import write_tiny_vlm

from srum_core.errors import CheckpointError
from srum_core.models.templates import REASON_FIRST
from srum_core.plugins import discover
from srum_core.records import BoxFormat, Question
from srum_core.testing import sample_image
from srum_local import LocalOptions
from srum_local.answerer import Local

FIXED = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    write_tiny_vlm(folder)
    return folder


@pytest.fixture(scope="module")
def local(checkpoint: Path) -> Local:
    return discover().create("answerer", "local", checkpoint=str(checkpoint), batch=3, **FIXED)


@pytest.fixture
def asked(tmp_path: Path) -> list[Question]:
    """Images and texts of several lengths; one is a part, one has a history."""
    questions = []
    for index, (size, text) in enumerate([((64, 48), "What is it?"), ((96, 64), "Is there a red cup here?")] * 2):
        path = tmp_path / f"{index}.png"
        sample_image(size, index).save(path)
        questions.append(Question(path, text, max_new_tokens=6, seed=index))
    questions[2] = evolve(questions[2], crop=(0.5, 0.0, 1.0, 1.0), max_new_tokens=3)
    questions[3] = evolve(questions[3], history=(("Describe it.", "A cup."),))
    return questions


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_what_is_asked_beside_them(
    local: Local, asked: list[Question], temperature: float
) -> None:
    asked = [evolve(each, temperature=temperature) for each in asked]
    together = local.answer(asked)
    assert together == local.answer(asked[::-1])[::-1] == [local.answer([each])[0] for each in asked]
    assert len(set(together)) > 1


def test_sampled_answers_follow_their_seed(local: Local, asked: list[Question]) -> None:
    hot = evolve(asked[0], temperature=5.0)
    assert len(set(local.answer([evolve(hot, seed=seed) for seed in range(6)]))) > 1
    greedy = local.answer([evolve(asked[0], seed=seed) for seed in range(3)])
    assert len(set(greedy)) == 1  # although the checkpoint's own settings say do_sample


def test_what_was_said_before_is_turns_and_the_image_comes_first(local: Local, asked: list[Question]) -> None:
    turns = local._turns(evolve(asked[3], think=True))
    assert [each["role"] for each in turns] == ["user", "assistant", "user"]
    assert [part["type"] for part in turns[0]["content"]] == ["image", "text"]
    assert turns[1]["content"][0]["text"] == "A cup."
    assert turns[2]["content"] == [{"type": "text", "text": REASON_FIRST + "Is there a red cup here?"}]
    assert local.converses


def test_a_checkpoints_own_ways_of_answering_do_not_count(
    checkpoint: Path, local: Local, asked: list[Question], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    path = other / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "no_repeat_ngram_size": 1, "min_new_tokens": 6}))
    assert Local(LocalOptions(str(other), **FIXED)).answer(asked) == local.answer(asked)


def test_each_answer_ends_at_its_own_limit_or_stop(local: Local, asked: list[Question]) -> None:
    long = evolve(asked[0], max_new_tokens=6)
    short = evolve(long, max_new_tokens=2)
    whole, part = local.answer([long, short])
    assert whole.startswith(part)
    assert whole != part
    assert local._text([5, 6, local.stops[0], 7]) == local._text([5, 6]) != local._text([5, 6, 7])


def test_a_system_turn_comes_first_without_the_image(local: Local, asked: list[Question]) -> None:
    strict = copy(local)
    strict.options = evolve(local.options, system="Be strict.")
    system, user = strict._turns(asked[0])
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be strict."}]}
    assert [part["type"] for part in user["content"]] == ["image", "text"]


@pytest.mark.parametrize(("kind", "format"), [("qwen2_vl", BoxFormat("thousand")), ("llava", BoxFormat("pixels"))])
def test_other_models_write_boxes_in_other_ways(
    kind: str, format: BoxFormat, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.model.config, "model_type", kind)
    assert local.box_format((96, 64)) == format


def test_a_crop_is_what_is_seen(local: Local, asked: list[Question]) -> None:
    image = local._turns(asked[2])[0]["content"][0]["image"]
    assert image.size == (32, 48)


def test_boxes_are_pixels_of_the_image_as_it_is_seen(local: Local) -> None:
    assert local.box_format((96, 64)) == BoxFormat("pixels", (84, 56))


def test_pixel_limits_are_taken(checkpoint: Path) -> None:
    small = Local(LocalOptions(str(checkpoint), max_pixels=56 * 56, **FIXED))
    assert small.box_format((640, 640)) == BoxFormat("pixels", (56, 56))


def test_what_is_no_vision_language_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"could not be loaded|no processor"):
        Local(LocalOptions(str(tmp_path), **FIXED))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(CheckpointError, match=r"17 GB of weights .* no accelerator"):
        Local()


def test_the_thinnest_and_smallest_parts_can_be_looked_at(local: Local, tmp_path: Path) -> None:
    Image.new("RGB", (1024, 32), "red").save(tmp_path / "x.png")
    crops = [(0.0, 0.0, 1.0, 0.01), (0.5, 0.5, 0.501, 0.51), (0.0, 0.0, 0.001, 1.0)]
    said = local.answer([Question(tmp_path / "x.png", "What?", crop, max_new_tokens=2) for crop in crops])
    assert len(said) == 3
