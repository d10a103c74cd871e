"""Shared by all recipes: fields, command lines and losses; the loop `fit` with its checkpoints and log; and Muon."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from attrs import asdict, evolve, frozen
from torch import Tensor, nn
from torch.nn import functional as F

from srum_core.flow import Schedule, flow_step
from srum_core.runs.store import write_atomic

Named = Mapping[str, nn.Parameter]


@frozen
class Phase:
    """The training of one phase. Its checkpoint is `name`.pt, its log is `name`.jsonl."""

    name: str
    steps: int
    adam: float
    """Learning rate of AdamW: embeddings, norms, biases, heads, and all that is not inside a transformer's layers."""
    muon: float = 0.0
    """Learning rate of Muon, for the matrices inside the layers; 0 leaves them to AdamW."""
    warm_up: int = 100
    """Steps over which both rates rise."""
    decay: float = 1.0
    """Share of the steps, at the end, over which both rates fall to zero."""
    ema: float = 0.0
    """Decay of the averaged weights, which are the result; 0 = no average."""
    every: int = 100
    """Steps between two checkpoints."""
    seed: int = 0


@frozen(kw_only=True)
class Recipe:
    """The training of a model; every field is a command-line option."""

    seed: int = 0
    muon: float = 0.01
    """Learning rate of Muon, for the matrices inside the layers; 0 leaves them to AdamW."""
    decay: float = 0.4
    """Share of the steps, at the end, over which all rates fall to zero."""
    shift: float = 2.0
    """Time shift of the generation loss, and of sampling when measuring."""
    dropped: float = 0.1
    """Share of images without their text, for guidance."""
    ema: float = 0.998
    missed_captions: float = 0.1
    """Share of images that deviate from their caption in one thing (`captions.MISSES`), as on the web."""

    def phase(self, name: str, steps: int, rate: float, every: int = 100) -> Phase:
        """`rate`: of AdamW."""
        return Phase(name, steps, rate, self.muon, decay=self.decay, ema=self.ema, every=every, seed=self.seed)


R = TypeVar("R", bound=Recipe)


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Create a parser with the options that all recipes share."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for states, logs and the model")
    parser.add_argument("--measure", type=int, default=256, help="prompts to measure the result on; 0 = do not")
    return parser


def parse(parser: argparse.ArgumentParser, recipe: R, arguments: Sequence[str] | None) -> tuple[R, argparse.Namespace]:
    """Return the recipe with the values of the command line, and all options. Every field of the recipe becomes an
    option. The recipe is written into the folder `out`."""
    for name, default in asdict(recipe).items():
        if parser.get_default(name) is None:
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = parser.parse_args(arguments)
    recipe = evolve(recipe, **{name: getattr(options, name) for name in asdict(recipe)})
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / "recipe.json", json.dumps(asdict(recipe), indent=2).encode())
    return recipe, options


# ---- losses ----------------------------------------------------------------------------------------------------------


def flow_loss(denoiser: nn.Module, clean: Sequence[Tensor], condition: Any, schedule: Schedule, step: int) -> Tensor:
    """Return the mean squared error of velocities. Times depend on the step; noise is from torch's rng, which `fit`
    seeds."""
    time = schedule.sample(len(clean), torch.Generator().manual_seed(step))
    flow = flow_step(denoiser, clean, condition, time, None, noise=[torch.randn_like(x) for x in clean])
    return F.mse_loss(torch.stack(flow.velocity), torch.stack(flow.target))


