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
    which: np.ndarray | None = None,
    votes: int = 1,
) -> dict[str, Any]:
    """Compare the model's judgements with the checker's. Unreadable answers are left out of every
    figure but the readable shares. `which` prompt each image is of; without it each is of its own. A single answer is
    greedy; several `votes` are sampled and settled as in a run with judge.temperature = 1 and judge.doubt = 1."""
    by_vote = [answers(model, lessons, templates, vote if votes > 1 else None) for vote in range(votes)]
    which = np.arange(len(lessons)) if which is None else which
    by_image = list(zip(*by_vote, strict=True))
    scores = np.array([_settled(_SCORE.findall("\n\n".join(text for text, _ in each))) for each in by_image])
    region_scores = [_regions([text for _, text in each]) for each in by_image]
    whole = _whole(lessons, scores, which)
    complete = [
        scored.keys() >= set(range(1, len(each.parts) + 1)) for each, scored in zip(lessons, region_scores, strict=True)
    ]
    with_regions = np.array([bool(each.parts) for each in lessons])
    readable = {
        "layout_readable": share(~np.isnan(scores), which),
        "regions_readable": share(np.array(complete)[with_regions], which[with_regions]),
    }
    return {**readable, **whole, **_regional(lessons, region_scores, which)}


def _settled(numbers: Sequence[str]) -> float:
    """The median of several answers' scores, the less the further they lie apart; NaN of none."""
    values = list(map(float, numbers)) or [float("nan")]
    middle = median(values)
    return middle * (1 - fmean(abs(value - middle) for value in values))


def _regions(texts: Sequence[str]) -> dict[int, float]:
    """Region -> what its readable scores come to."""
    read = [match for text in texts for match in _REGION.findall(text)]
    return {int(number): _settled([score for of, score in read if of == number]) for number, _ in read}


def _whole(lessons: Sequence[Lesson], scores: np.ndarray, which: np.ndarray) -> dict[str, Any]:
    read = ~np.isnan(scores)
    scores, which = scores[read], which[read]
    some = [each for each, readable in zip(lessons, read, strict=True) if readable]
    truth = np.array([each.score for each in some])
    right, accepted = truth > 0.9, scores > RIGHT
    reasons, kinds = np.array([each.reason for each in some]), np.array([each.kind for each in some])
    figures: dict[str, Any] = {
        "layout_balanced_accuracy": balanced(right, accepted, which),
        "right_recognised": share(accepted[right], which[right]),
        "wrong_recognised": share(~accepted[~right], which[~right]),
        "layout_auc": auc(right, scores, which),
        "layout_correlation": correlation(truth, scores, which),
        "wrong_recognised_by_fault": {
            reason: share(~accepted[of], which[of])
            for reason in sorted(set(reasons[~right].tolist()))
            if (of := ~right & (reasons == reason)).any()
        },
    }
    names = sorted(set(kinds.tolist()) - {""})
    if names:  # how rendered images came about; the model's own have no kind
        by_kind = {name: share((accepted == right)[kinds == name], which[kinds == name]) for name in names}
        figures["accuracy_by_kind"] = by_kind
    return figures


def _regional(lessons: Sequence[Lesson], scores: Sequence[Mapping[int, float]], which: np.ndarray) -> dict[str, Figure]:
    """Sign accuracy is balanced between good and bad regions. In the crowded world once more without the regions whose
    only fault is their place: the box and the prompt show it, not the pixels."""
    pairs = [
        (part.score, scored[i], prompt, part.reason == PLACE)
        for each, scored, prompt in zip(lessons, scores, which, strict=True)
        for i, part in enumerate(each.parts, 1)
        if i in scored
    ]
    truth, score, prompt, place = np.array(pairs).T if pairs else np.zeros((4, 0))
    elsewhere = place == 0
    besides = {
        "region_sign_accuracy_besides_place": balanced(truth[elsewhere] > 0, score[elsewhere] > 0, prompt[elsewhere]),
        "region_auc_besides_place": auc(truth[elsewhere] > 0, score[elsewhere], prompt[elsewhere]),
        "wrong_place_recognised": share(score[~elsewhere] < 0, prompt[~elsewhere]),
    }
    return {
        "region_sign_accuracy": balanced(truth > 0, score > 0, prompt),
        "region_auc": auc(truth > 0, score, prompt),
        "region_correlation": correlation(truth, score, prompt),
        "good_regions": share(truth > 0, prompt),
        **(besides if place.any() else {}),
    }


def answers(
    model: UnifiedModel, lessons: Sequence[Lesson], templates: tuple[str, str], vote: int | None = None
) -> list[tuple[str, str]]:
    """The model's answers about each image (layout, regions): greedy, or sampled with this seed."""
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
