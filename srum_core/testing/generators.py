"""Requirements of every image generator: adapters, and text-to-image models that are only evaluated."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops

from srum_core.plugins.registry import require_protocol
from srum_core.protocols import ImageGenerator
from srum_core.records import Sample
from srum_core.testing.fixtures import after, called


class SeedConformance:
    """Check that an image depends on its own prompt and seed alone; for a fixture `generator`."""

    prompts: Sequence[str] = ("a red cup on a wooden table", "two dogs", "a very small house far away, by the sea")
    pixel_tolerance: int = 2
    """Largest difference, of 255 levels, between images that should be the same."""

    @after("test_one_image_per_prompt", "test_images_do_not_see_their_neighbours")
    def test_the_same_seed_gives_the_same_image_in_any_batch(self, generator: ImageGenerator) -> None:
        prompts, seeds = list(self.prompts), list(range(len(self.prompts)))
        batch, reordered = draw(generator, prompts, seeds), draw(generator, prompts[::-1], seeds[::-1])[::-1]
        for index, (sample, other) in enumerate(zip(batch, reordered, strict=True)):
            alone = draw(generator, [prompts[index]], [seeds[index]])[0]
            for where, repeated in (("in a batch of another order", other), ("alone", alone)):
                gap = pixel_gap(sample.image, repeated.image)
                assert gap <= self.pixel_tolerance and sample.thought == repeated.thought, (  # noqa: PT018
                    f"Prompt {index} with seed {seeds[index]} is another image {where} (pixels differ by up to {gap} "
                    "of 255). Sample each image's noise from its own generator, on the CPU, seeded with its seed; "
                    "and look for padding that is attended to."
                )

    @after("test_one_image_per_prompt")
    def test_another_seed_gives_another_image(self, generator: ImageGenerator) -> None:
        one, other = draw(generator, [self.prompts[0]] * 2, [0, 1])
        assert pixel_gap(one.image, other.image) > 0, "Two seeds gave the same image: `generate` ignores its seeds."

    @after("test_one_image_per_prompt", "test_words_matter")
    def test_other_words_give_another_image(self, generator: ImageGenerator) -> None:
        one, other = draw(generator, self.prompts[:2], [0, 0])
        assert pixel_gap(one.image, other.image) > 0, "Two prompts gave the same image: `generate` ignores its prompts."


class GeneratorConformance(SeedConformance):
    """Subclass it as `Test…` with a fixture `generator`, a small model with random weights, loaded in float32."""

    def test_it_is_a_generator(self, generator: ImageGenerator) -> None:
        require_protocol(generator, ImageGenerator, type(generator).__name__)

    def test_one_image_per_prompt(self, generator: ImageGenerator) -> None:
        check_samples(draw(generator, self.prompts, range(len(self.prompts))), len(self.prompts))


def check_samples(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    assert len(samples) == count, f"{len(samples)} images came back for {count} prompts."
    for sample in samples:
        assert isinstance(sample, Sample), f"`generate` gave {type(sample).__name__}; Sample records are needed."
        assert isinstance(sample.image, Image.Image), f"A Sample holds a {type(sample.image).__name__}, no image."
        assert not sample.failure, f"`generate` calls an image a failure: {sample.failure}"
        assert isinstance(sample.thought, str), f"A Sample's thought is {sample.thought!r}; a string is needed."
    return samples


def draw(generator: ImageGenerator, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
    return called(
        f"`generate` failed on {len(prompts)} prompts", lambda: list(generator.generate(prompts, list(seeds)))
    )


def pixel_gap(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of a channel of a pixel; 255 for images of different sizes."""
    if one.size != other.size:
        return 255
    extrema = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return max(int(high) for _, high in extrema)  # type: ignore[misc]
