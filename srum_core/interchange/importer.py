"""Make a run out of images from elsewhere: round 1 as if they had been generated, or generated and judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

import attrs
from attrs import define, field

from srum_core import config
from srum_core.config import Settings
from srum_core.errors import ConfigError, RecordError, clean
from srum_core.interchange.incoming import OWN, REFERENCE, Bad, File, Incoming, fresh, renamed
from srum_core.models.images import with_digest
from srum_core.plugins import Registry
from srum_core.records import Candidate, Grounding, Judgement, Prompt
from srum_core.runs.progress import listed
from srum_core.runs.run import Run
from srum_core.runs.store import write_atomic, write_list

LOG = "import.log"
_CHUNK = 32


@define
class Intake:
    """The imported images."""

    images: int = 0
    scores: int = 0
    """Of regions."""
    failed: int = 0
    """Images with answers that could not be read: kept, and not trained on."""
    without: int = 0
    """Images without a global score."""
    zero: int = 0
    """Images with a global score of exactly 0."""
    notes: list[str] = field(factory=list)
    """Omissions and changes in imported images."""
    places: list[str] = field(factory=list)
    """Which image of the run each one is."""
    bad: list[Bad] = field(factory=list)


def take_in(
    records: Iterable[Incoming | Bad],
    folder: Path,
    settings: Settings,
    registry: Registry,
    skip_bad: bool,
    judged: bool = True,
) -> Intake:
    """Create the run, complete or not at all, with one prompt for each image.

    skip_bad    leave out records that cannot be used
    judged      the records hold judgements; otherwise the run judges the images

    Raises RecordError if the folder exists, if no record can be used, or if one cannot be used without `skip_bad`;
    ConfigError if the settings ask for several images per prompt."""
    if (number := config.of_round(settings, 1, registry).generate.candidates) != 1:
        raise ConfigError(
            f"generate.candidates is {number}, but every imported image is the one image of "
            "its prompt. Add generate.candidates=1, here and for srum-train."
        )
    with fresh(folder) as aside:
        intake = _fill(Run.create(aside, settings, registry), records, skip_bad, judged)
        lines = [*intake.notes, *(f"{bad} (skipped)" for bad in intake.bad), *intake.places]
        write_atomic(aside / LOG, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    return intake


def _fill(run: Run, source: Iterable[Incoming | Bad], skip_bad: bool, judged: bool) -> Intake:
    intake, prompts = Intake(), dict[str, Prompt]()
    candidates, groundings, judgements = run.candidates(1), run.groundings(1), run.judgements(1)
    usable = _usable(source, intake, prompts)
    while chunk := list(islice(usable, _CHUNK)):
        pairs = [_records(run, candidates.folder / "images", each) for each in chunk]
        candidates.extend(candidate for candidate, _ in pairs)
        if judged:
            groundings.extend(Grounding(each.candidate, each.regions) for _, each in pairs)
            judgements.extend(each for _, each in pairs)
        intake.places += [
            f"{each.where}: is image {candidate.id}" for each, (candidate, _) in zip(chunk, pairs, strict=True)
        ]
    bad = len(intake.bad)
    if bad and not skip_bad:
        raise RecordError(
            f"{bad} of {intake.images + bad} lines cannot be used, and nothing was imported. Fix them, or leave "
            f"them out with --skip-bad:{listed(intake.bad)}"
        )
    if not intake.images:
        raise RecordError(f"There is no image in it that can be used.{listed(intake.bad)}")
    write_list(run.round_folder(1) / "prompts.jsonl", list(prompts.values()))
    assert [item.id for item in run.planned(1)] == [candidate.id for candidate in candidates]
    for records in (candidates, groundings, judgements) if judged else (candidates,):
        records.mark_done()
    return intake


def _usable(records: Iterable[Incoming | Bad], intake: Intake, prompts: dict[str, Prompt]) -> Iterator[Incoming]:
    """Yield the usable records, each with a unique prompt id ("ID-2", "ID-3", … if it is taken), and count all."""
    for each in records:
        if isinstance(each, Bad):
            intake.bad.append(each)
            continue
        global_scores = [score.value for score in each.scores if score.region is None]
        intake.images += 1
        intake.scores += len(each.scores) - len(global_scores)
        intake.failed += bool(each.failures)
        intake.without += not global_scores and not each.failures
        intake.zero += 0 in global_scores
        intake.notes += [f"{each.where}: {clean(note)}" for note in each.notes]
        first = each.prompt.id
        free = next(name for n in count(1) if (name := first if n == 1 else f"{first}-{n}") not in prompts)
        prompts[free] = attrs.evolve(each.prompt, id=free)
        yield attrs.evolve(each, prompt=prompts[free])


def _records(run: Run, images: Path, each: Incoming) -> tuple[Candidate, Judgement]:
    planned = run.plan(each.prompt, 0, 1)
    image = _keep(images, planned.id, each.image)
    reference = _keep(images, f"{planned.id}-reference", each.reference) if each.reference else None
    seed = planned.seed if each.seed is None else each.seed
    candidate = Candidate(planned.id, each.prompt, image, each.image.size, seed, each.thought, reference)
    candidate = attrs.evolve(candidate, model=each.model, note=each.note)
    exchanges = renamed(each.exchanges, {OWN: image, REFERENCE: reference or image})
    judgement = Judgement(planned.id, each.regions, each.scores, exchanges, each.failures, each.boxes)
    return with_digest(candidate), judgement


def _keep(folder: Path, name: str, file: File) -> Path:
    suffix = Path(file.name).suffix
    path = folder / f"{name}{suffix if re.fullmatch(r'[.][A-Za-z0-9]{1,8}', suffix) else '.png'}"
    write_atomic(path, file.data)
    return path
