"""Pretrain the bundled tiny model on the world of shapes: `python -m pretraining.pretrain --out DIR`.

Five phases, all resumable by repeating the command: the autoencoder (unless the model starts from a checkpoint), the
image tower alone, generation and understanding together (the generation loss plus the answers' cross-entropy), then
generation alone with frozen understanding weights, and understanding of its own images with frozen generation. The last
three write a model each; the last one is the result. Lessons are rendered fresh for every step from (seed, step).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pretraining.bagel import Blueprint, answer_loss, create, write
from pretraining.curriculum import CROWDED, Recipe, Steps, corpus, loader
from pretraining.fit import Phase, as_tensor, autocast, fit, named_of
from pretraining.measure import measure
from pretraining.self_labelling import GUIDANCE, train_looking
from pretraining.vision_pretraining import Sight
from srum_bagel.model import Bagel
from srum_core.config.settings import Lora
from srum_core.flow import Schedule, flow_step
from srum_core.plugins import discover
from srum_core.runs.store import write_atomic
from srum_core.training.lora import tune

AUTOENCODER_RATE = 2e-3


def train_autoencoder(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Squared and absolute error, and a pull of each latent channel to mean 0, deviation 1 after scale and shift."""
    net = model.autoencoder.train()

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_tensor(batch).to(device)
        with autocast(device):
            mean, spread = net.posterior(x)
            z = mean.float() + torch.exp(0.5 * spread.float()) * torch.randn_like(mean, dtype=torch.float32)
            latent = net.scale * (z - net.shift)
            back = net.decode(latent).float()
        moments = latent.mean((0, 2, 3)).square().mean() + (latent.std((0, 2, 3)) - 1).square().mean()
        mse = F.mse_loss(back, x)
        error = mse + 0.2 * F.l1_loss(back, x)
        loss = error + 0.02 * moments + 1e-4 * (spread.float() + 4).square().mean()
        return loss, {"error": error, "mse": mse, "moments": moments}

    phase = Phase("autoencoder", recipe.autoencoder_steps, AUTOENCODER_RATE, warm_up=50, decay=0.5)
    named = named_of(net=net)
    device = next(iter(named.values())).device
    fit(phase, out, named, lambda done: loader(Steps(recipe, templates, done, "autoencoder")), loss_of)
    net.eval()


