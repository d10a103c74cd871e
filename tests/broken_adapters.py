"""Toy models, each broken in one way that happens to people, and the test of `AdapterConformance` that must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from PIL import Image
from torch import Tensor, nn
from toy import ToyBlock, ToyDenoiser, ToyModel, ToyOptions

from srum_core.records import BoxFormat, Question, Sample


class TransposedGrid(ToyModel):
    """Generates wide images, so that two tests could notice."""

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return [latent.transpose(0, 1) for latent in super().encode(images)]

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        wide = [torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.denoiser(wide, torch.ones(len(wide)), self.condition(prompts))
        return [Sample(sample.image.resize((8, 4))) for sample in super().generate(prompts, seeds)]


class TransposedCells(ToyModel):
    """The shape is right, what is in it is not."""

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return [latent.transpose(0, 1).reshape(latent.shape) for latent in super().encode(images)]


class FlippedRows(ToyModel):
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return [latent.flip(0) for latent in super().encode(images)]


class SquareOnly(ToyModel):
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return super().encode([image.resize((8, 8)) for image in images])


class EncodeEnlarges(ToyModel):
    """Small images grow before they are encoded, those that it generates too."""

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return super().encode([image.resize((2 * image.width, 2 * image.height)) for image in images])


class RandomEncode(ToyModel):
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return [latent + 0.01 * torch.randn_like(latent) for latent in super().encode(images)]


class EncodeSeesTheBatch(ToyModel):
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        latents = super().encode(images)
        mean = torch.stack([latent.mean() for latent in latents]).mean()
        return [latent - mean for latent in latents]


class EncodeGivesBytes(ToyModel):
    """Of pixels as they are, not yet scaled."""

    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return [(latent * 255).byte() for latent in super().encode(images)]


class EncodeWithGraph(ToyModel):
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return [latent.requires_grad_() for latent in super().encode(images)]


# ---- the denoiser --------------------------------------------------------------------------------------------------


def with_denoiser(wrap: Callable[[ToyDenoiser, list[Tensor], Tensor, Tensor], list[Tensor]]) -> type[ToyModel]:
    """A toy model whose denoiser's forward is `wrap(denoiser, noisy, time, condition)`."""

    class Denoiser(ToyDenoiser):
        def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
            return wrap(self, list(noisy), time, condition)

    class Model(ToyModel):
        def __init__(self, options: Any = None) -> None:
            super().__init__(options)
            self.denoiser.__class__ = Denoiser

    return Model


