"""Show-o2 as a `UnifiedModel`: one language model understands and answers; a flow head on top of it generates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from srum_core.errors import CheckpointError
from srum_core.flow import Recipe, Schedule
from srum_core.models import small_memory
from srum_core.models.generation import Reply, speak
from srum_core.models.hub import choose_device, choose_dtype
from srum_core.models.images import check_size, flatten, open_rgb
from srum_core.models.memory_outline import outline_in
from srum_core.models.offload import Offload
from srum_core.models.placement import Places
from srum_core.models.templates import REASON_FIRST
from srum_core.models.tensors import patchify, to_image, to_tensor, unpatchify
from srum_core.models.weights import failure
from srum_core.records import Box, Question, Sample
from srum_showo2.autoencoder import Autoencoder
from srum_showo2.checkpoint import STEMS, find_vae, load_vae, open_checkpoint
from srum_showo2.denoiser import ShowO2Denoiser, Sizes
from srum_showo2.options import Options
from srum_showo2.prompting import Words
from srum_showo2.sampling import Watch, sample, time_grid
from srum_showo2.understanding import View, ask, covering, cropped, padded

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_LINEAR = r"\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
LAYERS = {"understanding": rf"showo\.model\.layers{_LINEAR}", "generation": rf"diffusion_head_a{_LINEAR}"}
"""The linear layers of the language model, and of the flow head on top of it."""
BLOCKS = r"(showo\.model\.layers|diffusion_head_a)\.\d+"
"""The layers of both."""


class ShowO2:
    """Load a checkpoint directory (or hub id) strictly: no missing, no unused key."""

    def __init__(self, options: Options) -> None:
        device = choose_device(options.device)
        checkpoint = open_checkpoint(options)
        self.files, sizes = checkpoint.stored, checkpoint.sizes
        self.words = Words.load(
            checkpoint.language, sizes.language.vocab_size, options.caption_tokens, options.control_tokens
        )
        first = device if options.offload == "none" else torch.device("cpu")
        autoencoder = load_vae(find_vae(options, self.files.directory), sizes.channels, first)
        self.build(options, sizes, autoencoder, self.words.markers)
        dtype = choose_dtype(options.dtype, device)
        small_memory.quantize(self.denoiser, options, LAYERS, dtype)
        places = Places.of(options, first, self.denoiser, BLOCKS, dtype)
        self.files.load([self.denoiser], places, dtype)
        self.offload = None
        if options.offload == "cpu":
            groups = only_for(self.denoiser)
            self.offload = Offload(self.denoiser, [], groups, {"autoencoder": autoencoder}, device)
        else:
            for tables in (self.denoiser.showo.model.rotary_emb, self.denoiser.head_rotary):
                tables.to(places.first)
        self.denoiser.tie()
        places.connect(self.denoiser, "showo.model.norm", "diffusion_head_b")

    def build(
        self, options: Options, sizes: Sizes, autoencoder: Autoencoder, markers: tuple[int, int] = (0, 0)
    ) -> None:
        """Make the denoiser on torch's meta device, and compute what follows from its sizes."""
        self.options, self.autoencoder = options, autoencoder
        with torch.device("meta"):
            self.denoiser = ShowO2Denoiser(sizes, markers)
        self.stride = sizes.patch * autoencoder.FACTOR
        side = sizes.side * self.stride
        self.size = image_size(options, side, self.stride)
        self.vision_size = vision_size(options, side, self.stride)
        self.recipe = make_recipe(options, tokens=1 + self.grid[0] * self.grid[1])

    def keep(self, *names: str) -> None:
        """Have these groups of layers and parts on the device, if not all are."""
        if self.offload is not None:
            self.offload.keep(*names)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the latent of a generated image."""
        return self.size[1] // self.stride, self.size[0] // self.stride

    outline = outline_in("srum_showo2.memory_outline")

    @classmethod
    def preflight(cls, options: Options) -> None:
        """Raise CheckpointError or ConfigError for problems that files and headers show before a run."""
        checkpoint = open_checkpoint(options)
        Words.load(checkpoint.language, checkpoint.sizes.language.vocab_size, options.caption_tokens)
        stride = checkpoint.sizes.patch * Autoencoder.FACTOR
        for check in (image_size, vision_size):
            check(options, checkpoint.sizes.side * stride, stride)
        find_vae(options, checkpoint.stored.directory)

    # ---- generating --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """One image of `options.size` per prompt."""
        latents = self._latents(prompts, seeds)
        pairs = zip(self.decode(latents), latents, strict=True)
        return [Sample(to_image(pixels), failure=failure("image", latent, pixels)) for pixels, latent in pairs]

    def _latents(self, prompts: Sequence[str], seeds: Sequence[int], watch: Watch | None = None) -> list[Tensor]:
        self.keep("head", "autoencoder")
        shape = (*self.grid, self.denoiser.sizes.cell)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        captions = [self.words.caption(prompt).to(self.denoiser.device) for prompt in prompts]
        return sample(self.denoiser, captions, noise, self.options.sampling, watch)

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Grids (h, w, c) -> images (3, H, W) in about [-1, 1]. One by one: the autoencoder needs 2.6 GiB for one
        of 1024x1024, more than all else needs for several."""
        patch = self.denoiser.sizes.patch
        return [self.autoencoder.decode(unpatchify(latent[None].float(), patch))[0] for latent in latents]

    def sampling_times(self) -> list[float]:
        """Times from 1 to 0; one more than steps."""
        return time_grid(self.options.sampling).tolist()

    @torch.no_grad()
    def trace(self, prompts: Sequence[str], seeds: Sequence[int], steps: Sequence[int]) -> list[list[Image.Image]]:
        """Per prompt, the clean estimate x - t·v (guided v) at each of the given steps, as an image."""
        estimates: list[Tensor] = []
        self._latents(prompts, seeds, lambda time, x, velocity, _: estimates.append(x - time * velocity))
        images = [[to_image(each) for each in self.decode(list(estimates[step]))] for step in steps]
        return [list(of_one) for of_one in zip(*images, strict=True)]

    # ---- training ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Latent grids (h, w, c), float32, from the posterior's mean. An image of the generated size is not
        resized; of another one the middle is used, or all of it (`options.crop`)."""
        self.keep("head", "autoencoder")
        return self.encode_pixels([to_tensor(self.fitted(flatten(image))) for image in images])

    def encode_pixels(self, images: Sequence[Tensor]) -> list[Tensor]:
        """(3, H, W) in [-1, 1] -> grids (h, w, c), float32; one by one, as in `decode`."""
        device, patch = self.denoiser.device, self.denoiser.sizes.patch
        return [patchify(self.autoencoder.encode(image[None].to(device)).float(), patch)[0] for image in images]

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image resized or cropped for encoding."""
        if image.size == self.size:
            return image
        if self.options.crop:
            return cropped(image, self.size)
        scale = math.sqrt(self.size[0] * self.size[1] / (image.width * image.height)) / self.stride
        width, height = (max(1, round(side * scale)) * self.stride for side in image.size)
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

    def window(self, size: tuple[int, int]) -> Box:
        """The part of an image that `encode` uses."""
        if size == self.size or not self.options.crop:
            return WHOLE
        (width, height), (left, top) = covering(size, self.size)
        return left / width, top / height, (left + self.size[0]) / width, (top + self.size[1]) / height

    def before_training(self, texts: Sequence[str]) -> None:
        """Free the memory of what training does not need."""
        self.keep("head")

    def condition(self, texts: Sequence[str | None]) -> list[Tensor]:
        """Caption ids; empty where the text is dropped."""
        self.before_training(())
        return [self.words.caption(text).to(self.denoiser.device) for text in texts]

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """A complete directory in the published layout; denoiser names are the stored ones."""
        self.files.save(directory, weights, STEMS, self.files.directory.rglob("*"))

    # ---- answering ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, questions: Sequence[Question]) -> list[str]:
        """All questions in one batch; an image of several questions is encoded once."""
        self.keep("output matrix", "autoencoder")
        trained = self.options.understanding == "trained"
        images = list(dict.fromkeys((question.image, question.crop) for question in questions))
        views = self.view([open_rgb(*image) for image in images])
        which = [images.index((question.image, question.crop)) for question in questions]
        rows = [self.words.question(REASON_FIRST * each.think + each.text, trained) for each in questions]
        arguments, _, _ = ask(self.denoiser, views, which, rows)
        replies = [Reply(each.max_new_tokens, each.temperature, each.seed) for each in questions]
        stop = self.words.stop
        answers = speak(self.denoiser.showo, arguments, replies, [stop], stop)
        return [self.words.text(ids) for ids in answers]

    def view(self, images: Sequence[Image.Image]) -> View:
        """The language model's input for images in questions."""
        script = self.options.understanding == "script"
        grids = self.encode_pixels([to_tensor(self.seen(image)) for image in images])
        return View.of(self.denoiser, self.words.frame, grids, late=script)

    def seen(self, image: Image.Image) -> Image.Image:
        """A square of `options.vision_size`, padded as in training or cropped as by the published script."""
        side = self.vision_size
        return padded(image, side) if self.options.understanding == "trained" else cropped(image, (side, side))


