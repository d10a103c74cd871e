"""Write a judge's questions and answers of a run as transcripts for its tests.

A transcript is one image, the judge's questions about it with the answers word for word, and what the judge reads in
them today (single answers or votes, without judge.doubt, which is the run's and not the judge's). The images are
copied next to the file, to images/ID.png, and named relative to it: the folder can be moved or committed as it is.
srum_core.testing has read_transcripts, and suites that hold a judge to them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import attrs

from srum_core import plugins
from srum_core.cli.common import add_round, add_run, judged_round
from srum_core.errors import RecordError
from srum_core.interchange.incoming import judged, renamed
from srum_core.options import did_you_mean
from srum_core.protocols import Judge
from srum_core.records import Score, Unreadable
from srum_core.runs.files import check_file, inside, read_file
from srum_core.runs.progress import shown
from srum_core.runs.run import Run
from srum_core.runs.store import write_atomic
from srum_core.stages.interview import Interview
from srum_core.testing.transcripts import Transcript, write_transcripts


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
    """Return 0. Raises RecordError for a judge that was not asked, and for files that are there already."""
    source = Run.open(parsed.run, plugins.discover())
    round = judged_round(source, parsed.round)
    judge = _judge(source, round, parsed.judge)
    out: Path = parsed.out or Path("transcripts") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', parsed.judge)}.jsonl"
    if out.exists() and not parsed.force:
        raise RecordError(f"{shown(out)} is there already. Give another file with --out, or overwrite it with --force.")
    transcripts = list(islice(_transcripts(source, round, parsed.judge, judge), parsed.limit or None))
    if not parsed.no_images:
        images = out.absolute().parent / "images"
        transcripts = [_with_copies(each, source.folder, images, parsed.force) for each in transcripts]
    write_transcripts(out, transcripts)
    failures = sum(len(each.failures) for each in transcripts)
    scores = sum(len(each.scores) for each in transcripts)
    counts = f"{len(transcripts)} transcripts of round {round} ({scores} scores, {failures} unreadable)"
    print(f"{counts} are in {shown(out)}")
    return 0


def _judge(run: Run, round: int, name: str) -> Judge:
    asked = {exchange.asked_by for each in run.judgements(round) for exchange in each.exchanges}
    if name not in asked:
        message = f"Recorded are: {', '.join(sorted(asked))}." if asked else "No answer of any judge is."
        raise RecordError(
            f'No answer to a judge "{name}" is recorded in round {round} of {shown(run.folder)}.'
            f"{did_you_mean(name, asked)} {message}"
        )
    judges = dict(run.at("judge", round).judges())
    if name not in judges:
        raise RecordError(
            f'Answers to "{name}" are recorded, but {shown(run.folder / "run.toml")} names no such judge. Add it there.'
        )
    return judges[name]


def _transcripts(run: Run, round: int, name: str, judge: Judge) -> Iterator[Transcript]:
    """Yield a transcript of every image that the judge was asked about. Raises RecordError if it asks otherwise now."""
    for candidate, judgement in judged(run, round):
        if not any(exchange.asked_by == name for exchange in judgement.exchanges):
            continue  # it had no question, or its regions are not known
        candidate = attrs.evolve(candidate, boxes=judgement.boxes)
        interview = Interview.replay(name, judge, candidate, judgement.regions, judgement.exchanges)
        scores = [each for each in interview.outcome() if isinstance(each, Score)]
        failures = [each for each in interview.outcome() if isinstance(each, Unreadable)]
        exchanges = tuple(interview.exchanges)
        yield Transcript(name, candidate, judgement.regions, exchanges, tuple(scores), tuple(failures))


def _with_copies(transcript: Transcript, run: Path, folder: Path, force: bool) -> Transcript:
    """Copy the images to the folder and name the copies. Raises RecordError if another image has the name already."""
    candidate = transcript.candidate
    images = [candidate.image, candidate.reference, *(each.question.image for each in transcript.exchanges)]
    copies: dict[Path, Path] = {}
    for path in dict.fromkeys(each for each in images if each):
        check_file(path)  # its error explains what to do if it is missing
        data = read_file(inside(run, path))  # a question may name any file; only those of the run are copied
        name = f"{candidate.id}-{len(copies)}" if copies else candidate.id
        target = copies[path] = folder / f"{name}{path.suffix}"
        if target.exists() and target.read_bytes() != data and not force:
            raise RecordError(
                f"{shown(target)} is another image, of other transcripts. Give --out a folder of its own, or "
                "overwrite it with --force."
            )
        write_atomic(target, data)
    reference = candidate.reference and copies[candidate.reference]
    candidate = attrs.evolve(candidate, image=copies[candidate.image], reference=reference)
    return attrs.evolve(transcript, candidate=candidate, exchanges=renamed(transcript.exchanges, copies))
