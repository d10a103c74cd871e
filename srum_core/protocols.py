"""The protocols that plugins implement, one for each of the eight kinds, and `RunView` for events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from srum_core.records import Candidate, Judgement, Prompt, Question, Region, Row, Sample, Score, Unreadable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from srum_core.flow import FlowStep, Recipe


class RunView(Protocol):
    """The view of a run that events get."""

    folder: Path
    settings: Any


@runtime_checkable
class Answerer(Protocol):
    """Answers questions about images; a judge server needs nothing else."""

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        """One answer per question, in order. Greedy at temperature 0, else sampled from each question's own seed. A
        `records.Answer` is a str that also names its model, or the reason why this question was refused."""
        ...

    # Optional: `box_format(size: (width, height)) -> BoxFormat` declares how it writes boxes in an image of that size;
    # without it, boxes are pixels of the stored image. `converses = True` declares that it takes `question.history` as
    # earlier turns; without it, the stages write them into the question's text. `identity() -> str` names the
    # model, where the options leave it open (the model that a server happens to serve); recorded with the answers.


@runtime_checkable
class ImageGenerator(Protocol):
    """Generates images; a text-to-image model that is only evaluated needs nothing else."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        """One image per prompt; the same prompt and seed give the same image, whatever else is in the batch."""
        ...

    # Optional: `elsewhere = True`, also of an answerer, says that it works on another machine: where both do, images
    # are judged while others are generated. `cancel()` of an answerer ends what other threads ask it, by an exception.
    # Optional, for one that samples on servers with the weights that a run trains (the setting `generator`):
    # `load`: what they must load before a later round: "checkpoint" (the model so far, whole), "lora" (the folder that
    # the round before trained) or "none".
    # `follow(name, path, version) -> str`: from now on sample from the model that is served as `name`, which is `path`
    # loaded; `version` changes with its training. Returns "", or what to do where it is not served yet.


@runtime_checkable
class UnifiedModel(ImageGenerator, Answerer, Protocol):
    """Generates images, answers questions about images, and can be trained."""

    denoiser: nn.Module
    """`forward(noisy: list[(h, w, c)], time: (n,), condition) -> list[(h, w, c)]`, the velocity noise - clean.

    Time 0 is clean and 1 is noise. Each block of `recipe.blocks` runs exactly once per call."""
    recipe: Recipe
    """Facts about training that only the adapter knows: blocks, trainable patterns, LoRA targets, time schedule."""

    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """Clean latents, each (rows, columns, channels), without gradient; repeatable and independent of the batch."""
        ...

    def condition(self, texts: Sequence[str | None]) -> Any:
        """What `denoiser` takes as `condition`; None is the unconditional one (dropped text)."""
        ...

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a checkpoint that the adapter loads again. `weights`: the trained denoiser parameters by name.

        It is complete and in the upstream layout, or else the adapter has `export`."""
        ...

    # Optional:
    # `preflight(options)`, a class method (of any component): raise SrumError for what would stop a run, as far as it
    # can be known without loading a model or downloading: files that are missing, a size that cannot be generated. Of a
    # component that has it nothing is made before it is needed; others than models (and judges with `score_many`) are
    # made to see whether they can be.
    # `device`: where it computes, if its denoiser may be elsewhere before `before_training` and `condition`.
    # `window(size: (width, height)) -> Box` gives the part of an image that `encode` uses, if not the whole image.
    # `before_training(texts)` is called once before the first step with all texts that `condition` will get,
    # so that their conditions can be computed in advance and memory freed.
    # `export(directory)` writes the whole model as it is, in the upstream layout, where `save` keeps only a part of it.
    # For `srum export --to diffusers`: `diffusers_model() -> diffusers.ModelMixin`, what is trained as a class of
    # diffusers, if it is one; and the class attribute `diffusers_name`, what pipelines of diffusers call it
    # (transformer), if they load LoRA weights for it.
    # `outline(options, device: str) -> srum_core.models.memory_outline.Outline`, a class method: the model without its
    # weights, for `srum doctor --plan`.
    # For `srum analyze steps`: `sampling_times() -> Sequence[float]`, the sampling times from 1 to 0, one more than
    # steps; and `trace(prompts, seeds, steps) -> Sequence[Sequence[Image]]`, per prompt the clean estimate x - time * v
    # at each of these steps (v after guidance) as an image; at the last step it is the result of `generate`.
    # For `srum analyze activations`: `neurons() -> Mapping[str, Sequence[nn.Module]]`, per expert the modules, layer by
    # layer, whose output (rows, tokens, units) is what the units are activated with. One prompt or question is given at
    # a time; of several rows (guidance) the first is the conditional branch.


