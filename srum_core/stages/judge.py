"""regions -> judgements: judges ask, the model answers, judges parse; unreadable answers are requested again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from srum_core import config
from srum_core.protocols import Judge
from srum_core.records import Candidate, Grounding, Judgement, Score, Unreadable
from srum_core.runs.files import redo_option
from srum_core.runs.run import Run
from srum_core.runs.store import rank_and_world
from srum_core.stages.asking import ask, seen_by_answerer, warn_of_models
from srum_core.stages.chunks import Step, chunks, verified
from srum_core.stages.interview import Ask, Interview, Seed, conduct, look


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
    load = lambda: asks and run.answerer(round - 1)  # noqa: E731
    for chunk in chunks(run, list(plan), settings.batch, records, step, load, ready=ready):
        seen = list(verified(candidates, [plan[identity] for identity in chunk]))
        if asks:
            seen = seen_by_answerer(run, round - 1, seen)
        pairs = list(zip(seen, groundings.select(chunk), strict=True))
        records.extend(
            judgements(
                judges,
                pairs,
                settings,
                lambda questions: ask(run, round - 1, questions),
                lambda *what: run.round_seed("ask", round, *what),
            )
        )
    if records.done and rank_and_world()[0] == 0:
        models = {exchange.model for each in records for exchange in each.exchanges}
        warn_of_models(models, redo_option(records.folder))


def judgements(
    judges: Sequence[tuple[str, Judge]],
    pairs: Sequence[tuple[Candidate, Grounding]],
    settings: config.Judge,
    ask: Ask,
    seed: Seed,
) -> list[Judgement]:
    """The judgement of every pair by these judges, by their names. Due questions are asked together."""
    interviews = [_open(judges, candidate, grounding, settings.votes) for candidate, grounding in pairs]
    every = [interview for each in interviews for interview in each]
    look(every)
    conduct(every, ask, settings.retries, settings.temperature, seed)
    return [judgement(grounding, each, settings.doubt) for (_, grounding), each in zip(pairs, interviews, strict=True)]


def _open(
    judges: Sequence[tuple[str, Judge]], candidate: Candidate, grounding: Grounding, votes: int
) -> list[Interview]:
    """An interview per judge; none where the regions are not known."""
    if grounding.failures:
        return []
    return [Interview.open(name, each, candidate, grounding.regions, votes) for name, each in judges]


def judgement(grounding: Grounding, interviews: Sequence[Interview], doubt: float) -> Judgement:
    """Combine the interviews about one image; a failed grounding is a failure of the judgement too."""
    found = [each for interview in interviews for each in interview.outcome(doubt)]
    return Judgement(
        grounding.candidate,
        grounding.regions,
        scores=tuple(each for each in found if isinstance(each, Score)),
        exchanges=tuple(exchange for interview in interviews for exchange in interview.exchanges),
        failures=grounding.failures + tuple(each for each in found if isinstance(each, Unreadable)),
        boxes=interviews[0].candidate.boxes if interviews else None,
    )
