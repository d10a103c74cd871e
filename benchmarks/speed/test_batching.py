"""What batching and token-grid maps buy, as ratios within one run: `make bench`.

The slower member of each group is our own rendering of the obvious way (one picture at a time, one question at a time,
maps painted pixel by pixel and then shrunk), not the reference's code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from srum_core.config import Use
from srum_core.plugins import discover
from srum_core.records import Judgement, Question, Region, Score

ROUNDS = 5
PROMPTS = [f"a {colour} circle and a blue square" for colour in ("red", "green", "yellow", "cyan")] * 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    sides = {"size": [32, 32], "drawing_sides": [32, 32], "vision_sides": [32, 32], "drawing": {"steps": 6}}
    return discover().create("adapter", Use("bagel", {"checkpoint": "bundled:shapes", "dtype": "float32", **sides}))


def measure(benchmark: Any, work: Callable[[], object]) -> None:
    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.benchmark(group="draw 16 pictures")
@pytest.mark.parametrize("way", ["batched", "one by one"])
def test_drawing(benchmark: Any, model: Any, way: str) -> None:
    seeds = list(range(len(PROMPTS)))
    if way == "batched":
        measure(benchmark, lambda: model.generate(PROMPTS, seeds))
    else:
        measure(benchmark, lambda: [model.generate([p], [s]) for p, s in zip(PROMPTS, seeds, strict=True)])


@pytest.mark.benchmark(group="answer 16 questions about 8 pictures")
@pytest.mark.parametrize("way", ["batched", "one by one"])
def test_answering(benchmark: Any, model: Any, way: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        Image.new("RGB", (32, 32), (30 * i, 200, 90)).save(path)
    asked = [Question(p, f"Prompt: {t}\nRate the layout.", max_new_tokens=16) for p in paths for t in PROMPTS[:2]]
    if way == "batched":
        measure(benchmark, lambda: model.answer(asked))
    else:
        measure(benchmark, lambda: [model.answer([question]) for question in asked])


@pytest.mark.benchmark(group="released map of a 1024x1024 picture, 10 boxes")
@pytest.mark.parametrize("way", ["token grid", "painted"])
def test_reward_map(benchmark: Any, way: str) -> None:
    boxes = [(i / 16, i / 20, (i + 5) / 16, (i + 6) / 20) for i in range(10)]
    regions = tuple(Region(str(i), box) for i, box in enumerate(boxes))
    scores = (Score(0.5), *(Score(i / 10, str(i)) for i in range(10)))
    judgement = Judgement("c", regions, scores)
    if way == "token grid":
        released = discover().create("map", Use("released"))
        measure(benchmark, lambda: released(judgement, (64, 64)))
    else:
        measure(benchmark, lambda: paint(boxes, [i / 10 for i in range(10)], 0.5))


def paint(boxes: list[tuple[float, float, float, float]], scores: list[float], whole: float) -> torch.Tensor:
    """The release's algorithm in our words: a 0.5 canvas, the maximum in every box, times alpha, shrunk at last."""
    canvas = torch.full((1024, 1024), 0.5)
    for (x0, y0, x1, y1), score in zip(boxes, scores, strict=True):
        part = canvas[int(y0 * 1024) : int(y1 * 1024), int(x0 * 1024) : int(x1 * 1024)]
        part.clamp_(min=(score + 1) / 2)
    canvas *= (whole + 1) / 2
    return torch.nn.functional.interpolate(canvas[None, None], size=(64, 64), mode="bilinear", align_corners=False)


@pytest.mark.benchmark(group="attention forward and backward, bfloat16, 64 rows of 66 x 82, 4 heads of 32")
@pytest.mark.parametrize("way", ["plain products", "fused kernel"])
def test_attention_when_training_on_a_cpu(benchmark: Any, way: str) -> None:
    from srum_bagel.context import attend

    q = torch.randn(64, 4, 66, 32, dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.randn(64, 2, 82, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    fused = torch.nn.functional.scaled_dot_product_attention
    if way == "plain products":
        measure(benchmark, lambda: attend(q, k, v).sum().backward())
    else:
        measure(benchmark, lambda: fused(q, k, v, enable_gqa=True).sum().backward())


def test_both_ways_agree() -> None:
    """A ratio between different results would mean nothing."""
    boxes = [(0.25, 0.25, 0.5, 0.75)]
    judgement = Judgement("c", (Region("0", boxes[0]),), (Score(0.5), Score(0.8, "0")))
    ours = discover().create("map", Use("released"))(judgement, (64, 64))
    assert torch.allclose(ours, paint(boxes, [0.8], 0.5)[0, 0], atol=1e-6), json.dumps(boxes)