def plain(denoiser: ToyDenoiser, noisy: Sequence[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
    return ToyDenoiser.forward(denoiser, noisy, time, condition)


DeafToText = with_denoiser(lambda d, noisy, time, condition: plain(d, noisy, time, 0 * condition))
DeafToTime = with_denoiser(lambda d, noisy, time, condition: plain(d, noisy, 0 * time, condition))
OneByOne = with_denoiser(
    lambda d, noisy, time, condition: [
        plain(d, [x], time[i : i + 1], condition[i : i + 1])[0] for i, x in enumerate(noisy)
    ]
)
WithoutGradient = with_denoiser(
    lambda d, noisy, time, condition: [v.detach() for v in plain(d, noisy, time, condition)]
)
DetachedInput = with_denoiser(
    lambda d, noisy, time, condition: [
        x.detach() + d.leave.bias + 0 * condition.sum() + time.sum() for x in plain(d, noisy, time, condition)
    ]
)
BlocksFromOutside = with_denoiser(
    lambda d, noisy, time, condition: plain(d, noisy, time + 0 * d.blocks[0].up.bias.sum(), condition)
)


class ConditionOutOfWeights(ToyModel):
    def condition(self, texts: Sequence[str | None]) -> Tensor:
        return super().condition(texts) + 0 * self.denoiser.leave.weight.sum()


WrongShape = with_denoiser(lambda d, noisy, time, condition: [v[..., :2] for v in plain(d, noisy, time, condition)])


def across(latent: Tensor) -> Tensor:
    """Its cells read down the columns and written along the rows; the shape stays."""
    return latent.transpose(0, 1).reshape(latent.shape)


VelocityUnpackedAcross = with_denoiser(
    lambda d, noisy, time, condition: [across(v) for v in plain(d, noisy, time, condition)]
)
NoisePackedAcross = with_denoiser(
    lambda d, noisy, time, condition: plain(d, [across(x) for x in noisy], time, condition)
)
VelocityUpsideDown = with_denoiser(
    lambda d, noisy, time, condition: [v.flip(0) for v in plain(d, noisy, time, condition)]
)


def one_size(d: ToyDenoiser, noisy: list[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
    torch.stack(noisy)
    return plain(d, noisy, time, condition)


OneSizeOnly = with_denoiser(one_size)


def with_block(block: type[nn.Module]) -> type[ToyModel]:
    class Model(ToyModel):
        recipe = attrs.evolve(ToyModel.recipe, blocks=(block.__name__,))

        def __init__(self, options: Any = None) -> None:
            super().__init__(options)
            for each in self.denoiser.blocks:
                each.__class__ = block

    return Model


class LeakingBlock(ToyBlock):
    def forward(self, x: Tensor, owner: Tensor) -> Tensor:
        return super().forward(x, torch.zeros_like(owner))


class CountingBlock(ToyBlock):
    """Does something else the second time, as a cache would."""

    runs = 0

    def forward(self, x: Tensor, owner: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(x * self.runs, owner)


LeakingNeighbour, NotRecomputable = with_block(LeakingBlock), with_block(CountingBlock)


class MissingLora(ToyModel):
    recipe = attrs.evolve(ToyModel.recipe, lora=r"layers\..*")


class IdleLora(ToyModel):
    """LoRA on a module that never reaches the velocity."""

    recipe = attrs.evolve(ToyModel.recipe, lora="spare")

    def __init__(self, options: Any = None) -> None:
        super().__init__()
        self.denoiser.spare = nn.Linear(3, 3)


class UnusedParameter(IdleLora):
    recipe = attrs.evolve(ToyModel.recipe, full=(".*",))


class _Idle(ToyDenoiser):
    """Has a parameter that is used, but makes no difference."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(1))

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
        return [velocity + 0 * self.idle for velocity in super().forward(noisy, time, condition)]


class IdleParameter(ToyModel):
    recipe = attrs.evolve(ToyModel.recipe, full=(".*",))

    def __init__(self, options: ToyOptions | None = None) -> None:
        super().__init__(options)
        denoiser = _Idle()
        denoiser.load_state_dict(self.denoiser.state_dict(), strict=False)
        self.denoiser = denoiser.requires_grad_(False).eval()


class _Unheard(_Idle):
    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
        return ToyDenoiser.forward(self, noisy, time, 0 * self.idle * condition)


class DeafTextWeights(IdleParameter):
    """What reads the text is trained, and makes no difference."""

    def __init__(self, options: ToyOptions | None = None) -> None:
        super().__init__(options)
        self.denoiser.__class__ = _Unheard


class MissingBlocks(ToyModel):
    recipe = attrs.evolve(ToyModel.recipe, blocks=("Layer",))


class ForgetfulSave(ToyModel):
    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        super().save(directory, {})


# ---- drawing and looking --------------------------------------------------------------------------------------------


class FlagLeftOff(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        self.denoiser.eval()
        return super().generate(prompts, seeds)


class FlagLeftOn(ToyModel):
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        self.denoiser.train()
        return super().answer(questions)


class FreezesWhatItDrawsWith(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        self.denoiser.requires_grad_(False)
        return super().generate(prompts, seeds)


class ChangesWeights(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        self.denoiser.place.data.mul_(0.99)
        return super().generate(prompts, seeds)


class Unseeded(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate(prompts, torch.randint(1000, (len(seeds),)).tolist())


class OneSeedForTheBatch(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate(prompts, [seeds[0] + i for i in range(len(seeds))])


class DeafToSeeds(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate(prompts, [0] * len(seeds))


class DrawsOneImage(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate(prompts[:1], seeds[:1])


class HidesFailures(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return [Sample(sample.image) for sample in super().generate(prompts, seeds)]


class DrawsWithoutWords(ToyModel):
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        return super().generate([""] * len(prompts), seeds)


class AnswersInReverse(ToyModel):
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [f"{question.image.name}: {question.text}" for question in sorted(questions, key=lambda q: q.text)]


class AnswersAtRandom(ToyModel):
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [str(torch.randint(1000, ()).item()) if q.temperature else "yes" for q in questions]


class AnswersGreedily(ToyModel):
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return super().answer([attrs.evolve(question, temperature=0.0) for question in questions])


class AnswersOnce(ToyModel):
    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return super().answer(questions[:1])


class OddBoxes(ToyModel):
    def box_format(self, size: tuple[int, int]) -> BoxFormat:
        return {"unit": "pixels", "seen": size}  # type: ignore[return-value]


CORNER = "test_a_corner_of_the_noise_is_that_corner_of_the_velocity"
CASES: Mapping[str, tuple[type[ToyModel], str, str]] = {
    "BlocksFromOutside": (BlocksFromOutside, "test_sharding_changes_no_gradient", "must not be used outside"),
    "ConditionOutOfWeights": (ConditionOutOfWeights, "test_sharding_changes_no_gradient", "must use no weights"),
    "TransposedGrid": (TransposedGrid, "test_the_latent_has_the_orientation_of_the_image", "transposed"),
    "TransposedCells": (
        TransposedCells,
        "test_a_corner_of_the_image_is_that_corner_of_the_grid",
        "the top left|right",
    ),
    "FlippedRows": (FlippedRows, "test_a_corner_of_the_image_is_that_corner_of_the_grid", "flipped rows"),
    "EncodeEnlarges": (EncodeEnlarges, "test_one_image_per_prompt", r"\(4, 4\).* is encoded on \(8, 8\)"),
    "SquareOnly": (SquareOnly, "test_the_latent_has_the_orientation_of_the_image", "4 rows and 4 columns"),
    "RandomEncode": (RandomEncode, "test_encoding_is_repeatable", "twice gave two latents"),
    "EncodeSeesTheBatch": (
        EncodeSeesTheBatch,
        "test_encoding_is_independent_of_the_batch",
        "what else is in the batch",
    ),
    "EncodeGivesBytes": (EncodeGivesBytes, "test_latents_are_finite_and_carry_no_gradient", "holds torch.uint8"),
    "EncodeWithGraph": (EncodeWithGraph, "test_latents_are_finite_and_carry_no_gradient", "no gradient"),
    "LeakingNeighbour": (LeakingNeighbour, "test_images_do_not_see_their_neighbours", "neighbours in the batch"),
    "DeafToText": (DeafToText, "test_words_matter", "deaf to `condition`"),
    "DeafTextWeights": (DeafTextWeights, "test_words_matter", "deaf to `condition`"),
    "DeafToTime": (DeafToTime, "test_time_matters", "ignores `time`"),
    "OneByOne": (OneByOne, "test_each_block_runs_once_per_call", r"ran 3 times in one call with 3 images"),
    "OneSizeOnly": (OneSizeOnly, "test_a_velocity_has_the_shape_of_its_latent", "failed on latents .* equal size"),
    "MissingBlocks": (MissingBlocks, "test_each_block_runs_once_per_call", r"recipe\.blocks names \['Layer'\]"),
    "WithoutGradient": (WithoutGradient, "test_gradients_reach_every_trained_parameter", "carries no gradient"),
    "DetachedInput": (DetachedInput, "test_gradients_reach_every_trained_parameter", r"No gradient reaches .* detach"),
    "IdleParameter": (IdleParameter, "test_gradients_reach_every_trained_parameter", "exactly zero: idle"),
    "UnusedParameter": (UnusedParameter, "test_gradients_reach_every_trained_parameter", r"spare\.weight"),
    "WrongShape": (WrongShape, "test_a_velocity_has_the_shape_of_its_latent", "has the shape"),
    "VelocityUnpackedAcross": (VelocityUnpackedAcross, CORNER, r"the top right corner .* changes the bottom left"),
    "NoisePackedAcross": (NoisePackedAcross, CORNER, r"\(w h\)"),
    "VelocityUpsideDown": (VelocityUpsideDown, CORNER, "top left corner of .* the bottom left"),
    "NotRecomputable": (NotRecomputable, "test_activation_checkpointing_changes_no_gradient", "changes the gradient"),
    "MissingLora": (MissingLora, "test_lora_starts_neutral", "matches no module"),
    "IdleLora": (IdleLora, "test_lora_trains", "With LoRA the velocity carries no gradient"),
    "ForgetfulSave": (ForgetfulSave, "test_a_saved_model_loads_again", "another velocity than the one that was saved"),
    "FlagLeftOff": (
        FlagLeftOff,
        "test_generating_and_answering_leave_the_denoiser_alone",
        "left the denoiser in eval mode",
    ),
    "FlagLeftOn": (
        FlagLeftOn,
        "test_generating_and_answering_leave_the_denoiser_alone",
        "left the denoiser in train mode",
    ),
    "Freezes": (
        FreezesWhatItDrawsWith,
        "test_generating_and_answering_leave_the_denoiser_alone",
        "which parameters require a gradient",
    ),
    "ChangesWeights": (ChangesWeights, "test_generating_and_answering_leave_the_denoiser_alone", r"weights \(place"),
    "Unseeded": (Unseeded, "test_the_same_seed_gives_the_same_image_in_any_batch", "is another image"),
    "OneSeed": (OneSeedForTheBatch, "test_the_same_seed_gives_the_same_image_in_any_batch", "is another image"),
    "DeafToSeeds": (DeafToSeeds, "test_another_seed_gives_another_image", "ignores its seeds"),
    "DrawsOnePicture": (DrawsOneImage, "test_one_image_per_prompt", "1 images came back"),
    "HidesFailures": (
        HidesFailures,
        "test_an_image_of_values_that_are_not_finite_is_a_failure",
        r"weights that are NaN.*Sample\.failure",
    ),
    "DrawsWithoutWords": (DrawsWithoutWords, "test_other_words_give_another_image", "ignores its prompts"),
    "AnswersInReverse": (
        AnswersInReverse,
        "test_answers_are_repeatable_and_independent_of_the_batch",
        "order of the questions",
    ),
    "AnswersAtRandom": (
        AnswersAtRandom,
        "test_answers_are_repeatable_and_independent_of_the_batch",
        "seeded for each question",
    ),
    "AnswersGreedily": (AnswersGreedily, "test_another_seed_gives_another_sampled_answer", "eight seeds all gave"),
    "AnswersOnce": (AnswersOnce, "test_answering_gives_a_text_per_question", "answers came back"),
    "OddBoxes": (OddBoxes, "test_boxes_have_a_declared_format", "BoxFormat is needed"),
}
"""Name -> the model, the test that must fail, and a pattern of what it says."""
