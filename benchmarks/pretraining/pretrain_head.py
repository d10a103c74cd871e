"""Pretrain a tiny model that generates features of images: `python -m pretraining.pretrain_head --out DIR`.

A BLIP3-o: generation goes text -> language model -> head -> features -> decoder -> pixels. Four
phases, each resumable by repeating the command: the feature tower, the decoder's autoencoder, the decoder's UNet, and
the head together with its queries and the language model that reads the captions. Understanding is not trained: who
judges is another model (`answerer`). Images are rendered fresh for every step from (seed, step). `--phase` makes one
phase only; `unet` and `head` need the features, but not each other, and may run side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining import curriculum, fit
from pretraining.blip3o import create, write
from pretraining.curriculum import Steps, captioned, image, loader
from pretraining.fit import as_tensor, autoencoder_loss, flow_loss, make_parser, named_of, parse
from pretraining.measure_head import generated, rebuilt
from srum_core.flow import Schedule
from srum_core.plugins import discover

PHASES = ("features", "autoencoder", "unet", "head")
SEEN_AS = (1024.0, 1024.0, 0.0, 0.0)
"""The inputs of SDXL's UNet for an image's original size and crop, as in sampling."""


@frozen(kw_only=True)
class Recipe(fit.Recipe):
    """The training of the tiny model."""

    features_steps: int = 1500
    features_batch: int = 64
    features_noise: float = 0.1
    """Noise added to features (of deviation 1) in training of tower and decoder, because the head's are inexact."""
    autoencoder_steps: int = 1500
    autoencoder_batch: int = 32
    unet_steps: int = 4000
    unet_batch: int = 64
    head_steps: int = 6000
    head_batch: int = 128
    alike: int = 2
    """Images of each caption in a batch: encoding a caption once for all of them saves work."""
    expected: float = 0.3
    """Weight of a second loss, which predicts the clean features from each query's state by a linear map: the head's
    gates start at zero, so without it the language model would learn nothing for long."""
    rate: float = 1e-3
    """Learning rate of AdamW, in all phases."""


def run(recipe: Recipe, name: str, out: Path, loss_of: Any, batches: Any = None, **modules: nn.Module) -> None:
    """Train a phase. `batches`: for `fit`; None: images without captions, half of them damaged."""
    steps, batch = getattr(recipe, f"{name}_steps"), getattr(recipe, f"{name}_batch")
    plan = curriculum.Recipe(seed=recipe.seed + PHASES.index(name), autoencoder_steps=steps, autoencoder_batch=batch)
    batches = batches or (lambda done: loader(Steps(plan, ("", ""), done, "autoencoder")))
    fit.fit(recipe.phase(name, steps, recipe.rate), out, named_of(**modules), batches, loss_of)


def images(batch: Any) -> list[Image.Image]:
    return [Image.fromarray(each) for each in batch]


def train_features(model: Any, recipe: Recipe, out: Path) -> None:
    """Train the tower: small networks predict from each token its patch's pixels, and its place (the decoder reads
    tokens as a set). A penalty pulls channels to mean 0 and deviation 1, like the head's noise."""
    tower = model.parts["feature tower"]
    channels, side = tower.sizes.width, tower.sizes.grid // tower.stride
    patch = tower.sizes.image // side
    torch.manual_seed(recipe.seed)
    pixels = nn.Sequential(nn.Linear(channels, 256), nn.GELU(), nn.Linear(256, 3 * patch**2))
    where = nn.Linear(channels, side**2)
    places = torch.arange(side**2)

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        features = rearrange(tower.features(model.seen(images(batch))), "n h w c -> n (h w) c")
        noisy = features + recipe.features_noise * torch.randn_like(features)
        target = rearrange(as_tensor(batch), "n c (h p) (w q) -> n (h w) (c p q)", p=patch, q=patch)
        error = F.mse_loss(pixels(noisy), target) + 0.2 * F.l1_loss(pixels(noisy), target)
        lost = F.cross_entropy(where(noisy).flatten(0, 1), places.repeat(len(noisy)))
        flat = features.flatten(0, 1)
        moments = flat.mean(0).square().mean() + (flat.std(0) - 1).square().mean()
        return error + 0.05 * lost + 0.05 * moments, {"error": error, "lost": lost, "moments": moments}

    run(recipe, "features", out, loss_of, tower=tower, pixels=pixels, where=where)


def train_autoencoder(model: Any, recipe: Recipe, out: Path) -> None:
    net = model.parts["decoder"].autoencoder

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_tensor(batch)
        posterior = net.encode(x).latent_dist
        z = posterior.sample()
        return autoencoder_loss(x, net.decode(z).sample, z, posterior.logvar)

    run(recipe, "autoencoder", out, loss_of, net=net)


