"""The non-linear penalty on what is bad (paper §3.2).

The paper says that severe distortions are mapped to a high-penalty negative range, -0.9 to -0.5, because people
forgive a small flaw and stumble over a large one. It gives the range, not the curve. Ours is the simplest that does
it, straight lines between four knots:

    stated   -1.0   -0.3   0.0   1.0
    counts   -0.9   -0.5   0.0   1.0

So a score that is not negative stays as it is, -0.3 and worse land in [-0.9, -0.5], what lies between falls off
steeply (there is no jump, so a judge's rounding decides nothing), and a worse score never counts for more than a
better one. The ends are drawn in: -1 becomes -0.9, and below -0.77 the number is milder than stated.

It is for regions: the paper applies it to the local judgement.
"""

from __future__ import annotations

from itertools import pairwise

KNOTS = ((-1.0, -0.9), (-0.3, -0.5), (0.0, 0.0), (1.0, 1.0))
"""(stated, counts), from left to right."""


def penalised(value: float) -> float:
    """What a score in [-1, 1] counts; the same number from 0 on."""
    assert -1 <= value <= 1
    if value >= 0:
        return value
    for (left, low), (right, high) in pairwise(KNOTS):
        if value <= right:
            return low + (value - left) * (high - low) / (right - left)
    raise AssertionError("the knots span [-1, 1]")
