"""Published benchmarks, on any adapter or text-to-image model: pictures, answers about them, tables.

srum eval prompts DIR                                   is a folder of prompts the release's?
"""

from __future__ import annotations

ACTIONS = {
    "prompts": "look at a folder of a published benchmark: which prompts are there, are they the release's",
}
"""Each is a module `eval_NAME` beside this one, with `arguments(parser)` and `run(parsed) -> int`."""
