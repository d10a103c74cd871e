"""Which settings a stage's output depends on: what its folder remembers, so that it is not mixed with another run's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from srum_core.config.settings import Settings
from srum_core.options import SPEED, Use
from srum_core.plugins import Registry

_TRAINING = ("select", "train", "lora")


def remembered(settings: Settings, registry: Registry, stage: str) -> dict[str, Any]:
    """As plain data; the settings of the stages before it are not repeated."""
    s = settings
    made = {name: made_with(registry, name, getattr(s, name)) for name in ("grounder", "map", "loss", "benchmark")}
    answering = {"answerer": made_with(registry, "answerer", s.answerer)}
    drawing = {"seed": s.seed, "adapter": made_with(registry, "generator", s.adapter)}  # finds adapters too
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


def made_with(registry: Registry, kind: str, use: Use | None) -> dict[str, Any] | None:
    """A component as plain data, without options that change only its speed."""
    if use is None:
        return None
    options = registry.component(kind, use.use).options
    fields = attrs.fields(options) if options else ()
    speed = {field.name for field in fields if field.metadata.keys() >= SPEED.keys()}
    return {name: value for name, value in _plain(use).items() if name not in speed}


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
