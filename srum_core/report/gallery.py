"""Images with all questions and answers about them: a round's candidates, and a benchmark's images by several models.

PIL loads on first use."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from attrs import asdict
from attrs.filters import include

from srum_core.errors import RecordError, TrainingError
from srum_core.evaluation.stage import ImageResult, scored
from srum_core.models.images import open_rgb
from srum_core.records import Candidate, Judgement
from srum_core.runs.run import Run
from srum_core.training.selection import choose, within

if TYPE_CHECKING:
    from srum_core.protocols import RewardMap

Data = dict[str, Any]
Numbered = Mapping[tuple[str, int], ImageResult]
"""A benchmark's images by prompt and number, in order."""
STEPS = 100
"""Steps from 0 to the largest weight: hundredths, as printed, where that is 1."""
_LONGEST = 4000
"""Characters of an answer that are shown."""
SMALL = 128
"""Pixels of the longer side up to which an image is kept as it is, to be scaled up crisp."""
LARGEST = 256
"""Longer side in pixels to which larger images are scaled down."""


def data_uri(path: Path) -> tuple[str, bool]:
    """Return the image for an `img`, and whether it is kept at its size. Raises RecordError if it cannot be read."""
    from PIL import Image

    image = open_rgb(path)
    small, file = max(image.size) <= SMALL, BytesIO()
    if small:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(file, "WEBP", quality=80)
    return f"data:image/{'png' if small else 'webp'};base64,{b64encode(file.getvalue()).decode()}", small


