"""Makes a run out of judged pictures that come from elsewhere: round 1 as if it had been drawn, grounded and judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
from attrs import define, field, frozen

from srum_core import config
from srum_core.config import Settings
from srum_core.errors import ConfigError, RecordError, clean
from srum_core.interchange.incoming import OWN, REFERENCE, Bad, File, Incoming, fresh
from srum_core.models.images import with_digest
from srum_core.plugins import Registry
from srum_core.records import Candidate, Exchange, Grounding, Judgement, Prompt
from srum_core.runs.progress import listed
from srum_core.runs.run import Run
from srum_core.runs.store import Records, write_atomic, write_list

LOG = "import.log"
_CHUNK = 32


@define
class Intake:
    """What came in."""

    pictures: int = 0
    scores: int = 0
    """Of regions."""
    failed: int = 0
    """Pictures with answers that could not be read: kept, and not trained on."""
    without: int = 0
    """Pictures without a global score."""
    zero: int = 0
    """Pictures with a global score of exactly 0."""
    notes: list[str] = field(factory=list)
    """What was left out of pictures that came in, or changed."""
    places: list[str] = field(factory=list)
    """Which picture of the run each one is."""
    bad: list[Bad] = field(factory=list)


def take_in(
    found: Iterable[Incoming | Bad], folder: Path, settings: Settings, registry: Registry, skip_bad: bool
) -> Intake:
    """Make the run, whole or not at all. One prompt a picture; its id follows from the prompt's id and the run's seed.

    Raises RecordError if the folder is there, if nothing can be used, or if anything cannot and not `skip_bad`;
    ConfigError if the settings ask for several pictures a prompt."""
    if (number := config.of_round(settings, 1, registry).generate.candidates) != 1:
        raise ConfigError(
            f"generate.candidates is {number}, but every imported picture is the one picture of "
            "its prompt. Add generate.candidates=1, here and for srum-train."
        )
    with fresh(folder) as aside:
        intake = _fill(Run.create(aside, settings, registry), found, skip_bad)
        lines = [*intake.notes, *(f"{bad} (skipped)" for bad in intake.bad), *intake.places]
        write_atomic(aside / LOG, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    return intake


def _fill(run: Run, found: Iterable[Incoming | Bad], skip_bad: bool) -> Intake:
    intake, taken, prompts, some = Intake(), set[str](), list[Prompt](), list[Incoming]()
    writer = _Writer(run, run.candidates(1), run.groundings(1), run.judgements(1), intake.places)
    for each in found:
        if isinstance(each, Bad):
            intake.bad.append(each)
            continue
        prompt = attrs.evolve(each.prompt, id=_free(each.prompt.id, taken))
        taken.add(prompt.id)
        prompts.append(prompt)
        some.append(attrs.evolve(each, prompt=prompt))
        _count(intake, each)
        if len(some) == _CHUNK:
            writer.write(some)
            some = []
    _refuse(intake, skip_bad)
    writer.write(some)
    write_list(run.round_folder(1) / "prompts.jsonl", prompts)
    assert [item.id for item in run.planned(1)] == [candidate.id for candidate in writer.candidates]
    writer.candidates.mark_done()
    writer.groundings.mark_done()
    writer.judgements.mark_done()
    return intake


def _free(identity: str, taken: set[str]) -> str:
    """The id, or "ID-2", "ID-3", … where it is taken."""
    number, free = 1, identity
    while free in taken:
        number += 1
        free = f"{identity}-{number}"
    return free


def _count(intake: Intake, each: Incoming) -> None:
    whole = [score.value for score in each.scores if score.region is None]
    intake.pictures += 1
    intake.scores += len(each.scores) - len(whole)
    intake.failed += bool(each.failures)
    intake.without += not whole and not each.failures
    intake.zero += 0 in whole
    intake.notes += [f"{each.where}: {clean(note)}" for note in each.notes]


def _refuse(intake: Intake, skip_bad: bool) -> None:
    bad, count = intake.bad, len(intake.bad)
    if bad and not skip_bad:
        raise RecordError(
            f"{count} of {intake.pictures + count} lines cannot be used, and nothing was imported. Mend them, or leave "
            f"them out with --skip-bad:{listed(bad)}"
        )
    if not intake.pictures:
        raise RecordError(f"There is no judged picture in it that can be used.{listed(bad)}")


@frozen
class _Writer:
    """The records of round 1."""

    run: Run
    candidates: Records[Candidate]
    groundings: Records[Grounding]
    judgements: Records[Judgement]
    places: list[str]

    def write(self, some: Sequence[Incoming]) -> None:
        made = [self._records(each) for each in some]
        self.candidates.extend(candidate for candidate, _ in made)
        self.groundings.extend(Grounding(each.candidate, each.regions) for _, each in made)
        self.judgements.extend(each for _, each in made)

    def _records(self, each: Incoming) -> tuple[Candidate, Judgement]:
        planned = self.run.plan(each.prompt, 0, 1)
        image = self._keep(planned.id, each.image)
        reference = self._keep(f"{planned.id}-reference", each.reference) if each.reference else None
        seed = planned.seed if each.seed is None else each.seed
        candidate = with_digest(
            Candidate(planned.id, each.prompt, image, each.image.size, seed, each.thought, reference)
        )
        exchanges = tuple(_shown(exchange, image, reference) for exchange in each.exchanges)
        self.places.append(f"{each.where}: is picture {planned.id}")
        return candidate, Judgement(planned.id, each.regions, each.scores, exchanges, each.failures, each.boxes)

    def _keep(self, name: str, file: File) -> Path:
        suffix = Path(file.name).suffix
        suffix = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ".png"
        path = self.candidates.folder / "images" / f"{name}{suffix}"
        write_atomic(path, file.data)
        return path


def _shown(exchange: Exchange, image: Path, reference: Path | None) -> Exchange:
    shown = {OWN: image, REFERENCE: reference or image}.get(exchange.question.image, exchange.question.image)
    return attrs.evolve(exchange, question=attrs.evolve(exchange.question, image=shown))
