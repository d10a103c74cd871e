"""Write a judge's questions and answers of a run as transcripts for its tests.

A transcript is one image, the judge's questions about it with the answers word for word, and what the judge reads in
them today (single answers or votes, without judge.doubt, which is the run's and not the judge's). The images are
copied next to the file, to images/ID.png, and named relative to it: the folder can be moved or committed as it is.
srum_core.testing has read_transcripts, and suites that hold a judge to them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import attrs

from srum_core import plugins
from srum_core.cli.common import add_round, add_run, judged_round
from srum_core.errors import RecordError
from srum_core.options import did_you_mean
from srum_core.protocols import Judge
from srum_core.records import Score, Unreadable
from srum_core.runs.files import check_file, inside, read_file
from srum_core.runs.progress import shown
from srum_core.runs.run import Run
from srum_core.runs.store import write_atomic
from srum_core.stages.interview import Interview
from srum_core.testing.transcripts import Transcript, write_transcripts

Keep = Callable[[Path, str], Path]
"""From an image, and a name for it, to its path in the transcript."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add = parser.add_argument
    add("--judge", required=True, metavar="NAME", help='the judge, as recorded: "zoom", "zoom 2", "module:Class"')
    add_round(parser)
    add("--limit", type=int, default=0, metavar="N", help="the first N images only (default: all)")
    add("--out", type=Path, metavar="FILE.jsonl", help="where to (default: transcripts/NAME.jsonl)")
    add("--no-images", action="store_true", help="copy no images: the transcripts name those of the run")
    add("--force", action="store_true", help="overwrite the file, and images next to it with the same name")


def run(parsed: argparse.Namespace) -> int:
    """0. Raises RecordError for a judge that was not asked, and for files that are there already."""
    source = Run.open(parsed.run, plugins.discover())
    round = judged_round(source, parsed.round)
    judge = _judge(source, round, parsed.judge)
    out: Path = parsed.out or Path("transcripts") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', parsed.judge)}.jsonl"
    if out.exists() and not parsed.force:
        raise RecordError(f"{shown(out)} is there already. Give another file with --out, or overwrite it with --force.")
    keep = _leave if parsed.no_images else _copier(source.folder, out.absolute().parent / "images", parsed.force)
    found = _transcripts(source, round, parsed.judge, judge, keep)
    transcripts = list(islice(found, parsed.limit or None))
    write_transcripts(out, transcripts)
    failures = sum(len(each.failures) for each in transcripts)
    scores = sum(len(each.scores) for each in transcripts)
    counts = f"{len(transcripts)} transcripts of round {round} ({scores} scores, {failures} unreadable)"
    print(f"{counts} are in {shown(out)}")
    return 0


def _judge(run: Run, round: int, name: str) -> Judge:
    asked = {exchange.asked_by for judged in run.judgements(round) for exchange in judged.exchanges}
    if name not in asked:
        there = f"Recorded are: {', '.join(sorted(asked))}." if asked else "No answer of any judge is."
        raise RecordError(
            f'No answer to a judge "{name}" is recorded in round {round} of {shown(run.folder)}.'
            f"{did_you_mean(name, asked)} {there}"
        )
    judges = dict(run.at("judge", round).judges())
    if name not in judges:
        raise RecordError(
            f'Answers to "{name}" are recorded, but {shown(run.folder / "run.toml")} names no such judge. Add it there.'
        )
    return judges[name]


def _transcripts(run: Run, round: int, name: str, judge: Judge, keep: Keep) -> Iterator[Transcript]:
    """One for every image that the judge was asked about. Raises RecordError if it would ask otherwise today."""
    candidates = run.candidates(round)
    for judged in run.judgements(round):
        if not any(exchange.asked_by == name for exchange in judged.exchanges):
            continue  # it had no question, or its regions are not known
        (candidate,) = candidates.select([judged.candidate])
        candidate = attrs.evolve(candidate, boxes=judged.boxes)
        interview = Interview.replay(name, judge, candidate, judged.regions, judged.exchanges)
        outcome = interview.outcome()
        places: dict[Path, Path] = {}

        def kept(path: Path, of: str = candidate.id, places: dict[Path, Path] = places) -> Path:
            if path not in places:
                places[path] = keep(path, f"{of}-{len(places)}" if places else of)
            return places[path]

        image, reference = kept(candidate.image), candidate.reference and kept(candidate.reference)
        yield Transcript(
            name,
            attrs.evolve(candidate, image=image, reference=reference),
            judged.regions,
            tuple(
                attrs.evolve(each, question=attrs.evolve(each.question, image=kept(each.question.image)))
                for each in interview.exchanges
            ),
            tuple(each for each in outcome if isinstance(each, Score)),
            tuple(each for each in outcome if isinstance(each, Unreadable)),
        )


def _leave(path: Path, _: str) -> Path:
    return path


def _copier(run: Path, folder: Path, force: bool) -> Keep:
    def copy(path: Path, name: str) -> Path:
        check_file(path)  # its error explains what to do if it is missing
        data = read_file(inside(run, path))  # a question may name any file; only those of the run are copied
        target = folder / f"{name}{path.suffix}"
        if target.exists() and target.read_bytes() != data and not force:
            raise RecordError(
                f"{shown(target)} is another image, of other transcripts. Give --out a folder of its own, or "
                "overwrite it with --force."
            )
        write_atomic(target, data)
        return target

    return copy