@runtime_checkable
class Grounder(Protocol):
    """Proposes image regions. One that needs no language model asks nothing and reads `candidate.image` itself."""

    def questions(self, candidate: Candidate) -> Sequence[Question]: ...

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region | Unreadable]:
        """`answers[i]` answers `questions(...)[i]`; a malformed answer gives `Unreadable` and is requested again."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Asks about an image and reads scores out of the answers. Pure: same arguments, same result, no torch."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]: ...

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        """`answers[i]` answers `questions(...)[i]`. Odd answers give `Unreadable`, never an exception, never a 0."""
        ...

    # Optional, for one that asks in turns: `further(candidate, regions, answers) -> Sequence[Question]` gives the
    # questions that follow from all answers so far, in order of asking; they are asked, and `further` is called again,
    # until it gives none. Then `scores` gets all answers. It is pure. Where answers that it needs cannot be read it
    # gives none, and `scores` returns `Unreadable` for them: new answers then lead to new follow-up questions. A
    # changed answer discards the answers that followed from it.
    #
    # Optional, for one that needs no language model (CLIP, a detector, a reward model): it may use torch, and
    # `score_many(candidates, regions) -> Sequence[Sequence[Score | Unreadable]]` scores a batch of `judge.batch`
    # images, `regions[i]` being those of `candidates[i]`. `questions` gives none, and no score depends on the batch.
    # `scores` gives the same of one image: `return self.score_many([candidate], [regions])[0]`.


@runtime_checkable
class RewardMap(Protocol):
    """Spreads a judgement over a grid."""

    def __call__(self, judgement: Judgement, grid: tuple[int, int]) -> Tensor:
        """Float32 (rows, columns), in [-1, 1]."""
        ...

    # Optional, for one that compares with the whole round: `fit(judgements, grids) -> None` is called once before
    # training, with all judgements that are trained on and each one's (rows, columns). Every process calls it with the
    # same, also when training resumes: what it keeps depends on nothing else, not even on their order.


@runtime_checkable
class Loss(Protocol):
    """Turns errors and weights into something to minimise."""

    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A scalar, the mean over all cells and channels of the step, and named scalar parts to log."""
        ...

    # Optional: `constraint`, lambda_c, for the guard: a cell is pushed away where weight + constraint < 0 (0 if
    # there is none). `needs_start = True` asks for `step.start`, the prediction before this round's training; that
    # takes one more pass without gradient a step, and a copy of the trained parameters.


@runtime_checkable
class Benchmark(Protocol):
    """Prompts, and how images (and answers about them) become a table. `score` and `table` are pure."""

    def prompts(self, split: str) -> Sequence[Prompt]: ...

    def questions(self, candidate: Candidate) -> Sequence[Question]: ...

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        """Measures of one image, recorded as they are."""
        ...

    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> Sequence[Row]: ...

    # Optional:
    # `further(candidate, answers) -> Sequence[Question]`, for one that asks in turns, as for a judge: the questions
    # that follow from all answers so far, until it gives none; `score` gets all answers in order of asking.
    # `unreadable(candidate, answers) -> Mapping[int, str]` gives the unreadable answers (by index) and the reasons:
    # they are asked for again. It gets all answers so far, and is pure.
    # `item(prompt) -> (group, id)`: how the published release knows a prompt. Seeds are made of it.
    # `reference_seed(prompt, image) -> int`: the seed of the original for image 0, 1, … of a prompt.
    # `layouts: Mapping[str, str]` and `layout(target, images) -> Layout`: folders as original scorers expect them, by
    # name (with who reads them), of images with their numbers: `Sequence[(which of its prompt's, Candidate)]`.
    # `survey() -> Sequence[PromptFile]`, for one whose prompts are read from a folder of the user's, its option `data`:
    # existing and missing files, without raising; `srum eval prompts` shows it.
    # `judge: str`: which judge it is meant for, as `--judge` takes it, where not just anybody can answer.
    # `published() -> srum_core.evaluation.published.Published`, a static method: results of others, for `srum eval
    # table`.
    # `rubrics(candidate) -> Mapping[str, float]`: "layout" and "detail" of an image from 0 to 1 without asking
    # anybody, also of unfinished ones, for `srum analyze steps`.
    # `explain(candidate, answers) -> str`: the fault of an image, in a few words for the report; "" = none.
    # A row "extra objects" of the table, (found - asked) / asked: more than before training by a tenth are warned of.
    # An option `policy` ("exclude", "zero", "reference") decides how unreadable answers count; a row "readable" holds
    # the share of answers that could be read.
