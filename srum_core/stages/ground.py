"""candidates -> regions: proposed by the grounder, without near-duplicates, checked by the verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from srum_core.errors import refuse
from srum_core.protocols import Grounder, Judge
from srum_core.records import Candidate, Dropped, Grounding, Question, Region, Score, Unreadable, iou, near_duplicate
from srum_core.runs.run import Run
from srum_core.stages.asking import ask, seen_by_answerer
from srum_core.stages.chunks import Step, chunks, verified
from srum_core.stages.interview import Interview, conduct


@frozen
class _Proposing:
    """A grounder with the interface of a judge: it gives no scores, but reports unreadable answers."""

    grounder: Grounder

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return self.grounder.questions(candidate)

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Unreadable]:
        if not answers:
            return []  # it asks no questions, and running it twice may be expensive
        return [each for each in self.grounder.regions(candidate, answers) if isinstance(each, Unreadable)]


def ground(run: Run, round: int, ahead: Callable[[], bool] | None = None) -> None:
    """Propose the regions of every candidate. The answerer is loaded only if there are questions.

    `ahead`: while it is true, and only of batches whose images are all there; the stage is not finished by it."""
    run = run.at("ground", round)
    grounder: Grounder = run.registry.create("grounder", run.settings.grounder)
    use = run.settings.verifier
    verifier: Judge | None = run.registry.create("judge", use) if use else None
    candidates, records = run.candidates(round), run.groundings(round)
    plan = {item.id: item for item in run.planned(round)}
    ready = None if ahead is None else lambda chunk: ahead() and candidates.ids().issuperset(chunk)
    for chunk in chunks(run, list(plan), run.settings.ground.batch, records, Step("ground", round), ready=ready):
        chosen = list(verified(candidates, [plan[identity] for identity in chunk]))
        failed = [Grounding(each.id, failures=(Unreadable(0, each.failure),)) for each in chosen if each.failure]
        some = [each for each in chosen if not each.failure]
        if verifier or any(grounder.questions(candidate) for candidate in some):
            some = seen_by_answerer(run, round - 1, some)
        name = run.settings.grounder.use
        proposals = [Interview.open(name, _Proposing(grounder), candidate, ()) for candidate in some]
        _conduct(run, round, proposals)
        found = [_proposed(grounder, interview, run.settings.ground.duplicates) for interview in proposals]
        if use and verifier:
            found = _verified(run, round, use.use, verifier, some, found)
        records.extend([*found, *failed])


def _conduct(run: Run, round: int, interviews: Sequence[Interview]) -> None:
    settings = run.settings.ground
    conduct(
        interviews,
        lambda questions: ask(run, round - 1, questions),
        settings.retries,
        settings.temperature,
        lambda *what: run.round_seed("ground", round, *what),
    )


def _proposed(grounder: Grounder, interview: Interview, threshold: float) -> Grounding:
    """The grounder's regions, without near-duplicates of earlier ones."""
    found = interview.with_refusals(0, grounder.regions(interview.candidate, interview.texts(0)))
    failures = tuple(each for each in found if isinstance(each, Unreadable))
    regions = [each for each in found if isinstance(each, Region)]
    identity = interview.candidate.id
    twice = len({region.id for region in regions}) != len(regions)
    refuse(twice, grounder, f"gave two regions of image {identity} the same id. Ids must be unique.")
    if failures:
        return Grounding(identity, exchanges=tuple(interview.exchanges), failures=failures)
    kept: list[Region] = []
    dropped: list[Dropped] = []
    for region in regions:
        other = near_duplicate(region.box, kept, threshold)
        if other is None:
            kept.append(region)
        else:
            overlap = iou(region.box, other.box)
            why = f"near-duplicate of region {other.id} (intersection over union {overlap:.2f})"
            dropped.append(Dropped(region, why))
    return Grounding(identity, tuple(kept), tuple(interview.exchanges), tuple(dropped))


def _verified(
    run: Run, round: int, name: str, verifier: Judge, candidates: Sequence[Candidate], found: Sequence[Grounding]
) -> list[Grounding]:
    """Without the regions that the verifier scores below 0 (paper §3.1). An unreadable verdict drops nothing."""
    pairs = list(zip(candidates, found, strict=True))
    interviews = [Interview.open(name, verifier, candidate, each.regions) for candidate, each in pairs]
    _conduct(run, round, interviews)
    return [_without_rejected(name, each, interview) for each, interview in zip(found, interviews, strict=True)]


def _without_rejected(name: str, found: Grounding, interview: Interview) -> Grounding:
    outcome = interview.outcome()
    rejected = {each.region: each for each in outcome if isinstance(each, Score) and each.value < 0}
    dropped = [
        Dropped(region, f"rejected by {name}: {rejected[region.id].reason or 'no reason was given'}")
        for region in found.regions
        if region.id in rejected
    ]
    return Grounding(
        found.candidate,
        tuple(region for region in found.regions if region.id not in rejected),
        (*found.exchanges, *interview.exchanges),
        (*found.dropped, *dropped),
        found.failures,
        tuple(each for each in outcome if isinstance(each, Unreadable)),
    )
