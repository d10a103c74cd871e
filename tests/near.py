"""How far two tensors are apart, in a measure that does not depend on the processor."""

from __future__ import annotations

import torch
from torch import Tensor


def off(ours: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry of `expected`; equal tensors are 0 apart.

    Rounding differs between processors, thread counts and batch shapes by some 1e-6 of the largest entry in float32:
    compare with 1e-5 at least. An elementwise relative tolerance (`torch.testing.assert_close`) is too tight for the
    small entries of a sum whose terms cancel.
    """
    assert ours.shape == expected.shape, f"{tuple(ours.shape)} instead of {tuple(expected.shape)}"
    assert ours.dtype == expected.dtype, f"{ours.dtype} instead of {expected.dtype}"
    if torch.equal(ours, expected):  # also where both are 0 or empty
        return 0.0
    scale = expected.detach().double().abs().max().clamp_min(1e-30)
    return float((ours.detach().double() - expected.detach().double()).abs().max() / scale)
