"""Lay the images of an evaluation out as the benchmark's original scorer expects them (hard links, else copies).

srum eval layout RUN --to DIR
srum eval layout RUN --target compbench-orig --to DIR   where a benchmark has several scorers
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from srum_core import plugins
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.run import Evaluation
from srum_core.options import did_you_mean
from srum_core.records import Layout
from srum_core.runs.files import lock
from srum_core.runs.progress import shown
from srum_core.runs.store import write_atomic

ASIDE = ".srum-"
"""Prefix of a file while it is written, so that scorers do not read it as an image."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the evaluation")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to lay them out")
    parser.add_argument("--target", default="", metavar="NAME", help="for which scorer (default: the only one)")
    parser.add_argument("--partial", action="store_true", help="lay out the images that exist already")


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when every image is where its scorer reads it."""
    evaluation = Evaluation.open(parsed.run, plugins.discover())
    with lock(evaluation.folder):
        layout = lay_out(evaluation, parsed.target, parsed.to, parsed.partial)
    print(f"{len(layout.images)} images and {len(layout.texts)} other files are in {shown(parsed.to)}")
    return 0


def lay_out(run: Evaluation, target: str, to: Path, partial: bool = False) -> Layout:
    """Link (or else copy) every image to where a scorer reads it; `target` "" = the only layout. Existing files are
    kept, so the same call again finishes the work.

    Raises ConfigError for an unknown target, RecordError for images in the folder that are not of this run but that the
    scorer would read."""
    benchmark = run.benchmark()
    name = run.settings.benchmark.use if run.settings.benchmark else ""
    scorer = _target(name, getattr(benchmark, "layouts", {}), target)
    numbers = run.numbers()
    images = [(numbers[each.id], each) for each in run.generated(partial)]
    layout: Layout = benchmark.layout(scorer, images)  # type: ignore[attr-defined]
    to.mkdir(parents=True, exist_ok=True)
    for stale in to.rglob(f"{ASIDE}*"):
        stale.unlink()
    extra = sorted(set(layout.found(to)) - layout.images.keys())
    if extra:
        raise RecordError(
            f"{to / extra[0]} is not an image of this evaluation, and a scorer of the layout {scorer} would score it"
            f"{f' (and {len(extra) - 1} more)' if len(extra) > 1 else ''}. Remove it, or lay out into an empty folder."
        )
    for place, source in layout.images.items():
        _link(source, to / place)
    for place, text in layout.texts.items():
        write_atomic(to / place, text)
    lost = sorted(layout.images.keys() - set(layout.found(to)))
    if lost:
        raise RecordError(f"{to / lost[0]} was laid out, but the scorer would not find it.")
    return layout


def _target(benchmark: str, layouts: Mapping[str, str], target: str) -> str:
    if not layouts:
        raise ConfigError(f'The benchmark "{benchmark}" has no layout of an original scorer.')
    if not target and len(layouts) == 1:
        return next(iter(layouts))
    if target not in layouts:
        listed = "; ".join(f"{name}: for {who}" for name, who in layouts.items())
        wrong = f'"{benchmark}" has no layout "{target}".' if target else f'"{benchmark}" has several layouts.'
        raise ConfigError(f"{wrong}{did_you_mean(target, layouts)} Set --target to one of these. {listed}.")
    return target


def _link(source: Path, place: Path) -> None:
    """Hard-link a file, or copy it to another file system; atomically."""
    if place.exists() and (place.samefile(source) or filecmp.cmp(place, source, shallow=False)):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{ASIDE}{os.getpid()}-{place.stem[:40]}.tmp")
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
    aside.replace(place)
