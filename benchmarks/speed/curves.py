"""How time and memory grow with tokens, images and regions: `python benchmarks/speed/curves.py --out docs/results`.

Training and generation use the mid-size BAGEL (`middle.py`), judging uses the bundled model. Every point is the
median of several rounds in a forked process, and the high-water mark of resident memory in another one.
Writes figures, one JSON line a point, and how well a power and a straight line fit.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import correlation, linear_regression
from typing import Any

import torch
from attrs import frozen
from PIL import Image

from srum_bagel.options import Sampling
from srum_bagel.sampling import sample
from srum_core.evaluation.statistics import Estimate
from srum_core.options import Use
from srum_core.plugins import discover
from srum_core.records import Judgement, Question, Region, Score
from srum_core.report import charts
from srum_core.runs.store import write_atomic
from srum_core.training import metrics

sys.path.insert(0, str(Path(__file__).parent))
import middle

Work = Callable[[], object]


@frozen
class Curve:
    """`make(x)` builds the work whose cost is measured."""

    name: str
    axis: str
    xs: Sequence[int]
    make: Callable[[int], Work]


def training(count: int, side: int) -> Work:
    return middle.step(middle.build(), middle.images(count, side))


def sampling(count: int, side: int) -> Work:
    """Two guided steps."""
    denoiser = middle.build().requires_grad_(False)
    noise, _, texts = middle.images(count, side)
    contexts, options = middle.contexts(denoiser, texts), Sampling(steps=3, interval=(0.0, 1.0))
    return lambda: sample(denoiser, contexts, noise, options)


def judgement(regions: int) -> Judgement:
    """Boxes that overlap in all ways; scores above and below 0."""
    sides = [(i * 7 % 60 / 64, i * 11 % 60 / 64) for i in range(regions)]
    boxes = [(x, y, min(1.0, x + 0.3), min(1.0, y + 0.25)) for x, y in sides]
    scores = [Score((i % 21) / 10 - 1, str(i)) for i in range(regions)]
    return Judgement("c", tuple(Region(str(i), box) for i, box in enumerate(boxes)), (Score(0.5), *scores))


def mapping(name: str, regions: int) -> Work:
    """A batch of 16 maps of 64 x 64 cells."""
    reward_map, judged = discover().create("map", Use(name)), judgement(regions)
    return lambda: [reward_map(judged, (64, 64)) for _ in range(16)]


def judging(folder: Path, regions: int) -> Work:
    """A question about every region of one image, all at once, cut out for it; 16 tokens at most an answer."""
    sides = {"size": [32, 32], "generation_sides": [32, 32], "vision_sides": [32, 32]}
    model = discover().create("adapter", Use("bagel", {"checkpoint": "bundled:shapes", "dtype": "float32", **sides}))
    path = folder / "picture.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    boxes = [region.box for region in judgement(regions).regions]
    text = "Prompt: a red circle\nRate the region."
    questions = [Question(path, text, crop=box, max_new_tokens=16) for box in boxes]
    return lambda: model.answer(questions)


def curves(folder: Path, tiny: bool) -> Iterator[Curve]:
    sides, counts = ((2, 3), (1, 2)) if tiny else ((8, 12, 16, 20, 24, 28, 32), (1, 2, 4, 6, 8, 12))
    tokens, usual = {side**2 + 2 + middle.TEXT: side for side in sides}, 2 if tiny else middle.SIDE
    works: dict[str, Callable[[int, int], Work]] = {"training": training, "drawing": sampling}
    for name, work in works.items():
        yield Curve(name, "tokens", list(tokens), lambda x, w=work: w(1, tokens[x]))  # type: ignore[misc]
        yield Curve(name, "images", counts, lambda x, w=work: w(x, usual))  # type: ignore[misc]
    regions = (1, 2) if tiny else (1, 5, 10, 20, 40, 80)
    for name in ("released", "paper"):
        yield Curve(f"{name} maps", "regions", regions, functools.partial(mapping, name))
    yield Curve("judging", "regions judged", regions, functools.partial(judging, folder))


def measure(curve: Curve, x: int, rounds: int) -> dict[str, Any]:
    """One point: its seconds and its memory, each in a separate process."""
    return {"work": curve.name, curve.axis: x, **_apart(middle.timed, curve, x, rounds), **_apart(mib, curve, x, 2)}


def _apart(measured: Callable[[Work, int], dict[str, float]], curve: Curve, x: int, rounds: int) -> dict[str, float]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(measured(curve.make(x), rounds)))
    child.start()
    theirs.close()
    try:
        figures: dict[str, float] = ours.recv()
        return figures
    finally:
        child.join()


def mib(work: Work, rounds: int) -> dict[str, float]:
    """Above what there is before. What is freed goes back to the system at once, which takes time."""
    for parameter in (-3, -1):  # glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        ctypes.CDLL(None).mallopt(parameter, 65536)
    gc.collect()
    metrics.forget_peaks()
    before = metrics.memory()["memory"]
    for _ in range(rounds):
        work()
    return {"mib": metrics.peaks()["memory_peak"] - before}


def fitted(points: Sequence[tuple[float, float]]) -> str:
    """By least squares: the exponent b of y = a * x^b, and the straight line with its share of explained variance."""
    xs, ys = zip(*points, strict=True)
    power = linear_regression([math.log(x) for x in xs], [math.log(max(y, 1e-9)) for y in ys]).slope
    line, explained = linear_regression(xs, ys), correlation(xs, ys) ** 2
    return f"x^{power:.2f}; {line.intercept:.3g} + {line.slope:.3g} x explains {explained:.2%}"


def draw(out: Path, points: Sequence[dict[str, Any]], axis: str, key: str, unit: str) -> None:
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for each in (each for each in points if axis in each):
        ends = (each["low"], each["high"]) if key == "seconds" else (None, None)
        lines.setdefault(each["work"], []).append((each[axis], Estimate(each[key], *ends)))
    name = f"speed-{key}-{axis.replace(' ', '-')}.svg"
    write_atomic(out / name, charts.line_chart(f"{unit} against {axis}", lines, height=300, axis=axis, alone=True))
    for work, line in lines.items():
        print(f"{work}, {unit} over {axis}: {fitted([(x, each.value) for x, each in line])}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/curves"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="two small points a curve, to try it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for curve in curves(Path(folder), options.tiny):
            for x in curve.xs:
                points.append(measure(curve, x, options.rounds))
                print(json.dumps(points[-1]), flush=True)
    for axis in ("tokens", "images", "regions", "regions judged"):
        draw(options.out, points, axis, "seconds", "seconds")
        if axis in ("tokens", "images"):
            draw(options.out, points, axis, "mib", "MiB")


if __name__ == "__main__":
    main()
