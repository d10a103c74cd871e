"""Compare a run's judges with the exact checker on the images that they judged.

    python -m pretraining.agreement RUN [RUN ...]

prints a row for every run and judge. An image is right if it fulfils its prompt, a region if the prompt asks for its
content; 95 % intervals over prompts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pretraining.figures import Figure, auc, balanced
from pretraining.judging import RIGHT
from pretraining.measure import cell
from srum_benchmarks.shapes.appraisal import Lesson, appraise
from srum_benchmarks.shapes.world import SIDE
from srum_core.errors import RecordError, SrumError
from srum_core.evaluation.formatting import Grid
from srum_core.models.images import open_image
from srum_core.records import Candidate, Judgement
from srum_core.runs.progress import tell
from srum_core.runs.run import Run

COLUMNS = ("balanced accuracy", "AUC", "region sign accuracy", "region AUC")


def agreement(run: Run, round: int) -> dict[str, dict[str, Figure]]:
    """Return the figures of COLUMNS by judge, over all its scores.

    Raises RecordError for prompts of another world, and if nothing was judged."""
    judged = {each.candidate: each for each in run.judgements(round)}
    pairs = [(each, judged[each.id]) for each in run.candidates(round) if each.id in judged]
    if not pairs:
        raise RecordError(f"{run.stage_folder('judge', round)} holds no judgement: run --only judge first.")
    names = dict.fromkeys(score.judge for _, judgement in pairs for score in judgement.scores)
    lessons = [(_true(*pair), *pair) for pair in pairs]
    return {name: _figures([row for each in lessons for row in _rows(name, *each)]) for name in names}


def _true(candidate: Candidate, judgement: Judgement) -> Lesson:
    """Return the checker's judgement of the image, and of the contents of the judged boxes."""
    if not {"category", "objects", "relation", "count"} <= candidate.prompt.tags.keys():
        raise RecordError(f'The prompt "{candidate.prompt.text}" is not of the world of shapes: nothing can check it.')
    image = np.asarray(open_image(candidate.image).convert("RGB"))
    boxes = [tuple(round(edge * SIDE) for edge in region.box) for region in judgement.regions]
    return appraise(image, candidate.prompt, boxes=boxes)  # type: ignore[arg-type]


def _rows(
    name: str, true: Lesson, candidate: Candidate, judgement: Judgement
) -> Iterator[tuple[bool, bool, float, str]]:
    """Yield (is global, is right, score, prompt) for every score of the judge."""
    parts = {region.id: part for region, part in zip(judgement.regions, true.parts, strict=True)}
    for score in judgement.scores:
        if score.judge == name:
            is_global = score.region is None
            right = true.score > 0.9 if score.region is None else parts[score.region].score > 0
            yield is_global, right, score.value, candidate.prompt.text


def _figures(rows: Sequence[tuple[bool, bool, float, str]]) -> dict[str, Figure]:
    is_global = np.array([row[0] for row in rows])
    right, score, prompt = (np.array([row[i] for row in rows]) for i in (1, 2, 3))
    figures: list[Figure] = []
    for selection, least in ((is_global, RIGHT), (~is_global, 0.0)):
        figures.append(balanced(right[selection], score[selection] > least, prompt[selection]))
        figures.append(auc(right[selection], score[selection], prompt[selection]))
    return dict(zip(COLUMNS, figures, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pretraining.agreement", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run that was judged")
    parser.add_argument("--round", type=int, help="the round of the images (default: the last that is judged)")
    parsed = parser.parse_args(arguments)
    try:
        runs = [Run.open(folder) for folder in parsed.runs]
        rounds = [(run.last("judge") or 1) if parsed.round is None else parsed.round for run in runs]
        judges = [(f"{run.folder}:{k}", agreement(run, k)) for run, k in zip(runs, rounds, strict=True)]
    except SrumError as error:
        tell(f"srum: {error}")
        return 2
    rows = [[run, name, *map(cell, figures.values())] for run, of in judges for name, figures in of.items()]
    print(Grid(["run", "judge", *COLUMNS], rows, words=frozenset({1})).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
