"""A judgement as a part of its picture sees it: for models whose latent covers only the middle, say. No torch."""

from __future__ import annotations

from attrs import evolve

from srum_core.records import Box, Judgement, Mask, Region

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def within(judgement: Judgement, window: Box) -> Judgement:
    """The judgement with its regions in fractions of `window` and cut to it. Regions that lie outside are left out,
    with their scores; what was said of the whole picture stays."""
    if window == WHOLE:
        return judgement
    regions = [each for each in (_within(region, window) for region in judgement.regions) if each is not None]
    gone = {region.id for region in judgement.regions} - {region.id for region in regions}
    scores = tuple(score for score in judgement.scores if score.region not in gone)
    return evolve(judgement, regions=tuple(regions), scores=scores)


def _within(region: Region, window: Box) -> Region | None:
    left, top, right, bottom = window
    x0, x1 = ((min(max(x, left), right) - left) / (right - left) for x in (region.box[0], region.box[2]))
    y0, y1 = ((min(max(y, top), bottom) - top) / (bottom - top) for y in (region.box[1], region.box[3]))
    if x0 >= x1 or y0 >= y1:
        return None
    return evolve(region, box=(x0, y0, x1, y1), mask=region.mask and _cut(region.mask, window))


def _cut(mask: Mask, window: Box) -> Mask:
    """The pixels of the mask in the window, whole ones; run by run down the columns."""
    width, height = mask.size
    left, right = round(window[0] * width), round(window[2] * width)
    top, bottom = round(window[1] * height), round(window[3] * height)
    bits: list[bool] = []
    for place, count in enumerate(mask.counts):
        bits += [bool(place % 2)] * count
    cut = [bit for x in range(left, right) for bit in bits[x * height + top : x * height + bottom]]
    counts, inside = [0], False
    for bit in cut:
        if bit != inside:
            counts.append(0)
            inside = bit
        counts[-1] += 1
    return Mask((right - left, bottom - top), tuple(counts))
