"""Maps, losses and benchmarks, each broken in one way, and the test of their suite that must notice.

The suites at the end are for `test_testing_kit.py`, which runs this file; pytest does not collect it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import broken_adapters
import broken_judges
import pytest
import torch
from torch import Tensor
from toy import ToyBenchmark, ToyModel

from srum_core.flow import FlowStep
from srum_core.records import Candidate, Judgement, Prompt, Question, Row
from srum_core.testing import (
    AdapterConformance,
    BenchmarkConformance,
    GrounderConformance,
    JudgeConformance,
    LossConformance,
    RewardMapConformance,
)
from srum_judges.grounders.components import Grid
from srum_judges.judges import GlobalLayout
from srum_losses.maps import Advantage, Paper
from srum_losses.objectives import SftLoss, SrumLoss

# ---- maps ----------------------------------------------------------------------------------------------------------


class Bleeds(Paper):
    """A map that is made smooth."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        cells = super().__call__(judgement, grid)
        return torch.nn.functional.avg_pool2d(cells[None, None], 3, 1, 1, count_include_pad=False)[0, 0]


class Normalised(Paper):
    """Scaled by the largest weight of the image, so every score reaches every cell."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        cells = super().__call__(judgement, grid)
        return cells / cells.abs().max().clamp(min=1e-3)


class TransposedMap(Paper):
    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        return super().__call__(judgement, grid).T.reshape(grid)


class ColumnsFirst(Paper):
    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        return super().__call__(judgement, grid).T


class AddsUp(Paper):
    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        return 3 * super().__call__(judgement, grid)


class DoublePrecision(Paper):
    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        return super().__call__(judgement, grid).double()


class AddsUpRounds(Advantage):
    """Its fit goes on from the one before."""

    def fit(self, judgements: Sequence[Judgement], grids: Sequence[tuple[int, int]]) -> None:
        before = self._inside
        super().fit(judgements, grids)
        self._inside += before / 10


class FirstIsTheYardstick(Paper):
    """Its fit depends on the order."""

    yardstick = 0.0

    def fit(self, judgements: Sequence[Judgement], grids: Sequence[tuple[int, int]]) -> None:
        self.yardstick = judgements[0].scores[0].value

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        return super().__call__(judgement, grid) * (0.5 + self.yardstick / 4)


class CannotFit(Paper):
    def fit(self, judgements: Sequence[Judgement], grids: Sequence[tuple[int, int]]) -> None:
        raise KeyError("grid")


class CountsCells(Paper):
    """Weights that add up to the same, however many cells there are."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        return super().__call__(judgement, grid) / (grid[0] * grid[1])


class NeedsAScore(Paper):
    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        assert next(score for score in judgement.scores if score.region is None)
        return super().__call__(judgement, grid)


# ---- losses --------------------------------------------------------------------------------------------------------

Out = tuple[Tensor, Mapping[str, Tensor]]


class MeanOfMeans(SrumLoss):
    def __call__(self, step: FlowStep) -> Out:
        parts = [
            (w[..., None] * (v - t).square()).mean()
            for v, t, w in zip(step.velocity, step.target, step.weight, strict=True)
        ]
        return torch.stack(parts).mean(), {}


class TransposedWeights(SrumLoss):
    def __call__(self, step: FlowStep) -> Out:
        return super().__call__(attrs.evolve(step, weight=[w.T.reshape(w.shape) for w in step.weight]))


class LogsWithGraph(SrumLoss):
    def __call__(self, step: FlowStep) -> Out:
        total, _ = super().__call__(step)
        return total, {"total": total}


class DetachedLoss(SrumLoss):
    def __call__(self, step: FlowStep) -> Out:
        total, parts = super().__call__(attrs.evolve(step, velocity=[step.velocity[0], step.velocity[1].detach()]))
        return total, parts


class WrongSign(SrumLoss):
    def __call__(self, step: FlowStep) -> Out:
        total, parts = super().__call__(step)
        return -total, parts


class ScalesInPlace(SrumLoss):
    def __call__(self, step: FlowStep) -> Out:
        for weight in step.weight:
            weight.mul_(0.5)
        return super().__call__(step)


# ---- benchmarks ----------------------------------------------------------------------------------------------------


class Leaves(ToyBenchmark):
    """Sound: the toy benchmark itself has the same prompts in every split."""

    def prompts(self, split: str) -> Sequence[Prompt]:
        return [Prompt(f"{split}-{i}", f"a {split} leaf, number {i}") for i in range(3)]


class TwinPrompts(Leaves):
    def prompts(self, split: str) -> Sequence[Prompt]:
        return [Prompt("leaf", text) for text in ("a leaf", "two leaves")]


class WithoutNumber(Leaves):
    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        return {"green": float("nan")}


class AsksAndCrashes(Leaves):
    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, "How green is it?")]

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        return {"green": float(answers[0].split("Score:")[1].split()[0])}


class CountsTwice(Leaves):
    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> Sequence[Row]:
        return [attrs.evolve(row, count=2 * row.count) for row in super().table(scored)]


# ---- what must be noticed ------------------------------------------------------------------------------------------

