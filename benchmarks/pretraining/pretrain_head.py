"""Pretrain a tiny model that generates features of images: `python -m pretraining.pretrain_head --out DIR`.

A BLIP3-o: generation goes text -> language model -> head -> features -> decoder -> pixels. Four
phases, each resumable by repeating the command: the feature tower, the decoder's autoencoder, the decoder's UNet, and
the head together with its queries and the language model that reads the captions. Understanding is not trained: who
judges is another model (`answerer`). Images are rendered fresh for every step from (seed, step). `--phase` makes one
phase only; `unet` and `head` need the features, but not each other, and may run side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import asdict, evolve, frozen
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining import curriculum
from pretraining.blip3o import create, write
from pretraining.curriculum import Steps, image, loader
from pretraining.fit import Phase, as_tensor, fit, named_of
from pretraining.measure_head import generated, rebuilt
from srum_core.flow import Schedule, flow_step
from srum_core.plugins import discover
from srum_core.runs.store import write_atomic

PHASES = ("features", "autoencoder", "unet", "head")
SEEN_AS = (1024.0, 1024.0, 0.0, 0.0)
"""The inputs of SDXL's UNet for an image's original size and crop, as in sampling."""


@frozen
class Recipe:
    """What the tiny model was made with; every field is a command-line option."""

    seed: int = 0
    features_steps: int = 1500
    features_batch: int = 64
    features_noise: float = 0.1
    """Added to features (of deviation 1) while tower and decoder learn: the head's will not be exact."""
    autoencoder_steps: int = 1500
    autoencoder_batch: int = 32
    unet_steps: int = 4000
    unet_batch: int = 64
    head_steps: int = 6000
    head_batch: int = 128
    alike: int = 2
    """Images of each caption in a batch: it is read once for all of them, which is two fifths of the work."""
    expected: float = 0.3
    """Weight of what a linear map makes of each query's state, compared with the clean features: the head listens to
    its condition through gates that start at zero, and the language model would learn nothing for long."""
    rate: float = 1e-3
    """Of AdamW, in all phases; it falls to zero over the last `decay` of the steps."""
    muon: float = 0.01
    """Of Muon, for the matrices of the head and of the language model; 0 leaves them to AdamW."""
    decay: float = 0.4
    shift: float = 2.0
    """Time shift of the head's loss."""
    dropped: float = 0.1
    """Share of images without their text, for guidance."""
    ema: float = 0.998
    missed_captions: float = 0.1
    """Share of images that deviate from their caption in one thing (`captions.MISSES`), as on the web."""


def phase_of(name: str, recipe: Recipe) -> Phase:
    return Phase(
        name, getattr(recipe, f"{name}_steps"), recipe.rate, recipe.muon,
        decay=recipe.decay, ema=recipe.ema, seed=recipe.seed,
    )  # fmt: skip


def seen(recipe: Recipe, name: str) -> Callable[[int], Iterable[Any]]:
    """Images, half of them damaged, for the phases that know no captions."""
    steps, batch = getattr(recipe, f"{name}_steps"), getattr(recipe, f"{name}_batch")
    plan = curriculum.Recipe(seed=recipe.seed + PHASES.index(name), autoencoder_steps=steps, autoencoder_batch=batch)
    return lambda done: loader(Steps(plan, ("", ""), done, "autoencoder"))


def images(batch: Any) -> list[Image.Image]:
    return [Image.fromarray(each) for each in batch]


def train_features(model: Any, recipe: Recipe, out: Path) -> None:
    """The tower, by what a small reader makes of each token alone: its patch's pixels, and where it lies (the decoder
    reads tokens as a set). Channels are pulled to mean 0 and deviation 1, which the head's noise has."""
    tower = model.parts["feature tower"]
    channels, side = tower.sizes.width, tower.sizes.grid // tower.stride
    patch = tower.sizes.image // side
    torch.manual_seed(recipe.seed)
    pixels = nn.Sequential(nn.Linear(channels, 256), nn.GELU(), nn.Linear(256, 3 * patch**2))
    where = nn.Linear(channels, side**2)
    places = torch.arange(side**2)

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, float]]:
        features = rearrange(tower.features(model.seen(images(batch))), "n h w c -> n (h w) c")
        noisy = features + recipe.features_noise * torch.randn_like(features)
        target = rearrange(as_tensor(batch), "n c (h p) (w q) -> n (h w) (c p q)", p=patch, q=patch)
        error = F.mse_loss(pixels(noisy), target) + 0.2 * F.l1_loss(pixels(noisy), target)
        lost = F.cross_entropy(where(noisy).flatten(0, 1), places.repeat(len(noisy)))
        flat = features.flatten(0, 1)
        moments = flat.mean(0).square().mean() + (flat.std(0) - 1).square().mean()
        message = {"error": error.item(), "lost": lost.item(), "moments": moments.item()}
        return error + 0.05 * lost + 0.05 * moments, message

    named = named_of(tower=tower, pixels=pixels, where=where)
    fit(phase_of("features", recipe), out, named, seen(recipe, "features"), loss_of)


def train_autoencoder(model: Any, recipe: Recipe, out: Path) -> None:
    """Squared and absolute error, and a pull of each latent channel to mean 0 and deviation 1."""
    net = model.parts["decoder"].autoencoder

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, float]]:
        x = as_tensor(batch)
        found = net.encode(x).latent_dist
        z = found.sample()
        back = net.decode(z).sample
        moments = z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1).square().mean()
        error = F.mse_loss(back, x) + 0.2 * F.l1_loss(back, x)
        return error + 0.02 * moments + 1e-4 * (found.logvar + 4).square().mean(), {"mse": F.mse_loss(back, x).item()}

    fit(phase_of("autoencoder", recipe), out, named_of(net=net), seen(recipe, "autoencoder"), loss_of)


