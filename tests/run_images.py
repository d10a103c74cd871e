"""Images of a run: those on disk, and those that a checkpoint generates for the same prompts and seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from srum_core.runs.run import Run


def generated(run: Run, checkpoint: Path) -> list[np.ndarray]:
    """The images that a checkpoint generates of the run's plan."""
    model = run.registry.create("adapter", run.settings.adapter, checkpoint=str(checkpoint))
    plan = run.planned(1)
    samples = model.generate([item.prompt.text for item in plan], [item.seed for item in plan])
    return [np.asarray(sample.image) for sample in samples]


def kept(run: Run, round: int = 1) -> list[np.ndarray]:
    folder = run.stage_folder("generate", round) / "images"
    return [np.asarray(Image.open(folder / f"{item.id}.png")) for item in run.planned(round)]
