"""Write a run's judged images for others, in the official SRUM format or as a Parquet data set, or its model.

srum      output.jsonl, judge.jsonl, train.jsonl and images/, as the official scripts pass them to one another. Boxes
          become whole pixels. Images with answers that could not be read are left out and counted. A global score of
          exactly 0 is written as it is, but the official script that makes training records out of judge.jsonl takes 0
          for a failed judge and drops the image; train.jsonl here keeps it.
parquet   one file, images included, with everything a judgement holds: datasets.load_dataset("parquet",
          data_files=...) opens it, and srum import gives equal records back. Needs srum[data].
checkpoint  the whole model after the round's training, in the layout of its own project, LoRA merged.

Without --round it is the last finished round: judged for the first two, trained for a checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core import plugins
from srum_core.cli.common import add_round, add_run, judged_round, say
from srum_core.interchange.incoming import fresh, judged
from srum_core.interchange.official import write_official
from srum_core.interchange.parquet import need, write_parquet
from srum_core.runs.progress import shown
from srum_core.runs.run import Run, started_from


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to make; must not hold anything")
    parser.add_argument("--format", choices=("srum", "parquet", "checkpoint"), default="srum", help="default: srum")
    add_round(parser)


def run(parsed: argparse.Namespace) -> int:
    """0. Raises RecordError if there is nothing to write, or something where it should go."""
    source = Run.open(parsed.run, plugins.discover())
    if parsed.format == "checkpoint":
        from srum_core.models import trained  # torch

        which = str(source.folder) + ("" if parsed.round is None else f":{parsed.round}")
        source, rounds = started_from(which, source.registry)
        with fresh(parsed.to) as folder:
            trained.export(source.model(rounds), folder)
        print(f"The model after round {rounds} of {shown(source.folder)}.\nWritten to {shown(parsed.to)}")
        return 0
    round = judged_round(source, parsed.round)
    if parsed.format == "parquet":
        need("srum export --format parquet")
    with fresh(parsed.to) as folder:
        message = (_srum if parsed.format == "srum" else _parquet)(source, round, folder)
    if not source.done("judge", round):
        planned = len(source.planned(round))
        message.append(f"Judging of round {round} is not finished: what is there was written, {planned} are planned.")
    for sentence in [f"Round {round} of {shown(source.folder)}.", *message]:
        say(sentence)
    print(f"Written to {shown(parsed.to)}")
    return 0


def _srum(run: Run, round: int, folder: Path) -> list[str]:
    counts = write_official(folder, judged(run, round))
    message = {
        "failed": "left out: answers about them could not be read.",
        "unscored": "left out: they have no scores.",
        "zero": "have a global score of exactly 0, which the official reader takes for a failure.",
        "without": "have no global score, which the official reader counts as 0.",
        "regions without a score": "are not written.",
        "masks": "have regions with an exact shape; only their boxes are written.",
    }
    sentences = [
        f"{counts[name]} {name if name.startswith('regions') else 'images'} {words}"
        for name, words in message.items()
        if counts[name]
    ]
    return [f"{counts['images']} images, judged.", *sentences]


def _parquet(run: Run, round: int, folder: Path) -> list[str]:
    path = folder / f"round-{round}.parquet"
    rows, mended = write_parquet(path, judged(run, round))
    sentence = f"In {mended} of them, characters that Parquet cannot hold (lone surrogates) were replaced by U+FFFD."
    return [f"{rows} images in {path.name}.", *([sentence] if mended else [])]
