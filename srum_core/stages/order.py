"""The order of the five stages: planned steps, their inputs, and running them; judging while images are generated."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from srum_core.errors import RecordError, clean
from srum_core.records import Candidate, Grounding, Judgement
from srum_core.runs.files import STAGES, read_json
from srum_core.runs.progress import NORMAL, VERBOSE, log_file, shown, tell
from srum_core.runs.run import Run, started_from
from srum_core.runs.store import check_settings, rank_and_world, write_atomic
from srum_core.stages import serving
from srum_core.stages.chunks import Step, seed_everything
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge

log = logging.getLogger("srum")
_MODULES = {
    **{stage: f"srum_core.stages.{stage}" for stage in ("generate", "ground", "judge")},
    "train": "srum_core.training.trainer",
    "evaluate": "srum_core.evaluation.stage",
}
"""Where the function of a stage is; imported when it runs, for it may need torch."""
PAUSE = 1.0
"""Seconds between two checks for new images."""
_NEEDS = {"ground": "generate", "judge": "ground", "train": "judge", "evaluate": "train"}


def steps(run: Run, only: str | None = None) -> list[Step]:
    """Every stage of every round, in order; evaluations only where there is a benchmark."""
    evaluated = run.settings.benchmark is not None
    base = [Step("evaluate", None)] if evaluated and run.settings.evaluate.before else []
    stages = STAGES if evaluated else STAGES[:-1]
    rounds = [Step(stage, k) for k in run.settings.round_numbers for stage in stages]
    return [step for step in [*base, *rounds] if only in (None, step.stage)]


def undone(stage: str, round: int, step: Step) -> bool:
    """Whether `Run.redo(stage, round)` deletes what this step has made."""
    if stage == "evaluate":
        return step.stage == stage and (step.round or 1) >= round
    if step.round is None:
        return False
    return (step.round, STAGES.index(step.stage)) >= (round, STAGES.index(stage))


def needed(run: Run, step: Step) -> Step | None:
    """The step that must be finished before this one, if it is not."""
    before = None
    if step.round is not None and step.stage in _NEEDS:
        before = Step(_NEEDS[step.stage], step.round)
    elif step.round is not None and step.round > 1:
        before = Step("train", step.round - 1)
    return None if before is None or run.done(before.stage, before.round) else before


def count(run: Run, step: Step, fresh: bool = False) -> tuple[int, int]:
    """(finished, all) of a stage: images, or checkpoints for `train`. Loads no model.

    `fresh`: as if nothing existed. Otherwise raises RecordError if existing stages have other settings."""
    if not fresh and run.checked:
        check_settings(run.stage_folder(step.stage, step.round), run.stage_settings(step.stage, step.round), step.stage)
    if step.stage == "train":
        return int(not fresh and run.done("train", step.round)), 1
    plan = run.planned_evaluation() if step.stage == "evaluate" else run.planned(step.round or 1)
    if fresh:
        return 0, len(plan)
    if step.stage == "evaluate" and run.done(step.stage, step.round):
        return len(plan), len(plan)  # its answers may be those of another run, taken over
    return len({item.id for item in plan} & _images(run, step)), len(plan)


def _images(run: Run, step: Step) -> set[str]:
    """Ids of the images that the stage has finished."""
    if step.stage == "evaluate":
        from srum_core.evaluation.stage import finished

        return finished(run, step.round).ids()
    kinds = {"generate": Candidate, "ground": Grounding, "judge": Judgement}
    return run.records(step.stage, step.round, kinds[step.stage]).ids()


def perform_all(run: Run, only: str | None = None, start: Callable[[Step], None] | None = None) -> None:
    """Run every unfinished stage, in order; with `only` one stage, as far as its inputs exist.

    `start` runs a stage in other processes; None = in this one."""
    say_start(run)
    for step in steps(run, only):
        if run.done(step.stage, step.round):
            tell(f"{step}: done before", NORMAL)
            continue
        if only and step.round and needed(run, step):
            tell(f"{step}: waits for {needed(run, step)}")
            return
        if step.stage == "generate" and step.round:
            serving.prepare(run, step.round)
        tell(f"{step}: {shown(run.stage_folder(step.stage, step.round))}", NORMAL)
        if start is None and step.stage == "generate" and step.round and only is None:
            with _judge_ahead(run, step.round):
                perform(run, step.stage, step.round)
        elif start is None:
            perform(run, step.stage, step.round)
        else:
            start(step)


def say_start(run: Run) -> None:
    """From which training a run starts, if it does from any."""
    if run.settings.start:
        source, rounds = started_from(run.settings.start, run.registry)
        tell(f"Starts from the model after round {rounds} of {shown(source.folder)}.", NORMAL)


def perform(run: Run, stage: str, round: int | None) -> None:
    """Run one stage in this process. Raises RecordError if the stage before it is not finished."""
    before = needed(run, Step(stage, round))
    if before is not None:
        raise RecordError(f"{Step(stage, round)} needs {before}, which is not finished. Run that first.")
    from srum_core.training import metrics  # torch

    with log_file(run.folder):
        seed_everything(run.round_seed(stage, round))
        metrics.forget_peaks()
        start = time.monotonic()
        getattr(import_module(_MODULES[stage]), stage)(run, round)
        first = rank_and_world()[0] == 0
        if first:
            path, peaks = run.round_folder(round) / "memory.json", metrics.peaks()
            others = read_json(path) if path.exists() else {}
            write_atomic(path, json.dumps({**others, stage: peaks}, indent=1) + "\n")
            figures = [f"{time.monotonic() - start:.1f} s", *(f"{name} {each:.0f} MiB" for name, each in peaks.items())]
            tell(f"{Step(stage, round)} took {', '.join(figures)}", VERBOSE)
        if stage == "train":
            run.release()  # the trained weights are on disk; the model in memory is wrapped for training
            if first and round and round < run.settings.round_count:
                serving.write(run, round)
        if first:
            for sentence in run.registry.notify("srum_stage_finished", run=run, stage=stage, round=round):
                tell(sentence)


# ---- judging while images are generated -----------------------------------------------------------------------------


@contextmanager
def _judge_ahead(run: Run, round: int) -> Iterator[None]:
    """Ground and judge the round's images as they arrive, in a thread beside the generation.

    The stages themselves process the images that are left at the end, with the same records, and raise what is wrong
    then. Images are queued on disk, so the generation never waits."""
    if not _can_judge_ahead(run, round):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_work, args=(run, round, over), name="srum-ahead", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        over.set()
        while thread.is_alive():  # it may be about to send the next request
            for stage in ("ground", "judge"):
                getattr(run.at(stage, round).answerer(round - 1), "cancel", lambda: None)()
            thread.join(0.2)
        raise
    over.set()
    while thread.is_alive():
        thread.join(0.5)  # with a timeout: otherwise a Ctrl-C just before would not be noticed


def _work(run: Run, round: int, over: threading.Event) -> None:
    candidates, processed = run.at("generate", round).candidates(round), 0
    try:
        while not over.wait(PAUSE):
            if (count := len(candidates)) > processed:
                processed = count
                ground(run, round, lambda: not over.is_set())
                judge(run, round, lambda: not over.is_set())
    except BaseException as error:
        if not over.is_set():
            reason = clean(error, 1000) or type(error).__name__
            log.warning("%s Judging continues when all images are generated.", reason)


def _can_judge_ahead(run: Run, round: int) -> bool:
    """Whether neither generating nor judging runs a model on this machine."""
    generating, grounding, judging = (run.at(stage, round) for stage in ("generate", "ground", "judge"))
    s, t = grounding.settings, judging.settings
    if generating.settings.generator is None or s.answerer is None or t.answerer is None or rank_and_world()[1] > 1:
        return False
    uses = [("grounder", s.grounder), *(("judge", each) for each in (*t.judges, s.verifier) if each)]
    if any("device" in use.options or hasattr(run.registry.load(kind, use.use), "score_many") for kind, use in uses):
        return False  # it has its own model
    workers = [grounding.answerer(round - 1), judging.answerer(round - 1), generating.sampler(round - 1)]
    return all(getattr(each, "elsewhere", False) for each in workers)
