"""The arms as data, the work for each of them, and the arm whose work it can reuse.

Arms are read from arms.toml next to this file, the presets' own lists, and files that users name. A preset `NAME.toml`
has its own list in `ablations/NAME.toml` next to it. Later lists add arms, and replace those of the same name.

Two runs make the same records where the settings that those depend on are the same (`Run.stage_settings` of the stage
and of those before it, in its round and in the rounds before). So an arm that trains otherwise shares candidates,
regions, judgements and the evaluation of the model before training; one with more rounds, or with another second one,
shares all of the first; one that generates otherwise shares nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from srum_core import config
from srum_core.config import Settings
from srum_core.errors import ConfigError, PluginError
from srum_core.options import Problems, build, did_you_mean, flatten
from srum_core.plugins import Registry
from srum_core.runs.files import STAGES, from_toml, read_text
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.order import steps

CORE = Path(__file__).with_name("arms.toml")
SHARED = "shared"
"""The folder of what most arms have in common; no arm can be called that."""


def _name(_: Any, attribute: Any, value: str) -> None:
    if not re.fullmatch(r"[\w+-][\w.+-]*", value) or value == SHARED:
        raise ValueError(f"{attribute.name} {value!r} must be made of letters, digits, - . + _, and not be {SHARED!r}")


@frozen
class Curve:
    """Where an arm is in the curve of accuracy against a setting."""

    line: str
    """Arms of the same line are joined."""
    x: float


@frozen
class Arm:
    """One column of the comparison: the given settings with some of them changed."""

    name: str = field(validator=_name)
    """Also its folder's name."""
    text: str = ""
    """Description in a few words."""
    settings: tuple[str, ...] = ()
    """"KEY=VALUE" as on the command line."""
    untrained: bool = False
    """The model before training: it is only evaluated."""
    extra: bool = False
    """Only run when it is named with --arms."""
    drop: bool = False
    """Whether it is in the figure of the parts' contributions."""
    curve: Curve | None = None


@frozen
class Arms:
    """A list of arms, and what holds for all of them."""

    arm: tuple[Arm, ...] = ()
    reference: str = ""
    """The arm that the figure of the parts' contributions compares with."""
    against: tuple[str, ...] = ()
    """Arms that all others are compared with in the table."""
    axis: str = ""
    """Label of the curve's x axis."""
    training_only: tuple[str, ...] = ()
    """Settings that change neither images nor answers, though candidates remember them ("adapter.experts")."""
    quick: tuple[str, ...] = ()
    """Settings of --quick."""

    def named(self, names: Sequence[str]) -> tuple[Arm, ...]:
        """The arms with these names, in the list's order; without names all but the extra ones. Raises ConfigError."""
        known = [arm.name for arm in self.arm]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f'There is no arm "{name}".{did_you_mean(name, known)} There are {", ".join(known)}. '
                    "Others can be described in a file and added with --with FILE.toml."
                )
        return tuple(arm for arm in self.arm if (arm.name in names if names else not arm.extra))


def read_arms(registry: Registry, adapter: str, presets: Sequence[str], files: Sequence[Path]) -> Arms:
    """All lists together. Raises ConfigError for a file that cannot be read or used."""
    arms = Arms()
    for path in [CORE, *_of_presets(registry, adapter, presets), *files]:
        more = _read(path)
        arms = Arms(
            tuple({arm.name: arm for arm in (*arms.arm, *more.arm)}.values()),
            more.reference or arms.reference,
            more.against or arms.against,
            more.axis or arms.axis,
            (*arms.training_only, *more.training_only),
            (*arms.quick, *more.quick),
        )
    return arms


def _of_presets(registry: Registry, adapter: str, names: Sequence[str]) -> Iterator[Path]:
    try:
        presets: Mapping[str, Path] = registry.component("adapter", adapter).presets
    except PluginError:
        return  # reported when the settings are read
    for name in ["default", *names]:
        if name in presets:
            path = Path(presets[name])
            if (beside := path.parent / "ablations" / path.name).is_file():
                yield beside


def _read(path: Path) -> Arms:
    try:
        return build(Arms, from_toml(read_text(path)))
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except Problems as problems:
        message = "".join(f"\n  - {problem}" for problem in problems.list)
        raise ConfigError(f"{path} is no list of arms:{message}") from problems


# ---- the plan --------------------------------------------------------------------------------------------------------


