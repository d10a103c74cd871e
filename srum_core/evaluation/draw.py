"""prompts -> images."""

from __future__ import annotations

from attrs import frozen

from srum_core.evaluation.run import Evaluation, Pixels
from srum_core.stages.chunks import Step, chunks
from srum_core.stages.generate import draw as generate_batch


@frozen
class Stage(Step):
    """A stage of an evaluation, which has no rounds."""

    def __str__(self) -> str:
        return self.stage


def draw(run: Evaluation) -> None:
    """Draw every image that is not there yet; an image is on disk before its record."""
    records = run.images()
    plan, numbers = {item.id: item for item in run.plan_images()}, run.numbers()
    for chunk in chunks(
        run, list(plan), run.settings.evaluate.batch, records, Stage("generate", None), load=lambda: run.generator
    ):
        items = [plan[identity] for identity in chunk]
        generated = generate_batch(
            run.generator,
            items,
            records.folder / "images",
            records,
            latents=False,
            borders=run.settings.evaluate.borders,
        )
        records.extend(Pixels(each.id, each, each.sha256, numbers[each.id]) for each in generated)
