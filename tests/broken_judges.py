"""Judges and grounders, each broken in one way, and the test of their suite that must notice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs
from PIL import Image

from srum_core.records import Candidate, Question, Region, Score, Unreadable
from srum_judges.grounders.components import Grid
from srum_judges.judges import GlobalLayout
from srum_judges.self_play import SelfPlay

if TYPE_CHECKING:
    from torch import Tensor

Found = Sequence[Score | Unreadable]

# ---- judges --------------------------------------------------------------------------------------------------------


class ReadsFloats(GlobalLayout):
    """`float` of what follows the label, and nothing else."""

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        words = answers[0].partition("Score:")[2].split()
        return [Score(float(words[0]))] if words else [Unreadable(0, "there is no score")]


class Crashes(ReadsFloats):
    """Finds the label, but not always a number behind it."""

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        number = re.search(r"-?\d\.\d+", answers[0].split("Score:")[1])
        return [Score(max(-1.0, min(1.0, float(number[0]))))] if number else [Unreadable(0, "there is no number")]


class ReturnsSeven(ReadsFloats):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        number = re.search(r"-?\d+(\.\d+)?", answers[0])
        return [Score(float(number[0]))] if number else [Unreadable(0, "there is no number")]


class AsksOnce(GlobalLayout):
    """The question, without a list around it."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Any:
        return super().questions(candidate, regions)[0]


class GivesNumbers(ReadsFloats):
    """For answers in its own form, which no answer has that a suite can know."""

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Any:
        mark = re.search(r"(10|[0-9]) of 10", answers[0])
        return [int(mark[1]) / 5 - 1] if mark else [Unreadable(0, "there is no mark")]


class ReadsNothing(ReadsFloats):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        return [Unreadable(0, "there is no mark")]


class ScoresSilence(GlobalLayout):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        return [
            score if isinstance(score, Score) else Score(0.0) for score in super().scores(candidate, regions, answers)
        ]


class DropsWhatItCannotRead(GlobalLayout):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        return [score for score in super().scores(candidate, regions, answers) if isinstance(score, Score)]


class CountsQuestions(GlobalLayout):
    numbers = count()

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [Question(candidate.image, f"Question {next(self.numbers)}: is it well arranged?")]


class RemembersAnswers(GlobalLayout):
    last = ""

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        self.last, before = answers[0], self.last
        return super().scores(candidate, regions, [before or answers[0]])


class NeedsRegions(GlobalLayout):
    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [Question(candidate.image, f"What is in region {regions[0].id}?")]


class ScoresStrangers(GlobalLayout):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        match = re.search(r"Region ID: (\w+)", answers[0])
        return [Score(0.5, match[1] if match else None)] if answers[0].strip() else [Unreadable(0, "it is empty")]


class AsksAboutAnotherImage(GlobalLayout):
    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [Question(candidate.image.with_name("x.png"), "Is it well arranged?")]


class ImportsTorchToRead(GlobalLayout):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        import torch.nn.functional  # noqa: F401

        return super().scores(candidate, regions, answers)


class AsksOnAtRandom(SelfPlay):
    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Question]:
        return random.sample(questions := super().further(candidate, regions, answers), len(questions))


class RemembersTurns(SelfPlay):
    """Asks on once, and not for the next image."""

    asked = False

    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Question]:
        before, self.asked = self.asked, True
        return [] if before else super().further(candidate, regions, answers)


class NeverEnds(SelfPlay):
    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Question]:
        return super().further(candidate, regions, answers[:1])


class CrashesOnTheWay(SelfPlay):
    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Question]:
        number = int(re.findall(r"\d+", answers[0])[0]) if "Score" in answers[0] else 0
        return super().further(candidate, regions, answers)[number:]


class TakesSilenceForNo(SelfPlay):
    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        return super().scores(candidate, regions, [answers[0], *(each.strip() or "no" for each in answers[1:])])


class NeverLedOn(SelfPlay):
    """Wants questions in a form of its own, and its suite was not told of it."""

    def further(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Question]:
        return super().further(candidate, regions, answers) if answers[0].startswith("Q:") else []


