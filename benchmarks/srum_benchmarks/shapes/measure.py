"""How well a model draws and judges the world of shapes: `python -m srum_benchmarks.shapes.measure --checkpoint DIR`.

Judging is measured on the model's own pictures, against what the exact checker reads in them.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srum_benchmarks.shapes.checker import check
from srum_benchmarks.shapes.lessons import Lesson, appraise, exchanges
from srum_benchmarks.shapes.world import CATEGORIES, prompts
from srum_core.protocols import UnifiedModel
from srum_core.records import Question

BATCH = 64
_SCORE = re.compile(r"Score: (-?\d\.\d)$", re.MULTILINE)
_REGION = re.compile(r"Region ID: (\d+)\n.*\nScore: (-?\d\.\d)$", re.MULTILINE)


def measure(
    model: UnifiedModel, templates: tuple[str, str], split: str = "dev", count: int = 256, seed: int = 0
) -> dict[str, Any]:
    """One picture per prompt. Shares with their standard errors; judging figures are over these very pictures."""
    asked = prompts(split, count)
    pictures = []
    for start in range(0, count, BATCH):
        batch = asked[start : start + BATCH]
        seeds = [seed * count + start + i for i in range(len(batch))]
        pictures += [np.asarray(sample.image) for sample in model.generate([p.text for p in batch], seeds)]
    verdicts = [check(picture, prompt.tags) for picture, prompt in zip(pictures, asked, strict=True)]
    drawing = {"all": share([v.correct for v in verdicts]), "fidelity": share([v.fidelity for v in verdicts])}
    for category in CATEGORIES:
        of = [v.correct for v, p in zip(verdicts, asked, strict=True) if p.tags["category"] == category]
        drawing[category] = share(of)
    lessons = [appraise(picture, prompt) for picture, prompt in zip(pictures, asked, strict=True)]
    return {"drawing": drawing, "judging": judging(model, lessons, templates)}


def share(values: Sequence[float]) -> dict[str, float]:
    x = np.asarray(values, float)
    return {
        "value": round(float(x.mean()), 4),
        "error": round(float(x.std() / max(1, len(x)) ** 0.5), 4),
        "count": len(x),
    }


def judging(model: UnifiedModel, lessons: Sequence[Lesson], templates: tuple[str, str]) -> dict[str, Any]:
    """Whole pictures: balanced accuracy of "score > 0.5" for "right", correlation. Regions: sign accuracy, AUC."""
    said = answers(model, lessons, templates)
    whole = [
        (lesson.score, float(found[1]))
        for lesson, (text, _) in zip(lessons, said, strict=True)
        if (found := _SCORE.search(text))
    ]
    parts = []
    readable = regional = 0
    for lesson, (_, text) in zip(lessons, said, strict=True):
        given = {int(number): float(score) for number, score in _REGION.findall(text)}
        regional += bool(lesson.parts)
        readable += bool(lesson.parts) and given.keys() >= set(range(1, len(lesson.parts) + 1))
        parts += [(part.score, given[i]) for i, part in enumerate(lesson.parts, 1) if i in given]
    truth, score = np.array(whole).T if whole else np.zeros((2, 0))
    region_truth, region_score = np.array(parts).T if parts else np.zeros((2, 0))
    return {
        "readable": {"layout": round(len(whole) / len(lessons), 4), "regions": round(readable / max(1, regional), 4)},
        "layout_balanced_accuracy": balanced(truth > 0.9, score > 0.5),
        "layout_correlation": correlation(truth, score),
        "region_sign_accuracy": balanced(region_truth > 0, region_score > 0),
        "region_auc": auc(region_truth > 0, region_score),
        "region_correlation": correlation(region_truth, region_score),
        "right_pictures": int((truth > 0.9).sum()), "good_regions": int((region_truth > 0).sum()),
        "regions": len(parts),
    }  # fmt: skip


def answers(model: UnifiedModel, lessons: Sequence[Lesson], templates: tuple[str, str]) -> list[tuple[str, str]]:
    """What the model says about each picture (layout, regions)."""
    from PIL import Image

    said: dict[tuple[int, int], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        questions, places = [], []
        for i, lesson in enumerate(lessons):
            path = Path(folder) / f"{i}.png"
            Image.fromarray(lesson.image).save(path)
            for kind, (question, _) in enumerate(exchanges(lesson, *templates)):
                questions.append(Question(path, question, max_new_tokens=40 if kind == 0 else 200))
                places.append((i, kind))
        for start in range(0, len(questions), BATCH):
            said |= zip(places[start : start + BATCH], model.answer(questions[start : start + BATCH]), strict=True)
    return [(said[i, 0], said.get((i, 1), "")) for i in range(len(lessons))]


def balanced(truth: np.ndarray, guess: np.ndarray) -> float | None:
    """Mean of the accuracies on true and on false cases; None where there is only one kind."""
    if truth.all() or not truth.any():
        return None
    return round(float((guess[truth].mean() + (~guess[~truth]).mean()) / 2), 4)


def auc(truth: np.ndarray, score: np.ndarray) -> float | None:
    """Chance that a good region scores above a bad one, ties half."""
    if truth.all() or not truth.any():
        return None
    difference = score[truth][:, None] - score[~truth][None, :]
    return round(float((difference > 0).mean() + 0.5 * (difference == 0).mean()), 4)


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


def main(arguments: Sequence[str] | None = None) -> None:
    from srum_core.config import Use
    from srum_core.plugins import discover

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapter", default="bagel")
    parser.add_argument("--checkpoint", default="bundled:shapes")
    parser.add_argument("--layout-template", type=Path, required=True)
    parser.add_argument("--regions-template", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30, help="points of the sampler's time grid")
    parser.add_argument("--guidance", type=float, default=4.0)
    given = parser.parse_args(arguments)
    side = [32, 32]
    options = {
        "checkpoint": given.checkpoint, "size": side, "drawing_sides": side, "vision_sides": side, "dtype": "float32",
        "drawing": {"steps": given.steps, "guidance": given.guidance},
    }  # fmt: skip
    model = discover().create("adapter", Use(given.adapter, options))
    templates = (given.layout_template.read_text(), given.regions_template.read_text())
    print(json.dumps(measure(model, templates, given.split, given.count), indent=2))


if __name__ == "__main__":
    main()
