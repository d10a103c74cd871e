"""Any diffusers flow-matching pipeline for generation, any transformers vision-language model for understanding.

A cell is p x p pixels of the autoencoder's latent, one token of the transformer; its channels are in the order c, p, q.
How a transformer wants to be called is not declared but observed: its pipeline is run until it calls."""

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from einops import rearrange
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from srum_core.errors import CheckpointError, TrainingError
from srum_core.flow import Recipe, Schedule
from srum_core.models.images import open_rgb
from srum_core.models.weights import failure
from srum_core.records import Question, Sample
from srum_pair import PairOptions


class Called(Exception):
    """Ends a dry run of a pipeline: its transformer was called, and how is all that was wanted."""


class Denoiser(nn.Module):
    """The transformer, spoken to as srum does. Its time is `clock` times ours, or 1 - ours where `clock` is 0: then its
    velocity is clean - noise (as in Lumina). `grid`: the only (rows, columns) it takes, where latents are packed."""

    def __init__(self, transformer: nn.Module, patch: int, clock: float, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.transformer, self.patch, self.clock, self.grid = transformer, patch, clock, grid

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Mapping[str, Any]) -> list[Tensor]:
        grids = {tuple(x.shape[:2]) for x in noisy}
        if len(grids) > 1 or self.grid not in (None, *grids):
            only = self.grid or "one number of"
            raise TrainingError(f"This pipeline takes images of {only} cells in a call; these have {sorted(grids)}.")
        x = torch.stack(list(noisy)).to(next(self.transformer.parameters()).dtype)
        cells, latents, sizes = "n h w (c p q)", "n c (h p) (w q)", {"p": self.patch, "q": self.patch}
        if self.grid:
            cells, latents, sizes = "n h w c", "n (h w) c", {"h": self.grid[0]}
        message = self.clock * time.to(x.device) if self.clock else 1 - time.to(x.device)
        x = rearrange(x, f"{cells} -> {latents}", **sizes)
        out = self.transformer(**{**condition, "hidden_states": x, "timestep": message})[0].float()
        return list(rearrange(out if self.clock else -out, f"{latents} -> {cells}", **sizes))