def train_unet(model: Any, recipe: Recipe, out: Path) -> None:
    """Clean latents out of noisy ones, at every noise level, given the features."""
    made, tower = model.parts["decoder"], model.parts["feature tower"]
    unet, kept = made.pipeline.unet, made.pipeline.scheduler.alphas_cumprod
    ids = torch.tensor([*SEEN_AS, *map(float, reversed(made.size))])

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            features = rearrange(tower.features(model.seen(images(batch))), "n h w c -> n (h w) c")
            clean = (
                made.autoencoder.encode(as_tensor(batch)).latent_dist.mode() * made.autoencoder.config.scaling_factor
            )
        features = features + recipe.features_noise * torch.randn_like(features)
        time = torch.randint(0, len(kept), (len(clean),))
        share = kept[time].view(-1, 1, 1, 1)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * torch.randn_like(clean)
        message = {"text_embeds": features.mean(1), "time_ids": ids.expand(len(clean), -1)}
        back = unet(noisy, time, features, added_cond_kwargs=message).sample
        return F.mse_loss(back, clean), {}

    fit(phase_of("unet", recipe), out, named_of(unet=unet), seen(recipe, "unet"), loss_of)


def train_head(model: Any, recipe: Recipe, out: Path) -> None:
    """The head, its queries and the language model: flow matching of the tower's features given captions."""
    plan = curriculum.Recipe(
        seed=recipe.seed, drawing_steps=recipe.head_steps, drawing_batch=recipe.head_batch, alike=recipe.alike,
        dropped=recipe.dropped, missed_captions=recipe.missed_captions,
    )  # fmt: skip
    language = model.parts["language model"].model.language_model
    torch.manual_seed(recipe.seed)
    guess = nn.Linear(model.denoiser.latent_queries.shape[-1], model.checkpoint.sizes.head.channels)

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, float]]:
        drawn, captions = batch
        clean = model.encode(images(drawn))
        states = model.denoiser.conditions(model.condition(captions[:: recipe.alike]))
        states = states.repeat_interleave(recipe.alike, 0)
        time = Schedule("uniform", recipe.shift).sample(len(clean), torch.Generator().manual_seed(step))
        noise = [torch.randn_like(x) for x in clean]
        flow = flow_step(model.denoiser, clean, list(states), time, None, noise=noise)
        error = F.mse_loss(torch.stack(flow.velocity), torch.stack(flow.target))
        message = [place for place, caption in enumerate(captions) if caption is not None]
        there = rearrange(torch.stack(clean), "n h w c -> n (h w) c")[message]
        expected = guess(states[message])
        missed = F.mse_loss(expected, there) + F.mse_loss(expected.mean(1), there.mean(1)) * there.shape[1]
        return error + recipe.expected * missed, {"error": error.item(), "missed": missed.item()}

    named = named_of(denoiser=model.denoiser, language=language, guess=guess)
    fit(phase_of("head", recipe), out, named, lambda done: loader(Steps(plan, ("", ""), done, "drawing")), loss_of)


def corpus(count: int = 4000) -> list[str]:
    rng = np.random.default_rng(1)
    return [image(rng)[1] for _ in range(count)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for states, logs and the model")
    parser.add_argument("--phase", choices=PHASES, help="this one only (default: all, and then the model)")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the head, for what is measured in the end")
    parser.add_argument("--measure", type=int, default=256, help="prompts to measure the result on; 0 = do not")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out, phase = options.pop("out"), options.pop("phase")
    count, guidance = options.pop("measure"), options.pop("guidance")
    recipe = Recipe(**options)
    out.mkdir(parents=True, exist_ok=True)
    registry = discover()
    if not (out / "fresh" / "model.safetensors").is_file():
        create(out / "fresh", corpus(), recipe.seed)
    write_atomic(out / "recipe.json", json.dumps(asdict(recipe), indent=2).encode())
    shape = {"steps": 25, "guidance": guidance, "shift": recipe.shift, "decoder_steps": 4, "decoder_guidance": 1.0}
    made = {"use": "blip3o", "checkpoint": str(out / "fresh"), "dtype": "float32", "device": "cpu", "release": False}
    model: Any = registry.create("adapter", {**made, "recompute": False, "training_turn": "open", "sampling": shape})
    trainers = dict(zip(PHASES, (train_features, train_autoencoder, train_unet, train_head), strict=True))
    for name in PHASES[: PHASES.index(phase) + 1] if phase else PHASES:
        if name == phase or not phase or name in needed(phase):
            finished = {f"{name}_steps": steps_made(out, name)} if phase and name != phase else {}
            trainers[name](model, evolve(recipe, **finished), out)
    if phase:
        return
    write(model, out / "model")
    if count:
        model = registry.create(
            "adapter", {**made, "checkpoint": str(out / "model"), "training_turn": "open", "sampling": shape}
        )
        print(json.dumps({"rebuilt": rebuilt(model, count), "drawn": generated(model, count)}, indent=2))


def needed(phase: str) -> Sequence[str]:
    """The phases before this one whose result it works with."""
    return {"unet": ("features", "autoencoder"), "head": ("features",)}.get(phase, ())


def steps_made(out: Path, name: str) -> int:
    """Of a phase that another one needs; loading its state then leaves nothing to do."""
    path = out / f"{name}.pt"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: make the phase `{name}` first.")
    return int(torch.load(path, weights_only=True)["step"])


if __name__ == "__main__":
    main()