def train_unet(model: Any, recipe: Recipe, out: Path) -> None:
    """Train the UNet to predict clean latents from noisy ones, at every noise level, given the features."""
    decoder, tower = model.parts["decoder"], model.parts["feature tower"]
    unet, shares = decoder.pipeline.unet, decoder.pipeline.scheduler.alphas_cumprod
    ids = torch.tensor([*SEEN_AS, *map(float, reversed(decoder.size))])

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            features = rearrange(tower.features(model.seen(images(batch))), "n h w c -> n (h w) c")
            clean = decoder.autoencoder.encode(as_tensor(batch)).latent_dist.mode()
            clean = clean * decoder.autoencoder.config.scaling_factor
        features = features + recipe.features_noise * torch.randn_like(features)
        time = torch.randint(0, len(shares), (len(clean),))
        share = shares[time].view(-1, 1, 1, 1)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * torch.randn_like(clean)
        more = {"text_embeds": features.mean(1), "time_ids": ids.expand(len(clean), -1)}
        return F.mse_loss(unet(noisy, time, features, added_cond_kwargs=more).sample, clean), {}

    run(recipe, "unet", out, loss_of, unet=unet)


def train_head(model: Any, recipe: Recipe, out: Path) -> None:
    """Train head, queries and language model by flow matching of the tower's features given captions."""
    batches = captioned(recipe, recipe.head_steps, recipe.head_batch, recipe.alike)
    schedule = Schedule("uniform", recipe.shift)
    language = model.parts["language model"].model.language_model
    torch.manual_seed(recipe.seed)
    guess = nn.Linear(model.denoiser.latent_queries.shape[-1], model.checkpoint.sizes.head.channels)

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        drawings, captions = batch
        clean = model.encode(images(drawings))
        states = model.denoiser.conditions(model.condition(captions[:: recipe.alike]))
        states = states.repeat_interleave(recipe.alike, 0)
        error = flow_loss(model.denoiser, clean, list(states), schedule, step)
        with_text = [place for place, caption in enumerate(captions) if caption is not None]
        features = rearrange(torch.stack(clean), "n h w c -> n (h w) c")[with_text]
        expected = guess(states[with_text])
        missed = F.mse_loss(expected, features) + F.mse_loss(expected.mean(1), features.mean(1)) * features.shape[1]
        return error + recipe.expected * missed, {"error": error, "missed": missed}

    run(recipe, "head", out, loss_of, batches, denoiser=model.denoiser, language=language, guess=guess)


def corpus(count: int = 4000) -> list[str]:
    rng = np.random.default_rng(1)
    return [image(rng)[1] for _ in range(count)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--phase", choices=PHASES, help="this one only (default: all, and then the model)")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the head, for what is measured in the end")
    recipe, options = parse(parser, Recipe(), arguments)
    out, phase = options.out, options.phase
    registry = discover()
    if not (out / "fresh" / "model.safetensors").is_file():
        create(out / "fresh", corpus(), recipe.seed)
    sampling = {"steps": 25, "guidance": options.guidance, "shift": recipe.shift, "decoder_steps": 4}
    common = {
        "use": "blip3o", "dtype": "float32", "device": "cpu", "offload": "none", "training_turn": "open",
        "sampling": {**sampling, "decoder_guidance": 1.0},
    }  # fmt: skip
    model: Any = registry.create("adapter", {**common, "checkpoint": str(out / "fresh"), "recompute": False})
    trainers = dict(zip(PHASES, (train_features, train_autoencoder, train_unet, train_head), strict=True))
    for name in PHASES[: PHASES.index(phase) + 1] if phase else PHASES:
        if name == phase or not phase or name in needed(phase):
            steps = {f"{name}_steps": finished_steps(out, name)} if phase and name != phase else {}
            trainers[name](model, evolve(recipe, **steps), out)
    if phase:
        return
    write(model, out / "model")
    if count := options.measure:
        model = registry.create("adapter", {**common, "checkpoint": str(out / "model")})
        print(json.dumps({"rebuilt": rebuilt(model, count), "drawn": generated(model, count)}, indent=2))


def needed(phase: str) -> Sequence[str]:
    """Return the earlier phases whose results a phase needs."""
    return {"unet": ("features", "autoencoder"), "head": ("features",)}.get(phase, ())


def finished_steps(out: Path, name: str) -> int:
    """Return the steps of a finished phase; with so many, training it only loads its checkpoint."""
    path = out / f"{name}.pt"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: make the phase `{name}` first.")
    return int(torch.load(path, weights_only=True)["step"])


if __name__ == "__main__":
    main()
