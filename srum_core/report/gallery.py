"""Images with all questions and answers about them: a round's candidates, and a benchmark's images before and after.

PIL loads on first use."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from srum_core.errors import RecordError, TrainingError
from srum_core.evaluation.stage import ImageResult, scored
from srum_core.models.images import open_rgb
from srum_core.records import Candidate, Judgement, Score
from srum_core.runs.run import Run
from srum_core.training.selection import Images, choose, within

if TYPE_CHECKING:
    from srum_core.protocols import RewardMap
    from srum_core.training.latent_cache import Latents

Data = dict[str, Any]
Grid = tuple[int, int]
STEPS = 100
"""Steps from 0 to the largest weight: hundredths, as printed, where that is 1."""
_LONGEST = 4000
"""Characters of an answer that are shown."""
SMALL = 128
"""Pixels of the longer side up to which an image is kept as it is, to be scaled up crisp."""
LARGEST = 256
"""Longer side in pixels to which larger images are scaled down."""


def data_uri(path: Path) -> tuple[str, bool]:
    """The image for an `img`, and whether it is small pixel art. Raises RecordError where it cannot be read."""
    from PIL import Image

    image = open_rgb(path)
    small, file = max(image.size) <= SMALL, BytesIO()
    if small:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(file, "WEBP", quality=80)
    return f"data:image/{'png' if small else 'webp'};base64,{b64encode(file.getvalue()).decode()}", small


def chosen(ids: Sequence[str], worth: dict[str, float], limit: int) -> list[str]:
    """Of more than `limit` ids (0: no limit) a third the worst, a third the best, and the rest spread evenly over what
    is left, in order."""
    if not limit or len(ids) <= limit:
        return list(ids)
    ranked = sorted((each for each in ids if each in worth), key=lambda each: (worth[each], each))
    third = min(limit // 3, len(ranked) // 2)
    kept = {*ranked[:third], *ranked[len(ranked) - third :]}
    others = [each for each in ids if each not in kept]
    more = limit - len(kept)
    kept |= {others[i * len(others) // more] for i in range(more)}
    return [each for each in ids if each in kept]


def gallery(run: Run, round: int, limit: int) -> tuple[list[Data], int]:
    """The candidates of a round in the order of generation, and how many are left out. Raises RecordError for an image
    that is not there."""
    judged = {each.candidate: each for each in run.judgements(round)}
    worth = {name: fmean(score.value for score in each.scores) for name, each in judged.items() if each.scores}
    candidates = run.candidates(round)
    there = candidates.ids()
    order = [item.id for item in run.planned(round) if item.id in there]
    weights = Weights(run, round)
    shown = candidates.select(chosen(order, worth, limit))
    found = [{**_candidate(each, judged.get(each.id), weights), "round": round} for each in shown]
    return found, len(order) - len(found)


def _candidate(candidate: Candidate, judgement: Judgement | None, weights: Weights) -> Data:
    source, small = data_uri(candidate.image)
    data: Data = {
        "id": candidate.id,
        "prompt": candidate.prompt.text,
        "thought": candidate.thought,
        "seed": candidate.seed,
        "src": source,
        "small": small,
        "size": list(candidate.size),
        "judged": judgement is not None,
    }
    if judgement is None:
        return data
    return {
        **data,
        "whole": [_score(each) for each in judgement.scores if each.region is None],
        "regions": [
            {
                "id": region.id,
                "box": list(region.box),
                "label": region.label,
                "scores": [_score(each) for each in judgement.scores if each.region == region.id],
            }
            for region in judgement.regions
        ],
        "failures": [{"judge": each.judge, "region": each.region, "why": each.why} for each in judgement.failures],
        "answers": [
            {"by": each.asked_by, "text": each.answer[:_LONGEST] + (f" … ({over} more characters)" if over > 0 else "")}
            for each in judgement.exchanges
            for over in [len(each.answer) - _LONGEST]
        ],
        "weights": weights.of(candidate, judgement),
    }


def _score(score: Score) -> Data:
    said = {"value": score.value, "reason": score.reason, "judge": score.judge, "label": score.label}
    return {**said, "stated": score.stated, "rules": list(score.rules)}


class Weights:
    """The run's reward map on the grids that training had, of judgements as training reads them (`select`). Torch loads
    with the first map."""

    def __init__(self, run: Run, round: int) -> None:
        self.run, self.folder = run.at("train", round), run.round_folder(round) / "latents"
        self._map: Any = None
        self._images: Images | None = None
        self._read: dict[str, Judgement] = {}
        self._why = "It is not trained on: the settings under select leave it out."
        if not run.done("judge", round):
            self._why = "Judging is not finished."
            return
        try:
            images = choose(run, round)
        except (TrainingError, RecordError) as error:
            self._why = str(error)
        else:
            self._images, self._read = images, {each.candidate: each for each in images.judgements}

    def of(self, candidate: Candidate, judgement: Judgement) -> Data:
        """The map's weights, or `why` there are none. Row by row in bytes: (byte - 100) / 100 * `scale`."""
        if judgement.failures:
            return {"why": "It is not trained on: an answer about it could not be read."}
        if candidate.id not in self._read:
            return {"why": self._why}
        path = self.folder / f"{candidate.id}.safetensors"
        if not path.is_file():
            return {"why": "It was not encoded for training yet, so its latent grid is not known."}
        from srum_core.training.latent_cache import Latents

        latents = Latents(self.folder, "")
        try:
            if self._map is None:
                self._map = self._fitted(latents)
            seen = within(self._read[candidate.id], latents.window(candidate))
            cells = self._map(seen, latents.grid(candidate))
        except RecordError as error:
            return {"why": str(error)}
        flat = [float(value) for value in cells.flatten()]
        scale = max(1.0, *map(abs, flat))
        packed = bytes(round(value / scale * STEPS) + STEPS for value in flat)
        shape = {"rows": cells.shape[0], "columns": cells.shape[1], "scale": scale}
        return {**shape, "cells": b64encode(packed).decode(), "mean": fmean(flat)}

    def _fitted(self, latents: Latents) -> RewardMap:
        made = self.run.registry.create("map", self.run.settings.map)
        if self._images is not None and hasattr(made, "fit"):
            if not all((self.folder / f"{name}.safetensors").is_file() for name in self._read):
                raise RecordError("The map compares with the whole round, and not all of it is encoded yet.")
            latents.fit(made, self._images)
        return made  # type: ignore[no-any-return]


