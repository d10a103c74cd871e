"""Shared by the stages: images in fixed chunks.

Images are cut into fixed chunks by position over the whole list, so that batches never depend on existing
results; a chunk with anything missing is made again whole, and only the missing part is kept. With several
processes, chunk i belongs to process i % world. So an interrupted stage ends with the same records, bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from attrs import frozen

from srum_core.models.images import read_files
from srum_core.records import Candidate
from srum_core.runs.progress import progress
from srum_core.runs.run import Planned, Run, generated
from srum_core.runs.store import Records, rank_and_world


@frozen
class Step:
    """One stage of one round, counted from 1; round None is the base model, which is only evaluated."""

    stage: str
    round: int | None

    def __str__(self) -> str:
        return f"{self.stage} (base)" if self.round is None else f"{self.stage} (round {self.round})"


class Output(Protocol):
    """The result of a stage, by the ids of images."""

    def ids(self) -> set[str]: ...

    def mark_done(self) -> None: ...


def chunks(
    run: Run,
    ids: Sequence[str],
    size: int,
    records: Output,
    step: Step,
    load: Callable[[], object] = lambda: None,
    name: str = "",
    ready: Callable[[list[str]], bool] | None = None,
) -> Iterator[list[str]]:
    """This process's chunks of `size` ids with anything missing; shows progress (under `name`). Marks the folder
    done once every id is there: with several processes, the last one to finish does.

    With `ready`, only chunks of which it is true, without progress, and nothing is marked: the others follow later.
    `load` is called once if there is anything to make, before the clock starts. Torch's generators start every chunk
    from its own seed, independent of earlier ones."""
    rank, world = rank_and_world()
    mine = [list(ids[start : start + size]) for start in range(rank * size, len(ids), size * world)]
    there = records.ids()
    missing = [chunk for chunk in mine if not there.issuperset(chunk)]
    if ready is not None:
        for chunk in filter(ready, missing):
            seed_everything(run.round_seed(step.stage, step.round, chunk[0]))
            yield chunk
        return
    total, left = sum(map(len, mine)), sum(map(len, missing))
    if missing:
        load()
    with progress(total, name or str(step), total - left) as advance:
        for chunk in missing:
            seed_everything(run.round_seed(step.stage, step.round, chunk[0]))
            yield chunk
            advance(len(chunk))
    if records.ids().issuperset(ids):
        records.mark_done()


def verified(candidates: Records[Candidate], plan: Sequence[Planned]) -> Iterator[Candidate]:
    """The candidates of planned images. Raises RecordError where prompts or files have changed."""
    for candidate in generated(candidates, plan):
        read_files(candidate)
        yield candidate


def seed_everything(seed: int) -> None:
    """Seed the global generators, for plugins that use them although they get seeds."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
