"""Ground and judge existing images while others are generated, where servers do both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from srum_core.options import Use
from srum_core.runs.run import Run
from srum_core.runs.store import rank_and_world
from srum_core.stages.ground import ground
from srum_core.stages.judge import judge

PAUSE = 1.0
"""Seconds between two checks for new images."""


@contextmanager
def judging(run: Run, round: int) -> Iterator[None]:
    """Ground and judge the round's images as they arrive, in a thread beside the generation.

    The stages themselves process the images that are left at the end, with the same records. Images are queued on disk,
    so the generation never waits. Raises at the end the thread's exception."""
    if not _applies(run, round):
        yield
        return
    over, met = threading.Event(), list[BaseException]()
    thread = threading.Thread(target=_work, args=(run, round, over, met), name="srum-ahead", daemon=True)
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
    if met:
        raise met[0]


def _work(run: Run, round: int, over: threading.Event, met: list[BaseException]) -> None:
    candidates, known = run.at("generate", round).candidates(round), 0
    try:
        while not over.wait(PAUSE):
            if (count := len(candidates)) > known:
                known = count
                ground(run, round, lambda: not over.is_set())
                judge(run, round, lambda: not over.is_set())
    except BaseException as error:
        met.append(error)


def _applies(run: Run, round: int) -> bool:
    """Whether neither generating nor judging runs a model on this machine."""
    grounding, judged = (run.at(stage, round).settings for stage in ("ground", "judge"))
    if run.at("generate", round).settings.generator is None or grounding.answerer is None or judged.answerer is None:
        return False
    asking = [*judged.judges, *([grounding.verifier] if grounding.verifier else [])]
    own = [("grounder", grounding.grounder), *(("judge", each) for each in asking)]
    if rank_and_world()[1] > 1 or any(_computes(run, *each) for each in own):
        return False
    asked = [run.at(stage, round).answerer(round - 1) for stage in ("ground", "judge")]
    return all(getattr(each, "elsewhere", False) for each in [*asked, run.at("generate", round).sampler(round - 1)])


def _computes(run: Run, kind: str, use: Use) -> bool:
    """Whether a grounder or a judge has its own model."""
    return "device" in use.options or hasattr(run.registry.load(kind, use.use), "score_many")
