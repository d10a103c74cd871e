"""The arms as data: from arms.toml next to this file, the presets' own lists, and files that users name.

A preset `NAME.toml` has its own list in `ablations/NAME.toml` next to it. Later lists add arms, and
replace those of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from srum_core.errors import ConfigError, PluginError
from srum_core.options import Problems, build, did_you_mean
from srum_core.plugins import Registry
from srum_core.runs.files import from_toml, read_text

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
        there = [arm.name for arm in self.arm]
        for name in names:
            if name not in there:
                raise ConfigError(
                    f'There is no arm "{name}".{did_you_mean(name, there)} There are {", ".join(there)}. '
                    "Others can be described in a file and added with --with FILE.toml."
                )
        return tuple(arm for arm in self.arm if (arm.name in names if names else not arm.extra))

    def extra(self, chosen: Sequence[Arm]) -> list[str]:
        """The names of those that have to be named, and are not."""
        return [arm.name for arm in self.arm if arm.extra and arm not in chosen]


def read_arms(registry: Registry, adapter: str, presets: Sequence[str], files: Sequence[Path]) -> Arms:
    """All lists together. Raises ConfigError for a file that cannot be read or used."""
    arms = Arms()
    for path in [CORE, *_of_presets(registry, adapter, presets), *files]:
        arms = _joined(arms, _read(path))
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


def _joined(first: Arms, then: Arms) -> Arms:
    known = {arm.name: arm for arm in first.arm}
    return evolve(
        first,
        arm=tuple({**known, **{arm.name: arm for arm in then.arm}}.values()),
        reference=then.reference or first.reference,
        against=then.against or first.against,
        axis=then.axis or first.axis,
        training_only=(*first.training_only, *then.training_only),
        quick=(*first.quick, *then.quick),
    )
