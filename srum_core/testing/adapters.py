"""Requirements of every adapter: here generation and understanding, in `adapter_training` training.

Run it on a small model with random weights, loaded in float32. No output layer may be all zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from attrs import evolve
from PIL import Image
from torch import Tensor, nn

from srum_core.flow import Recipe
from srum_core.models.weights import finite
from srum_core.plugins.registry import require_protocol
from srum_core.protocols import ImageGenerator, UnifiedModel
from srum_core.records import BoxFormat, Question
from srum_core.testing.adapter_training import TrainingConformance
from srum_core.testing.fixtures import after, called, sample_image
from srum_core.testing.generators import check_samples, draw
from srum_core.testing.probes import CORNERS, by_corner, with_inverted_corner


class AdapterConformance(TrainingConformance):
    """Subclass it as `Test…` with a fixture `adapter`, which may be shared by the module: tests clean up."""

    questions: Sequence[str] = ("What is in the picture?", "Is there a cup?", "Which colours do you see?")

    @pytest.fixture
    def generator(self, adapter: UnifiedModel) -> ImageGenerator:
        return adapter

    def test_it_is_a_unified_model(self, adapter: UnifiedModel) -> None:
        require_protocol(adapter, UnifiedModel, type(adapter).__name__)
        assert isinstance(adapter.denoiser, nn.Module), f"`denoiser` is a {type(adapter.denoiser).__name__}, no Module."
        assert isinstance(adapter.recipe, Recipe), f"`recipe` is a {type(adapter.recipe).__name__}, no Recipe."

    # ---- encoding ---------------------------------------------------------------------------------------------------

    @after("test_it_is_a_unified_model")
    def test_the_latent_has_the_orientation_of_the_image(self, adapter: UnifiedModel) -> None:
        assert len(set(self.sizes)) > 1 and any(w != h for w, h in self.sizes), (  # noqa: PT018
            "`sizes` must hold several sizes, and at least one that is not square: square ones hide a transposed grid."
        )
        for width, height in self.sizes:
            latent = encode(adapter, [sample_image((width, height))])[0]
            assert latent.ndim == 3, (
                f"A latent has the shape {tuple(latent.shape)}; (rows, columns, channels) is needed."
            )
            rows, columns = latent.shape[:2]
            follows = rows == columns if self.square_grid or width == height else (columns > rows) == (width > height)
            assert follows and (self.square_grid or (rows == columns) == (width == height)), (  # noqa: PT018
                f"An image {width} wide and {height} high has a latent of {rows} rows and {columns} columns. Latents "
                "are (rows, columns, channels): is the grid transposed, or every image squeezed into a square? Where "
                "the model itself works like that, set `square_grid = True`; if it rounds sizes, set other `sizes`."
            )

    @after("test_latents_are_finite_and_carry_no_gradient", "test_the_latent_has_the_orientation_of_the_image")
    def test_a_corner_of_the_image_is_that_corner_of_the_grid(self, adapter: UnifiedModel) -> None:
        for size in self.sizes:
            if self.square_grid and size[0] != size[1]:
                continue  # squeezed or cropped: corners move
            image = sample_image(size, 1)
            plain = encode(adapter, [image])[0]
            for corner in CORNERS:
                changes = encode(adapter, [with_inverted_corner(image, corner, part=2)])[0] - plain
                effects = by_corner(changes)
                strongest = max(effects, key=lambda name: effects[name])
                assert effects[strongest] > 0, f"The latent does not change with the {corner} corner of the image."
                assert strongest == corner, (
                    f"In a {size[0]}x{size[1]} image, changing the {corner} corner changes the {strongest} corner of "
                    "the grid most. Rows run from the top, columns from the left: look for a transposed grid, flipped "
                    "rows, or a reshape that takes width for height. Otherwise rewards land in the wrong place."
                )

    @after("test_latents_are_finite_and_carry_no_gradient")
    def test_encoding_is_repeatable(self, adapter: UnifiedModel) -> None:
        images = self.images()
        for one, other in zip(encode(adapter, images), encode(adapter, images), strict=True):
            assert torch.equal(one, other), (
                "Encoding the same image twice gave two latents: take the posterior's mean, or seed the sample from "
                "the image. Latents are kept on disk and training must be repeatable."
            )

    @after("test_encoding_is_repeatable")
    def test_encoding_is_independent_of_the_batch(self, adapter: UnifiedModel) -> None:
        images = self.images()
        for index, latent in enumerate(encode(adapter, images)):
            alone = encode(adapter, [images[index]])[0]
            assert alone.shape == latent.shape, (
                f"An image's latent is {tuple(alone.shape)} alone and {tuple(latent.shape)} in a batch."
            )
            self.same(
                latent, alone, "An image's latent depends on what else is in the batch. Padding is the usual cause."
            )

    @after("test_it_is_a_unified_model")
    def test_latents_are_finite_and_carry_no_gradient(self, adapter: UnifiedModel) -> None:
        for latent in encode(adapter, self.images()):
            assert latent.is_floating_point(), (
                f"A latent holds {latent.dtype}; floating-point numbers are needed (pixels as such are scaled first)."
            )
            assert latent.isfinite().all(), "A latent holds a value that is not finite."
            assert not latent.requires_grad, "Latents must carry no gradient: decorate `encode` with @torch.no_grad()."

    # ---- generation -------------------------------------------------------------------------------------------------

    @after("test_the_latent_has_the_orientation_of_the_image")
    def test_one_image_per_prompt(self, adapter: UnifiedModel) -> None:
        grids = set[tuple[int, ...]]()

        def note(_: nn.Module, inputs: tuple[Sequence[Tensor], ...]) -> None:
            grids.update(tuple(noisy.shape[:2]) for noisy in (inputs or [()])[0])

        with adapter.denoiser.register_forward_pre_hook(note):
            samples = check_samples(draw(adapter, self.prompts, range(len(self.prompts))), len(self.prompts))
        for sample in samples:
            latent = called("Generated images must be encodable", partial(encode, adapter, [sample.image]))[0]
            if sample.latent is not None:
                grids = {tuple(sample.latent.shape[:2])}
            # The grid is unknown if a model generates without calling its denoiser.
            assert not grids or tuple(latent.shape[:2]) in grids, (
                f"An image generated on a grid of {sorted(grids)} cells is encoded on {tuple(latent.shape[:2])}: "
                "it would be trained at another size than it was generated at. Does `encode` resize images?"
            )

    @after("test_one_image_per_prompt")
    def test_an_image_of_values_that_are_not_finite_is_a_failure(self, adapter: UnifiedModel) -> None:
        weights = {name: parameter.clone() for name, parameter in adapter.denoiser.named_parameters()}
        with torch.no_grad():
            for parameter in adapter.denoiser.parameters():
                parameter.fill_(float("nan"))
        try:
            samples = adapter.generate(self.prompts[:1], [0])
        except Exception:  # an adapter may refuse such values itself
            return
        finally:
            with torch.no_grad():
                for name, parameter in adapter.denoiser.named_parameters():
                    parameter.copy_(weights[name])
        assert all(sample.failure or (sample.latent is not None and not finite(sample.latent)) for sample in samples), (
            "With weights that are NaN, `generate` gave an image like any other: it would be scored, and trained on. "
            "Before pixels become whole levels, give their tensor to `srum_core.models.weights.failure` and the "
            "result to `Sample.failure`."
        )

    @pytest.mark.parametrize("training", [False, True], ids=["frozen in eval mode", "trainable in train mode"])
    @after("test_a_velocity_has_the_shape_of_its_latent")
    def test_generating_and_answering_leave_the_denoiser_alone(
        self, adapter: UnifiedModel, tmp_path: Path, training: bool
    ) -> None:
        denoiser = adapter.denoiser
        modes = {name: module.training for name, module in denoiser.named_modules()}
        needs = {name: parameter.requires_grad for name, parameter in denoiser.named_parameters()}
        weights = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
        try:
            denoiser.train(training).requires_grad_(training)
            draw(adapter, self.prompts[:1], [0])
            answer(adapter, self.sample_questions(tmp_path)[:1])
            encode(adapter, self.images()[:1])
            flags = {module.training for module in denoiser.modules()}
            grads = {parameter.requires_grad for parameter in denoiser.parameters()}
            assert torch.is_grad_enabled(), (
                "Gradients are off after generating and answering: use torch.no_grad() around it."
            )
        finally:
            torch.set_grad_enabled(True)
            for name, module in denoiser.named_modules():
                module.training = modes[name]
            for name, parameter in denoiser.named_parameters():
                parameter.requires_grad_(needs[name])
        assert flags == {training}, (
            f"Generating or answering left the denoiser in {'eval' if training else 'train'} mode: "
            "put `module.training` back as it was."
        )
        assert grads == {training}, "Generating or answering changed which parameters require a gradient."
        changed = [name for name, tensor in denoiser.state_dict().items() if not torch.equal(tensor, weights[name])]
        assert not changed, f"Generating or answering changed the denoiser's weights ({', '.join(changed[:3])})."

    # ---- understanding ----------------------------------------------------------------------------------------------

    @after("test_it_is_a_unified_model")
    def test_answering_gives_a_text_per_question(self, adapter: UnifiedModel, tmp_path: Path) -> None:
        questions = self.sample_questions(tmp_path)
        part = Question(questions[0].image, self.questions[0], (0.25, 0.25, 0.75, 1.0), max_new_tokens=4)
        aloud = Question(questions[0].image, self.questions[0], max_new_tokens=4, think=True)
        answers = answer(adapter, [*questions, part, aloud])
        assert len(answers) == len(questions) + 2, (
            f"{len(answers)} answers came back for {len(questions) + 2} questions."
        )
        assert all(isinstance(each, str) for each in answers), f"Answers must be strings, not {answers}."

    @pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
    @after("test_answering_gives_a_text_per_question")
    def test_answers_are_repeatable_and_independent_of_the_batch(
        self, adapter: UnifiedModel, tmp_path: Path, temperature: float
    ) -> None:
        questions = self.sample_questions(tmp_path, temperature)
        batch, reordered = answer(adapter, questions), answer(adapter, questions[::-1])[::-1]
        alone = [answer(adapter, [question])[0] for question in questions]
        for where, answers in (("asked in another order", reordered), ("asked alone", alone)):
            assert list(batch) == list(answers), (
                f"Questions were answered {list(batch)}, but {where} {list(answers)}. Answers come in the order of "
                "the questions, greedy at temperature 0 and else sampled from a generator seeded for each question; "
                "padding must not be attended to."
            )

    @after("test_answers_are_repeatable_and_independent_of_the_batch", temperature=0.0)
    def test_another_seed_gives_another_sampled_answer(self, adapter: UnifiedModel, tmp_path: Path) -> None:
        question = evolve(self.sample_questions(tmp_path)[0], temperature=5.0)
        answers = answer(adapter, [evolve(question, seed=seed) for seed in range(8)])
        assert len(set(answers)) > 1, (
            f"At temperature 5, eight seeds all gave {answers[0]!r}. A retry asks the same question with another seed, "
            "and votes do: sample from the question's own `temperature` and `seed`."
        )

    def test_boxes_have_a_declared_format(self, adapter: UnifiedModel) -> None:
        if not hasattr(adapter, "box_format"):
            return  # then boxes are pixels of the stored image
        for size in self.sizes:
            message = adapter.box_format(size)
            assert isinstance(message, BoxFormat), f"`box_format({size})` gave {message!r}; a BoxFormat is needed."
            assert message.seen is None or min(message.seen) > 0, (
                f"`box_format({size})` declares the image size {message.seen}."
            )

    def sample_questions(self, folder: Path, temperature: float = 0.0) -> list[Question]:
        """Write short questions about images of all `sizes`."""
        questions = []
        for index, size in enumerate(self.sizes):
            path = folder / f"asked-{index}.png"
            sample_image(size, index).save(path)
            text = self.questions[index % len(self.questions)]
            questions.append(Question(path, text, max_new_tokens=8, temperature=temperature, seed=index))
        return questions


def encode(adapter: UnifiedModel, images: Sequence[Image.Image]) -> list[Tensor]:
    sizes = ", ".join(f"{image.width}x{image.height}" for image in images)
    latents = called(f"`encode` failed on images of {sizes} pixels", lambda: list(adapter.encode(images)))
    assert len(latents) == len(images), f"{len(latents)} latents came back for {len(images)} images."
    return latents


def answer(adapter: UnifiedModel, questions: Sequence[Question]) -> Sequence[str]:
    return called(f"`answer` failed on {len(questions)} questions", lambda: adapter.answer(questions))