def autoencoder_loss(
    images: Tensor, decoded: Tensor, latents: Tensor, log_variance: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return squared and absolute error, and a penalty that pulls latent channels to mean 0 and deviation 1."""
    moments = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
    mse = F.mse_loss(decoded, images)
    error = mse + 0.2 * F.l1_loss(decoded, images)
    loss = error + 0.02 * moments + 1e-4 * (log_variance + 4).square().mean()
    return loss, {"error": error, "mse": mse, "moments": moments}


# ---- the loop --------------------------------------------------------------------------------------------------------


def fit(
    phase: Phase,
    out: Path,
    parameters: Named,
    batches: Callable[[int], Iterable[Any]],
    loss_of: Callable[[int, Any], tuple[Tensor, Mapping[str, Tensor | float]]],
    on_save: Callable[[Mapping[str, Tensor]], None] = lambda average: None,
) -> None:
    """Do the remaining steps of a phase; at the end the parameters are the averaged ones, and frozen.

    batches     returns the batches from a step on
    loss_of     returns the loss of a step and batch, and further numbers to log
    on_save     is called with the averaged weights after each checkpoint"""
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizers = make_optimizers(phase, parameters)
    average = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    path = out / f"{phase.name}.pt"
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    finished = restore(path, parameters, optimizers, average)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    log = Log(out / f"{phase.name}.jsonl", finished)
    for step, batch in enumerate(batches(finished), finished):
        rate = min(1.0, (step + 1) / phase.warm_up, (phase.steps - step) / (phase.decay * phase.steps))
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate
        torch.manual_seed(phase.seed * 1_000_003 + step)
        loss, parts = loss_of(step, batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        keep = min(phase.ema, (step + 1) / (step + 10))
        for key, parameter in parameters.items():
            average[key].lerp_(parameter.detach(), 1 - keep)
        values = {"loss": loss, **parts, "norm": norm, "rate": rate}
        log(step, phase.steps, **{key: v.item() if isinstance(v, Tensor) else v for key, v in values.items()})
        if (step + 1) % phase.every == 0 or step + 1 == phase.steps:
            save(path, step + 1, parameters, optimizers, average)
            on_save(average)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])
            parameter.requires_grad_(False)


def named_of(**modules: nn.Module) -> dict[str, nn.Parameter]:
    return {f"{part}.{name}": p for part, module in modules.items() for name, p in module.named_parameters()}


def make_optimizers(phase: Phase, parameters: Named) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, and AdamW for all else; AdamW alone with `muon` = 0."""
    inner = [p for name, p in parameters.items() if phase.muon and p.dim() == 2 and ".layers." in name]
    inside = {id(p) for p in inner}
    outer = [p for p in parameters.values() if id(p) not in inside]
    muon = [Muon(inner, phase.muon)] if inner else []
    return [*muon, torch.optim.AdamW(outer, lr=phase.adam, betas=(0.9, 0.95), weight_decay=0.0)]


def save(
    path: Path, step: int, parameters: Named, optimizers: Iterable[torch.optim.Optimizer], average: Mapping[str, Tensor]
) -> None:
    aside = path.with_suffix(".aside")
    weights = {key: parameter.detach() for key, parameter in parameters.items()}
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"step": step, "weights": weights, "average": dict(average), "optimisers": states}, aside)
    aside.replace(path)


def restore(
    path: Path, parameters: Named, optimizers: Iterable[torch.optim.Optimizer], average: Mapping[str, Tensor]
) -> int:
    """Load the last checkpoint, if there is one, and return the number of finished steps."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(state["weights"][key])
            average[key].copy_(state["average"][key])
    for optimizer, saved_state in zip(optimizers, state["optimisers"], strict=True):
        optimizer.load_state_dict(saved_state)
    return int(state["step"])


def as_tensor(images: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16, except on CPUs without its instructions. A product of (2000, 128) and (128, 256) ran at 1.3
    GFLOP/s with AVX2 and 25 with AVX-512 without bfloat16; in float32 at 89 and 127 (torch 2.14, one thread)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or _multiplies_bfloat16())


def _multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


class Log:
    """Writes a JSON line every 20 steps, and prints it with the remaining time."""

    def __init__(self, path: Path, finished: int) -> None:
        self.path, self.start, self.first = path, time.monotonic(), finished
        if path.is_file():  # steps after the checkpoint are repeated
            lines = [line for line in path.read_text("utf-8").splitlines() if json.loads(line)["step"] <= finished]
            path.write_text("".join(line + "\n" for line in lines), "utf-8")
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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step + 1, **means, "seconds_per_step": round(pace, 3)}) + "\n")
        print(
            f"{self.path.stem} {step + 1}/{total} {means} {pace:.2f} s/step, "
            f"{pace * (total - step - 1) / 60:.0f} min left",
            flush=True,
        )


# ---- Muon ------------------------------------------------------------------------------------------------------------

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (K. Jordan, 2024), steep at zero; singular values end in about [0.7, 1.2]."""


def orthogonalised(stack: Tensor, steps: int = 5) -> Tensor:
    """Return about U V^T of each matrix's singular value decomposition, for (n, rows, columns)."""
    wide = stack if stack.shape[1] <= stack.shape[2] else stack.mT
    x = wide / wide.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is stack else x.mT


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; matrices of one shape are updated together. Rates are those of
    `torch.optim.Muon`, which computes in bfloat16, about seventy times slower on a CPU without AVX-512."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                self._move(parameters, group, max(1.0, shape[0] / shape[1]) ** 0.5)

    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any], scale: float) -> None:
        directions = []
        for parameter in parameters:
            momentum = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            assert parameter.grad is not None
            momentum.lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(momentum, group["momentum"]))
        for parameter, change in zip(parameters, orthogonalised(torch.stack(directions)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"] * scale)
