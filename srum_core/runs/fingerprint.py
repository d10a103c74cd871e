"""Which settings a stage's output depends on: what its folder remembers, so that it is not mixed with another run's."""

from __future__ import annotations

from typing import Any

import attrs

from srum_core.config.settings import Settings
from srum_core.options import SPEED, Use, to_plain
from srum_core.plugins import Registry

_TRAINING = ("select", "train", "lora")


def remembered(settings: Settings, registry: Registry, stage: str) -> dict[str, Any]:
    """As plain data; the settings of the stages before it are not repeated."""
    s = settings
    made = {name: made_with(registry, name, getattr(s, name)) for name in ("grounder", "map", "loss", "benchmark")}
    answering = {"answerer": made_with(registry, "answerer", s.answerer)}
    drawing = {"seed": s.seed, "adapter": made_with(registry, "generator", s.adapter)}  # finds adapters too
    by_stage: dict[str, dict[str, Any]] = {
        "generate": {**drawing, "prompts": s.prompts, "generate": to_plain(s.generate)},
        "ground": {
            "grounder": made["grounder"],
            "verifier": made_with(registry, "judge", s.verifier),
            "ground": to_plain(s.ground),
            **answering,
        },
        "judge": {
            "judges": [made_with(registry, "judge", use) for use in s.judges],
            "judge": to_plain(s.judge),
            **answering,
        },
        "train": {
            "seed": s.seed,
            **{name: to_plain(getattr(s, name)) for name in _TRAINING},
            **{name: made[name] for name in ("map", "loss")},
        },
        "evaluate": {**drawing, "benchmark": made["benchmark"], "evaluate": to_plain(s.evaluate), **answering},
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
    return {name: value for name, value in to_plain(use).items() if name not in speed}
