"""Pretrain the bundled tiny model on the world of shapes: `python -m pretraining.pretrain --out DIR`.

Five phases, all resumable by repeating the command: the autoencoder (unless the model goes on from a checkpoint), the
picture tower alone, drawing and looking together (the drawing loss plus the answers' cross-entropy), then drawing
alone, in which nothing that looks is changed, and looking at its own pictures, in which nothing that draws is. The last
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
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.bagel import Blueprint, answer_loss, create, write
from pretraining.curriculum import CROWDED, Recipe, Steps, corpus, loader
from pretraining.measure import measure
from pretraining.self_labelling import GUIDANCE, train_looking
from pretraining.stepping import (
    Log,
    as_tensor,
    autocast,
    optimisers,
    rates_of,
    restore,
    save,
    set_rates,
    state_of,
)
from pretraining.vision_pretraining import Sight
from srum_bagel.model import Bagel
from srum_core.config.settings import Lora
from srum_core.flow import Schedule, flow_step
from srum_core.plugins import discover
from srum_core.runs.store import write_atomic
from srum_core.training.lora import tune


def train_autoencoder(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Squared and absolute error, and a pull of each latent channel to mean 0, deviation 1 after scale and shift."""
    net = model.autoencoder.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    path = out / "autoencoder.pt"
    state: dict[str, Any] = torch.load(path, weights_only=True) if path.is_file() else {"step": 0}
    if state["step"]:
        net.load_state_dict(state["net"]), optimiser.load_state_dict(state["optimiser"])
    device = next(net.parameters()).device
    log = Log(out / "autoencoder.jsonl", state["step"])
    for step, batch in enumerate(loader(Steps(recipe, templates, state["step"], "autoencoder")), state["step"]):
        for group in optimiser.param_groups:
            group["lr"] = (
                2e-3
                * min(1, step / 50)
                * min(1.0, (recipe.autoencoder_steps - step) / (0.5 * recipe.autoencoder_steps))
            )
        x = as_tensor(batch).to(device)
        torch.manual_seed(step)
        with autocast(device):
            mean, spread = net.posterior(x)
            z = mean.float() + torch.exp(0.5 * spread.float()) * torch.randn_like(mean, dtype=torch.float32)
            latent = net.scale * (z - net.shift)
            back = net.decode(latent).float()
        moments = latent.mean((0, 2, 3)).square().mean() + (latent.std((0, 2, 3)) - 1).square().mean()
        error = F.mse_loss(back, x) + 0.2 * F.l1_loss(back, x)
        loss = error + 0.02 * moments + 1e-4 * (spread.float() + 4).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        log(step, recipe.autoencoder_steps, error=error.item(), mse=F.mse_loss(back, x).item(), moments=moments.item())
        if (step + 1) % 100 == 0 or step + 1 == recipe.autoencoder_steps:
            save(path, {"step": step + 1, "net": net.state_dict(), "optimiser": optimiser.state_dict()})
    net.eval().requires_grad_(False)


