"""A control: the recipe of a run on images that its model did not generate.

    python -m pretraining.rendered_control --like RUN --out RUN2

makes RUN2, with as many rendered scenes for the same prompts as RUN's first round has images, each judged 1.0 as a
whole and everywhere, and the settings of RUN with loss=sft and one round. Training on it shows whether the model still
had something to learn from real scenes: a base that has converged is not lifted. With --missed a share of the scenes
misses its caption in one thing, as in the bundled model's pretraining.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from attrs import evolve
from PIL import Image

from pretraining.captions import image_for
from pretraining.scenes import compose
from srum_benchmarks.shapes.world import SIDE
from srum_core.errors import RecordError, SrumError
from srum_core.interchange.incoming import fresh
from srum_core.options import Use
from srum_core.records import Candidate, Grounding, Judgement, Region, Score
from srum_core.runs.progress import shown, tell
from srum_core.runs.run import Planned, Run
from srum_core.runs.store import write_atomic, write_list

WHOLE = Region("1", (0.0, 0.0, 1.0, 1.0), "rendered scene")
SCORES = tuple(Score(1.0, part, "a rendered scene, not drawn by the model", "rendered") for part in (None, WHOLE.id))
_CHUNK = 256


def make(like: Run, folder: Path, missed: float = 0.0, seed: int = 0) -> Run:
    """Create the run, complete or not at all. The same arguments give the same images.

    Raises RecordError if the folder exists, or if the prompts are of another world."""
    settings = evolve(like.settings, loss=Use("sft"), rounds=1)
    with fresh(folder) as aside:
        run = Run.create(aside, settings, like.registry)
        prompts, planned = like.prompts(1), like.planned(1)
        write_list(run.round_folder(1) / "prompts.jsonl", prompts)
        candidates, groundings, judgements = run.candidates(1), run.groundings(1), run.judgements(1)
        for start in range(0, len(planned), _CHUNK):
            chunk = planned[start : start + _CHUNK]
            candidates.extend(_rendered(each, candidates.folder / "images", missed, seed) for each in chunk)
            groundings.extend(Grounding(each.id, (WHOLE,)) for each in chunk)
            judgements.extend(Judgement(each.id, (WHOLE,), SCORES) for each in chunk)
        for records in (candidates, groundings, judgements):
            records.mark_done()
    return Run.open(folder, like.registry)


def _rendered(planned: Planned, folder: Path, missed: float, seed: int) -> Candidate:
    prompt, rng = planned.prompt, np.random.default_rng([seed, planned.seed])
    if not {"category", "objects", "relation", "count"} <= prompt.tags.keys():
        raise RecordError(
            f'The prompt "{prompt.text}" is not of the world of shapes, so there is no scene of it to render. Name a '
            "run with prompts=shapes:train."
        )
    path, data = folder / f"{planned.id}.png", BytesIO()
    Image.fromarray(image_for(prompt, compose(prompt.tags, rng), missed, rng)).save(data, "png")
    write_atomic(path, data.getvalue())
    return Candidate(planned.id, prompt, path, (SIDE, SIDE), planned.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pretraining.rendered_control",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--like", type=Path, required=True, metavar="RUN", help="the run whose prompts and settings it takes")
    add("--out", type=Path, required=True, metavar="RUN2", help="folder of the run to make")
    add(
        "--missed",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="share of scenes that miss their caption (default: 0)",
    )
    add("--seed", type=int, default=0, help="another seed renders other scenes")
    parsed = parser.parse_args(arguments)
    try:
        run = make(Run.open(parsed.like), parsed.out, parsed.missed, parsed.seed)
    except SrumError as error:
        tell(f"srum: {error}")
        return 2
    folder = shown(run.folder)
    print(f"{len(run.planned(1))} rendered scenes are in {folder}. To train on them and evaluate:")
    print(f"  {shlex.join(['srum-train', '--config', f'{folder}/run.toml', '--out', folder])}")
    return 0


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: it must lie between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
