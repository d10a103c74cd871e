"""candidates -> regions: where to look."""

from __future__ import annotations

from collections.abc import Sequence

from srum_core.protocols import Grounder
from srum_core.records import Candidate, Exchange, Grounding, Question
from srum_core.run import Run, refuse
from srum_core.stages import Step, chunks


def ground(run: Run, round: int) -> None:
    """Find the regions of every candidate. The model is loaded only if the grounder asks something."""
    use = run.settings.grounder
    grounder: Grounder = run.registry.create("grounder", use)
    candidates, records = run.candidates(round), run.groundings(round)
    order = [item.id for item in run.planned(round)]
    for chunk in chunks(run, order, run.settings.ground.batch, records, Step("ground", round)):
        some = list(candidates.select(chunk))
        questions = [list(grounder.questions(candidate)) for candidate in some]
        answers = iter(ask(run, round, [question for each in questions for question in each]))
        records.extend(
            _grounding(grounder, use.use, candidate, asked, [next(answers) for _ in asked])
            for candidate, asked in zip(some, questions, strict=True)
        )


def ask(run: Run, round: int, questions: Sequence[Question]) -> list[str]:
    """The answers, in order. Raises PluginError if there are more or fewer than questions."""
    if not questions:
        return []
    answerer = run.answerer(round)
    answers = list(answerer.answer(questions))
    refuse(len(answers) != len(questions), answerer, f"gave {len(answers)} answers to {len(questions)} questions.")
    return answers


def _grounding(
    grounder: Grounder, name: str, candidate: Candidate, asked: Sequence[Question], answers: Sequence[str]
) -> Grounding:
    regions = tuple(grounder.regions(candidate, answers))
    twice = len({region.id for region in regions}) != len(regions)
    refuse(twice, grounder, f"gave two regions of picture {candidate.id} the same id. Each needs its own.")
    exchanges = tuple(Exchange(name, question, answer) for question, answer in zip(asked, answers, strict=True))
    return Grounding(candidate.id, regions, exchanges)