def train_eye(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """The picture tower alone: what covers each patch."""
    tower, size = model.eye.vit_model, model.eye.patch
    torch.manual_seed(recipe.seed)
    sight = Sight(tower, tower.vision_model.post_layernorm.normalized_shape[0]).to(next(tower.parameters()).device)
    named = {f"sight.{key}": parameter for key, parameter in sight.named_parameters()}
    for parameter in named.values():
        parameter.requires_grad_(True)
    steppers = optimisers(named, recipe)
    path = out / "eye.pt"
    done = restore(path, named, steppers)
    log, rates = Log(out / "eye.jsonl", done), rates_of(steppers)
    for step, (batch, labels) in enumerate(loader(Steps(recipe, templates, done, "eye", size)), done):
        set_rates(steppers, rates, min(1.0, (step + 1) / 50, (recipe.eye_steps - step) / (0.4 * recipe.eye_steps)))
        x = as_tensor(batch).to(next(tower.parameters()).device)
        with autocast(x.device):
            patches = torch.stack([model.eye.patches(each)[0] for each in x])
            loss, right = sight.loss(patches, torch.from_numpy(labels).to(x.device))
        for stepper in steppers:
            stepper.zero_grad()
        loss.backward()
        for stepper in steppers:
            stepper.step()
        log(step, recipe.eye_steps, loss=loss.item(), right=right.item())
        if (step + 1) % 100 == 0 or step + 1 == recipe.eye_steps:
            save(path, state_of(step + 1, named, steppers))
    for parameter in named.values():
        parameter.requires_grad_(False)


def train_both(model: Bagel, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Drawing and looking share embeddings and text weights, so they are trained in the same steps."""
    named = {
        f"{part}.{k}": p
        for part in ("denoiser", "eye")
        for k, p in getattr(model, part).named_parameters()
        if "pos_embed" not in k
    }
    for parameter in named.values():
        parameter.requires_grad_(True)
    steppers = optimisers(named, recipe)
    rates = rates_of(steppers)
    average = {k: p.detach().clone() for k, p in named.items()}
    path = out / "both.pt"
    done = restore(path, named, steppers, average)
    log = Log(out / "both.jsonl", done)
    device = next(iter(named.values())).device
    for step, (drawn, captions, seen, asked) in enumerate(loader(Steps(recipe, templates, done, "both")), done):
        fall = min(1.0, (step + 1) / 100, (recipe.steps - step) / (recipe.decay * recipe.steps))
        set_rates(steppers, rates, fall)
        drawing = drawing_loss(model, recipe, drawn, captions, step, device)
        with autocast(device):
            looking = answer_loss(model, [Image.fromarray(each) for each in seen], asked)
        for stepper in steppers:
            stepper.zero_grad()
        (drawing + (recipe.late_looking if step >= recipe.turn else 0.3) * looking).backward()
        norm = nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        for stepper in steppers:
            stepper.step()
        keep = min(recipe.ema, (step + 1) / (step + 10))
        for key, parameter in named.items():
            average[key].lerp_(parameter.detach(), 1 - keep)
        log(step, recipe.steps, drawing=drawing.item(), looking=looking.item(), norm=float(norm), rate=fall)
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            save(path, {**state_of(step + 1, named, steppers), "average": average})
            export(model, average, out / "model")
    for parameter in named.values():
        parameter.requires_grad_(False)


def train_drawing(model: Any, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """The generation experts alone: drawing takes far longer to learn than looking, and such a step costs a quarter."""
    tuned = tune(model, "full", Lora(), checkpointing=False)
    named = dict(tuned.parameters)
    steppers, average = optimisers(named, recipe), {k: p.detach().clone() for k, p in named.items()}
    path, rates = out / "drawing.pt", rates_of(steppers)
    done = restore(path, named, steppers, average)
    log, device = Log(out / "drawing.jsonl", done), next(iter(named.values())).device
    for step, (drawn, captions) in enumerate(loader(Steps(recipe, templates, done, "drawing")), done):
        fall = min(1.0, (step + 1) / 100, (recipe.drawing_steps - step) / (recipe.decay * recipe.drawing_steps))
        set_rates(steppers, rates, fall)
        loss = drawing_loss(model, recipe, drawn, captions, step + recipe.steps, device)
        for stepper in steppers:
            stepper.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        for stepper in steppers:
            stepper.step()
        keep = min(recipe.ema, (step + 1) / (step + 10))
        for key, parameter in named.items():
            average[key].lerp_(parameter.detach(), 1 - keep)
        log(step, recipe.drawing_steps, drawing=loss.item(), norm=float(norm), rate=fall)
        if (step + 1) % 200 == 0 or step + 1 == recipe.drawing_steps:
            save(path, {**state_of(step + 1, named, steppers), "average": average})
            write(model, out / "model-drawing", average)


def drawing_loss(
    model: Bagel, recipe: Recipe, drawn: Any, captions: Sequence[str | None], step: int, device: torch.device
) -> Tensor:
    """Mean over pictures of the flow-matching error; times and noise follow from the recipe's seed and the step."""
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
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, instead of fresh weights and tokenizer")
    parser.add_argument("--layout-template", type=Path, required=True, help="the global judge's template")
    parser.add_argument("--regions-template", type=Path, required=True, help="the local judge's template")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure", type=int, default=256, help="pictures to measure the result on; 0 = do not")
    parser.add_argument("--world", choices=("shapes", "crowded"), default="shapes", help="also sets other defaults")
    defaults = CROWDED if parser.parse_known_args(arguments)[0].world == "crowded" else Recipe()
    for name, default in asdict(defaults).items():
        if name == "world":
            continue
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out, device = options.pop("out"), options.pop("device")
    pictures, start = options.pop("measure"), options.pop("start")
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
    sizes = {"size": side, "drawing_sides": side, "vision_sides": side, "device": device, "dtype": "float32"}

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
        parts = [load(last, drawing={"steps": 25, "guidance": guidance}) for guidance in GUIDANCE]
        train_looking(load(last, experts="generation"), recipe, out, templates, parts)
        last = "model-looking"
    if pictures:
        print(json.dumps(measure(load(last), templates, count=pictures, world=recipe.world), indent=2))


if __name__ == "__main__":
    main()
