"""prompts -> candidates: the model of the round generates, or the setting `generator` in its place."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from io import BytesIO
from pathlib import Path

import attrs

from srum_core.errors import RecordError, clean, refuse
from srum_core.models.images import with_digest
from srum_core.protocols import ImageGenerator
from srum_core.records import Candidate, Sample
from srum_core.runs.files import redo_option
from srum_core.runs.run import Planned, Run
from srum_core.runs.store import write_atomic
from srum_core.stages.chunks import Step, chunks
from srum_core.stages.serving import require_served

log = logging.getLogger("srum")


def generate(run: Run, round: int) -> None:
    """Generate every missing image of the round; the image is on disk before its record."""
    run = run.at("generate", round)
    run.keep_prompts(round)
    plan = {item.id: item for item in run.planned(round)}
    records = run.candidates(round)
    batch, step = run.settings.generate.batch, Step("generate", round)
    models = {each.model for each in records} if run.settings.generator else set[str]()
    for chunk in chunks(run, list(plan), batch, records, step, load=lambda: require_served(run, round)):
        items = [plan[identity] for identity in chunk]
        images = generate_images(run.sampler(round - 1), items, records.folder / "images", records)
        models |= {each.model for each in images}
        if len(names := sorted(models - {""})) > 1:
            raise RecordError(
                f"The images in {records.folder} would come from several models: {', '.join(names)}. A round has one: "
                "let the server load the one of the images that are there, or run once with "
                f"{redo_option(records.folder)}."
            )
        records.extend(images)


def generate_images(
    model: ImageGenerator,
    items: Sequence[Planned],
    folder: Path,
    there: Container[str] = (),
    latents: bool = True,
    borders: bool = True,
) -> list[Candidate]:
    """One batch of images, stored as FOLDER/ID.png, with the `latents` that the model gives them if wanted. Images
    that are `there` are generated with the others, but their files do not change. Raises PluginError."""
    from safetensors.torch import save

    from srum_core.models.weights import failure  # torch

    samples = model.generate([item.prompt.text for item in items], [item.seed for item in items])
    refuse(len(samples) != len(items), model, f"generated {len(samples)} images for {len(items)} prompts.")
    odd = next((type(sample).__name__ for sample in samples if not isinstance(sample, Sample)), "")
    refuse(odd != "", model, f"must return srum_core.records.Sample(image) from `generate`, not {odd}.")
    candidates = []
    tensors = [() if sample.latent is None else (sample.latent,) for sample in samples]
    reasons = [sample.failure or failure("latent", *latent) for sample, latent in zip(samples, tensors, strict=True)]
    if reason := next(filter(None, reasons), ""):
        count = sum(map(bool, reasons))
        log.warning(f"{count} of {len(items)} images count as failures, and are not scored: {clean(reason)}")
    for item, sample, reason in zip(items, samples, reasons, strict=True):
        path, image, latent = folder / f"{item.id}.png", sample.image, None
        if not borders:
            image = image.crop(image.convert("RGB").getbbox())
        if item.id not in there or not path.exists():
            data = BytesIO()
            image.save(data, format="PNG")
            write_atomic(path, data.getvalue())
        if latents and sample.latent is not None:
            latent = path.with_suffix(".safetensors")
            write_atomic(latent, save({"latent": sample.latent.detach().cpu().contiguous()}))
        candidate = Candidate(item.id, item.prompt, path, image.size, item.seed, sample.thought)
        candidate = attrs.evolve(candidate, latent=latent, failure=reason, model=sample.model, note=sample.note)
        candidates.append(with_digest(candidate))
    return candidates
