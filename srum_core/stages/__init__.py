"""The five stages: each a function from records on disk to records on disk. What they share, and their order.

Pictures are cut into fixed chunks by position over the whole list, so that what shares a batch never depends on what is
there already; a chunk with anything missing is made again whole, and only what is missing is kept. With several
processes, chunk i belongs to process i % world. So an interrupted stage ends with the same records, bit for bit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_core.console import tell
from srum_core.errors import RecordError
from srum_core.folders import FOLDERS, STAGES, read_json
from srum_core.pictures import read_files
from srum_core.progress import progress
from srum_core.records import Candidate
from srum_core.run import Planned, Run, generated
from srum_core.store import Records, check_settings, rank_and_world, write_atomic

_NEEDS = {"ground": "generate", "judge": "ground", "train": "judge", "evaluate": "train"}


@frozen
class Step:
    """One stage of one round; round None is the base model, which is only evaluated."""

    stage: str
    round: int | None

    def __str__(self) -> str:
        return f"{self.stage} (base)" if self.round is None else f"{self.stage} (round {self.round})"


def steps(run: Run, only: str | None = None) -> list[Step]:
    """Every stage of every round, in order; evaluations only where there is a benchmark."""
    evaluated = run.settings.benchmark is not None
    base = [Step("evaluate", None)] if evaluated and run.settings.evaluate.before else []
    stages = STAGES if evaluated else STAGES[:-1]
    rounds = [Step(stage, k) for k in range(run.settings.round_count) for stage in stages]
    return [step for step in [*base, *rounds] if only in (None, step.stage)]


def undone(stage: str, round: int, step: Step) -> bool:
    """Whether `Run.redo(stage, round)` deletes what this step has made."""
    if stage == "evaluate":
        return step.stage == stage and (step.round or 0) >= round
    if step.round is None:
        return False
    return (step.round, STAGES.index(step.stage)) >= (round, STAGES.index(stage))


def needed(run: Run, step: Step) -> Step | None:
    """The step that must be finished before this one, if it is not."""
    before = None
    if step.round is not None and step.stage in _NEEDS:
        before = Step(_NEEDS[step.stage], step.round)
    elif step.round:
        before = Step("train", step.round - 1)
    return None if before is None or run.done(before.stage, before.round) else before


def count(run: Run, step: Step, fresh: bool = False) -> tuple[int, int]:
    """(finished, all) of a stage: pictures, or checkpoints for `train`. Loads no model.

    `fresh`: as if nothing were there. Otherwise raises RecordError if what is there was made with other settings."""
    if not fresh and run.checked:
        check_settings(run.stage_folder(step.stage, step.round), run.stage_settings(step.stage, step.round), step.stage)
    if step.stage == "train":
        return int(not fresh and run.done("train", step.round)), 1
    plan = run.planned_evaluation() if step.stage == "evaluate" else run.planned(step.round or 0)
    if fresh:
        return 0, len(plan)
    return len({item.id for item in plan} & _records(run, step).ids()), len(plan)


def perform(run: Run, stage: str, round: int | None) -> None:
    """Run one stage in this process. Raises RecordError if the stage before it is not finished."""
    before = needed(run, Step(stage, round))
    if before is not None:
        raise RecordError(f"{Step(stage, round)} needs {before}, which is not finished. Run that first.")
    from srum_core import gauges  # torch

    seed_everything(run.derive_seed(stage, round))
    gauges.forget_peaks()
    getattr(import_module(f"srum_core.stages.{stage}"), stage)(run, round)
    if rank_and_world()[0] == 0:
        _keep_peaks(run.round_folder(round) / "memory.json", stage, gauges.peaks())
    if stage == "train":
        run.release()  # what was trained is on disk; what is in memory is wrapped and in the middle of things
    if rank_and_world()[0] == 0:
        for sentence in run.registry.notify("srum_stage_finished", run=run, stage=stage, round=round):
            tell(sentence)


def _keep_peaks(path: Path, stage: str, found: dict[str, float]) -> None:
    """What each stage took at most (the first process of it), by stage."""
    known = read_json(path) if path.exists() else {}
    write_atomic(path, json.dumps({**known, stage: found}, indent=1) + "\n")


def chunks(
    run: Run,
    ids: Sequence[str],
    size: int,
    records: Records[Any],
    step: Step,
    load: Callable[[], object] = lambda: None,
) -> Iterator[list[str]]:
    """This process's chunks of `size` ids with anything missing; shows progress. Marks the folder done once every id
    is there: with several processes, whoever is last does.

    `load` is called once if there is anything to make, before the clock starts. Torch's generators start every chunk
    from a seed of its own, whatever was made before."""
    rank, world = rank_and_world()
    mine = [list(ids[start : start + size]) for start in range(rank * size, len(ids), size * world)]
    there = records.ids()
    missing = [chunk for chunk in mine if not there.issuperset(chunk)]
    total, left = sum(map(len, mine)), sum(map(len, missing))
    if missing:
        load()
    with progress(total, str(step), total - left) as advance:
        for chunk in missing:
            seed_everything(run.derive_seed(step.stage, step.round, chunk[0]))
            yield chunk
            advance(len(chunk))
    if records.ids().issuperset(ids):
        records.mark_done()


def verified(candidates: Records[Candidate], plan: Sequence[Planned]) -> Iterator[Candidate]:
    """The candidates of planned images. Raises RecordError where prompts or files are not what they were."""
    for candidate in generated(candidates, plan):
        read_files(candidate)
        yield candidate


def seed_everything(seed: int) -> None:
    """For plugins that draw from the global generators although they were given seeds."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)


def _records(run: Run, step: Step) -> Records[Any]:
    if step.stage == "evaluate":
        from srum_core.stages.evaluate import scored

        return scored(run, step.round)
    assert step.round is not None
    openers: dict[str, Any] = {"generate": run.candidates, "ground": run.groundings, "judge": run.judgements}
    records: Records[Any] = openers[step.stage](step.round)
    return records


__all__ = ["FOLDERS", "STAGES", "Step", "chunks", "count", "needed", "perform", "seed_everything", "steps", "undone"]
