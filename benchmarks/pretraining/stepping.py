"""What the phases of pretraining share: optimisers and their rates, states to go on from, the log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.curriculum import Recipe


def as_tensor(pictures: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def rates_of(steppers: Sequence[torch.optim.Optimizer]) -> list[float]:
    return [group["lr"] for stepper in steppers for group in stepper.param_groups]


def set_rates(steppers: Sequence[torch.optim.Optimizer], rates: Sequence[float], share: float) -> None:
    for group, rate in zip((g for s in steppers for g in s.param_groups), rates, strict=True):
        group["lr"] = rate * share


def state_of(step: int, named: Mapping[str, nn.Parameter], steppers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    weights = {key: parameter.detach() for key, parameter in named.items()}
    return {"step": step, "weights": weights, "optimisers": [stepper.state_dict() for stepper in steppers]}


def optimisers(named: Mapping[str, nn.Parameter], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for everything else; AdamW alone with `muon` = 0."""
    inner = [p for name, p in named.items() if recipe.muon and p.dim() == 2 and (".layers." in name)]
    known = {id(p) for p in inner}
    outer = [p for p in named.values() if id(p) not in known]
    muon = [torch.optim.Muon(inner, lr=recipe.muon, momentum=0.95, weight_decay=0.01)] if inner else []
    return [*muon, torch.optim.AdamW(outer, lr=recipe.adam, betas=(0.9, 0.95), weight_decay=0.0)]


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