def train_eye(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """The image tower alone: what covers each patch."""
    tower, size = model.eye.vit_model, model.eye.patch
    device = next(tower.parameters()).device
    torch.manual_seed(recipe.seed)
    sight = Sight(tower, tower.vision_model.post_layernorm.normalized_shape[0]).to(device)

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        seen, labels = batch
        with autocast(device):
            patches = torch.stack([model.eye.patches(each)[0] for each in as_tensor(seen).to(device)])
            loss, right = sight.loss(patches, torch.from_numpy(labels).to(device))
        return loss, {"right": right}

    phase = Phase("eye", recipe.eye_steps, recipe.adam, recipe.muon, warm_up=50, decay=0.4)
    fit(phase, out, named_of(sight=sight), lambda done: loader(Steps(recipe, templates, done, "eye", size)), loss_of)


def train_both(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Generation and understanding share embeddings and text weights, so they are trained in the same steps."""
    every = named_of(denoiser=model.denoiser, eye=model.eye)
    named = {name: parameter for name, parameter in every.items() if "pos_embed" not in name}
    device = next(iter(named.values())).device

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        drawn, captions, seen, asked = batch
        drawing = drawing_loss(model, recipe, drawn, captions, step, device)
        with autocast(device):
            looking = answer_loss(model, [Image.fromarray(each) for each in seen], asked)
        weight = recipe.late_looking if step >= recipe.turn else 0.3
        return drawing + weight * looking, {"drawing": drawing, "looking": looking}

    phase = Phase(
        "both", recipe.steps, recipe.adam, recipe.muon, decay=recipe.decay, ema=recipe.ema, every=50, seed=recipe.seed
    )
    fit(
        phase, out, named, lambda done: loader(Steps(recipe, templates, done, "both")), loss_of,
        lambda average: export(model, average, out / "model"),
    )  # fmt: skip


def train_drawing(model: Any, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """The generation experts alone: generation needs far more steps than understanding; such a step costs a quarter."""
    named = dict(tune(model, "full", Lora(), checkpointing=False).parameters)
    device = next(iter(named.values())).device

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        drawn, captions = batch
        loss = drawing_loss(model, recipe, drawn, captions, step + recipe.steps, device)
        return loss, {"drawing": loss}

    phase = Phase(
        "drawing", recipe.drawing_steps, recipe.adam, recipe.muon,
        decay=recipe.decay, ema=recipe.ema, every=200, seed=recipe.seed,
    )  # fmt: skip
    fit(
        phase, out, named, lambda done: loader(Steps(recipe, templates, done, "drawing")), loss_of,
        lambda average: write(model, out / "model-drawing", average),
    )  # fmt: skip


def drawing_loss(
    model: Bagel, recipe: Recipe, drawn: Any, captions: Sequence[str | None], step: int, device: torch.device
) -> Tensor:
    """Mean over images of the flow-matching error; times and noise follow from the recipe's seed and the step."""
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    with autocast(device):
        clean = [x.float() for x in model.encode([Image.fromarray(each) for each in drawn])]
    time = Schedule("logit-normal", recipe.shift).sample(len(clean), rng)
    noise = [torch.randn(x.shape, generator=rng).to(device) for x in clean]
    with autocast(device):
        flow = flow_step(model.denoiser, clean, model.condition(captions), time.to(device), None, noise=noise)
        errors = [(v.float() - t).square().mean() for v, t in zip(flow.velocity, flow.target, strict=True)]
    return torch.stack(errors).mean()


def export(model: Bagel, average: Mapping[str, Tensor], directory: Path) -> None:
    """The averaged weights as a checkpoint directory."""
    write(model, directory, {key.split(".", 1)[1]: value for key, value in average.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for states, logs and the model")
    parser.add_argument(
        "--start", type=Path, help="a checkpoint to start from, instead of random weights and a new tokenizer"
    )
    parser.add_argument("--layout-template", type=Path, required=True, help="the global judge's template")
    parser.add_argument("--regions-template", type=Path, required=True, help="the local judge's template")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure", type=int, default=256, help="images to measure the result on; 0 = do not")
    parser.add_argument("--world", choices=("shapes", "crowded"), default="shapes", help="also sets other defaults")
    defaults = CROWDED if parser.parse_known_args(arguments)[0].world == "crowded" else Recipe()
    for name, default in asdict(defaults).items():
        if name == "world":
            continue
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out, device = options.pop("out"), options.pop("device")
    images, start = options.pop("measure"), options.pop("start")
    templates = (options.pop("layout_template").read_text(), options.pop("regions_template").read_text())
    recipe = Recipe(**options)
    out.mkdir(parents=True, exist_ok=True)
    registry = discover()
    if start is not None:
        shutil.copytree(start, out / "fresh", dirs_exist_ok=True)
    elif not (out / "fresh" / "ema.safetensors").is_file():
        create(out / "fresh", Blueprint(), corpus(templates, recipe.world), recipe.seed)
    write_atomic(out / "recipe.json", json.dumps(asdict(recipe), indent=2).encode())
    side = (32, 32)
    sizes = {"size": side, "generation_sides": side, "vision_sides": side, "device": device, "dtype": "float32"}

    def load(name: str, **more: Any) -> Any:
        return registry.create("adapter", {"use": "bagel", "checkpoint": str(out / name), **sizes, **more})

    model = load("fresh")
    if start is None or recipe.world == "crowded":  # the one that a checkpoint brings stays as it is in its own world
        train_autoencoder(model, recipe, out, templates)
    train_eye(model, recipe, out, templates)
    train_both(model, recipe, out, templates)
    last = "model"
    if recipe.drawing_steps:
        train_drawing(load(last, experts="generation"), recipe, out, templates)
        last = "model-drawing"
    if recipe.looking_steps:
        parts = [load(last, sampling={"steps": 25, "guidance": guidance}) for guidance in GUIDANCE]
        train_looking(load(last, experts="generation"), recipe, out, templates, parts)
        last = "model-looking"
    if images:
        print(json.dumps(measure(load(last), templates, count=images, world=recipe.world), indent=2))


if __name__ == "__main__":
    main()