class Looks:
    """How bright images are, without a question: looks at batches with torch."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return []

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Found:
        return self.score_many([candidate], [regions])[0]

    def score_many(self, candidates: Sequence[Candidate], regions: Sequence[Sequence[Region]]) -> Sequence[Found]:
        values = 2 * self.brightness(candidates) - 1
        return [[Score(float(value), judge="looks")] for value in values]

    def brightness(self, candidates: Sequence[Candidate]) -> Tensor:
        """(n,) in [0, 1]."""
        import torch

        images = [Image.open(each.image).convert("L").resize((8, 8)) for each in candidates]
        return torch.stack([torch.tensor(list(image.tobytes())).float().mean() / 255 for image in images])


class ComparesWithTheBatch(Looks):
    def brightness(self, candidates: Sequence[Candidate]) -> Tensor:
        values = super().brightness(candidates)
        return (values - values.mean() + 0.5).clamp(0, 1)


class LosesTheOrder(Looks):
    def brightness(self, candidates: Sequence[Candidate]) -> Tensor:
        return super().brightness(candidates).sort().values


class LooksOnce(Looks):
    def brightness(self, candidates: Sequence[Candidate]) -> Tensor:
        return super().brightness(candidates[:1])


class LooksAndAsks(Looks):
    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return [Question(candidate.image, "Is it bright?")]


# ---- grounders -----------------------------------------------------------------------------------------------------


class TwinIds(Grid):
    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        return [attrs.evolve(region, id="1") for region in super().regions(candidate, answers)]


class LooksAtRandom(Grid):
    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        return [Region("1", (0.0, 0.0, 0.1 + 0.8 * random.random(), 1.0))]


class ReadsJsonOnly(Grid):
    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, "Which boxes are there?")]

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        return [Region(str(i), tuple(box)) for i, box in enumerate(json.loads(answers[0] or "[]"))]


class PixelBoxes(Grid):
    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        return [Region("1", (0, 0, *candidate.size))]


# ---- what must be noticed ------------------------------------------------------------------------------------------

JUDGES = {
    "AsksOnce": (AsksOnce, "test_it_is_a_judge", "must return a list of Question records, but it returned Question"),
    "GivesNumbers": (GivesNumbers, "test_a_valid_answer_gives_a_score", "one that holds float"),
    "ReadsNothing": (ReadsNothing, "test_a_valid_answer_gives_a_score", "gives no score for the answer"),
    "Crashes": (Crashes, "test_odd_answers_are_scores_or_unreadable", "it raised IndexError"),
    "ReturnsSeven": (ReturnsSeven, "test_scores_stay_between_minus_one_and_one", "must be <= 1.0: 7"),
    "ReadsFloats": (ReadsFloats, "test_odd_answers_are_scores_or_unreadable", "could not convert string"),
    "ScoresSilence": (ScoresSilence, "test_empty_answers_never_give_a_score", "gives the score 0.0 for the answer ''"),
    "DropsWhatItCannotRead": (DropsWhatItCannotRead, "test_empty_answers_never_give_a_score", "reports nothing for"),
    "CountsQuestions": (CountsQuestions, "test_asking_is_pure", "Asking must be pure"),
    "RemembersAnswers": (RemembersAnswers, "test_reading_is_pure", "differently the second time"),
    "NeedsRegions": (NeedsRegions, "test_an_image_without_regions_is_no_problem", "image without regions"),
    "ScoresStrangers": (ScoresStrangers, "test_odd_answers_are_scores_or_unreadable", 'scores region "99"'),
    "AsksAboutAnotherPicture": (AsksAboutAnotherImage, "test_asking_is_pure", "asks about .*x.png, but"),
    "AsksOnAtRandom": (AsksOnAtRandom, "test_asking_further_is_pure", r"AsksOnAtRandom\.further gave other questions"),
    "RemembersTurns": (RemembersTurns, "test_asking_further_is_pure", r"RemembersTurns\.further gave other questions"),
    "NeverEnds": (NeverEnds, "test_reading_is_pure", "still gives questions after 8 turns"),
    "CrashesOnTheWay": (
        CrashesOnTheWay,
        "test_odd_answers_are_scores_or_unreadable",
        "further .* it raised IndexError",
    ),
    "TakesSilenceForNo": (TakesSilenceForNo, "test_empty_answers_never_give_a_score", "gives the score -1.0 for"),
    "NeverLedOn": (NeverLedOn, "test_asking_further_is_pure", "into the attribute `openers`"),
    "ComparesWithTheBatch": (ComparesWithTheBatch, "test_no_score_depends_on_the_batch", "no statistics of the batch"),
    "LosesTheOrder": (LosesTheOrder, "test_no_score_depends_on_the_batch", "in the order of the images"),
    "LooksOnce": (LooksOnce, "test_no_score_depends_on_the_batch", "gave 1 results for 5 images"),
    "LooksAndAsks": (LooksAndAsks, "test_no_score_depends_on_the_batch", "has `score_many` asks none"),
    "ImportsTorchToRead": (ImportsTorchToRead, "test_judging_imports_no_torch", "imports torch while it asks or reads"),
}
GROUNDERS = {
    "TwinIds": (TwinIds, "test_regions_have_boxes_and_ids_of_their_own", "the same id '1'"),
    "LooksAtRandom": (LooksAtRandom, "test_looking_again_finds_the_same", "the second time"),
    "ReadsJsonOnly": (ReadsJsonOnly, "test_odd_answers_are_regions_or_unreadable", "JSONDecodeError"),
    "PixelBoxes": (PixelBoxes, "test_regions_have_boxes_and_ids_of_their_own", "must be fractions"),
}
