"""Average activation strength of clusters of neurons (paper, Appendix B, Eq. 4-5), and our choice of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Activations = NDArray[np.float64]


def sample_strength(activations: Activations, cluster: Sequence[int]) -> Activations:
    """(samples,) out of (samples, neurons): the mean over the cluster's neurons (Eq. 4)."""
    mean: Activations = activations[:, list(cluster)].mean(axis=1)
    return mean


@frozen
class Clusters:
    """Indices of neurons, in order, and every neuron's effect size."""

    understanding: tuple[int, ...]
    generation: tuple[int, ...]
    effect: tuple[float, ...]


def effect_size(one: Activations, other: Activations) -> Activations:
    """Cohen's d of each neuron between two sets of samples, (samples, neurons) each; pooled variance."""
    import numpy as np

    n, m = len(one), len(other)
    pooled = ((n - 1) * one.var(axis=0, ddof=1) + (m - 1) * other.var(axis=0, ddof=1)) / (n + m - 2)
    size: Activations = (one.mean(axis=0) - other.mean(axis=0)) / np.sqrt(pooled + 1e-12)
    return size


def select(understanding: Activations, generation: Activations, k: int) -> Clusters:
    """The k neurons most particular to understanding, and to generation. A neuron without a difference is in neither;
    of equals the first ones are taken."""
    effect = effect_size(understanding, generation)
    order = sorted(range(len(effect)), key=lambda neuron: (-effect[neuron], neuron))
    back = sorted(range(len(effect)), key=lambda neuron: (effect[neuron], neuron))
    more = sorted(neuron for neuron in order[:k] if effect[neuron] > 0)
    less = sorted(neuron for neuron in back[:k] if effect[neuron] < 0)
    return Clusters(tuple(more), tuple(less), tuple(float(each) for each in effect))