def choose_ids(ids: Sequence[str], worth: dict[str, float], limit: int) -> list[str]:
    """Choose `limit` ids (0: all), in order: a third the worst, a third the best, the others spread evenly."""
    if not limit or len(ids) <= limit:
        return list(ids)
    ranked = sorted((each for each in ids if each in worth), key=lambda each: (worth[each], each))
    third = min(limit // 3, len(ranked) // 2)
    extremes = {*ranked[:third], *ranked[len(ranked) - third :]}
    middle = [each for each in ids if each not in extremes]
    more = limit - len(extremes)
    sample = extremes | {middle[i * len(middle) // more] for i in range(more)}
    return [each for each in ids if each in sample]


def gallery(run: Run, round: int, limit: int) -> tuple[list[Data], int]:
    """Return the candidates of a round in the order of generation, and how many are left out.

    Raises RecordError for an image that is missing."""
    judged = {each.candidate: each for each in run.judgements(round)}
    worth = {name: fmean(score.value for score in each.scores) for name, each in judged.items() if each.scores}
    candidates, weigh = run.candidates(round), weighing(run, round)
    ids = candidates.ids()
    order = [item.id for item in run.planned(round) if item.id in ids]
    sample = candidates.select(choose_ids(order, worth, limit))
    images = [{**_candidate(each, judged.get(each.id), weigh), "round": round} for each in sample]
    return images, len(order) - len(images)


_KEPT = include(
    *("regions", "scores", "failures", "id", "box", "label", "value", "region", "reason", "judge", "stated", "rules"),
    *("thought", "seed", "size", "why"),
)
"""What the page shows of a candidate and its judgement."""


def _candidate(
    candidate: Candidate, judgement: Judgement | None, weigh: Callable[[Candidate, Judgement], Data]
) -> Data:
    source, small = data_uri(candidate.image)
    data = {**asdict(candidate, filter=_KEPT), "prompt": candidate.prompt.text, "src": source, "small": small}
    if judgement is None:
        return {**data, "judged": False}
    answers = [
        {"by": each.asked_by, "text": each.answer[:_LONGEST] + (f" … ({over} more characters)" if over > 0 else "")}
        for each in judgement.exchanges
        for over in [len(each.answer) - _LONGEST]
    ]
    weights = weigh(candidate, judgement)
    return {**data, **asdict(judgement, filter=_KEPT), "judged": True, "answers": answers, "weights": weights}


def weighing(run: Run, k: int) -> Callable[[Candidate, Judgement], Data]:
    """Return a function that weighs an image of round k by the run's reward map, on the latent grids of training and
    from the judgements that training reads (`select`)."""
    from srum_core.training.latent_cache import Latents  # torch

    folder, run = run.round_folder(k) / "latents", run.at("train", k)
    latents, images, why = Latents(folder, ""), None, "It is not trained on: the settings under select leave it out."
    try:
        images = choose(run, k)
    except (TrainingError, RecordError) as error:
        why = str(error) if run.done("judge", k) else "Judging is not finished."
    judgements = {each.candidate: each for each in images.judgements} if images else {}

    @cache
    def fitted() -> RewardMap:
        reward_map: RewardMap = run.registry.create("map", run.settings.map)
        if images is not None and hasattr(reward_map, "fit"):
            if not all((folder / f"{name}.safetensors").is_file() for name in judgements):
                raise RecordError("The map compares with the whole round, and not all of it is encoded yet.")
            latents.fit(reward_map, images)
        return reward_map

    def weigh(candidate: Candidate, judgement: Judgement) -> Data:
        """The map's weights, or `why` there are none. Row by row in bytes: (byte - 100) / 100 * `scale`."""
        if judgement.failures:
            return {"why": "It is not trained on: an answer about it could not be read."}
        if candidate.id not in judgements:
            return {"why": why}
        if not (folder / f"{candidate.id}.safetensors").is_file():
            return {"why": "It was not encoded for training yet, so its latent grid is not known."}
        try:
            cells = fitted()(within(judgements[candidate.id], latents.window(candidate)), latents.grid(candidate))
        except RecordError as error:
            return {"why": str(error)}
        flat = [float(value) for value in cells.flatten()]
        scale = max(1.0, *map(abs, flat))
        packed = b64encode(bytes(round(value / scale * STEPS) + STEPS for value in flat)).decode()
        return {"rows": cells.shape[0], "columns": cells.shape[1], "scale": scale, "cells": packed, "mean": fmean(flat)}

    return weigh


# ---- the same prompts by several models ------------------------------------------------------------------------------


def numbered(run: Run, round: int | None) -> Numbered:
    """Return the benchmark's images by the model after a round (None: before training), in order, without failures."""
    by_id = {each.id: each for each in scored(run, round) if not each.candidate.failure}
    plan, images = run.planned_evaluation(), run.settings.evaluate.images
    return {(item.prompt.id, place % images): by_id[item.id] for place, item in enumerate(plan) if item.id in by_id}


def pairs(run: Run, models: Mapping[str, Numbered], limit: int) -> Data:
    """{"names", "measures": [{"name", "binary"}], "pairs": [...], "left_out"}: the images that all models have.

    Of more than `limit` (0: no limit), keep those whose measures differ most from the first model's, in order."""
    first, *others = models.values()
    places = [place for place in first if all(place in each for each in others)]
    explain, use = getattr(run.benchmark(), "explain", None), run.settings.benchmark

    def shot(image: ImageResult) -> Data:
        """`why`: the benchmark's explanation of what is wrong with the image, if it has one."""
        why = str(explain(image.candidate, [each.answer for each in image.answers])) if explain else ""
        source, small = data_uri(image.candidate.image)
        return {"src": source, "small": small, "values": image.values, "why": why}

    def change(place: tuple[str, int]) -> float:
        old = first[place].values
        return sum(abs(new - old[name]) for each in others for name, new in each[place].values.items() if name in old)

    kept_places = set(sorted(places, key=change, reverse=True)[: limit or None])  # stable
    names: dict[str, bool] = {}
    for name, value in (item for each in models.values() for image in each.values() for item in image.values.items()):
        names[name] = names.get(name, True) and value in (0.0, 1.0)  # right and wrong images
    return {
        "names": list(models),
        "measures": [{"name": n, "binary": names[n]} for n in sorted(names, key=lambda each: not names[each])],
        "pairs": [
            {
                "id": first[place].id,
                "prompt": first[place].candidate.prompt.text,
                "seeds": list(dict.fromkeys(each[place].candidate.seed for each in models.values())),
                "images": [shot(each[place]) for each in models.values()],
                "answers": [
                    {"by": f"{name}: {use and use.use}", "text": answer.answer}
                    for name, each in models.items()
                    for answer in each[place].answers
                ],
            }
            for place in places
            if place in kept_places
        ],
        "left_out": len(places) - len(kept_places),
    }
