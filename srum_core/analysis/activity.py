"""How strongly every neuron of a model is active, sample by sample (paper, Appendix B): forward hooks that add up.

A neuron is a unit of an MLP's activation, of one layer and one expert. Its activity for a sample is the mean over all
tokens of the sample that pass through it, and in drawing over all steps; a neuron that no token passes has none (NaN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Activity = NDArray[np.float64]

Neurons = Mapping[str, "Sequence[nn.Module]"]


class _Sum:
    """Sum and count over the tokens that pass one module."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def __call__(self, module: Any, given: Any, output: Tensor) -> None:
        """output: (rows, tokens, units), of which the first row counts, or (tokens, units)."""
        tokens = output[0] if output.dim() == 3 else output
        added = tokens.detach().cpu().double().sum(dim=0)
        self.total = added if self.total is None else self.total + added
        self.count += len(tokens)


@contextmanager
def watched(neurons: Neurons) -> Iterator[list[_Sum]]:
    """Sums of all modules, expert by expert and layer by layer; the hooks are gone afterwards."""
    sums, handles = [], []
    try:
        for modules in neurons.values():
            for module in modules:
                sums.append(_Sum())
                handles.append(module.register_forward_hook(sums[-1]))
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def measure(neurons: Neurons, sizes: Sequence[int], act: Callable[[], object]) -> Activity:
    """(neurons,) float64 of whatever `act` makes the model do, for one sample; NaN where no token passed."""
    import numpy as np

    with watched(neurons) as sums:
        act()
    parts = [
        np.full(size, np.nan) if each.total is None or not each.count else (each.total / each.count).numpy()
        for each, size in zip(sums, sizes, strict=True)
    ]
    return np.concatenate(parts)
