"""Make a run from existing images: judged ones, ready for srum-train --only train with the same settings, or with
--captions your own, which srum-train then grounds, judges and trains on like images of the model.

Judged images: DATA is a JSON-lines file of the official code (judge records or training records; both are recognised),
a Parquet file or a folder of them, or what datasets' save_to_disk wrote. Images are copied. Boxes of official records
are in pixels of the stored file; entries that are left out (without a score, with an empty box) or cropped to the image
are listed here and in RUN/import.log. A line that cannot be used stops the import, unless --skip-bad;
scores outside [-1, 1] are never clipped. Where training records name two images, the bad one is trained on and the
good one is its reference.

With --captions: DATA is a file (.jsonl, .csv, .parquet) whose records name an image and its caption, a folder with a
.txt beside each image (or with metadata.jsonl or metadata.csv), or a data set of the hub, OWNER/NAME or
OWNER/NAME/SUBSET (needs srum[data]). Images keep their sizes; the adapter resizes them as it needs. Damaged and missing
ones are listed and left out. --unjudged trains on them without a judge: every image has weight 1 (it sets map=uniform
loss=sft).

The run's round 1 is then as if it had been generated, or generated and judged. Further rounds use the prompts of the
settings.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from srum_core import config, plugins
from srum_core.cli.common import Typed, add_settings, from_parsed
from srum_core.errors import ConfigError, RecordError
from srum_core.interchange.captions import Fields, read_captions
from srum_core.interchange.importer import LOG, Intake, take_in
from srum_core.interchange.incoming import Bad, Incoming
from srum_core.interchange.official import read_official
from srum_core.interchange.parquet import need, read_parquet
from srum_core.runs.progress import listed, shown, tell

_UNJUDGED = ("map=uniform", "loss=sft")
"""Settings that weigh every image equally; given settings override them."""
_OF_CAPTIONS = ("unjudged", "image_field", "caption_field", "split")


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="a file, a folder, or with --captions a data set of the hub")
    add("--captions", action="store_true", help="images with captions, not judged")
    add("--unjudged", action="store_true", help="with --captions: train on them with weight 1, without a judge")
    add("--image-field", metavar="NAME", help="with --captions: field of the image (default: image, file_name, …)")
    add("--caption-field", metavar="NAME", help="with --captions: field of the caption (default: caption, text, …)")
    add("--split", help="with --captions: split of a data set of the hub, such as train[:1000] (default: train)")
    add("--images", type=Path, metavar="DIR", help="folder of the images (default: next to DATA, or images/ there)")
    add("--candidates", type=Path, metavar="FILE", help="official output.jsonl: take prompts and thoughts from it")
    add("--skip-bad", action="store_true", help="leave out lines that cannot be used instead of stopping")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run to make")
    add_settings(parser)


@frozen
class Source:
    """The imported data. Raises ConfigError for options that cannot be combined."""

    data: Path
    images: Path | None = None
    candidates: Path | None = None
    skip_bad: bool = False
    captions: bool = False
    unjudged: bool = False
    image_field: str = ""
    caption_field: str = ""
    split: str = ""

    def __attrs_post_init__(self) -> None:
        names = [name for name in _OF_CAPTIONS if getattr(self, name)]
        if names and not self.captions:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in names)
            raise ConfigError(f"{options} needs --captions: judged images come with their scores and names.")
        if self.captions and self.candidates:
            raise ConfigError("--candidates is for judged images: with --captions the captions are in DATA.")

    @property
    def trained_only(self) -> bool:
        """Whether nothing is left to judge: the images are judged, or --unjudged is set."""
        return not self.captions or self.unjudged

    def read(self) -> Iterator[Incoming | Bad]:
        if not self.captions:
            return _read(self.data, self.images, self.candidates)
        return read_captions(
            self.data, self.images, Fields(self.image_field, self.caption_field), self.split or "train"
        )


def run(parsed: argparse.Namespace) -> int:
    """Return 0. Raises RecordError with all lines that cannot be used, ConfigError for the settings."""
    registry, typed, source, folder = plugins.discover(), Typed.of(parsed), from_parsed(Source, parsed), parsed.out
    if source.unjudged:
        typed = evolve(typed, settings=[*_UNJUDGED, *typed.settings])
    settings = typed.read(registry)
    reward_map = config.of_round(settings, 1, registry).map.use
    if source.unjudged and reward_map != "uniform":
        raise ConfigError(
            f"--unjudged gives every image the weight 1, but the map is {reward_map}, which needs scores. Leave map= "
            "out, or leave out --unjudged to have the images judged."
        )
    intake = take_in(source.read(), folder, settings, registry, source.skip_bad or source.captions, source.trained_only)
    _say_left_out(intake, folder, source.captions)
    place = shown(folder)
    if source.captions:
        todo = "train on them with weight 1" if source.unjudged else "have them judged and train on them"
        print(f"{intake.images} images with captions are in {place}. To {todo}:")
    else:
        _say_scores(intake, reward_map)
        print(f"{intake.images} images with {intake.scores} regional scores are in {place}. To train on them:")
    only = ["--only", "train"] if source.trained_only else []
    print(f"  {shlex.join(typed.command('--out', place, *only))}")
    return 0


def _read(data: Path, images: Path | None, candidates: Path | None) -> Iterator[Incoming | Bad]:
    if images is not None and not images.is_dir():
        raise RecordError(f"--images {images} is not a folder.")
    if not data.exists():
        raise RecordError(f"{data} does not exist.")
    for path in (data, *([candidates] if candidates else [])):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise RecordError(f"{path} is not a file: devices and pipes are not read.")
    if data.is_dir() or data.suffix == ".parquet":
        names = sorted(path.name for path in data.glob("*.jsonl")) if data.is_dir() else []
        if names and not any(data.glob("*.parquet")):
            raise RecordError(f"{data} is a folder. Name the file in it: {', '.join(names)}.")
        need("srum import of Parquet and saved data sets")
        return read_parquet(data, images)
    if data.suffix not in (".jsonl", ".json"):
        raise RecordError(f"{data}: judged images are read from files named .jsonl or .parquet, or from a folder.")
    return read_official(data, images, candidates)


def _say_left_out(intake: Intake, folder: Path, captions: bool) -> None:
    log = f", all in {shown(folder / LOG)}"
    if intake.notes:
        words = "images were changed:" if captions else "entries were left out or changed:"
        tell(f"{len(intake.notes)} {words}{listed(intake.notes, '' if captions else log)}")
    if intake.bad and captions:
        tell(f"{len(intake.bad)} of {intake.images + len(intake.bad)} were left out:{listed(intake.bad, log)}")
    elif intake.bad:
        tell(f"{len(intake.bad)} lines were skipped:{listed(intake.bad)}")


def _say_scores(intake: Intake, reward_map: str) -> None:
    if intake.without:
        tell(
            f"{intake.without} images have no global score. The map released weighs them with the factor 0.5, as "
            "the release does; the maps paper and sparse refuse them; no-global needs none. This run's map is "
            f"{reward_map}."
        )
    if intake.zero:
        tell(
            f"{intake.zero} images have a global score of exactly 0, which the official judge also writes "
            "after a failure. They are trained on."
        )
    if intake.failed:
        tell(f"{intake.failed} images have answers that could not be read. They are not trained on.")
