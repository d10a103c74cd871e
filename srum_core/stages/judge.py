"""regions -> judgements: judges ask, the model answers, judges parse; unreadable answers are requested again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

from srum_core import config
from srum_core.protocols import Judge
from srum_core.records import Candidate, Grounding, Judgement, Score, Unreadable
from srum_core.runs.files import redo_option
from srum_core.runs.run import Run
from srum_core.runs.store import rank_and_world
from srum_core.stages.chunks import Step, chunks, verified
from srum_core.stages.interview import Ask, Interview, Seed, conduct, look, put, seen_by

log = logging.getLogger("srum")


def judge(run: Run, round: int, ahead: Callable[[], bool] | None = None) -> None:
    """Judge every candidate. Judgements with failures are recorded; nothing unreadable becomes a number.

    `ahead`: while it is true, and only of batches whose regions are all there; the stage is not finished by it."""
    run = run.at("judge", round)
    judges = run.judges()
    candidates, groundings, records = run.candidates(round), run.groundings(round), run.judgements(round)
    plan = {item.id: item for item in run.planned(round)}
    settings, step = run.settings.judge, Step("judge", round)
    asks = not all(hasattr(each, "score_many") for _, each in judges)  # else no language model is loaded
    ready = None if ahead is None else lambda chunk: ahead() and groundings.ids().issuperset(chunk)
    load, seed = lambda: asks and run.answerer(round - 1), partial(run.round_seed, "ask", round)
    ask = lambda questions: put(run.answerer(round - 1), questions)  # noqa: E731
    for chunk in chunks(run, list(plan), settings.batch, records, step, load, ready=ready):
        images = list(verified(candidates, [plan[identity] for identity in chunk]))
        if asks:
            images = seen_by(run.answerer(round - 1), images)
        pairs = list(zip(images, groundings.select(chunk), strict=True))
        records.extend(judgements(judges, pairs, settings, ask, seed))
    if records.done and rank_and_world()[0] == 0:
        models = {exchange.model for each in records for exchange in each.exchanges}
        if len(names := sorted(models - {""})) > 1:  # also of replies from before a resume
            log.warning(
                "The judgements come from several models: %s. A server has changed its model behind one name. Every "
                "answer is recorded with its model; to judge all again with one, use %s.",
                ", ".join(names),
                redo_option(records.folder),
            )


def judgements(
    judges: Sequence[tuple[str, Judge]],
    pairs: Sequence[tuple[Candidate, Grounding]],
    settings: config.Judge,
    ask: Ask,
    seed: Seed,
) -> list[Judgement]:
    """The judgement of every pair by these judges, by their names. Due questions are asked together."""
    interviews = []
    for candidate, grounding in pairs:
        own = [] if grounding.failures else judges  # else its regions are not known
        interviews.append([Interview.open(*named, candidate, grounding.regions, settings.votes) for named in own])
    every = list(chain(*interviews))
    look(every)
    conduct(every, ask, settings.retries, settings.temperature, seed)
    return [judgement(grounding, each, settings.doubt) for (_, grounding), each in zip(pairs, interviews, strict=True)]


def judgement(grounding: Grounding, interviews: Sequence[Interview], doubt: float) -> Judgement:
    """Combine the interviews about one image; a failed grounding is a failure of the judgement too."""
    outcome = [each for interview in interviews for each in interview.outcome(doubt)]
    return Judgement(
        grounding.candidate,
        grounding.regions,
        scores=tuple(each for each in outcome if isinstance(each, Score)),
        exchanges=tuple(chain(*(interview.exchanges for interview in interviews))),
        failures=grounding.failures + tuple(each for each in outcome if isinstance(each, Unreadable)),
        boxes=interviews[0].candidate.boxes if interviews else None,
    )