JUDGES = {
    **broken_judges.JUDGES,
    "SharesAModuleWithTorch": (
        type("Heavy", (GlobalLayout,), {"__module__": __name__}),  # else an abstract base says "abc"
        "test_its_module_imports_no_torch",
        "imports torch",
    ),
}
MAPS = {
    "Bleeds": (Bleeds, "test_a_score_acts_inside_its_box_only", "bleeds out of it"),
    "Normalised": (Normalised, "test_a_score_acts_inside_its_box_only", "normalised over the whole image"),
    "TransposedMap": (TransposedMap, "test_a_box_acts_on_its_own_side", "acts on the other side|a transposed"),
    "ColumnsFirst": (ColumnsFirst, "test_it_has_the_grid_it_was_asked_for", "rows come first"),
    "AddsUp": (AddsUp, "test_weights_are_finite_and_between_minus_one_and_one", "they lie in"),
    "DoublePrecision": (DoublePrecision, "test_it_has_the_grid_it_was_asked_for", "float32 is needed"),
    "CountsCells": (CountsCells, "test_a_finer_grid_shows_the_same_image", "number of cells must not matter"),
    "AddsUpRounds": (AddsUpRounds, "test_a_fit_depends_on_the_judgements_and_grids_alone", "once more"),
    "FirstIsTheYardstick": (
        FirstIsTheYardstick,
        "test_a_fit_depends_on_the_judgements_and_grids_alone",
        "another order",
    ),
    "CannotFit": (CannotFit, "test_it_is_a_reward_map", "cannot be fitted to a round"),
    "NeedsAScore": (NeedsAScore, "test_a_missing_score_is_a_map_or_a_sentence", "raised StopIteration"),
}
LOSSES = {
    "IgnoresWeights": (SftLoss, "test_weights_matter", "ignores the weights"),
    "TransposedWeights": (TransposedWeights, "test_weights_matter", "acts most on another cell"),
    "MeanOfMeans": (MeanOfMeans, "test_larger_images_weigh_more", "mean over cells, not over images"),
    "LogsWithGraph": (LogsWithGraph, "test_parts_are_scalars_without_gradient", "still carries its graph"),
    "DetachedLoss": (DetachedLoss, "test_the_gradient_reaches_every_image", "velocity of image 1"),
    "WrongSign": (WrongSign, "test_a_perfect_velocity_costs_no_more", "check its sign"),
    "ScalesInPlace": (ScalesInPlace, "test_the_step_is_left_as_it_is", "changed `step.weight` in place"),
}
BENCHMARKS = {
    "LeakingSplits": (ToyBenchmark, "test_splits_share_no_prompt", "leaks into the other"),
    "TwinPrompts": (TwinPrompts, "test_every_split_has_prompts_with_ids_of_their_own", "have the id 'leaf'"),
    "WithoutNumber": (WithoutNumber, "test_scores_are_finite_and_repeatable", "measures are finite numbers"),
    "AsksAndCrashes": (AsksAndCrashes, "test_odd_answers_give_numbers_or_a_sentence", "raised ValueError"),
    "CountsTwice": (CountsTwice, "test_the_table_has_well_formed_rows", "counts 6 of 3"),
}
KINDS: Mapping[str, tuple[type, type, Mapping[str, tuple[Any, str, str]], Mapping[str, Any]]] = {
    "adapter": (AdapterConformance, ToyModel, broken_adapters.CASES, {"sizes": ((8, 8), (8, 4), (4, 8))}),
    "judge": (JudgeConformance, GlobalLayout, JUDGES, {"valid": ("Score: 0.4\nReason: It is 7 of 10.",)}),
    "grounder": (GrounderConformance, Grid, broken_judges.GROUNDERS, {}),
    "reward_map": (RewardMapConformance, Paper, MAPS, {}),
    "loss": (LossConformance, SrumLoss, LOSSES, {}),
    "srum_benchmark": (BenchmarkConformance, Leaves, BENCHMARKS, {"splits": ("test", "dev")}),
}
"""Fixture -> the suite, the sound plugin, the broken ones, and what the suite's attributes are set to."""


def suite(fixture: str, component: Any, **members: Any) -> type:
    base, _, _, attributes = KINDS[fixture]
    members = {fixture: pytest.fixture(lambda self: component()), **attributes, **members}
    return type(f"Test{component.__name__}", (base,), members)


SOUND = {
    **{fixture: suite(fixture, sound) for fixture, (_, sound, _, _) in KINDS.items()},
    "judge_that_looks": suite("judge", broken_judges.Looks, needs_torch=True),
    "adapter_that_squeezes": suite("adapter", broken_adapters.SquareOnly, square_grid=True),
    "adapter_for_one_size": suite("adapter", broken_adapters.OneSizeOnly, mixed_sizes=False),
}
"""Suites that everything passes; also with what a suite can be told about a model."""


for _name, _suite in SOUND.items():
    globals()[f"TestSound_{_name}"] = _suite
for _fixture, (_, _, _cases, _) in KINDS.items():
    for _name, (_made, _, _) in _cases.items():
        globals()[f"Test{_name}"] = suite(_fixture, _made)
