"""Select the judged images that training reads, relate scores to their group, and crop regions to the latent.

No torch. Nothing on disk is changed. A prompt's group is all judged images with the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from srum_core.errors import RecordError, TrainingError, clean
from srum_core.records import Mask
from srum_core.runs.files import redo_option, way_out
from srum_core.runs.run import generated

if TYPE_CHECKING:
    from srum_core.config.settings import Select
    from srum_core.records import Box, Candidate, Judgement, Region, Score
    from srum_core.runs.run import Run

Pair = tuple["Candidate", "Judgement"]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@frozen
class Images:
    """The images to train on, in an order that depends on the ids alone."""

    candidates: list[Candidate]
    judgements: list[Judgement]
    unjudged: int
    """Images left out: an answer about them could not be read."""
    below_least: int = 0
    """Left out by `select.least`."""
    not_best: int = 0
    """Left out by `select.best_of`."""
    filtered: int = 0
    """Left out by `select.filter`."""
    objects: float | None = None
    """Regions per judged image, chosen or not."""
    objects_before: float | None = None
    """The same in the first round; None in the first round, and if the rounds cannot be compared."""

    def counts(self) -> dict[str, float | None]:
        """Return counts for the metrics; `judged` are all readable images, trained on or not."""
        left_out = {"below_least": self.below_least, "filtered": self.filtered, "not_best": self.not_best}
        counts = {"judged": len(self.candidates) + sum(left_out.values()), "unjudged": self.unjudged}
        return {**counts, **left_out, "objects": self.objects, "objects_before": self.objects_before}


def choose(run: Run, round: int) -> Images:
    """Return the readable images of a round that the settings under `select` keep. Raises TrainingError if there is
    none."""
    if not run.done("judge", round):
        raise RecordError(
            f"{run.stage_folder('judge', round)} is not finished, which training needs: run --only judge."
        )
    # Without questions and answers: they are most of a judgement, and training does not read them.
    judgements = run.judgements(round)
    by_id = {each.candidate: evolve(each, exchanges=()) for each in judgements}
    candidates = sorted(_generated(run, round), key=lambda candidate: candidate.id)
    judgements.require(candidate.id for candidate in candidates)
    usable = [candidate for candidate in candidates if not by_id[candidate.id].failures]
    if candidates and all(candidate.failure for candidate in candidates):
        raise TrainingError(
            f"There is nothing to train on: none of {len(candidates)} images can be judged. "
            f"{clean(candidates[0].failure)} Use another adapter.dtype or checkpoint, and "
            f"{redo_option(candidates[0].image)}."
        )
    if not usable:
        raise TrainingError(
            f"There is nothing to train on: all of {len(candidates)} images had answers that no score could be read "
            f"from. Read the answers in {judgements.folder}, then try another judge or another template for its "
            'questions; a checkpoint that cannot answer questions can be judged with answerer={use="scripted"} (then '
            f"{redo_option(judgements.folder)})."
        )
    pairs = [(candidate, by_id[candidate.id]) for candidate in usable]
    images = select(pairs, run.at("train", round).settings.select, len(candidates) - len(usable))
    first, current = (run.stage_settings("ground", k) for k in (1, round))
    comparable = round > 1 and first == current and run.prompts(1) == run.prompts(round)
    return evolve(images, objects_before=_objects(run.judgements(1)) if comparable else None)


def _generated(run: Run, round: int) -> list[Candidate]:
    """Return all candidates of a round. Raises RecordError if one is of another prompt than the round's."""
    candidates, path = run.candidates(round), run.round_folder(round) / "prompts.jsonl"
    if not path.exists():
        return list(candidates)
    plan = run.planned(round)
    if extra := candidates.ids() - {item.id for item in plan}:
        raise RecordError(
            f"{path} was changed after images were generated: it lacks the prompts of {len(extra)} of them, such as "
            f"{clean(min(extra))}. {way_out(path)}"
        )
    return list(generated(candidates, plan))


def _objects(judgements: Iterable[Judgement]) -> float | None:
    """Return the regions per judged image; None without images (records of an earlier round may be deleted)."""
    counts = [len(each.regions) for each in judgements if not each.failures]
    return fmean(counts) if counts else None


def duplicates(before: float | None, after: float | None) -> str:
    """Return a warning if images have over 10 % more objects than before training; "" otherwise, or if unknown.

    Weights that are higher inside regions favour objects as such, so that some are generated twice."""
    if not before or after is None or after <= 1.1 * before:
        return ""
    return (
        f"Images hold {after / before - 1:.0%} more objects than before training: some may be duplicates. Centre the "
        "weights (map=advantage), raise loss.beta (negative-aware) or loss.constraint (srum), or lower train.lr."
    )