def only_for(denoiser: ShowO2Denoiser) -> dict[str, list[nn.Module]]:
    """The layers that only generating needs, and those that only answering needs."""
    head = [denoiser.diff_proj, denoiser.diffusion_head_a, denoiser.diffusion_head_b]
    language = [] if denoiser.sizes.tied else [denoiser.showo.lm_head]
    return {"head": [each for part in head for each in part.modules()], "output matrix": language}


def image_size(options: Options, side: int, stride: int) -> tuple[int, int]:
    """(width, height) of generated images; `side` where the option says 0. Raises ConfigError for one that is not a
    multiple of `stride` pixels."""
    size = (options.size[0] or side, options.size[1] or side)
    check_size(size, stride)
    return size


def vision_size(options: Options, side: int, stride: int) -> int:
    """Side of an image in a question, likewise."""
    size = options.vision_size or side
    if size % stride:
        raise CheckpointError(f"adapter.vision_size={size} must be a multiple of {stride} pixels.")
    return size


def make_recipe(options: Options, tokens: int) -> Recipe:
    """The shift of the training times follows from the `tokens` of an image block."""
    head, first = r"(diff_proj|diffusion_head_[ab])\..*", r"(image_embedder_gen|fusion_proj|time_embed(_proj)?)\..*"
    rest = r"(showo\.model|image_embedder_und|position_embedding|und_trans)\..*"
    layers = {"head": r"diffusion_head_a", "stage-1": r"diffusion_head_a"}.get(
        options.train, r"(diffusion_head_a|showo\.model\.layers)"
    )
    return Recipe(
        blocks=("Qwen2DecoderLayer", "SiglipEncoderLayer", "HeadBlock"),
        full={"head": (head,), "stage-1": (head, first), "all": (head, first, rest)}[options.train],
        lora=rf"{layers}\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
        schedule=Schedule("logit-normal", training_shift(tokens)),
    )


def training_shift(tokens: int) -> float:
    """exp(mu), mu on a line through 0.5 at 256 and 1.15 at 4096 tokens, the time token counted."""
    return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