@frozen
class Task:
    """One stage of one run."""

    step: Step
    source: Run | None = None
    """The run of the same training seed whose records are taken; None = it is made."""


@frozen
class Unit:
    """One arm with one training seed, or (without an arm) what arms share."""

    arm: Arm | None
    run: Run
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        return self.arm.name if self.arm else SHARED

    @property
    def last(self) -> int | None:
        """The round whose evaluation counts; None = the model before training."""
        return None if self.arm is None or self.arm.untrained else self.run.settings.round_count

    @property
    def done(self) -> bool:
        return all(self.run.done(task.step.stage, task.step.round) for task in self.tasks)


@frozen
class Plan:
    """All work in order: seed by seed, shared stages first."""

    arms: Arms
    chosen: tuple[Arm, ...]
    seeds: tuple[int, ...]
    units: Mapping[int, tuple[Unit, ...]]
    """By training seed."""

    def unit(self, seed: int, arm: str) -> Unit:
        return next(unit for unit in self.units[seed] if unit.arm and unit.name == arm)

    def same_as(self, arm: Arm) -> str | None:
        """An earlier arm with the very same settings, if there is one."""
        mine = self.unit(self.seeds[0], arm.name)
        for other in self.units[self.seeds[0]]:
            if other.arm and other.name == arm.name:
                return None
            if other.arm and other.arm.untrained == arm.untrained and other.run.settings == mine.run.settings:
                return other.name
        return None


def make_plan(
    folder: Path, settings: Settings, arms: Arms, chosen: Sequence[Arm], seeds: int, registry: Registry
) -> Plan:
    """`seeds` training seeds from settings.seed on. Raises ConfigError for an arm's settings that cannot be used, and
    RecordError if the folders were made with other settings."""
    settings = evolve(settings, evaluate=evolve(settings.evaluate, before=True))
    changed = {arm.name: config.changed(settings, arm.settings, registry, f"in arm {arm.name}") for arm in chosen}
    numbers = tuple(range(settings.seed, settings.seed + seeds))
    units = {}
    for seed in numbers:
        here = folder / f"seed-{seed}"
        runs = {name: Run(here / name, evolve(each, seed=seed), registry) for name, each in changed.items()}
        shared = Run(here / SHARED, evolve(settings, seed=seed), registry)
        units[seed] = _units(shared, chosen, runs, arms.training_only)
    for each in units.values():
        for unit in each:
            unit.run.check()
    return Plan(arms, tuple(chosen), numbers, units)


def _units(
    shared: Run, chosen: Sequence[Arm], runs: Mapping[str, Run], training_only: Sequence[str]
) -> tuple[Unit, ...]:
    before = Step("evaluate", None)
    work = {}  # by arm: its steps with their fingerprints
    for arm in chosen:
        run = runs[arm.name]
        own = [before] if arm.untrained else steps(run)
        work[arm.name] = [(step, fingerprint(run, step, training_only)) for step in own]
    needed = {mark for each in work.values() for _, mark in each}
    marks = {step: fingerprint(shared, step, training_only) for step in (before, *(Step(s, 1) for s in STAGES[:3]))}
    first = {mark: shared for mark in marks.values() if mark in needed}
    tasks = [Task(step) for step, mark in marks.items() if mark in needed]
    units = [Unit(None, shared, tuple(tasks))] if tasks else []
    for arm in chosen:
        run, tasks = runs[arm.name], []
        for step, mark in work[arm.name]:
            source = first.setdefault(mark, run)
            tasks.append(Task(step, None if source is run else source))
        units.append(Unit(arm, run, tuple(tasks)))
    return tuple(units)


def fingerprint(run: Run, step: Step, training_only: Sequence[str]) -> str:
    """All that the records of a step depend on. Before the first training, settings that only training heeds do not."""
    needed: list[tuple[str, int | None]] = [("evaluate", None)]
    if step.round is not None:
        needed = [(stage, k) for k in range(1, step.round) for stage in STAGES[:-1]]
        needed += [(stage, step.round) for stage in STAGES[: STAGES.index(step.stage) + 1]]
    parts = [run.stage_settings(*each) for each in needed]
    if ("train", 1) not in needed:
        parts = [
            {
                key: value
                for key, value in flatten(each).items()
                if not any(f"{key}.".startswith(f"{path}.") for path in training_only)
            }
            for each in parts
        ]
    return json.dumps([str(step), parts], sort_keys=True)
