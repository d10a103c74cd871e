"""Pretrain the bundled tiny model on the world of shapes: `python -m pretraining.pretrain --out DIR`.

Five phases, all resumable by repeating the command: the autoencoder (unless the model starts from a checkpoint), the
image tower alone, generation and understanding together (the generation loss plus the answers' cross-entropy), then
generation alone with frozen understanding weights, and understanding of its own images with frozen generation. The last
three write a model each; the last one is the result. Lessons are rendered fresh for every step from (seed, step).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pretraining.bagel import Blueprint, answer_loss, create, write
from pretraining.curriculum import CROWDED, Recipe, Steps, corpus, loader
from pretraining.fit import Phase, as_tensor, autocast, autoencoder_loss, fit, make_parser, named_of, parse
from pretraining.measure import measure
from pretraining.self_labelling import GUIDANCE, train_looking
from pretraining.vision_pretraining import Sight, patches_of
from srum_bagel.model import Bagel
from srum_core.config.settings import Lora
from srum_core.flow import Schedule, flow_step
from srum_core.plugins import discover
from srum_core.training.lora import tune

AUTOENCODER_RATE = 2e-3


def train_autoencoder(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Train the autoencoder; latents have mean 0 and deviation 1 after scale and shift."""
    net = model.autoencoder.train()

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_tensor(batch).to(device)
        with autocast(device):
            mean, spread = net.posterior(x)
            z = mean.float() + torch.exp(0.5 * spread.float()) * torch.randn_like(mean, dtype=torch.float32)
            latent = net.scale * (z - net.shift)
            decoded = net.decode(latent).float()
        return autoencoder_loss(x, decoded, latent, spread.float())

    phase = Phase("autoencoder", recipe.autoencoder_steps, AUTOENCODER_RATE, warm_up=50, decay=0.5)
    parameters = named_of(net=net)
    device = next(iter(parameters.values())).device
    fit(phase, out, parameters, lambda done: loader(Steps(recipe, templates, done, "autoencoder")), loss_of)
    net.eval()


def train_eye(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Train the image tower alone, to tell what covers each patch."""
    patch = model.eye.patch
    torch.manual_seed(recipe.seed)
    sight = Sight.of(model)

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(model.denoiser.device):
            loss, right = sight.loss(*patches_of(model, *batch))
        return loss, {"right": right}

    phase = Phase("eye", recipe.eye_steps, recipe.adam, recipe.muon, warm_up=50, decay=0.4)
    fit(phase, out, named_of(sight=sight), lambda done: loader(Steps(recipe, templates, done, "eye", patch)), loss_of)


def train_both(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Train generation and understanding in the same steps: they share embeddings and text weights."""
    all_parameters = named_of(denoiser=model.denoiser, eye=model.eye)
    parameters = {name: parameter for name, parameter in all_parameters.items() if "pos_embed" not in name}

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        images, captions, judged, pairs = batch
        drawing = drawing_loss(model, recipe, images, captions, step)
        with autocast(model.denoiser.device):
            looking = answer_loss(model, [Image.fromarray(each) for each in judged], pairs)
        weight = recipe.late_looking if step >= recipe.turn else 0.3
        return drawing + weight * looking, {"drawing": drawing, "looking": looking}

    fit(
        recipe.phase("both", recipe.steps, recipe.adam, every=50), out, parameters,
        lambda done: loader(Steps(recipe, templates, done, "both")), loss_of,
        lambda average: write(model, out / "model", {key.split(".", 1)[1]: value for key, value in average.items()}),
    )  # fmt: skip


def train_drawing(model: Any, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Train the generation experts alone: generation needs far more steps, and such a step costs a quarter."""
    parameters = dict(tune(model, "full", Lora(), checkpointing=False).parameters)

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        images, captions = batch
        loss = drawing_loss(model, recipe, images, captions, step + recipe.steps)
        return loss, {"drawing": loss}

    fit(
        recipe.phase("drawing", recipe.drawing_steps, recipe.adam, every=200), out, parameters,
        lambda done: loader(Steps(recipe, templates, done, "drawing")), loss_of,
        lambda average: write(model, out / "model-drawing", average),
    )  # fmt: skip


def drawing_loss(model: Bagel, recipe: Recipe, images: Any, captions: Sequence[str | None], step: int) -> Tensor:
    """Return the flow-matching error, mean over images; times and noise depend on the recipe's seed and the step."""
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    with autocast(model.denoiser.device):
        clean = [x.float() for x in model.encode([Image.fromarray(each) for each in images])]
        time = Schedule("logit-normal", recipe.shift).sample(len(clean), rng)
        flow = flow_step(model.denoiser, clean, model.condition(captions), time, None, noise=rng)
        errors = [(v.float() - t).square().mean() for v, t in zip(flow.velocity, flow.target, strict=True)]
    return torch.stack(errors).mean()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--start", type=Path, help="a checkpoint to start from, instead of random weights and a new tokenizer"
    )
    parser.add_argument("--layout-template", type=Path, required=True, help="the global judge's template")
    parser.add_argument("--regions-template", type=Path, required=True, help="the local judge's template")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--world", choices=("shapes", "crowded"), default="shapes", help="also sets other defaults")
    world = parser.parse_known_args(arguments)[0].world
    recipe, options = parse(parser, CROWDED if world == "crowded" else Recipe(), arguments)
    out, start = options.out, options.start
    templates = (options.layout_template.read_text("utf-8"), options.regions_template.read_text("utf-8"))
    registry = discover()
    if start is not None:
        shutil.copytree(start, out / "fresh", dirs_exist_ok=True)
    elif not (out / "fresh" / "ema.safetensors").is_file():
        create(out / "fresh", Blueprint(), corpus(templates, recipe.world), recipe.seed)
    sizes = dict.fromkeys(("size", "generation_sides", "vision_sides"), (32, 32))
    common = {"use": "bagel", "device": options.device, "dtype": "float32", **sizes}

    def load(name: str, **more: Any) -> Any:
        return registry.create("adapter", {**common, "checkpoint": str(out / name), **more})

    model = load("fresh")
    if start is None or recipe.world == "crowded":  # in its own world, a checkpoint keeps its autoencoder
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
    if options.measure:
        print(json.dumps(measure(load(last), templates, count=options.measure, world=recipe.world), indent=2))


if __name__ == "__main__":
    main()
