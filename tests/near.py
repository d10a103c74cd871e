"""How far two tensors are apart, in a measure that does not depend on the processor."""

from __future__ import annotations

import torch
from torch import Tensor


def off(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry of `expected`; equal tensors are 0 apart.

    Rounding differs between processors, thread counts and batch shapes by some 1e-6 of the largest entry in float32:
    compare with 1e-5 at least. An elementwise relative tolerance (`torch.testing.assert_close`) is too tight for the
    small entries of a sum whose terms cancel.
    """
    assert found.shape == expected.shape, f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
    assert found.dtype == expected.dtype, f"{found.dtype} instead of {expected.dtype}"
    if torch.equal(found, expected):  # also where both are 0 or empty
        return 0.0
    scale = expected.detach().double().abs().max().clamp_min(1e-30)
    return float((found.detach().double() - expected.detach().double()).abs().max() / scale)
