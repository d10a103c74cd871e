"""Taking over what another run has made: hard links, so that no picture is stored twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from srum_core.files import aside, put_in_place
from srum_core.runs.run import Run
from srum_core.runs.store import sync_folder, to_json, write_atomic
from srum_core.stages.chunks import Step

_LOGS = ("metrics.jsonl", "speed.jsonl")


def share(source: Run, target: Run, step: Step) -> None:
    """Give `target` the finished records of a step of `source`, as a whole or not at all.

    The folder remembers the target's own settings. Finished records are never appended to and pictures never written
    over, so a link is as good as a copy; logs, which a training may cut back, are copied.
    """
    theirs, ours = source.stage_folder(step.stage, step.round), target.stage_folder(step.stage, step.round)
    ours.parent.mkdir(parents=True, exist_ok=True)
    loose = {"generate": ("prompts.jsonl",), "train": _LOGS}.get(step.stage, ())
    for name in loose:
        if (theirs.parent / name).exists():
            write_atomic(ours.parent / name, (theirs.parent / name).read_bytes())
    new = aside(ours)
    shutil.rmtree(new, ignore_errors=True)
    link_tree(theirs, new, leave="settings.json")
    write_atomic(new / "settings.json", to_json(target.stage_settings(step.stage, step.round)))
    put_in_place(new, ours)  # of what was begun before there was something to share
    sync_folder(ours.parent)


def share_latents(source: Run, target: Run) -> None:
    """Encoded pictures of the first round; each says what it was made from, and is made again if that is not so."""
    theirs, ours = source.round_folder(1) / "latents", target.round_folder(1) / "latents"
    if theirs.is_dir() and not ours.exists():
        new = aside(ours)
        shutil.rmtree(new, ignore_errors=True)
        link_tree(theirs, new)
        put_in_place(new, ours)


def link_tree(source: Path, target: Path, leave: str = "") -> None:
    """A folder with the same files; copies where the file system has no hard links."""
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        there = target / entry.name
        if entry.is_dir():
            link_tree(Path(entry.path), there)
        elif entry.name != leave and not entry.name.endswith(".tmp"):
            try:
                os.link(entry.path, there)
            except OSError:
                shutil.copy2(entry.path, there)
