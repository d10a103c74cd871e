"""A model's judgements of images compared with the exact checker."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from pretraining.examples import exchanges
from pretraining.figures import Figure, auc, balanced, correlation, share
from srum_benchmarks.shapes.appraisal import PLACE, Lesson
from srum_benchmarks.shapes.world import crowded
from srum_core.protocols import UnifiedModel
from srum_core.records import Question

BATCH = 64
RIGHT = 0.5
"""An image with a score above this is judged correct."""
ROOM = ((90, 200), (160, 320))
"""Tokens of an answer (layout, regions); the second pair is the crowded world's."""
_SCORE = re.compile(r"Score: (-?\d\.\d)$", re.MULTILINE)
_REGION = re.compile(r"Region ID: (\d+)\n.*\nScore: (-?\d\.\d)$", re.MULTILINE)


def judging(
    model: UnifiedModel,
    lessons: Sequence[Lesson],
    templates: tuple[str, str],
    prompt_of: np.ndarray | None = None,
    votes: int = 1,
) -> dict[str, Any]:
    """Compare the model's judgements with the checker's. Only the readable shares count unreadable answers.

    prompt_of   number of each image's prompt; None: every image has its own
    votes       1: greedy answers; more: sampled, and settled as with judge.temperature = 1 and judge.doubt = 1"""
    by_vote = [answers(model, lessons, templates, vote if votes > 1 else None) for vote in range(votes)]
    prompt_of = np.arange(len(lessons)) if prompt_of is None else prompt_of
    by_image = list(zip(*by_vote, strict=True))
    scores = np.array([_settled(_SCORE.findall("\n\n".join(text for text, _ in each))) for each in by_image])
    region_scores = [_regions([text for _, text in each]) for each in by_image]
    layout = _layout(lessons, scores, prompt_of)
    complete = [
        scored.keys() >= set(range(1, len(each.parts) + 1)) for each, scored in zip(lessons, region_scores, strict=True)
    ]
    with_regions = np.array([bool(each.parts) for each in lessons])
    readable = {
        "layout_readable": share(~np.isnan(scores), prompt_of),
        "regions_readable": share(np.array(complete)[with_regions], prompt_of[with_regions]),
    }
    return {**readable, **layout, **_regional(lessons, region_scores, prompt_of)}


def _settled(numbers: Sequence[str]) -> float:
    """Return the median of scores, reduced by their mean distance from it; NaN without scores."""
    values = list(map(float, numbers)) or [float("nan")]
    middle = median(values)
    return middle * (1 - fmean(abs(value - middle) for value in values))


def _regions(texts: Sequence[str]) -> dict[int, float]:
    """Return the settled score of each region with readable scores."""
    matches = [match for text in texts for match in _REGION.findall(text)]
    return {int(number): _settled([score for of, score in matches if of == number]) for number, _ in matches}


def _layout(lessons: Sequence[Lesson], scores: np.ndarray, prompt_of: np.ndarray) -> dict[str, Any]:
    is_readable = ~np.isnan(scores)
    scores, prompt_of = scores[is_readable], prompt_of[is_readable]
    judged = [each for each, readable in zip(lessons, is_readable, strict=True) if readable]
    truth = np.array([each.score for each in judged])
    right, accepted = truth > 0.9, scores > RIGHT
    reasons, kinds = np.array([each.reason for each in judged]), np.array([each.kind for each in judged])
    figures: dict[str, Any] = {
        "layout_balanced_accuracy": balanced(right, accepted, prompt_of),
        "right_recognised": share(accepted[right], prompt_of[right]),
        "wrong_recognised": share(~accepted[~right], prompt_of[~right]),
        "layout_auc": auc(right, scores, prompt_of),
        "layout_correlation": correlation(truth, scores, prompt_of),
        "wrong_recognised_by_fault": {
            reason: share(~accepted[of], prompt_of[of])
            for reason in sorted(set(reasons[~right].tolist()))
            if (of := ~right & (reasons == reason)).any()
        },
    }
    names = sorted(set(kinds.tolist()) - {""})
    if names:  # kinds of rendered images; generated ones have none
        by_kind = {name: share((accepted == right)[kinds == name], prompt_of[kinds == name]) for name in names}
        figures["accuracy_by_kind"] = by_kind
    return figures


def _regional(
    lessons: Sequence[Lesson], scores: Sequence[Mapping[int, float]], prompt_of: np.ndarray
) -> dict[str, Figure]:
    """Compare scores of regions; sign accuracy is balanced between good and bad ones. In the crowded world, also
    without regions whose only fault is their place, which box and prompt show without pixels."""
    pairs = [
        (part.score, scored[i], prompt, part.reason == PLACE)
        for each, scored, prompt in zip(lessons, scores, prompt_of, strict=True)
        for i, part in enumerate(each.parts, 1)
        if i in scored
    ]
    truth, score, prompt, place = np.array(pairs).T if pairs else np.zeros((4, 0))
    others = place == 0
    besides_place = {
        "region_sign_accuracy_besides_place": balanced(truth[others] > 0, score[others] > 0, prompt[others]),
        "region_auc_besides_place": auc(truth[others] > 0, score[others], prompt[others]),
        "wrong_place_recognised": share(score[~others] < 0, prompt[~others]),
    }
    return {
        "region_sign_accuracy": balanced(truth > 0, score > 0, prompt),
        "region_auc": auc(truth > 0, score, prompt),
        "region_correlation": correlation(truth, score, prompt),
        "good_regions": share(truth > 0, prompt),
        **(besides_place if place.any() else {}),
    }


def answers(
    model: UnifiedModel, lessons: Sequence[Lesson], templates: tuple[str, str], vote: int | None = None
) -> list[tuple[str, str]]:
    """Return the model's answers about each image (layout, regions): greedy, or sampled with the seed `vote`."""
    from PIL import Image

    heat = 0.0 if vote is None else 1.0
    texts: dict[tuple[int, int], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        questions, places = [], []
        for i, each in enumerate(lessons):
            path = Path(folder) / f"{i}.png"
            Image.fromarray(each.image).save(path)
            for kind, (question, _) in enumerate(exchanges(each, *templates)):
                seed, room = (vote or 0) * 1_000_003 + i, ROOM[crowded(each.prompt.tags)][kind]
                questions.append(Question(path, question, max_new_tokens=room, temperature=heat, seed=seed))
                places.append((i, kind))
        for start in range(0, len(questions), BATCH):
            texts |= zip(places[start : start + BATCH], model.answer(questions[start : start + BATCH]), strict=True)
    return [(texts[i, 0], texts.get((i, 1), "")) for i in range(len(lessons))]
