"""A round's candidates: picture, boxes, scores, reasons, answers, and the weights that training gives to cells."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from attrs import define, field

from srum_core.errors import RecordError, TrainingError
from srum_core.records import Candidate, Judgement, Score
from srum_core.report.pictures import data_uri
from srum_core.runs.run import Run
from srum_core.training.selection import Pictures, choose, within

if TYPE_CHECKING:
    from srum_core.protocols import RewardMap
    from srum_core.training.latent_cache import Latents

Data = dict[str, Any]
Grid = tuple[int, int]
STEPS = 100
"""Steps from 0 to the largest weight: hundredths, which is what is printed, where that is 1."""
_LONGEST = 4000
"""Characters of an answer that are shown."""


@define
class Choice:
    """Which candidates of a round are shown, should there be more than `limit` (0: all)."""

    limit: int
    left_out: int = field(default=0, init=False)
    """How many are not."""

    def of(self, ids: Sequence[str], worth: dict[str, float]) -> list[str]:
        """A third of them the worst, a third the best, and the rest spread evenly over what is left, in order."""
        if not self.limit or len(ids) <= self.limit:
            return list(ids)
        ranked = sorted((each for each in ids if each in worth), key=lambda each: (worth[each], each))
        third = min(self.limit // 3, len(ranked) // 2)
        kept = {*ranked[:third], *ranked[len(ranked) - third :]}
        others = [each for each in ids if each not in kept]
        more = self.limit - len(kept)
        kept |= {others[i * len(others) // more] for i in range(more)}
        self.left_out += len(ids) - len(kept)
        return [each for each in ids if each in kept]


def gallery(run: Run, round: int, choice: Choice) -> list[Data]:
    """The candidates of a round in the order of drawing. Raises RecordError for a picture that is not there."""
    judged = {each.candidate: each for each in run.judgements(round)}
    worth = {name: value for name, each in judged.items() if (value := _mean(each.scores)) is not None}
    candidates = run.candidates(round)
    there = candidates.ids()
    order = [item.id for item in run.planned(round) if item.id in there]
    weights = Weights(run, round)
    return [
        {**_candidate(each, judged.get(each.id), weights), "round": round}
        for each in candidates.select(choice.of(order, worth))
    ]


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
        "answers": [{"by": each.asked_by, "text": _cut(each.answer)} for each in judgement.exchanges],
        "weights": weights.of(candidate, judgement),
    }


def _score(score: Score) -> Data:
    said = {"value": score.value, "reason": score.reason, "judge": score.judge, "label": score.label}
    return {**said, "stated": score.stated, "rules": list(score.rules)}


def _mean(scores: Sequence[Score]) -> float | None:
    return fmean(each.value for each in scores) if scores else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST} more characters)"


class Weights:
    """The run's reward map on the grids that training had, of judgements as training reads them (`select`). Torch loads
    with the first map."""

    def __init__(self, run: Run, round: int) -> None:
        self.run, self.folder = run.at("train", round), run.round_folder(round) / "latents"
        self._map: Any = None
        self._pictures: Pictures | None = None
        self._read: dict[str, Judgement] = {}
        self._why = "It is not trained on: the settings under select leave it out."
        if not run.done("judge", round):
            self._why = "Judging is not finished."
            return
        try:
            pictures = choose(run, round)
        except (TrainingError, RecordError) as error:
            self._why = str(error)
        else:
            self._pictures, self._read = pictures, {each.candidate: each for each in pictures.judgements}

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
        if self._pictures is not None and hasattr(made, "fit"):
            if not all((self.folder / f"{name}.safetensors").is_file() for name in self._read):
                raise RecordError("The map compares with the whole round, and not all of it is encoded yet.")
            latents.fit(made, self._pictures)
        return made  # type: ignore[no-any-return]