# ---- before and after -----------------------------------------------------------------------------------------------


def pairs(run: Run, rounds: Sequence[int], limit: int) -> Data | None:
    """{"before", "after": names, "measures": [{"name", "binary"}], "pairs": [...], "left_out"}; None without two
    evaluations. Of more than `limit` pairs (0: no limit) those whose measures changed most are kept, in order."""
    if run.settings.benchmark is None:
        return None
    there = [k for k in (None, *rounds) if run.done("evaluate", k)]
    if len(there) < 2:
        return None
    first, last = there[0], there[-1]
    before, after = ({each.id: each for each in scored(run, k) if not each.candidate.failure} for k in (first, last))
    ids = [item.id for item in run.planned_evaluation() if item.id in before and item.id in after]
    explain, kept = getattr(run.benchmark(), "explain", None), ids
    if limit and len(ids) > limit:
        ranked = sorted(ids, key=lambda each: -_change(before[each].values, after[each].values))  # stable
        chosen = set(ranked[:limit])
        kept = [each for each in ids if each in chosen]
    names = {name: True for each in (*before.values(), *after.values()) for name in each.values}
    for each in (*before.values(), *after.values()):  # measures that are 0 or 1 everywhere: right and wrong images
        names |= {name: names[name] and value in (0.0, 1.0) for name, value in each.values.items()}
    return {
        "before": _name(first),
        "after": _name(last),
        "measures": [{"name": n, "binary": names[n]} for n in sorted(names, key=lambda each: not names[each])],
        "pairs": [_pair(before[each], after[each], explain, run.settings.benchmark.use) for each in kept],
        "left_out": len(ids) - len(kept),
    }


def _pair(before: ImageResult, after: ImageResult, explain: Callable[..., str] | None, benchmark: str) -> Data:
    (old, small), (new, _) = data_uri(before.candidate.image), data_uri(after.candidate.image)
    return {
        "id": before.id,
        "prompt": before.candidate.prompt.text,
        "seed": before.candidate.seed,
        "small": small,
        "before": {"src": old, "values": before.values, "why": _why(before, explain)},
        "after": {"src": new, "values": after.values, "why": _why(after, explain)},
        "answers": [
            {"by": f"{name}: {benchmark}", "text": answered.answer}
            for name, each in (("before", before), ("after", after))
            for answered in each.answers
        ],
    }


def _why(found: ImageResult, explain: Callable[..., str] | None) -> str:
    """The benchmark's explanation of what is wrong with an image, if it has one."""
    return str(explain(found.candidate, [each.answer for each in found.answers])) if explain else ""


def _name(round: int | None) -> str:
    return "base" if round is None else f"round {round}"


def _change(before: dict[str, float], after: dict[str, float]) -> float:
    return sum(abs(after[name] - value) for name, value in before.items() if name in after)
