"""Shared by tests of whole runs with a published layout: images, answers from a script, and sharded weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from srum_core.records import Question
from srum_core.runs.run import Run
from srum_judges.scripted import Scripted


def generated(run: Run, checkpoint: Path) -> list[np.ndarray]:
    """Generate the images of the run's plan with a checkpoint."""
    model = run.registry.create("adapter", run.settings.adapter, checkpoint=str(checkpoint))
    plan = run.planned(1)
    samples = model.generate([item.prompt.text for item in plan], [item.seed for item in plan])
    return [np.asarray(sample.image) for sample in samples]


def stored_images(run: Run, round: int = 1) -> list[np.ndarray]:
    """Read the images of a round."""
    folder = run.stage_folder("generate", round) / "images"
    return [np.asarray(Image.open(folder / f"{item.id}.png")) for item in run.planned(round)]


def same(images: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all((one == other).all() for one, other in zip(images, others, strict=True))


def answer_by_script(monkeypatch: pytest.MonkeyPatch, model: type) -> list[Question]:
    """Let a model with random weights answer as `scripted` does; return its questions. It still declares its boxes."""
    questions: list[Question] = []

    def answer(_: object, batch: Sequence[Question]) -> Sequence[str]:
        questions.extend(batch)
        return Scripted().answer(batch)

    monkeypatch.setattr(model, "answer", answer)
    return questions


def shard_names(stem: str) -> tuple[str, str]:
    """Return the names of a safetensors shard and of the index."""
    return f"{stem}-{{number:05}}-of-{{count:05}}.safetensors", f"{stem}.safetensors.index.json"


def write_shards(
    folder: Path, tensors: dict[str, Tensor], count: int, names: tuple[str, str], save: Callable[..., object]
) -> None:
    """Write weights to `count` files and an index. `names`: of a file, with {number} and {count}, and of the index."""
    file_name, index_name = names
    files: dict[str, str] = {}
    for number in range(count):
        part = sorted(tensors)[number::count]
        file = file_name.format(number=number + 1, count=count)
        save({name: tensors[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / index_name).write_text(json.dumps({"metadata": {}, "weight_map": files}))
