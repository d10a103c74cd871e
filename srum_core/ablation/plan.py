"""The arms as data, their work, and the records that they share.

Arms are read from arms.toml next to this file, the presets' own lists, and files that users name. A preset `NAME.toml`
has its own list in `ablations/NAME.toml` next to it. Later lists add arms, and replace those of the same name.

Two runs make the same records if these depend on the same settings (`Run.stage_settings` of the stage and of all
stages before it, in its round and earlier rounds). So an arm that trains otherwise shares candidates, regions,
judgements and the evaluation of the model before training; one with more rounds, or with another second round, shares
all of the first; one that generates otherwise shares nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
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
"""The folder of the stages that arms share; no arm may have this name."""


def _name(_: Any, attribute: Any, value: str) -> None:
    if not re.fullmatch(r"[\w+-][\w.+-]*", value) or value == SHARED:
        raise ValueError(f"{attribute.name} {value!r} must be made of letters, digits, - . + _, and not be {SHARED!r}")


@frozen
class Curve:
    """The place of an arm in the curve of accuracy against a setting."""

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
    """A list of arms, and settings of the comparison."""

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
        """Return the arms with these names, in the list's order; without names, all but the extra ones.

        Raises ConfigError for an unknown name."""
        every = [arm.name for arm in self.arm]
        for name in names:
            if name not in every:
                raise ConfigError(
                    f'There is no arm "{name}".{did_you_mean(name, every)} There are {", ".join(every)}. '
                    "Others can be described in a file and added with --with FILE.toml."
                )
        return tuple(arm for arm in self.arm if (arm.name in names if names else not arm.extra))


def read_arms(registry: Registry, adapter: str, presets: Sequence[str], files: Sequence[Path]) -> Arms:
    """Read and join all lists. Raises ConfigError for a file that cannot be read or used."""
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
            if (arms_path := path.parent / "ablations" / path.name).is_file():
                yield arms_path


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
    """The run of the same training seed to take the records from; None = this run makes them."""


@frozen
class Unit:
    """One arm with one training seed, or (without an arm) the stages that arms share."""

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
        """Return an earlier arm with the same settings, if there is one."""
        settings = self.unit(self.seeds[0], arm.name).run.settings
        for other in self.units[self.seeds[0]]:
            if other.arm and other.name == arm.name:
                return None
            if other.arm and other.arm.untrained == arm.untrained and other.run.settings == settings:
                return other.name
        return None


def make_plan(
    folder: Path, settings: Settings, arms: Arms, chosen: Sequence[Arm], seeds: int, registry: Registry
) -> Plan:
    """Plan all arms for `seeds` training seeds, from settings.seed on.

    Raises ConfigError for wrong settings of an arm, RecordError if folders were made with other settings."""
    settings = evolve(settings, evaluate=evolve(settings.evaluate, before=True))
    arm_settings = {arm.name: config.changed(settings, arm.settings, registry, f"in arm {arm.name}") for arm in chosen}
    numbers = tuple(range(settings.seed, settings.seed + seeds))
    units = {}
    for seed in numbers:
        home = folder / f"seed-{seed}"
        runs = {name: Run(home / name, evolve(each, seed=seed), registry) for name, each in arm_settings.items()}
        shared = Run(home / SHARED, evolve(settings, seed=seed), registry)
        units[seed] = _units(shared, chosen, runs, arms.training_only)
    for unit in chain.from_iterable(units.values()):
        unit.run.check()
    return Plan(arms, tuple(chosen), numbers, units)


def _units(
    shared: Run, chosen: Sequence[Arm], runs: Mapping[str, Run], training_only: Sequence[str]
) -> tuple[Unit, ...]:
    before = Step("evaluate", None)
    work = {}  # by arm: its steps with their fingerprints
    for arm in chosen:
        run = runs[arm.name]
        arm_steps = [before] if arm.untrained else steps(run)
        work[arm.name] = [(step, fingerprint(run, step, training_only)) for step in arm_steps]
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
    """Return all settings that the records of a step depend on; before the first training, without those that only
    training uses."""
    stages: list[tuple[str, int | None]] = [("evaluate", None)]
    if step.round is not None:
        stages = [(stage, k) for k in range(1, step.round) for stage in STAGES[:-1]]
        stages += [(stage, step.round) for stage in STAGES[: STAGES.index(step.stage) + 1]]
    parts = [run.stage_settings(*each) for each in stages]
    if ("train", 1) not in stages:
        parts = [
            {
                key: value
                for key, value in flatten(each).items()
                if not any(f"{key}.".startswith(f"{path}.") for path in training_only)
            }
            for each in parts
        ]
    return json.dumps([str(step), parts], sort_keys=True)
