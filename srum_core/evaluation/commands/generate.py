"""Generate a benchmark's images with any adapter or text-to-image model.

srum eval generate --adapter bagel --preset shapes --benchmark shapes evaluate.limit=20
srum eval generate --trained runs/bagel-shapes --benchmark '{use="wise", data="DIR"}'
"""

from __future__ import annotations

import argparse

from srum_core.evaluation.commands.shared import Plan, add_model
from srum_core.runs.files import lock
from srum_core.runs.progress import shown
from srum_core.stages import preflight


def arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)


def run(parsed: argparse.Namespace) -> int:
    """Return 0 when every image exists."""
    plan = Plan.of(parsed)
    if parsed.dry_run:
        return plan.announce()
    with lock(plan.evaluation.folder) as handle:
        preflight.refuse(plan.problems())
        plan.delete("images")
        plan.delete("answers")
        plan.generate_all(handle)
    print(f"The images are in {shown(plan.evaluation.folder / 'images')}")
    return 0
