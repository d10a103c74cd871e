"""Write a run's judged images, in the official SRUM format or as a Parquet data set, or its model.

srum        output.jsonl, judge.jsonl, train.jsonl and images/, as the official scripts exchange them. Boxes
            become whole pixels. Images with answers that could not be read are left out and counted. A global score of
            exactly 0 is written unchanged, but the official script that converts judge.jsonl to training records reads
            0 as a failed judge and drops the image; train.jsonl here keeps it.
parquet     one file, images included, with all data of a judgement: datasets.load_dataset("parquet",
            data_files=...) opens it, and srum import returns equal records. Needs srum[data].
checkpoint  the whole model after the round's training, in its project's layout, LoRA merged.
peft        only the LoRA weights, as PEFT and --checkpoint load them; those of several rounds as one.
diffusers   as diffusers loads it, for adapters whose model has a class there (docs/models.md): LoRA weights for
            load_lora_weights, or else the trained part for from_pretrained.

With the last three a model card is written (README.md: base and its licence, data, tables, settings), and --push
OWNER/NAME uploads the folder to the hub, where a new repository is private.

Without --round it is the last finished round: judged for the first two, trained for a model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srum_core import plugins
from srum_core.cli.common import add_round, add_run, judged_round, say
from srum_core.interchange.incoming import fresh, judged
from srum_core.interchange.official import write_official
from srum_core.interchange.parquet import need, write_parquet
from srum_core.interchange.trained_model import FORMATS, check_push, export_model, push
from srum_core.options import did_you_mean
from srum_core.runs.progress import shown
from srum_core.runs.run import Run

_DATA = ("srum", "parquet")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add, names = parser.add_argument, ", ".join((*_DATA, *FORMATS))
    add("--to", type=_format, default="srum", metavar="FORMAT", help=f"{names} (default: srum)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to create; must be empty or new")
    add("--format", type=_renamed, help=argparse.SUPPRESS)
    add("--push", metavar="OWNER/NAME", help="of a model: also upload it to the hub; a new repository is private")
    add_round(parser)


def _format(text: str) -> str:
    names = (*_DATA, *FORMATS)
    if text not in names:
        hint = did_you_mean(text, names) or " The folder is given with --out."
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(names)}.{hint}")
    return text


def _renamed(text: str) -> str:
    raise argparse.ArgumentTypeError(f'Did you mean "--to {text}"? The folder is given with --out.')


def run(parsed: argparse.Namespace) -> int:
    """Return 0. Raises RecordError if there is nothing to write, or if the target is not empty."""
    if parsed.push:
        check_push(parsed.push, parsed.to)
    source = Run.open(parsed.run, plugins.discover())
    if parsed.to in FORMATS:
        export_model(source, parsed.round, parsed.to, parsed.out)
        if parsed.push:
            push(parsed.out, parsed.push)
        return 0
    round = judged_round(source, parsed.round)
    if parsed.to == "parquet":
        need("srum export --to parquet")
    with fresh(parsed.out) as folder:
        sentences = (_srum if parsed.to == "srum" else _parquet)(source, round, folder)
    if not source.done("judge", round):
        planned = len(source.planned(round))
        sentences.append(f"Judging of round {round} is not finished: {planned} images are planned.")
    for sentence in [f"Round {round} of {shown(source.folder)}.", *sentences]:
        say(sentence)
    print(f"Written to {shown(parsed.out)}")
    return 0


def _srum(run: Run, round: int, folder: Path) -> list[str]:
    counts = write_official(folder, judged(run, round))
    labels = {
        "failed": "left out: answers about them could not be read.",
        "unscored": "left out: they have no scores.",
        "zero": "have a global score of exactly 0, which the official reader counts as a failure.",
        "without": "have no global score, which the official reader counts as 0.",
        "regions without a score": "are not written.",
        "masks": "have regions with an exact shape; only their boxes are written.",
    }
    sentences = [
        f"{counts[name]} {name if name.startswith('regions') else 'images'} {words}"
        for name, words in labels.items()
        if counts[name]
    ]
    return [f"{counts['images']} images, judged.", *sentences]


def _parquet(run: Run, round: int, folder: Path) -> list[str]:
    path = folder / f"round-{round}.parquet"
    rows, repaired = write_parquet(path, judged(run, round))
    sentence = f"In {repaired} of them, characters that Parquet cannot hold (lone surrogates) were replaced by U+FFFD."
    return [f"{rows} images in {path.name}.", *([sentence] if repaired else [])]