def select(pairs: Sequence[Pair], settings: Select, unjudged: int = 0) -> Images:
    """Return the images that the settings keep, in order, with scores relative to their prompt's group.

    `least`, `filter` and `best_of` use the original scores; a group's mean includes the images that are left out.

    Raises TrainingError if nothing is left, RecordError without a global score."""
    enough = [pair for pair in pairs if settings.least == -1 or _global_score(pair) >= settings.least]
    if not enough:
        raise TrainingError(
            f"There is nothing to train on: select.least={settings.least:g}, but the highest global score of the "
            f"{len(pairs)} judged images is {max(map(_global_score, pairs)):g}. Lower select.least, or generate more "
            f"images per prompt (generate.candidates, then {redo_option(pairs[0][0].image, 'generate')})."
        )
    right = [pair for pair in enough if settings.filter == -1 or _is_right(pair, settings.filter)]
    if not right:
        raise TrainingError(
            f"There is nothing to train on: none of {len(enough)} judged images has a global score and a mean regional "
            f"score above select.filter={settings.filter:g}. Lower it, or generate more images a prompt "
            f"(generate.candidates, then {redo_option(pairs[0][0].image, 'generate')})."
        )
    best = {candidate.id for candidate, _ in _best(right, settings.best_of)}
    selection = [pair for pair in relative(pairs, settings.relative) if pair[0].id in best]
    return Images(
        [candidate for candidate, _ in selection],
        [judgement for _, judgement in selection],
        unjudged,
        below_least=len(pairs) - len(enough),
        filtered=len(enough) - len(right),
        objects=_objects(judgement for _, judgement in pairs),
        not_best=len(right) - len(selection),
    )


def relative(pairs: Sequence[Pair], how: str) -> list[Pair]:
    """Subtract the group's mean from scores, divide by its standard deviation with "standardise", clip to [-1, 1].

    "none" leaves scores as they are. Global and regional scores of a group have means of their own. Equal scores, such
    as those of a prompt's only image, become 0: without a difference there is no evidence."""
    if how == "none":
        return list(pairs)
    results: dict[str, Judgement] = {}
    for members in _grouped(pairs).values():
        scores = [score for _, judgement in members for score in judgement.scores]
        measures = {is_global: _against(_values(scores, is_global), how) for is_global in (True, False)}
        for candidate, judgement in members:
            values = [evolve(score, value=measures[score.region is None](score.value)) for score in judgement.scores]
            results[candidate.id] = evolve(judgement, scores=tuple(values))
    return [(candidate, results[candidate.id]) for candidate, _ in pairs]


def _against(values: Sequence[float], how: str) -> Callable[[float], float]:
    """Return a function that measures a score against these."""
    deviation = pstdev(values) if values else 0.0  # exactly 0 for equal ones
    if not deviation:
        return lambda value: 0.0
    mean, scale = fmean(values), deviation if how == "standardise" else 1.0
    return lambda value: max(-1.0, min(1.0, (value - mean) / scale))


def _best(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return the `count` best of each group: by global score, then mean regional score (without one: last), then id."""
    if not count:
        return list(pairs)

    def rank(pair: Pair) -> tuple[float, float, str]:
        regional = _values(pair[1].scores, is_global=False)
        return -_global_score(pair), -fmean(regional) if regional else 2.0, pair[0].id

    return [pair for group in _grouped(pairs).values() for pair in sorted(group, key=rank)[:count]]


def _grouped(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Group by the words of the prompt: each imported image has its own prompt, and words may be the same."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].prompt.text, []).append(pair)
    return groups


def _is_right(pair: Pair, threshold: float) -> bool:
    """Return whether the mean global and regional scores, if any, are above the threshold, as in the map `sparse`."""
    kinds = (_values(pair[1].scores, is_global) for is_global in (True, False))
    return min((fmean(values) for values in kinds if values), default=-1.0) > threshold


def _values(scores: Iterable[Score], is_global: bool) -> list[float]:
    """Return the global or the regional scores."""
    return [score.value for score in scores if (score.region is None) is is_global]


def _global_score(pair: Pair) -> float:
    candidate, judgement = pair
    scores = _values(judgement.scores, is_global=True)
    if not scores:
        raise RecordError(
            f'The judgement of candidate "{candidate.id}" has no score for the whole image, which select.best_of and '
            'select.least go by. Add a judge that gives one ("global-layout") and judge again with '
            f"{redo_option(candidate.image, 'judge')}, or switch them off."
        )
    return fmean(scores)


# ---- models whose latent covers only a part of the image -------------------------------------------------------------


def within(judgement: Judgement, window: Box) -> Judgement:
    """Crop a judgement to `window`: regions become fractions of it. Regions outside are left out with their scores;
    global scores stay."""
    if window == WHOLE:
        return judgement
    regions = [part for part in (_within(region, window) for region in judgement.regions) if part is not None]
    outside = {region.id for region in judgement.regions} - {region.id for region in regions}
    scores = tuple(score for score in judgement.scores if score.region not in outside)
    return evolve(judgement, regions=tuple(regions), scores=scores)


def _within(region: Region, window: Box) -> Region | None:
    left, top, right, bottom = window
    x0, x1 = ((min(max(x, left), right) - left) / (right - left) for x in (region.box[0], region.box[2]))
    y0, y1 = ((min(max(y, top), bottom) - top) / (bottom - top) for y in (region.box[1], region.box[3]))
    if x0 >= x1 or y0 >= y1:
        return None
    return evolve(region, box=(x0, y0, x1, y1), mask=region.mask and _cut(region.mask, window))


def _cut(mask: Mask, window: Box) -> Mask:
    """Crop a mask to the window, in whole pixels; runs go down the columns."""
    width, height = mask.size
    left, right = round(window[0] * width), round(window[2] * width)
    top, bottom = round(window[1] * height), round(window[3] * height)
    bits = [bool(place % 2) for place, count in enumerate(mask.counts) for _ in range(count)]
    inside = [bit for x in range(left, right) for bit in bits[x * height + top : x * height + bottom]]
    first, *others = (len(list(run)) for _, run in groupby([False, *inside]))
    return Mask((right - left, bottom - top), (first - 1, *others))
