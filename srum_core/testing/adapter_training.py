"""Requirements of every adapter for the training of its denoiser; the second half of `AdapterConformance`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor, distributed, nn

from srum_core.config.settings import Lora
from srum_core.flow import flow_step
from srum_core.protocols import UnifiedModel
from srum_core.testing.fixtures import after, called, sample_image
from srum_core.testing.generators import SeedConformance
from srum_core.testing.probes import CORNERS, by_corner, quarter
from srum_core.training import fsdp, lora

LORA = Lora(rank=2, alpha=4.0)


class TrainingConformance(SeedConformance):
    """Inputs of the tests, and tests of the denoiser."""

    sizes: Sequence[tuple[int, int]] = ((64, 64), (96, 64), (64, 96))
    """(width, height) of the images; at least one not square."""
    mixed_sizes: bool = True
    """False: images of different sizes cannot share a batch; then one size that is not square is used."""
    square_grid: bool = False
    """True: the model encodes every image on one square grid, whatever its shape."""
    tolerance: float = 1e-4
    """Largest difference between numbers that should be equal, as a share of the largest number."""

    def reload(self, adapter: UnifiedModel, directory: Path) -> UnifiedModel:
        """Create an adapter like this one from the checkpoint in `directory`."""
        options = getattr(adapter, "options", None)
        if options is None or not attrs.has(type(options)) or not hasattr(options, "checkpoint"):
            raise NotImplementedError(
                f"{type(adapter).__name__} has no attrs `options` with a `checkpoint`, so the suite does not know how "
                "to load what it saved. Override `reload(self, adapter, directory)` to return a new adapter."
            )
        return type(adapter)(attrs.evolve(options, checkpoint=str(directory)))  # type: ignore[call-arg]

    # ---- the denoiser -----------------------------------------------------------------------------------------------

    @after("test_it_is_a_unified_model", "test_latents_are_finite_and_carry_no_gradient")
    def test_a_velocity_has_the_shape_of_its_latent(self, adapter: UnifiedModel) -> None:
        for texts in (list(self.prompts), [None, *self.prompts][:3], [None] * 3):
            noisy = self.noisy(adapter)
            for velocity, latent in zip(velocities(adapter, noisy, texts[: len(noisy)]), noisy, strict=True):
                assert velocity.shape == latent.shape, (
                    f"The velocity of a latent {tuple(latent.shape)} has the shape {tuple(velocity.shape)}."
                )
                assert velocity.isfinite().all(), f"A velocity is not finite, with the texts {texts}."

    @after("test_a_velocity_has_the_shape_of_its_latent")
    def test_images_do_not_see_their_neighbours(self, adapter: UnifiedModel) -> None:
        noisy, texts = self.noisy(adapter), list(self.prompts[:3])
        before = velocities(adapter, noisy, texts)
        neighbours = [10 * other for other in noisy[1:]]
        after = velocities(adapter, [noisy[0], *neighbours], [texts[0], "other", "words"])
        hint = (
            "Look for attention over all images of a batch, for padding that is attended to, and for norms or means "
            "over the batch."
        )
        self.same(after[0], before[0], f"An image's velocity changes when its neighbours in the batch do. {hint}")
        for index, velocity in enumerate(before):
            alone = velocities(adapter, [noisy[index]], [texts[index]], [TIMES[index]])[0]
            self.same(velocity, alone, f"An image's velocity alone is not the one that it has in a batch. {hint}")

    @after("test_a_velocity_has_the_shape_of_its_latent")
    def test_words_matter(self, adapter: UnifiedModel) -> None:
        noisy = self.noisy(adapter)[:1]
        one, other, dropped = (velocities(adapter, noisy, [text])[0] for text in (*self.prompts[:2], None))
        for velocity, words in ((other, "for two prompts"), (dropped, "with its text and without")):
            assert differ(one, velocity), (
                f"The velocity is the same {words}: the denoiser is deaf to `condition`. (Or its output is all zeros: "
                "give a freshly made model random weights everywhere.)"
            )

    @after("test_a_velocity_has_the_shape_of_its_latent")
    def test_time_matters(self, adapter: UnifiedModel) -> None:
        noisy = self.noisy(adapter)[:1]
        early, late = (velocities(adapter, noisy, self.prompts[:1], [time])[0] for time in (0.1, 0.9))
        assert differ(early, late), (
            "The velocity is the same at times 0.1 and 0.9: the denoiser ignores `time`. Time is 0 for clean and 1 for "
            "noise; scale it here if the model counts in thousandths."
        )

    @after("test_a_velocity_has_the_shape_of_its_latent", "test_images_do_not_see_their_neighbours")
    def test_a_corner_of_the_noise_is_that_corner_of_the_velocity(self, adapter: UnifiedModel) -> None:
        for index, noisy in enumerate(self.noisy(adapter)):
            about = ([self.prompts[index]], [TIMES[index]])
            plain = velocities(adapter, [noisy], *about)[0]
            for corner in CORNERS:
                changed = noisy.clone()
                part = quarter(changed, corner)
                part += 3 * part.std()
                changes = by_corner(velocities(adapter, [changed], *about)[0] - plain)
                strongest = max(changes, key=lambda name: changes[name])
                assert strongest == corner, (
                    f"On a grid of {noisy.shape[0]} rows and {noisy.shape[1]} columns, changing the {corner} corner of "
                    f"the noisy latent changes the {strongest} corner of the velocity most. The denoiser must take "
                    'cells apart and put them together in one order, rows first: look for "(w h)" and "(h w)", '
                    "width and height swapped, and positions that go with another order of cells."
                )

    @after("test_a_velocity_has_the_shape_of_its_latent")
    def test_each_block_runs_once_per_call(self, adapter: UnifiedModel) -> None:
        modules, kinds = adapter.denoiser.named_modules(), adapter.recipe.blocks
        blocks = {name: module for name, module in modules if type(module).__name__ in kinds}
        missing = set(kinds) - {type(module).__name__ for module in blocks.values()}
        assert not missing, f"recipe.blocks names {sorted(missing)}, and no module of the denoiser has such a class."
        runs: Counter[str] = Counter()
        noisy = self.noisy(adapter)
        with ExitStack() as hooks:
            for name, module in blocks.items():
                hooks.enter_context(module.register_forward_hook(lambda *_, name=name: runs.update([name])))
            velocities(adapter, noisy, self.prompts[:3])
        for name in blocks:
            assert runs[name] == 1, (
                f'The block "{name}" ran {runs[name]} times in one call with {len(noisy)} images; once is needed. A '
                "denoiser that loops over images is slow, and deadlocks where weights are sharded and processes "
                "hold different numbers of images: batch the images inside."
            )

    # ---- training ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dropped", [False, True], ids=["with text", "text dropped"])
    @after("test_a_velocity_has_the_shape_of_its_latent", "test_words_matter")
    def test_gradients_reach_every_trained_parameter(self, adapter: UnifiedModel, dropped: bool) -> None:
        tuned = tune(adapter, "full")
        loss = self.loss(adapter, tuned.module, [None] * 3 if dropped else self.prompts[:3])
        assert loss.requires_grad, (
            "The velocity carries no gradient although parameters are trained: look for torch.no_grad(), detach() or "
            ".data in the denoiser's forward."
        )
        backward(loss)
        unreached = [name for name, parameter in tuned.parameters.items() if parameter.grad is None]
        assert not unreached, (
            f"No gradient reaches {len(unreached)} of {len(tuned.parameters)} trained parameters: "
            f"{', '.join(unreached[:5])}{', …' if len(unreached) > 5 else ''}. Look for a detach() on the way; "
            "leave out of recipe.full what never takes part (with several devices every step needs every parameter)."
        )
        odd = [name for name, parameter in tuned.parameters.items() if not finite(parameter.grad)]
        assert not odd, f"The gradient of {odd[0]} is not finite."
        if dropped:
            return  # parameters that only read words have no gradient here
        idle = [name for name, each in tuned.parameters.items() if each.grad is not None and not each.grad.any()]
        assert not idle, (
            f"The gradient of {len(idle)} of {len(tuned.parameters)} trained parameters is exactly zero: "
            f"{', '.join(idle[:5])}{', …' if len(idle) > 5 else ''}. They never reach the velocity (the last layer's "
            "text side, say): leave them out of recipe.full. An output layer that starts at zero hides all that comes "
            "before it: give the test small random weights there."
        )

    @after("test_a_velocity_has_the_shape_of_its_latent")
    def test_lora_starts_neutral(self, adapter: UnifiedModel) -> None:
        noisy = self.noisy(adapter)
        before = velocities(adapter, noisy, self.prompts[:3])
        tuned = tune(adapter, "lora")
        tuned.module.eval()
        for velocity, plain in zip(velocities(adapter, noisy, self.prompts[:3], on=tuned.module), before, strict=True):
            self.same(velocity, plain, "Adding LoRA changes the velocity before anything is trained.")

    @after("test_gradients_reach_every_trained_parameter", "test_lora_starts_neutral", dropped=False)
    def test_lora_trains(self, adapter: UnifiedModel) -> None:
        noisy = self.noisy(adapter)
        tuned = tune(adapter, "lora")
        before = velocities(adapter, noisy, self.prompts[:3], on=tuned.module)
        loss = self.loss(adapter, tuned.module, self.prompts[:3])
        idle = "recipe.lora matches modules that never reach the velocity, or are used without being called."
        assert loss.requires_grad, f"With LoRA the velocity carries no gradient: {idle}"
        backward(loss)
        unreached = [name for name, parameter in tuned.parameters.items() if parameter.grad is None]
        assert not unreached, f"No gradient reaches the LoRA weights {', '.join(unreached[:3])}: {idle}"
        torch.optim.Adam(tuned.parameters.values(), lr=1e-2).step()
        after = velocities(adapter, noisy, self.prompts[:3], on=tuned.module)
        assert differ(before[0], after[0]), "A step of training with LoRA leaves the velocity as it was."

    @after(
        "test_encoding_is_repeatable",
        "test_gradients_reach_every_trained_parameter",
        "test_each_block_runs_once_per_call",
        dropped=False,
    )
    def test_activation_checkpointing_changes_no_gradient(self, adapter: UnifiedModel) -> None:
        gradients = []
        for checkpointing in (False, True):
            tuned = tune(adapter, "full", checkpointing)
            torch.manual_seed(0)
            backward(self.loss(adapter, tuned.module, self.prompts[:3]))
            gradients.append({name: parameter.grad for name, parameter in tuned.parameters.items()})
        for name, plain in gradients[0].items():
            recomputed = gradients[1][name]
            vanished = (plain is None) != (recomputed is None)
            assert not vanished, f"Activation checkpointing makes the gradient of {name} vanish."
            if plain is not None and recomputed is not None:
                self.same(
                    recomputed,
                    plain,
                    f"Activation checkpointing changes the gradient of {name}. Each block of recipe.blocks is computed "
                    "again in the backward pass: it must not change its arguments, a cache or a counter.",
                )

    @after("test_encoding_is_repeatable", "test_gradients_reach_every_trained_parameter", dropped=False)
    def test_a_saved_model_loads_again(self, adapter: UnifiedModel, tmp_path: Path) -> None:
        tuned = tune(adapter, "full")
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in tuned.parameters.values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng).to(parameter))
        tuned.module.eval()
        weights = {name: parameter.detach() for name, parameter in tuned.parameters.items()}
        directory = tmp_path / "checkpoint"
        directory.mkdir()
        called("`save` failed", lambda: adapter.save(directory, weights))
        reloaded = called("What `save` wrote cannot be loaded", lambda: self.reload(adapter, directory))
        noisy, texts = self.noisy(adapter), self.prompts[:3]
        for velocity, expected in zip(
            velocities(reloaded, noisy, texts), velocities(adapter, noisy, texts, on=tuned.module), strict=True
        ):
            self.same(
                velocity,
                expected,
                "A saved and loaded model has another velocity than the one that was saved. `save` gets the trained "
                "parameters by name and must write them in place of the old ones, and everything else as it was.",
            )
        for one, other in zip(reloaded.encode(self.images()), adapter.encode(self.images()), strict=True):
            self.same(one, other, "A saved and loaded model encodes images differently: the checkpoint is incomplete.")

    # ---- sharding, in one process: using weights that are not gathered fails here too --------------------------------

    @pytest.mark.parametrize("method", ["lora", "full"])
    @after(
        "test_encoding_is_repeatable",
        "test_gradients_reach_every_trained_parameter",
        "test_each_block_runs_once_per_call",
        "test_lora_trains",
        dropped=False,
    )
    def test_sharding_changes_no_gradient(self, adapter: UnifiedModel, method: str) -> None:
        plain, shards = tune(adapter, method), tune(adapter, method)
        expected = self.gradients(adapter, plain)
        with alone():
            blocks = lora.find_blocks(shards.module, adapter.recipe.blocks)
            shards = attrs.evolve(shards, parameters=fsdp.shard(shards.module, blocks))
            gradients = called(
                "With sharded weights (--launch fsdp2) the denoiser fails. A block's weights are whole only while it "
                "runs: blocks of recipe.blocks must be called, what is in one must not be used outside, and "
                "`condition` must use no weights of the denoiser",
                lambda: self.gradients(adapter, shards),
            )
            gathered = fsdp.full_tensors(gradients)
        for name, gradient in expected.items():
            self.same(gathered[name], gradient, f"Sharding changes the gradient of {name}.")

    # ---- inside -----------------------------------------------------------------------------------------------------

    def images(self) -> list[Image.Image]:
        """Return three images that may share a batch."""
        oblong = next((size for size in self.sizes if size[0] != size[1]), self.sizes[0])
        sizes = [self.sizes[i % len(self.sizes)] for i in range(3)] if self.mixed_sizes else [oblong] * 3
        return [sample_image(size, seed) for seed, size in enumerate(sizes)]

    def noisy(self, adapter: UnifiedModel) -> list[Tensor]:
        """Return the latents of these images, half noise."""
        rng = torch.Generator().manual_seed(0)
        clean = adapter.encode(self.images())
        return [0.5 * latent + 0.5 * torch.randn(latent.shape, generator=rng).to(latent) for latent in clean]

    def loss(self, adapter: UnifiedModel, module: nn.Module, texts: Sequence[str | None]) -> Tensor:
        """Return the mean squared error of a flow-matching step on these images."""
        rng = torch.Generator().manual_seed(0)
        time = torch.tensor(TIMES)
        step = flow_step(module, adapter.encode(self.images()), adapter.condition(texts), time, None, rng)
        errors = [(v - goal).square().flatten() for v, goal in zip(step.velocity, step.target, strict=True)]
        return torch.cat(errors).mean()

    def gradients(self, adapter: UnifiedModel, tuned: lora.Tuned) -> dict[str, Tensor]:
        torch.manual_seed(0)
        original, module = adapter.denoiser, tuned.module
        adapter.denoiser = module.get_base_model() if isinstance(module, PeftModel) else module
        try:
            backward(self.loss(adapter, module, self.prompts[:3]))
        finally:
            adapter.denoiser = original
        return {name: each.grad for name, each in tuned.parameters.items() if each.grad is not None}

    def same(self, actual: Tensor, expected: Tensor, sentence: str) -> None:
        assert actual.shape == expected.shape, f"{sentence} ({tuple(actual.shape)} instead of {tuple(expected.shape)})"
        gap = float((actual.detach() - expected.detach().to(actual)).abs().max())
        share = gap / max(float(expected.detach().abs().max()), 1e-12)
        assert share <= self.tolerance, f"{sentence} (It differs by {share:.2g} of the largest value.)"


TIMES = [0.3, 0.6, 0.9]


def velocities(
    adapter: UnifiedModel,
    noisy: Sequence[Tensor],
    texts: Sequence[str | None],
    times: Sequence[float] = TIMES,
    on: Callable[..., Any] | None = None,
) -> list[Tensor]:
    """Call the denoiser (or `on`, a copy of it) without gradient."""
    time = torch.tensor(times[: len(noisy)]).to(noisy[0].device)
    with torch.no_grad():
        output = called(
            f"The denoiser failed on latents {[tuple(latent.shape) for latent in noisy]} with the texts {list(texts)}",
            lambda: list((on or adapter.denoiser)(list(noisy), time, adapter.condition(list(texts)))),
        )
    assert len(output) == len(noisy), f"{len(output)} velocities came back for {len(noisy)} latents."
    return output


def tune(adapter: UnifiedModel, method: str, checkpointing: bool = False) -> lora.Tuned:
    """Copy the denoiser and prepare it for training; the adapter's own does not change."""
    copy: Any = SimpleNamespace(denoiser=deepcopy(adapter.denoiser), recipe=adapter.recipe)
    torch.manual_seed(0)
    return lora.tune(copy, method, LORA, checkpointing)


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def differ(one: Tensor, other: Tensor) -> bool:
    """Return whether tensors differ by more than rounding."""
    return float((one - other).abs().max()) > 1e-5 * float(one.abs().max())


def finite(tensor: Tensor | None) -> bool:
    return tensor is None or bool(tensor.isfinite().all())


@contextmanager
def alone() -> Iterator[None]:
    """Create a process group of one. Skip the test if the process is in a group, or if groups are not available."""
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("needs torch.distributed, and a process that is not in a group")
    store: Any = distributed.HashStore()
    distributed.init_process_group(store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
