"""Muon in float32: torch's own works in bfloat16, which a CPU without AVX-512 multiplies some seventy times slower."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration (K. Jordan, 2024): steep at zero, and singular values end between about 0.7 and 1.2."""


def orthogonalised(stack: Tensor, steps: int = 5) -> Tensor:
    """Matrices (n, rows, columns) -> near to U V^T of each one's singular value decomposition."""
    wide = stack if stack.shape[1] <= stack.shape[2] else stack.mT
    x = wide / wide.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is stack else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; matrices of one shape are worked on together. Rates mean what they do in
    `torch.optim.Muon`."""

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
        pushed = []
        for parameter in parameters:
            kept = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            assert parameter.grad is not None
            kept.lerp_(parameter.grad, 1 - group["momentum"])
            pushed.append(parameter.grad.lerp(kept, group["momentum"]))
        for parameter, change in zip(parameters, orthogonalised(torch.stack(pushed)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"] * scale)
