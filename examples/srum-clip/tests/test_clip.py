"""A tiny CLIP with random weights: what it is shown, and what every judge must keep to."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from srum_clip import ClipOptions
from srum_clip.judge import Clip
from srum_core.errors import CheckpointError
from srum_core.testing import JudgeConformance, sample_candidate, sample_regions


@cache
def checkpoint() -> str:
    folder = Path(mkdtemp(prefix="tiny-clip-"))
    letters = [chr(each) for each in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    words = [*letters, *(each + "</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@cache
def clip(low: float = -1.0, high: float = 1.0) -> Clip:
    return Clip(ClipOptions(checkpoint(), low, high, "cpu"))


def test_the_image_and_each_region_are_compared_with_the_prompt(tmp_path: Path) -> None:
    candidate, regions = sample_candidate(tmp_path), sample_regions()
    scores = clip().scores(candidate, regions, [])
    assert [score.region for score in scores] == [None, "1", "2", "3"]
    assert len({score.value for score in scores}) == 4
    [whole] = clip().scores(candidate, (), [])
    assert whole.value == pytest.approx(scores[0].value, abs=1e-5)


def test_low_is_worth_minus_one_and_high_one(tmp_path: Path) -> None:
    candidate = sample_candidate(tmp_path)
    similarity = clip().scores(candidate, (), [])[0].value
    for low, high, value in (
        (similarity, similarity + 1, -1.0), (similarity - 1, similarity, 1.0), (similarity - 1, similarity + 1, 0.0),
    ):  # fmt: skip
        assert clip(low, high).scores(candidate, (), [])[0].value == pytest.approx(value, abs=1e-5)


def test_a_checkpoint_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no CLIP model"):
        Clip(ClipOptions(str(tmp_path), device="cpu"))


class TestConformance(JudgeConformance):
    needs_torch = True

    @pytest.fixture
    def judge(self) -> Clip:
        return clip()
