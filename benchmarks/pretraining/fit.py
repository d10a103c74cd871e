"""The one loop that all phases of pretraining share: `fit`, its checkpoints, and its log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from pretraining.optimizer import Muon

Named = Mapping[str, nn.Parameter]


@frozen
class Phase:
    """How one phase is trained. Its states are `name`.pt, its log is `name`.jsonl."""

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
    """Decay of the averaged weights, which are the result; 0: the weights themselves are."""
    every: int = 100
    """Steps between two saved states."""
    seed: int = 0


def fit(
    phase: Phase,
    out: Path,
    named: Named,
    batches: Callable[[int], Iterable[Any]],
    loss_of: Callable[[int, Any], tuple[Tensor, Mapping[str, Tensor | float]]],
    on_save: Callable[[Mapping[str, Tensor]], None] = lambda average: None,
) -> None:
    """Make the steps of a phase that are still to be made. Then the parameters are the averaged ones, and frozen.

    `batches(n)`: what the steps from n on learn from. `loss_of(step, batch)`: the loss, and what else to log.
    `on_save` gets the averaged weights whenever a state is saved."""
    for parameter in named.values():
        parameter.requires_grad_(True)
    optimizers = make_optimizers(phase, named)
    average = {key: parameter.detach().clone() for key, parameter in named.items()}
    path = out / f"{phase.name}.pt"
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    done = restore(path, named, optimizers, average)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    log = Log(out / f"{phase.name}.jsonl", done)
    for step, batch in enumerate(batches(done), done):
        rate = min(1.0, (step + 1) / phase.warm_up, (phase.steps - step) / (phase.decay * phase.steps))
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate
        torch.manual_seed(phase.seed * 1_000_003 + step)
        loss, more = loss_of(step, batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        keep = min(phase.ema, (step + 1) / (step + 10))
        for key, parameter in named.items():
            average[key].lerp_(parameter.detach(), 1 - keep)
        values = {"loss": loss, **more, "norm": norm, "rate": rate}
        log(step, phase.steps, **{key: v.item() if isinstance(v, Tensor) else v for key, v in values.items()})
        if (step + 1) % phase.every == 0 or step + 1 == phase.steps:
            save(path, step + 1, named, optimizers, average)
            on_save(average)
    with torch.no_grad():
        for key, parameter in named.items():
            parameter.copy_(average[key])
            parameter.requires_grad_(False)


def named_of(**modules: nn.Module) -> dict[str, nn.Parameter]:
    return {f"{part}.{name}": p for part, module in modules.items() for name, p in module.named_parameters()}


def make_optimizers(phase: Phase, named: Named) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else; AdamW alone with `muon` = 0."""
    inner = [p for name, p in named.items() if phase.muon and p.dim() == 2 and ".layers." in name]
    known = {id(p) for p in inner}
    outer = [p for p in named.values() if id(p) not in known]
    muon = [Muon(inner, phase.muon)] if inner else []
    return [*muon, torch.optim.AdamW(outer, lr=phase.adam, betas=(0.9, 0.95), weight_decay=0.0)]


def save(
    path: Path, step: int, named: Named, optimizers: Iterable[torch.optim.Optimizer], average: Mapping[str, Tensor]
) -> None:
    aside = path.with_suffix(".aside")
    weights = {key: parameter.detach() for key, parameter in named.items()}
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"step": step, "weights": weights, "average": dict(average), "optimisers": states}, aside)
    aside.replace(path)


def restore(
    path: Path, named: Named, optimizers: Iterable[torch.optim.Optimizer], average: Mapping[str, Tensor]
) -> int:
    """Continue where the last state was saved; returns the number of steps done."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for key, parameter in named.items():
            parameter.copy_(state["weights"][key])
            average[key].copy_(state["average"][key])
    for optimizer, saved in zip(optimizers, state["optimisers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def as_tensor(images: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16, but not on a CPU that only imitates it: with AVX2 alone a product of (2000, 128) and (128, 256) ran at
    1.3 GFLOP/s, and at 89 in float32; with AVX-512 without its bfloat16 extension at 25, and at 127 (torch 2.14, one
    thread)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or _multiplies_bfloat16())


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    there = torch.cpu.get_capabilities()
    return any(there.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


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
