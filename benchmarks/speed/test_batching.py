"""What batching and token-grid maps buy, as ratios within one run: `make bench`.

The slower member of each group is our own rendering of the obvious way (one image at a time, one question at a time,
maps painted pixel by pixel and then shrunk), not the reference's code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from srum_core.options import Use
from srum_core.plugins import discover
from srum_core.records import Judgement, Question, Region, Score

PROMPTS = [f"a {colour} circle and a blue square" for colour in ("red", "green", "yellow", "cyan")] * 4


@pytest.fixture(scope="module")
def model() -> Any:
    sides = {"size": [32, 32], "generation_sides": [32, 32], "vision_sides": [32, 32], "sampling": {"steps": 6}}
    return discover().create("adapter", Use("bagel", {"checkpoint": "bundled:shapes", "dtype": "float32", **sides}))


def test_generating(compare: Any, model: Any) -> None:
    seeds = list(range(len(PROMPTS)))
    compare(
        "16 small images in a batch, against one by one (bundled model)",
        lambda: model.generate(PROMPTS, seeds),
        lambda: [model.generate([p], [s]) for p, s in zip(PROMPTS, seeds, strict=True)],
        5,
    )


def test_answering(compare: Any, model: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        Image.new("RGB", (32, 32), (30 * i, 200, 90)).save(path)
    asked = [Question(p, f"Prompt: {t}\nRate the layout.", max_new_tokens=16) for p in paths for t in PROMPTS[:2]]
    compare(
        "16 questions about 8 images in a batch, against one by one (bundled model)",
        lambda: model.answer(asked),
        lambda: [model.answer([question]) for question in asked],
        5,
    )


@pytest.mark.parametrize("name", ["released", "paper"])
def test_reward_maps(compare: Any, name: str) -> None:
    boxes = [(i / 16, i / 20, (i + 5) / 16, (i + 6) / 20) for i in range(10)]
    regions = tuple(Region(str(i), box) for i, box in enumerate(boxes))
    scores = [i / 10 for i in range(10)]
    judged = (Score(0.5), *(Score(score, str(i)) for i, score in enumerate(scores)))
    judgement, reward_map = Judgement("c", regions, judged), discover().create("map", Use(name))
    compare(
        f"{name} maps of 16 images of 1024 x 1024, 10 boxes, against painting pixels",
        lambda: [reward_map(judgement, (64, 64)) for _ in range(16)],
        lambda: shrunk(torch.stack([paint(boxes, scores, 0.5) for _ in range(16)])),
        10,
    )


def paint(boxes: list[tuple[float, float, float, float]], scores: list[float], whole: float) -> torch.Tensor:
    """The release's pixel map in our words: a 0.5 canvas, the maximum in every box, times alpha."""
    canvas = torch.full((1024, 1024), 0.5)
    for (x0, y0, x1, y1), score in zip(boxes, scores, strict=True):
        part = canvas[int(y0 * 1024) : int(y1 * 1024), int(x0 * 1024) : int(x1 * 1024)]
        part.clamp_(min=(score + 1) / 2)
    return canvas.mul_((whole + 1) / 2)


def shrunk(batch: torch.Tensor) -> list[torch.Tensor]:
    """A batch of pixel maps, as the loader stacks them, brought to the grid image by image. Left out of what the
    release does: pinning, copying to the device and casting to 16 bits there."""
    size, resize = (64, 64), torch.nn.functional.interpolate
    return [resize(each[None, None], size=size, mode="bilinear", align_corners=False)[0, 0] for each in batch]


def test_both_ways_agree() -> None:
    """A ratio between different results would mean nothing."""
    boxes = [(0.25, 0.25, 0.5, 0.75)]
    judgement = Judgement("c", (Region("0", boxes[0]),), (Score(0.5), Score(0.8, "0")))
    ours = discover().create("map", Use("released"))(judgement, (64, 64))
    assert torch.allclose(ours, shrunk(paint(boxes, [0.8], 0.5)[None])[0], atol=1e-5), json.dumps(boxes)
