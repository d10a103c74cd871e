"""The exact checker as a judge: a ceiling for what judging can give, and no self-reward. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.records import Box, Candidate, Question, Region, Score

NAME = "shapes-oracle"


class ShapesOracle:
    """Asks nothing: checks the image with the benchmark's own checker. Its result is that of `appraise`, the
    target on which the bundled model's judgement was trained: a global score, and one for each region given; in the
    crowded world also how many objects are missing.

    Raises RecordError for a prompt of another world, and for images that are not 32×32."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return ()

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Score]:
        from srum_benchmarks.shapes.appraisal import appraise
        from srum_benchmarks.shapes.checker import read
        from srum_benchmarks.shapes.world import crowded

        image = read(candidate, f'The judge "{NAME}"')
        message = appraise(image, candidate.prompt, boxes=[_pixels(region.box) for region in regions])
        missing = len(message.missing) if crowded(candidate.prompt.tags) else None
        whole = Score(message.score, None, message.reason, NAME, missing=missing)
        parts = zip(regions, message.parts, strict=True)
        return [whole, *(Score(part.score, region.id, part.reason, NAME, part.label) for region, part in parts)]


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """The nearest whole pixels, at least one."""
    from srum_benchmarks.shapes.world import SIDE

    x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
    x0, y0 = min(x0, SIDE - 1), min(y0, SIDE - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
