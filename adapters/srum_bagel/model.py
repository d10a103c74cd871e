"""BAGEL as a `UnifiedModel`: generates latent cells, sees images through SigLIP, answers with the same transformer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from srum_bagel.attention import GENERATION, Context
from srum_bagel.checkpoint import CHECKPOINTS, WEIGHTS, Sizes, read_sizes
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.options import Options
from srum_bagel.prompting import PLAN_A_IMAGE, REASON_FIRST, Chat
from srum_bagel.sampling import Branches, Contexts, Watch, sample, speak, time_grid
from srum_bagel.vae import Autoencoder, AutoencoderSizes, autoencoder_sizes
from srum_bagel.vision import Eye, latent_grid, size_rule
from srum_core.errors import CheckpointError
from srum_core.flow import Recipe, Schedule
from srum_core.models import small_memory
from srum_core.models.generation import Reply
from srum_core.models.hub import choose_device, choose_dtype
from srum_core.models.images import flatten, open_rgb
from srum_core.models.memory_outline import outline_in, size_of
from srum_core.models.offload import Offload
from srum_core.models.placement import Places
from srum_core.models.tensors import by_shape, patchify, to_image, to_tensor, unpatchify
from srum_core.models.weights import Stored, failure, loading
from srum_core.records import Question, Sample
from srum_core.runs.files import read_text

_LAYER = r"language_model\.model\.layers\.\d+"
EXPERTS = {
    "understanding": rf"{_LAYER}\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    "generation": rf"{_LAYER}\.(self_attn\.[qkvo]_proj_moe_gen|mlp_moe_gen\.(gate|up|down)_proj)",
}
"""The linear layers of each expert."""


class Bagel:
    """Load a checkpoint directory (or hub id) strictly: no missing, no unused key."""

    def __init__(self, options: Options) -> None:
        device = choose_device(options.device)
        directory = CHECKPOINTS.find(options.checkpoint, options.device)
        self.files, decodes = (Stored.open(directory, stems, "BAGEL") for stems in (WEIGHTS, ("ae",)))
        sizes = read_sizes(directory, self.files.shapes)
        self.chat = Chat.load(directory)
        self.plan = read_text(Path(options.think_template)) if options.think_template else PLAN_A_IMAGE
        with loading(f"The model that {directory} describes"):
            self.build(options, sizes, autoencoder_sizes(decodes.shapes), self.chat.markers)
        dtype = choose_dtype(options.dtype, device)
        small_memory.quantize(self.denoiser, options, EXPERTS, dtype)
        first = device if options.offload == "none" else torch.device("cpu")
        places = Places.of(options, first, self.denoiser, _LAYER, dtype, size_of(self.eye, self.autoencoder))
        self.files.load([self.denoiser, self.eye], places, dtype)
        # The autoencoder stays in float32: it is small, and 16-bit decoding shows.
        decodes.load([self.autoencoder], places.first, torch.float32, self.autoencoder.official_keys().__getitem__)
        places.connect(self.denoiser, *(f"language_model.model.norm{expert}" for expert in ("", GENERATION)))
        self.offload = None
        if options.offload == "cpu":
            parts = {"eye": self.eye, "autoencoder": self.autoencoder}
            blocks = list(self.denoiser.language_model.model.layers)
            self.offload = Offload(self.denoiser, blocks, unquantised(self.denoiser), parts, device)

    def build(
        self, options: Options, sizes: Sizes, decodes: AutoencoderSizes, markers: tuple[int, int] = (0, 0)
    ) -> None:
        """Make every part on torch's meta device."""
        self.options = options
        self.patch = decodes.patch(sizes.cell)
        if self.patch**2 * decodes.channels != sizes.cell:
            raise CheckpointError(
                f"{options.checkpoint}: latent cells of {sizes.cell} values are no square patch of {decodes.channels} "
                "channels."
            )
        with torch.device("meta"):
            self.denoiser = BagelDenoiser(sizes.language, sizes.cell, sizes.latent_side, markers, sizes.theta)
            self.eye = Eye(sizes.vision, sizes.language.hidden_size, sizes.vision_side)
            self.autoencoder = Autoencoder(decodes, options.latent_scale, options.latent_shift)
        self.stride = self.patch * decodes.factor
        self.generated_size = size_rule(options.generation_sides, self.stride, self.denoiser.side)
        self.seen_size = size_rule(options.vision_sides, self.eye.patch, self.eye.side)
        self.recipe = make_recipe(sizes.language.num_hidden_layers, options)

    outline = outline_in("srum_bagel.memory_outline")

    @classmethod
    def preflight(cls, options: Options) -> None:
        """Check files and headers only. Raise CheckpointError for weights that are incomplete or too large for this
        machine, and for a size that they cannot generate; ConfigError for a template that cannot be read."""
        from srum_bagel.memory_outline import read_all_sizes

        if options.think_template:
            read_text(Path(options.think_template))
        sizes, decodes = read_all_sizes(options)
        latent_grid(options.size, decodes.patch(sizes.cell) * decodes.factor, sizes.latent_side)
        Chat.load(CHECKPOINTS.find(options.checkpoint, options.device))

    def keep(self, *names: str, streamed: str = "") -> None:
        """Have these experts and parts on the device, if not all are; and those that are `streamed` while they run."""
        if self.offload is not None:
            self.offload.keep(*names, streamed=streamed)

    # ---- generation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """One image of `options.size` per prompt."""
        latents, thoughts = self._draw(prompts, seeds)
        parts = zip(self.decode(latents), latents, thoughts, strict=True)
        return [
            Sample(to_image(image), thought, failure=failure("image", latent, image))
            for image, latent, thought in parts
        ]

    def _draw(
        self, prompts: Sequence[str], seeds: Sequence[int], watch: Watch | None = None
    ) -> tuple[list[Tensor], list[str]]:
        """(clean latent grids, thoughts)."""
        rows, columns = self.grid(self.options.size)
        self.keep("generation", "autoencoder", streamed="understanding")
        thoughts = self.think(prompts) if self.options.think else [""] * len(prompts)
        cell = self.denoiser.vae2llm.in_features
        noise = [torch.randn(rows, columns, cell, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        contexts = self.generation_contexts(prompts, thoughts)
        return sample(self.denoiser, contexts, noise, self.options.sampling, watch), thoughts

    # ---- analysis ---------------------------------------------------------------------------------------------------

    def sampling_times(self) -> list[float]:
        """From 1 to 0; one more than steps."""
        return time_grid(self.options.sampling.steps, self.options.sampling.shift).tolist()

    @torch.no_grad()
    def trace(self, prompts: Sequence[str], seeds: Sequence[int], steps: Sequence[int]) -> list[list[Image.Image]]:
        """Per prompt, the clean estimate x - t·v (guided v) at each of these steps, as an image."""
        rows, _ = self.grid(self.options.size)
        estimates: list[Tensor] = []

        def watch(time: float, x: Tensor, velocities: Branches) -> None:
            estimates.append(rearrange(x - time * velocities.used, "n (h w) c -> n h w c", h=rows))

        self._draw(prompts, seeds, watch)
        images = [[to_image(each) for each in self.decode(list(estimates[step]))] for step in steps]
        return [list(of_one) for of_one in zip(*images, strict=True)]

    def neurons(self) -> dict[str, list[torch.nn.Module]]:
        """The MLP activations of each expert, layer by layer: the understanding expert's, and the generation's."""
        layers = self.denoiser.language_model.model.layers
        return {
            name: [layer.get_submodule(f"mlp{expert}.act_fn") for layer in layers]
            for name, expert in (("understanding", ""), ("generation", GENERATION))
        }

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the latent grid of a (width, height) image; a side of 0 is `Options.size`'s default."""
        return latent_grid(size, self.stride, self.denoiser.side)

    def think(self, prompts: Sequence[str]) -> list[str]:
        """Let the model plan each image in words, greedily; the plan becomes part of the condition."""

        def read(rows: list[int]) -> Context:
            return self.read([self.plan] * len(rows), [prompts[row] for row in rows])

        return self._say(read, [Reply(self.options.think_tokens)] * len(prompts))

    def _say(self, read: Callable[[list[int]], Context], replies: Sequence[Reply]) -> list[str]:
        answers = speak(self.denoiser, self.chat, read, replies, self.options.rows)
        return [self.chat.text(ids) for ids in answers]

    def generation_contexts(self, prompts: Sequence[str], thoughts: Sequence[str]) -> Contexts:
        """Without thoughts: prompt | nothing | prompt. With: system, prompt, thought | system | system, prompt."""
        nothing = self.denoiser.context(len(prompts))
        if not any(thoughts):
            full = self.read(prompts)
            return Contexts(full, nothing, full)
        system = self.read([self.plan] * len(prompts))
        prompted = self.read_more(system, prompts)
        return Contexts(self.read_more(prompted, thoughts), system, prompted)

    def read(self, *texts: Sequence[str]) -> Context:
        """A context that has read these texts one after another, row by row."""
        context = self.denoiser.context(len(texts[0]))
        for each in texts:
            self.denoiser.read_text(context, [self.chat.frame(text) for text in each])
        return context

    def read_more(self, context: Context, texts: Sequence[str]) -> Context:
        """A copy of `context` that has also read one more text a row."""
        longer = context.select(range(context.rows))
        self.denoiser.read_text(longer, [self.chat.frame(text) for text in texts])
        return longer

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Grids (h, w, c) of one size -> images (3, H, W) in about [-1, 1]."""
        grid = torch.stack([latent.float() for latent in latents])
        return list(self.autoencoder.decode(unpatchify(grid, self.patch)))

    # ---- training ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Latent grids (h, w, c), float32, from the posterior's mean or, with `sample_latents`, from a sample that
        depends on the image alone. An image of the size that is generated stays as it is, so that it is trained on
        the grid it came from. Images are encoded size by size, so none sees another's padding."""
        self.keep("generation", "autoencoder", streamed="understanding")
        rows, columns = self.grid(self.options.size)
        own = (columns * self.stride, rows * self.stride)
        pixels = [
            to_tensor(image if image.size == own else self.generated_size.resize(image))
            for image in map(flatten, images)
        ]

        def encode(batch: Tensor) -> Tensor:
            batch = batch.to(self.denoiser.device)
            noise = self._posterior_noise(batch) if self.options.sample_latents else None
            return patchify(self.autoencoder.encode(batch, noise), self.patch)

        return by_shape(pixels, encode)

    def _posterior_noise(self, batch: Tensor) -> Tensor:
        """One sample per image with its pixels' sum as the seed: repeatable, independent of the batch."""
        sizes = self.autoencoder.sizes
        size = (sizes.channels, batch.shape[2] // sizes.factor, batch.shape[3] // sizes.factor)
        seeds = [int((image.cpu().double().add(1).sum() * 1000).item()) for image in batch]
        noise = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(batch.device)

    def before_training(self, texts: Sequence[str]) -> None:
        """Free the memory of what training does not need."""
        self.keep("generation", streamed="understanding")

    def condition(self, texts: Sequence[str | None]) -> list[Tensor]:
        """Caption ids with start and end of text; empty where the text is dropped."""
        self.before_training(())
        return [self.chat.frame(text).to(self.denoiser.device) for text in texts]

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """A complete directory in the published layout; denoiser names are the stored ones."""
        self.files.save(directory, weights, WEIGHTS, self.files.directory.iterdir())

    # ---- understanding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Up to `Options.rows` questions at once; an image with several questions is encoded once."""
        self.keep("understanding", "eye")
        keys = dict.fromkeys((question.image, question.crop) for question in questions)
        tokens = dict(zip(keys, self.look([open_rgb(*key) for key in keys]), strict=True))

        def read(rows: list[int]) -> Context:
            some = [questions[row] for row in rows]
            views = [(q.image, q.crop, q.think) for q in some]
            once = list(dict.fromkeys(views))
            context = self.denoiser.context(len(once))
            if any(think for *_, think in once):
                self.denoiser.read_text(
                    context, [self.chat.frame(REASON_FIRST if think else None) for *_, think in once]
                )
            self.denoiser.read_image(context, [tokens[image, crop] for image, crop, _ in once])
            context = context.select([once.index(view) for view in views])
            self.denoiser.read_text(context, [self.chat.frame(q.text) for q in some])
            return context

        return self._say(read, [Reply(q.max_new_tokens, q.temperature, q.seed) for q in questions])

    def look(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Tower tokens (t, hidden) per image. Resized twice, first as for generation, as in the reference."""
        return self.eye(
            [
                to_tensor(self.seen_size.resize(self.generated_size.resize(image))).to(self.denoiser.device)
                for image in images
            ]
        )


def unquantised(denoiser: nn.Module) -> dict[str, list[nn.Module]]:
    """The linear layers of each expert whose weights are not quantised."""
    linear = {name: each for name, each in denoiser.named_modules() if isinstance(each, nn.Linear)}
    return {
        expert: [
            each
            for name, each in linear.items()
            if re.fullmatch(wanted, name) and not small_memory.is_quantised(each.weight)
        ]
        for expert, wanted in EXPERTS.items()
    }


def make_recipe(layers: int, options: Options) -> Recipe:
    return Recipe(
        blocks=("MoTLayer",),
        full=trained_patterns(layers, options.experts),
        lora=r".*\.([qkvo]_proj_moe_gen|mlp_moe_gen\.(gate|up|down)_proj)",
        schedule=Schedule("logit-normal"),
    )


def trained_patterns(layers: int, experts: str) -> tuple[str, ...]:
    """Regular expressions of what full training changes.

    "all" is the paper's set minus parameters that never reach the velocity: the language head, the text side's final
    norm, and the last layer's text queries, output, MLP and post-attention norm. "generation" leaves every weight that
    understanding uses as it is.
    """
    frame = r"(time_embedder|vae2llm|llm2vae)\..*"
    generation = r"language_model\..*_moe_gen.*"
    if experts == "generation":
        return (frame, generation)
    last = rf"language_model\.model\.layers\.{layers - 1}\."
    inner = rf"(?!{last})language_model\.model\.layers\..*"
    keys = last + r"(input_layernorm|self_attn\.(k_proj|v_proj|k_norm))\..*"
    return (frame, generation, r"language_model\.model\.embed_tokens\..*", inner, keys)
