"""Checks before the first image: all problems that can be known without a model. No torch at import.

`srum-train`, `srum eval` and `srum ablate` call it, and their --dry-run prints the problems.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from srum_core.errors import ConfigError, SrumError, explain
from srum_core.options import SmallMemory, Use
from srum_core.plugins import Registry
from srum_core.runs.run import Run
from srum_core.stages import serving
from srum_core.stages.chunks import Step
from srum_core.training import trackers

Named = tuple[str, str, Use]
"""A setting, the kind of component that it names, and the component."""


def refuse(problems: Sequence[str]) -> None:
    """Raise ConfigError with all problems, if there are any."""
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError("The run cannot start; no model was loaded." + "".join(f"\n  - {each}" for each in problems))


def problems(run: Run, todo: Sequence[Step], launch: str = "none") -> list[str]:
    """What would stop these steps, a sentence each. `launch`: how their processes are started."""
    groups: list[tuple[Run, list[Step]]] = [(run, [])]  # steps by the settings that they have, the run's own first
    for step in todo:
        here = run.at(step.stage, step.round)
        same = next((steps for other, steps in groups if other.settings == here.settings), None)
        if same is None:
            groups.append((here, same := []))
        same.append(step)
    places: dict[str, str] = {}
    for here, steps in groups:
        for problem in _problems(here, steps, launch) if steps else ():
            round = min(step.round or 1 for step in steps)
            where = "" if here.settings == run.settings else f"In round {round} of {run.settings.round_count}: "
            places.setdefault(problem, where)
    return [f"{where}{problem}" for problem, where in places.items()]


def _problems(run: Run, todo: Sequence[Step], launch: str) -> list[str]:
    """Of steps that have the settings of `run`."""
    sharded, several = launch.startswith("fsdp2"), launch != "none"
    checks: list[Callable[[], object]] = []
    stages, own = {step.stage for step in todo}, run.settings.train
    generated = [step.round or 1 for step in todo if step.stage == "generate"]
    if generated:
        checks += [lambda: run.prompts(min(generated)), lambda: serving.check(run)]
    if "evaluate" in stages:
        checks.append(run.planned_evaluation)
    if stages & {"train", "evaluate"}:
        checks.append(lambda: trackers.check(own.trackers))
    if "train" in stages:
        held = run.settings.adapter.options.get("offload") == "cpu"
        checks.append(lambda: trackers.check_offload(held, several))
        checks.append(lambda: trackers.check_optimizer(own.optimizer, sharded))
    try:
        named = list(_components(run, todo))
    except SrumError as error:  # the run that it starts from is not there
        return [*_failures(checks), str(error)]
    return [*_failures(checks), *unusable(run.registry, named, several)]


def unusable(registry: Registry, named: Iterable[Named], several: bool = False) -> list[str]:
    """Why components cannot be made or used, a sentence each. `several`: in several processes."""
    return list(dict.fromkeys(_failures(partial(_check, registry, several, *each) for each in named)))


def blocked(folder: Path) -> list[str]:
    """Why a run's folder cannot be made or written, if so; makes nothing."""
    try:
        place = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        return [f"{explain(error)}"]
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return []
    why = "cannot be written to" if place.is_dir() else "is a file, and a folder is needed there"
    return [f"{place} {why}. Choose another folder with --out."]


def _failures(checks: Iterable[Callable[[], object]]) -> Iterator[str]:
    for check in checks:
        try:
            check()
        except (SrumError, OSError) as error:
            yield str(error) if isinstance(error, SrumError) else f"{explain(error)}"


def _components(run: Run, todo: Sequence[Step]) -> Iterator[Named]:
    """What these steps use. Raises RecordError for a run to start from that is not trained."""
    s, stages = run.settings, {step.stage for step in todo}
    asks = bool(stages & {"ground", "judge"})
    if stages - {"ground", "judge"} or (asks and s.answerer is None):
        rounds = min(step.round or 1 for step in todo) - 1
        while rounds and not run.done("train", rounds):
            rounds -= 1
        yield "adapter", run.model_kind, run.trained(rounds)[0]
    # A server has what a later round needs only once the round before is trained: that is seen when it begins.
    if run.generated_by is not None and not s.start and Step("generate", 1) in todo:
        yield "generator", "generator", run.generated_by
    if asks and s.answerer is not None:
        yield "answerer", "answerer", s.answerer
    if "ground" in stages:
        yield "grounder", "grounder", s.grounder
        if s.verifier is not None:
            yield "verifier", "judge", s.verifier
    if "judge" in stages:
        yield from ((f"judges.{number}", "judge", judge) for number, judge in enumerate(s.judges))
    if "train" in stages:
        yield from (("map", "map", s.map), ("loss", "loss", s.loss))


def _check(registry: Registry, several: bool, setting: str, kind: str, use: Use) -> None:
    """Import a component and check its options; create it where that is cheap. Raises SrumError."""
    component, options = registry.load(kind, use.use), registry.options(kind, use)
    if isinstance(device := getattr(options, "device", None), str):
        from srum_core.models.hub import choose_device  # torch

        try:
            choose_device(device)
        except ConfigError as error:
            raise ConfigError(f"{setting}.{error}") from error
    if isinstance(options, SmallMemory):
        from srum_core.models import small_memory  # torch

        small_memory.check(options, several)
    if hasattr(component, "preflight"):
        from srum_core.models.hub import NotDownloaded, offline

        try:
            with offline():
                component.preflight(options)
        except NotDownloaded:
            return
    elif kind not in ("adapter", "generator") and not hasattr(component, "score_many"):  # those load models
        answerers = {each.component.name for each in registry.listing() if each.kind == "answerer"}
        if kind != "answerer" or use.use in answerers:  # an adapter may answer too
            registry.create(kind, use)
