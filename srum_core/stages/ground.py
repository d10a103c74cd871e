"""candidates -> regions: proposed by the grounder, without near-duplicates, checked by the verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from attrs import evolve, frozen

from srum_core.errors import refuse
from srum_core.protocols import Grounder, Judge
from srum_core.records import Candidate, Dropped, Grounding, Question, Region, Score, Unreadable, iou, near_duplicate
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step, chunks, verified
from srum_core.stages.interview import Interview, conduct, listed, put, seen_by


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
    plan, settings = {item.id: item for item in run.planned(round)}, run.settings.ground
    ready = None if ahead is None else lambda chunk: ahead() and candidates.ids().issuperset(chunk)

    seed = partial(run.round_seed, "ground", round)
    ask = lambda questions: put(run.answerer(round - 1), questions)  # noqa: E731

    for chunk in chunks(run, list(plan), settings.batch, records, Step("ground", round), ready=ready):
        every = list(verified(candidates, [plan[identity] for identity in chunk]))
        failures = [Grounding(each.id, failures=(Unreadable(0, each.failure),)) for each in every if each.failure]
        some = [each for each in every if not each.failure]
        if verifier or any(grounder.questions(candidate) for candidate in some):
            some = seen_by(run.answerer(round - 1), some)
        proposals = [Interview.open(run.settings.grounder.use, _Proposing(grounder), each, ()) for each in some]
        conduct(proposals, ask, settings.retries, settings.temperature, seed)
        groundings = [_proposed(grounder, interview, settings.duplicates) for interview in proposals]
        if use and verifier:
            pairs = zip(some, groundings, strict=True)
            verdicts = [Interview.open(use.use, verifier, candidate, each.regions) for candidate, each in pairs]
            conduct(verdicts, ask, settings.retries, settings.temperature, seed)
            groundings = list(map(_verified, groundings, verdicts))
        records.extend([*groundings, *failures])


def _proposed(grounder: Grounder, interview: Interview, threshold: float) -> Grounding:
    """The grounder's regions, without near-duplicates of earlier ones."""
    found = grounder.regions(interview.candidate, interview.texts(0))
    proposals = interview.with_refusals(0, listed(f'`regions` of "{interview.name}"', found, Region, Unreadable))
    failures = tuple(each for each in proposals if isinstance(each, Unreadable))
    regions = [each for each in proposals if isinstance(each, Region)]
    identity = interview.candidate.id
    twice = len({region.id for region in regions}) != len(regions)
    refuse(twice, grounder, f"gave two regions of image {identity} the same id. Ids must be unique.")
    if failures:
        return Grounding(identity, exchanges=tuple(interview.exchanges), failures=failures)
    unique: list[Region] = []
    dropped: list[Dropped] = []
    for region in regions:
        other = near_duplicate(region.box, unique, threshold)
        if other is None:
            unique.append(region)
        else:
            overlap = iou(region.box, other.box)
            why = f"near-duplicate of region {other.id} (intersection over union {overlap:.2f})"
            dropped.append(Dropped(region, why))
    return Grounding(identity, tuple(unique), tuple(interview.exchanges), tuple(dropped))


def _verified(grounding: Grounding, interview: Interview) -> Grounding:
    """Without the regions that the verifier scores below 0 (paper §3.1). An unreadable verdict drops nothing."""
    outcome = interview.outcome()
    rejections = {each.region: each for each in outcome if isinstance(each, Score) and each.value < 0}
    dropped = [
        Dropped(region, f"rejected by {interview.name}: {rejections[region.id].reason or 'no reason was given'}")
        for region in grounding.regions
        if region.id in rejections
    ]
    return evolve(
        grounding,
        regions=tuple(region for region in grounding.regions if region.id not in rejections),
        exchanges=(*grounding.exchanges, *interview.exchanges),
        dropped=(*grounding.dropped, *dropped),
        unverified=tuple(each for each in outcome if isinstance(each, Unreadable)),
    )
