"""The checkpoints that servers must load before they generate a round's images: written to the run, then required."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from srum_core.errors import ConfigError, RecordError
from srum_core.runs.files import aside, delete, put_in_place, read_json, settle
from srum_core.runs.progress import shown, tell
from srum_core.runs.run import Run, started_from
from srum_core.runs.store import write_atomic


@frozen
class Served:
    """A model that servers must load."""

    path: Path
    name: str
    """The name under which it must be served."""
    version: str
    """Changes with the trained weights."""


def write(run: Run, rounds: int) -> Served | None:
    """The model to serve after `rounds`, for the images of the next one; None = no trained model.

    Writes the whole merged model if it does not exist yet, or returns the LoRA folder."""
    load = _load(run, rounds + 1)
    if load == "none":
        return None
    record = run.round_folder(rounds or None) / "served.json"
    if record.exists():
        data = read_json(record)
        try:
            return Served(Path(os.path.normpath(record.parent / data["path"])), data["name"], data["version"])
        except (TypeError, KeyError) as error:
            raise RecordError(f"{record} does not name the served model. Delete it: it is written again.") from error
    source, last = (run, rounds) if rounds else started_from(run.settings.start, run.registry)
    name = re.sub(r"[^\w.-]+", "-", f"{source.folder.name}-round-{last}-{source.fingerprint(last)[:8]}")
    folder = _lora(run, rounds) if load == "lora" else _whole(run, rounds, record.parent / "served" / name)
    served = Served(folder, name, name)
    _keep(record, served)
    return served


def check(run: Run) -> None:
    """Raise ConfigError before the first round if one LoRA folder cannot be the whole change of the model."""
    s = run.settings
    if s.generator is None or s.generator.options.get("load") != "lora":
        return
    if s.round_count > 2 or (s.round_count > 1 and s.train.method == "full"):
        raise ConfigError(
            "generator.load=lora is for runs of two rounds with train.method=lora: later models are not the base with "
            "the LoRA weights of one round. Set generator.load=checkpoint."
        )


def prepare(run: Run, round: int) -> None:
    """Let the servers load the model of the round, with a plugin that has the hook `srum_checkpoint_ready`.

    Raises RecordError with instructions where there is none, and where they serve another model afterwards."""
    served = write(run, round - 1)
    if served is None:
        return
    why = _follow(run, round, served)
    if not why and served.name == served.version:  # a name chosen by a plugin may now mean other weights
        return
    tell(f"generate (round {round}) samples from {shown(served.path)}, served as {served.name}.")
    names = run.registry.checkpoint_ready(run=run, round=round - 1, path=served.path, name=served.name)
    if names:
        served = attrs.evolve(served, name=names[-1])
        _keep(run.round_folder(round - 1 or None) / "served.json", served)
        why = _follow(run, round, served)
    if why:
        ways = "" if names else " A plugin with the hook srum_checkpoint_ready can do that automatically."
        raise RecordError(f"Round {round} samples from the trained model. {why}\nThen run this again.{ways}")


def require_served(run: Run, round: int) -> None:
    """Load the generator of a round. Raises RecordError where its servers do not serve the round's model."""
    served = write(run, round - 1)
    if served is not None and (why := _follow(run, round, served)):
        raise RecordError(f"Round {round} samples from the trained model. {why}\nThen run this again.")
    run.sampler(round - 1)


def _load(run: Run, round: int) -> str:
    """What the servers of a round must load: "checkpoint", "lora" or "none"."""
    use = run.at("generate", round).settings.generator
    trained = round > 1 or run.settings.start
    if use is None or not trained or not hasattr(run.registry.load("generator", use.use), "follow"):
        return "none"
    return str(run.at("generate", round).sampler(round - 1).load)  # type: ignore[attr-defined]


def _follow(run: Run, round: int, served: Served) -> str:
    generator: Any = run.at("generate", round).sampler(round - 1)
    return str(generator.follow(served.name, served.path, served.version))


def _keep(record: Path, served: Served) -> None:
    data = {"path": os.path.relpath(served.path, record.parent), "name": served.name, "version": served.version}
    write_atomic(record, json.dumps(data, indent=1) + "\n")


def _lora(run: Run, rounds: int) -> Path:
    """The only LoRA folder on top of the base model. Raises ConfigError where there are more."""
    use, folders = run.trained(rounds)
    if len(folders) != 1 or use != run.settings.adapter:
        raise ConfigError(
            f"generator.load=lora is not possible after round {rounds}: the model is not adapter.checkpoint with the "
            "LoRA weights of one round. Set generator.load=checkpoint."
        )
    return folders[0]


def _whole(run: Run, rounds: int, folder: Path) -> Path:
    """Write the whole model into a folder."""
    from srum_core.models import trained  # torch

    if not folder.exists():
        tell(f"Writing the model that the server of round {rounds + 1} must load: {shown(folder)}")
        new = aside(folder)
        if new.exists():
            delete(new)
        new.mkdir(parents=True)
        trained.export(run.model(rounds), new)
        run.release()
        settle(new)
        put_in_place(new, folder)
    return folder