class Pair:
    """Adapter `pair`. What is trained and saved is the pipeline; the vision-language model never changes."""

    diffusers_name = "transformer"

    def __init__(self, options: PairOptions | None = None) -> None:
        self.options = options or PairOptions()
        self.device, self.dtype = self.options.device, getattr(torch, self.options.dtype)
        self.hand: Any = DiffusionPipeline.from_pretrained(self.options.checkpoint, dtype=self.dtype)
        if not (isinstance(self.hand.scheduler, FlowMatchEulerDiscreteScheduler) and hasattr(self.hand, "transformer")):
            raise CheckpointError(f"{self.options.checkpoint} is no flow-matching pipeline around a transformer.")
        self.hand.to(self.device).set_progress_bar_config(disable=True)
        transformer, call = self.hand.transformer.requires_grad_(False), self.condition([None])
        clock, latents = float(call["timestep"][0]), call["hidden_states"]  # pure noise: our time is 1
        if clock not in (0, 1, 1000):
            raise CheckpointError(f"{self.options.checkpoint} calls pure noise time {clock}, not 0, 1 or 1000.")
        packed, channels = latents.ndim == 3, self.hand.vae.config.latent_channels
        patch = round((latents.shape[-1] / channels) ** 0.5) if packed else transformer.config.patch_size
        columns, rows = (side // (self.hand.vae_scale_factor * patch) for side in self.options.size)
        self.denoiser = Denoiser(transformer, patch, clock, (rows, columns) if packed else None)
        self.recipe = self._recipe(transformer)

    def _recipe(self, transformer: nn.Module) -> Recipe:
        """Blocks are what is in lists. SD3's last one throws the text away, so that its queries do nothing."""
        lists = [each for each in transformer.children() if isinstance(each, nn.ModuleList)]
        last = [re.escape(name) for name, each in transformer.named_modules() if getattr(each, "context_pre_only", 0)]
        idle = rf"(?!({'|'.join(last)})\.(attn\.)?(add_q_proj|norm_added_q))" if last else ""
        return Recipe(
            blocks=tuple(dict.fromkeys(type(block).__name__ for each in lists for block in each)),
            full=(rf"transformer\.{idle}.*",),
            lora=rf".*\.{self.options.lora}",
            schedule=Schedule("logit-normal", self.hand.scheduler.config.shift),
            prefix="transformer",
        )

    def _run(self, texts: Sequence[str], rngs: Any, steps: int, guidance: float) -> Any:
        width, height = self.options.size
        how = {"width": width, "height": height, "num_inference_steps": steps, "guidance_scale": guidance}
        return self.hand(prompt=list(texts), generator=rngs, output_type="np", **how)

    def condition(self, texts: Sequence[str | None]) -> dict[str, Any]:
        """What the pipeline hands to its transformer first, without guidance, by name. None is the empty prompt."""
        received, signature = dict[str, Any](), inspect.signature(self.hand.transformer.forward)

        def receive(_: nn.Module, args: Any, kwargs: Any) -> None:
            received.update(signature.bind(*args, **kwargs).arguments)
            raise Called

        with self.hand.transformer.register_forward_pre_hook(receive, with_kwargs=True), suppress(Called):
            self._run([text or "" for text in texts], torch.Generator(), 1, 1.0)  # leaves the global generator alone
        return received | {"return_dict": False}

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        images = self._run(prompts, rngs, self.options.steps, self.options.guidance).images
        made = zip(self.hand.numpy_to_pil(np.nan_to_num(images)), map(torch.from_numpy, images), strict=True)
        return [Sample(image, failure=failure("image", numbers)) for image, numbers in made]

    @torch.no_grad()
    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """The posterior's mean, image by image; sides are scaled to whole cells first."""
        vae, p = self.hand.vae, self.denoiser.patch
        cell, latents = self.hand.vae_scale_factor * p, list[Tensor]()
        for image in images:
            width, height = (max(side // cell, 1) * cell for side in image.size)
            pixels = self.hand.image_processor.preprocess(image.convert("RGB"), height, width).to(vae.device, vae.dtype)
            mean = vae.encode(pixels).latent_dist.mode()[0].float() - (vae.config.shift_factor or 0)
            latents.append(rearrange(mean * vae.config.scaling_factor, "c (h p) (w q) -> h w (c p q)", p=p, q=p))
        return latents

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """The whole pipeline as diffusers saves it, in the type that it was loaded in."""
        own = dict(self.denoiser.named_parameters())
        before = {name: own[name].data for name in weights}
        for name, weight in weights.items():
            own[name].data = weight.to(own[name].device, self.dtype)
        self.hand.save_pretrained(directory)
        for name, data in before.items():
            own[name].data = data

    def diffusers_model(self) -> Any:
        return self.denoiser.transformer

    @cached_property
    def eye(self) -> tuple[Any, Any]:
        """The vision-language model and its processor, loaded for the first question."""
        model = AutoModelForImageTextToText.from_pretrained(self.options.vlm, dtype=self.dtype)
        return model.to(self.device).eval(), AutoProcessor.from_pretrained(self.options.vlm)

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """One by one, so that no answer depends on other questions."""
        (model, processor), answers = self.eye, list[str]()
        for question in questions:
            image, think = open_rgb(question.image, question.crop), "Think step by step first.\n\n" * question.think
            said = [{"type": "image", "image": image}, {"type": "text", "text": think + question.text}]
            form = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            asked = processor.apply_chat_template([{"role": "user", "content": said}], **form)
            how: Any = {"temperature": question.temperature} if question.temperature else {}
            how |= {"do_sample": bool(how), "max_new_tokens": question.max_new_tokens}
            with torch.random.fork_rng():
                torch.manual_seed(question.seed)
                tokens = model.generate(**asked.to(self.device, self.dtype), **how)
            answers.append(processor.decode(tokens[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
        return answers
