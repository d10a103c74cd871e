"""The models that an analysis compares: those that runs have trained, and the one they started from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_core.errors import ConfigError
from srum_core.plugins import Registry, discover
from srum_core.runs.progress import shown, tell
from srum_core.runs.prompts import load_prompts
from srum_core.runs.run import Planned, Run, made_with, started_from

BASE = "base"
"""The model that the first run started from."""


@frozen
class Subject:
    """A model under analysis: `run.model(rounds)`."""

    name: str
    run: Run
    rounds: int

    def settings(self) -> dict[str, Any]:
        """What its measurements depend on."""
        return {
            "adapter": made_with(self.run.registry, "adapter", self.run.settings.adapter),
            "start": self.run.settings.start,
            "trained": self.run.fingerprint(self.rounds) if self.rounds else "",
        }


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN[:ROUND]",
        help="a model that srum-train made; the one that the first RUN started from is added as base",
    )
    add("--out", type=Path, default=Path("runs") / out, help=f"folder of the results (default: runs/{out})")
    add("--prompts", metavar="SOURCE", help="the prompts (default: the prompts that the first RUN is evaluated with)")
    add("--count", type=int, default=64, metavar="N", help="so many samples of a kind (default: 64)")


def subjects(texts: Sequence[str], registry: Registry | None = None) -> list[Subject]:
    """The base, then the runs in order. Raises ConfigError for two of one name, and for models of several adapters."""
    registry = registry or discover()
    named = [_named(text) for text in texts]
    trained = [Subject(name, *started_from(start, registry)) for name, start in named]
    for each in trained:
        tell(f"{each.name}: the model after round {each.rounds} of {shown(each.run.folder)}.")
    found = [Subject(BASE, trained[0].run, 0), *trained]
    names = [each.name for each in found]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ConfigError(f'Two models would be called "{twins[0]}". Name them: NAME=RUN; "{BASE}" is taken.')
    first = found[0].run.settings.adapter.use
    for each in found:
        if each.run.settings.adapter.use != first:
            raise ConfigError(
                f'{each.name} is a model of the adapter "{each.run.settings.adapter.use}", and {names[1]} of '
                f'"{first}": only models of one adapter have the same steps and neurons.'
            )
    return found


def _named(text: str) -> tuple[str, str]:
    """(name, RUN[:ROUND]); without a name, the folder's."""
    name, equals, start = text.partition("=")
    if equals and name and "/" not in name:
        return name, start
    folder = Path(text) if Path(text).is_dir() else Path(text.rpartition(":")[0] or text)
    return folder.absolute().name, text


def plan(run: Run, source: str | None, count: int) -> list[Planned]:
    """The first `count` images to be generated, one per prompt."""
    if source is None:
        return list({item.prompt.id: item for item in run.planned_evaluation()}.values())[:count]
    return [run.plan(prompt, 0, "evaluate") for prompt in load_prompts(source, run.registry, count)]


def refuse_without(model: Any, members: Sequence[str], subject: Subject, what: str) -> None:
    """Raise ConfigError for an adapter that lacks optional members."""
    missing = [name for name in members if not hasattr(model, name)]
    if missing:
        raise ConfigError(
            f'The adapter "{subject.run.settings.adapter.use}" has no {" and no ".join(missing)}, which {what} needs '
            "(optional members of UnifiedModel in srum_core/protocols.py)."
        )
