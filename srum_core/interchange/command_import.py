"""Make a run out of judged images from elsewhere, ready for srum-train --only train with the same settings.

DATA is a JSON-lines file of the official code (judge records or training records; both are recognised), a Parquet
file or a folder of them, or what datasets' save_to_disk wrote. Images are copied. Boxes of official records count in
pixels of the stored file; what has to be left out of a record (an entry without a score, an empty box) or cut to the
image is named here and in RUN/import.log. A line that cannot be used stops the import, unless --skip-bad; scores
outside [-1, 1] are never clipped. Where training records name two images, the bad one is trained on and the good one
is its reference.

The run's round 1 is then as if it had been generated and judged. Further rounds use the prompts of the settings.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srum_core import config, plugins
from srum_core.cli.common import Typed, add_settings
from srum_core.errors import RecordError
from srum_core.interchange.importer import LOG, Intake, take_in
from srum_core.interchange.incoming import Bad, Incoming
from srum_core.interchange.official import read_official
from srum_core.interchange.parquet import need, read_parquet
from srum_core.runs.progress import listed, shown, tell


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="FILE.jsonl, FILE.parquet, or a folder")
    add("--images", type=Path, metavar="DIR", help="where the images are (default: next to DATA, or in images/ there)")
    add("--candidates", type=Path, metavar="FILE", help="official output.jsonl: take prompts and thoughts from it")
    add("--skip-bad", action="store_true", help="leave out lines that cannot be used, instead of stopping")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run to make")
    add_settings(parser)


def run(parsed: argparse.Namespace) -> int:
    """0. Raises RecordError with all lines that cannot be used, ConfigError for the settings."""
    registry, typed = plugins.discover(), Typed.of(parsed)
    settings = typed.read(registry)
    found = _read(parsed.data, parsed.images, parsed.candidates)
    intake = take_in(found, parsed.out, settings, registry, parsed.skip_bad)
    _say(intake, parsed.out, config.of_round(settings, 1, registry).map.use)
    print(f"  {shlex.join(_train_command(typed, parsed.out))}")
    return 0


def _read(data: Path, images: Path | None, candidates: Path | None) -> Iterator[Incoming | Bad]:
    if images is not None and not images.is_dir():
        raise RecordError(f"--images {images} is no folder.")
    if not data.exists():
        raise RecordError(f"{data} is not there.")
    for path in (data, *([candidates] if candidates else [])):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise RecordError(f"{path} is no file: devices and pipes are not read.")
    if data.is_dir() or data.suffix == ".parquet":
        there = sorted(path.name for path in data.glob("*.jsonl")) if data.is_dir() else []
        if there and not any(data.glob("*.parquet")):
            raise RecordError(f"{data} is a folder. Name the file in it: {', '.join(there)}.")
        need("srum import of Parquet and saved data sets")
        return read_parquet(data, images)
    if data.suffix not in (".jsonl", ".json"):
        raise RecordError(f"{data}: judged images are read from files named .jsonl or .parquet, or from a folder.")
    return read_official(data, images, candidates)


def _say(intake: Intake, folder: Path, reward_map: str) -> None:
    """Summary of imported and rejected records, as sentences."""
    if intake.notes:
        log = f", all in {shown(folder / LOG)}"
        tell(f"{len(intake.notes)} entries were left out or changed:{listed(intake.notes, log)}")
    if intake.bad:
        tell(f"{len(intake.bad)} lines were skipped:{listed(intake.bad)}")
    if intake.without:
        tell(
            f"{intake.without} images have no global score. The map released weighs them with the factor 0.5, as "
            "the release does; the maps paper and sparse refuse them; no-global needs none. This run's map is "
            f"{reward_map}."
        )
    if intake.zero:
        tell(
            f"{intake.zero} images have a global score of exactly 0, which the official judge also writes when it "
            "has failed. They are trained on."
        )
    if intake.failed:
        tell(f"{intake.failed} images have answers that could not be read. They are not trained on.")
    print(f"{intake.images} images with {intake.scores} regional scores are in {shown(folder)}. To train on them:")


def _train_command(typed: Typed, folder: Path) -> list[str]:
    named: list[tuple[str, Any]] = [("--adapter", typed.adapter), *(("--preset", name) for name in typed.preset)]
    named += [("--checkpoint", typed.checkpoint), ("--config", typed.config), ("--out", shown(folder))]
    words = [str(word) for option, value in named if value is not None for word in (option, value)]
    return ["srum-train", *words, "--only", "train", *typed.settings]
