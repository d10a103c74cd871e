"""Transcripts: what a judge asked about a picture and was answered, kept as a fixture for its tests. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from srum_core.records import Candidate, Exchange, Region, Score, Unreadable
from srum_core.runs.store import read_list, write_list


@frozen
class Transcript:
    """One picture before one judge, and what was read in the answers when it was recorded."""

    judge: str
    """The name under which the judge asked."""
    candidate: Candidate
    regions: tuple[Region, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    scores: tuple[Score, ...] = ()
    failures: tuple[Unreadable, ...] = ()


def read_transcripts(path: Path) -> list[Transcript]:
    """Out of a JSON-lines file; picture paths in it are relative to its folder. Raises RecordError for a bad line."""
    return read_list(path, Transcript)


def write_transcripts(path: Path, transcripts: Sequence[Transcript]) -> None:
    """As JSON lines, at once."""
    write_list(path, transcripts)
