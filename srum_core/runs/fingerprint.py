"""Which settings a stage's output depends on: what its folder remembers, so that it is not mixed with another run's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from srum_core.options import NEUTRAL, SPEED, Use
from srum_core.plugins import Registry
from srum_core.config.settings import Settings

_TRAINING = ("select", "train", "lora")


class Made(dict[str, Any]):
    """A component as plain data. `fields`: all of its options, which say what is left out of older data too."""

    fields: tuple[attrs.Attribute[Any], ...] = ()


def remembered(settings: Settings, registry: Registry, stage: str) -> dict[str, Any]:
    """As plain data; the settings of the stages before it are not repeated."""
    s = settings
    made = {name: made_with(registry, name, getattr(s, name)) for name in ("grounder", "map", "loss", "benchmark")}
    answering = {"answerer": made_with(registry, "answerer", s.answerer)}
    drawing = {"seed": s.seed, "adapter": made_with(registry, "drawer", s.adapter)}  # finds adapters too
    by_stage: dict[str, dict[str, Any]] = {
        "generate": {**drawing, "prompts": s.prompts, "generate": _plain(s.generate)},
        "ground": {
            "grounder": made["grounder"],
            "verifier": made_with(registry, "judge", s.verifier),
            "ground": _plain(s.ground),
            **answering,
        },
        "judge": {
            "judges": [made_with(registry, "judge", use) for use in s.judges],
            "judge": _plain(s.judge),
            **answering,
        },
        "train": {
            "seed": s.seed,
            **{name: _plain(getattr(s, name)) for name in _TRAINING},
            **{name: made[name] for name in ("map", "loss")},
        },
        "evaluate": {**drawing, "benchmark": made["benchmark"], "evaluate": _plain(s.evaluate), **answering},
    }
    by_stage["evaluate"]["evaluate"].pop("before")  # whether there is a base evaluation, not how it is made
    return by_stage[stage]


def completed(there: Any, asked: Any) -> Any:
    """What a folder remembers, as today's version would have written it: with the settings that it is too old to know
    and that do nothing at their default, and without options of components that are left out today.

    Only those marked NEUTRAL: others began to do something when they came, as `ground.duplicates` did."""
    if isinstance(there, list) and isinstance(asked, list):
        return [completed(*pair) for pair in zip(there, asked, strict=False)] + there[len(asked) :]
    if not (isinstance(there, dict) and isinstance(asked, dict)):
        return there
    found = {name: completed(value, asked.get(name)) for name, value in there.items()}
    if isinstance(asked, Made):
        return _recorded(found, asked.fields) if found.get("use") == asked["use"] else found
    for section in attrs.fields(Settings):
        kind = type(section.default)
        if section.name in asked and attrs.has(kind):
            fields = [each for each in attrs.fields(kind) if each.metadata.keys() >= NEUTRAL.keys()]
            neutral = {each.name: _plain(each.default) for each in fields}
            found |= {section.name: {**neutral, **there.get(section.name, {})}} if neutral else {}
    return found


def made_with(registry: Registry, kind: str, use: Use | None) -> Made | None:
    """A component as plain data, without options that change only its speed, and neutral ones at their default."""
    if use is None:
        return None
    options = registry.component(kind, use.use).options
    fields = attrs.fields(options) if options else ()
    made = Made(_recorded(_plain(use), fields))
    made.fields = fields
    return made


def _recorded(made: Mapping[str, Any], fields: Iterable[attrs.Attribute[Any]]) -> dict[str, Any]:
    left_out = {
        each.name
        for each in fields
        if each.metadata.keys() >= SPEED.keys()
        or (each.metadata.keys() >= NEUTRAL.keys() and made.get(each.name) == _plain(each.default))
    }
    return {name: value for name, value in made.items() if name not in left_out}


def _plain(value: Any) -> Any:
    """Settings as plain data."""
    if isinstance(value, Use):
        return {"use": value.use, **_plain(value.options)}
    if attrs.has(type(value)):
        return {name: _plain(each) for name, each in attrs.asdict(value, recurse=False).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
