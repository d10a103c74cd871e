"""Pretrain the bundled tiny model on the world of shapes: `python -m srum_benchmarks.shapes.pretrain --out DIR`.

Three phases, all resumable by repeating the command: the autoencoder (unless the model goes on from a checkpoint), the
picture tower alone, then drawing and looking together (the drawing loss plus the answers' cross-entropy). Lessons are
rendered fresh for every step from (seed, step).
Any adapter can be pretrained that offers what `Pretrainable` lists.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from attrs import asdict
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from srum_benchmarks.shapes.curriculum import Recipe, corpus, loader
from srum_benchmarks.shapes.measure import measure
from srum_benchmarks.shapes.sight import Sight
from srum_core.flow import Schedule, flow_step
from srum_core.plugins import discover
from srum_core.protocols import UnifiedModel
from srum_core.store import write_atomic


class Pretrainable(UnifiedModel, Protocol):
    """What pretraining needs beyond a `UnifiedModel`."""

    eye: Any
    autoencoder: Any

    def answer_loss(
        self, pictures: Sequence[Image.Image], exchanges: Sequence[Sequence[tuple[str, str]]]
    ) -> Tensor: ...

    def write(self, directory: Path, changed: Mapping[str, Tensor] | None = None) -> None: ...


def as_tensor(pictures: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(model: Pretrainable, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
    """Squared and absolute error, and a pull of each latent channel to mean 0, deviation 1 after scale and shift."""
    net = model.autoencoder.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    path = out / "autoencoder.pt"
    state: dict[str, Any] = torch.load(path, weights_only=True) if path.is_file() else {"step": 0}
    if state["step"]:
        net.load_state_dict(state["net"]), optimiser.load_state_dict(state["optimiser"])
    device = next(net.parameters()).device
    log = Log(out / "autoencoder.jsonl", state["step"])
    for step, batch in enumerate(loader(recipe, templates, state["step"], "autoencoder"), state["step"]):
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
        if (step + 1) % 200 == 0 or step + 1 == recipe.autoencoder_steps:
            save(path, {"step": step + 1, "net": net.state_dict(), "optimiser": optimiser.state_dict()})
    net.eval().requires_grad_(False)


def train_eye(model: Pretrainable, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
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
    for step, (batch, labels) in enumerate(loader(recipe, templates, done, "eye", size), done):
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
        if (step + 1) % 200 == 0 or step + 1 == recipe.eye_steps:
            save(path, state_of(step + 1, named, steppers))
    for parameter in named.values():
        parameter.requires_grad_(False)


def rates_of(steppers: Sequence[torch.optim.Optimizer]) -> list[float]:
    return [group["lr"] for stepper in steppers for group in stepper.param_groups]


def set_rates(steppers: Sequence[torch.optim.Optimizer], rates: Sequence[float], share: float) -> None:
    for group, rate in zip((g for s in steppers for g in s.param_groups), rates, strict=True):
        group["lr"] = rate * share


def state_of(step: int, named: Mapping[str, nn.Parameter], steppers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    weights = {key: parameter.detach() for key, parameter in named.items()}
    return {"step": step, "weights": weights, "optimisers": [stepper.state_dict() for stepper in steppers]}


def optimisers(named: Mapping[str, nn.Parameter], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for everything else."""
    inner = [p for name, p in named.items() if p.dim() == 2 and (".layers." in name)]
    known = {id(p) for p in inner}
    outer = [p for p in named.values() if id(p) not in known]
    return [
        torch.optim.Muon(inner, lr=recipe.muon, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=recipe.adam, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train_both(model: Pretrainable, recipe: Recipe, out: Path, templates: tuple[str, str]) -> None:
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
    for step, (drawn, captions, seen, asked) in enumerate(loader(recipe, templates, done, "both"), done):
        fall = min(1.0, (step + 1) / 100, (recipe.steps - step) / (recipe.decay * recipe.steps))
        set_rates(steppers, rates, fall)
        rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        with autocast(device):
            clean = [x.float() for x in model.encode([Image.fromarray(each) for each in drawn])]
        time_ = Schedule("logit-normal", recipe.shift).sample(len(clean), rng)
        noise = [torch.randn(x.shape, generator=rng).to(device) for x in clean]
        with autocast(device):
            flow = flow_step(model.denoiser, clean, model.condition(captions), time_.to(device), None, noise=noise)
            drawing = torch.stack(
                [(v.float() - t).square().mean() for v, t in zip(flow.velocity, flow.target, strict=True)]
            ).mean()
            looking = model.answer_loss([Image.fromarray(each) for each in seen], asked)
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
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            save(path, {**state_of(step + 1, named, steppers), "average": average})
            export(model, average, out / "model")
    for parameter in named.values():
        parameter.requires_grad_(False)


def restore(
    path: Path, named: Mapping[str, nn.Parameter], steppers: Sequence[Any], average: dict[str, Tensor] | None = None
) -> int:
    """Continue where the last state was saved; returns the number of steps done."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for key, parameter in named.items():
            parameter.copy_(state["weights"][key])
            if average is not None:
                average[key].copy_(state["average"][key])
    for stepper, saved in zip(steppers, state["optimisers"], strict=True):
        stepper.load_state_dict(saved)
    return int(state["step"])


def export(model: Pretrainable, average: Mapping[str, Tensor], directory: Path) -> None:
    """The averaged weights as a checkpoint directory."""
    model.write(directory, {key.split(".", 1)[1]: value for key, value in average.items()})


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16)


def save(path: Path, state: Any) -> None:
    aside = path.with_suffix(".aside")
    torch.save(state, aside)
    aside.replace(path)


class Log:
    """One JSON line every 20 steps, and on the screen with the remaining time."""

    def __init__(self, path: Path, done: int) -> None:
        self.path, self.start, self.first = path, time.monotonic(), done
        if path.is_file():  # steps after the last saved state are made again
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= done]
            path.write_text("".join(line + "\n" for line in kept))
        self.sums: dict[str, float] = {}
        self.count = 0

    def __call__(self, step: int, total: int, **values: float) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1
        if (step + 1) % 20 and step + 1 < total:
            return
        means = {key: round(value / self.count, 5) for key, value in self.sums.items()}
        self.sums, self.count = {}, 0
        pace = (time.monotonic() - self.start) / (step + 1 - self.first)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step + 1, **means, "seconds_per_step": round(pace, 3)}) + "\n")
        print(
            f"{self.path.stem} {step + 1}/{total} {means} {pace:.2f} s/step, "
            f"{pace * (total - step - 1) / 60:.0f} min left",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for states, logs and the model")
    parser.add_argument("--adapter", default="bagel")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, instead of fresh weights and tokenizer")
    parser.add_argument("--layout-template", type=Path, required=True, help="the global judge's template")
    parser.add_argument("--regions-template", type=Path, required=True, help="the local judge's template")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure", type=int, default=256, help="pictures to measure the result on; 0 = do not")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out, adapter, device = options.pop("out"), options.pop("adapter"), options.pop("device")
    pictures, start = options.pop("measure"), options.pop("start")
    templates = (options.pop("layout_template").read_text(), options.pop("regions_template").read_text())
    recipe = Recipe(**options)
    out.mkdir(parents=True, exist_ok=True)
    registry = discover()
    make = registry.load("adapter", adapter)
    if start is not None:
        shutil.copytree(start, out / "fresh", dirs_exist_ok=True)
    elif not (out / "fresh" / "ema.safetensors").is_file():
        make.create(out / "fresh", corpus(templates), recipe.seed)
    write_atomic(out / "recipe.json", json.dumps(asdict(recipe), indent=2).encode())
    side = (32, 32)
    sizes = {"size": side, "drawing_sides": side, "vision_sides": side, "device": device, "dtype": "float32"}
    model = registry.create("adapter", {"use": adapter, "checkpoint": str(out / "fresh"), **sizes})
    if start is None:  # the one that a checkpoint brings stays as it is
        train_autoencoder(model, recipe, out, templates)
    train_eye(model, recipe, out, templates)
    train_both(model, recipe, out, templates)
    trained = registry.create("adapter", {"use": adapter, "checkpoint": str(out / "model"), **sizes})
    if pictures:
        print(json.dumps(measure(trained, templates, count=pictures), indent=2))


if __name__ == "__main__":
    main()
