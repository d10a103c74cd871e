"""The plan of an evaluation: its settings, its judge, and what would stop it. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srum_core import config, plugins
from srum_core.config.toml import as_data
from srum_core.errors import ConfigError, RecordError, SrumError
from srum_core.evaluation import tables
from srum_core.evaluation.answers import SELF, Answers, identity, only_generates, who_answers
from srum_core.evaluation.run import NO_JUDGE, Evaluation
from srum_core.options import Use, to_plain
from srum_core.records import Candidate
from srum_core.runs.files import from_json, read_file
from srum_core.runs.progress import NORMAL, shown, tell
from srum_core.runs.run import started_from
from srum_core.runs.store import write_atomic
from srum_core.stages import preflight

Judge = str | Mapping[str, Any]
"""A name, a table {use = "name", option = value} (also as TOML), or "self": the evaluated model."""
FIRST: dict[str, Any] = {"seed": 42, "evaluate": {"seeds": "image"}}
"""Settings of an evaluation that differ from a training run's: seeds follow from published names."""


def read_settings(
    adapter: str | None,
    presets: Sequence[str],
    config_file: Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
    registry: plugins.Registry,
    trained: str | None = None,
    first: Mapping[str, Any] | None = None,
) -> config.Settings:
    """Read the settings of a generator, or of the model that a run has trained (RUN or RUN:ROUND).

    `first` is as in `load_settings`. Raises ConfigError with all problems."""
    above = dict[str, Any]()
    if trained:
        run, rounds = started_from(trained, registry)
        tell(f"The model after round {rounds} of {shown(run.folder)}.", NORMAL)
        above = {"adapter": as_data(run.settings)["adapter"], "start": trained}
    adapter = adapter or above.get("adapter", {}).get("use")
    return config.load_settings(adapter, presets, config_file, overrides, registry, first, above, Evaluation.model_kind)


def new(settings: config.Settings, registry: plugins.Registry, out: Path | None) -> Evaluation:
    """Create an evaluation in `out` or the default folder, in memory. Raises ConfigError without a benchmark."""
    if settings.benchmark is None:
        raise ConfigError("No benchmark is named. Add --benchmark NAME (srum plugins lists them).")
    default = Path("runs") / f"eval-{settings.benchmark.use}-{settings.adapter.use}".replace(":", ".")
    return Evaluation(out or default, settings, registry)


def chosen_judge(run: Evaluation, judge: Judge | None, name: str | None) -> tuple[str, Use]:
    """Return (folder, judge): `judge`; else the setting `answerer`; else the only judge that has answered."""
    if judge is not None:
        use = Use(SELF) if judge == SELF else config.component("answerer", judge, run.registry, "--judge")
    elif run.settings.answerer is not None:
        use = run.settings.answerer
    else:
        earlier = judges(run)
        if name in earlier or (name is None and len(earlier) == 1):
            return next((each, use) for each, use in earlier.items() if name in (each, None))
        raise ConfigError(_who(run))
    name = name or re.sub(r"[^\w.-]+", ".", use.use)
    _refuse_duplicate(run, name, use)
    return name, use


def own_judge(run: Evaluation) -> tuple[str, Use | None]:
    """Return (folder, judge) of an evaluation in a training run: the answerer, or else the model itself; None if the
    benchmark has no questions."""
    if not asks(run):
        return NO_JUDGE, None
    return chosen_judge(run, None if run.settings.answerer else SELF, None)


def _refuse_duplicate(run: Evaluation, name: str, use: Use) -> None:
    """Raise ConfigError for the same judge under a second name: its table would look like a second opinion."""
    earlier = judges(run)
    others = {other: Answers(run, other, other_use) for other, other_use in earlier.items() if other != name}
    if name in earlier or not others:
        return
    new = Answers(run, name, use)
    if not any(each.of_the_same(new) for each in others.values()):
        return
    new.by = identity(who_answers(run, use)) if use.use in _light(run) else ""  # a server's model may have changed
    if same := next((other for other, each in others.items() if each.of_the_same(new) and each.by == new.by), ""):
        raise ConfigError(
            f"{run.folder / 'answers' / same} holds answers of the same judge, {tables.component_name(use)}: a second "
            f"table would look like a second opinion. Resume with --as {same}. To see how its answers vary, judge a "
            "copy of the folder."
        )


def _who(run: Evaluation) -> str:
    asks = f"The benchmark {run.settings.benchmark.use if run.settings.benchmark else ''} asks about its images."
    if judge := getattr(run.benchmark(), "judge", ""):
        return f"{asks} Its judge is {judge}: --judge {judge} (srum plugins lists others)."
    return (
        f'{asks} Name a judge: --judge \'{{use="remote", url="http://localhost:8000/v1"}}\' for a server, any '
        "adapter, or --judge self for the model itself, whose numbers cannot be compared with other models'."
    )


def judges(run: Evaluation) -> dict[str, Use]:
    """Return the judges that have answered in an evaluation, by folder."""
    uses = {}
    for path in sorted(run.folder.glob("answers/*/judge.json")):
        try:
            data = from_json(read_file(path))
            uses[path.parent.name] = Use(data["use"], dict(data["options"]))
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(f"{path} does not name the judge ({error}); judge again with --redo answers.") from error
    return uses


def keep_judge(run: Evaluation, name: str, use: Use) -> None:
    """Write the judge, also for launched processes; options that only change its speed may change."""
    text = json.dumps({"use": use.use, "options": to_plain(use.options)}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(run.folder / "answers" / name / "judge.json", text)


def problems(
    run: Evaluation,
    again: bool = False,
    judging: bool = True,
    judge: Judge | None = None,
    name: str | None = None,
    several: bool = False,
) -> list[str]:
    """Return what would stop an evaluation before its first image.

    again       existing images are generated again
    judging     also check the judge (`judge` and `name` as for `chosen_judge`)
    several     it runs in several processes"""
    if problems := preflight.blocked(run.folder):
        return problems
    components = list[preflight.Named]()
    try:
        adapter = run.trained(0)[0]
        if again or not run.all_generated():
            components.append(("adapter", run.model_kind, adapter))
            run.evaluated_prompts()
        if judging and asks(run):
            _, use = chosen_judge(run, judge, name)
            if use.use != SELF:
                components.append(("--judge", "answerer", use))
            elif not hasattr(run.registry.load(run.model_kind, adapter.use), "answer"):
                raise only_generates(run)
    except SrumError as error:
        problems.append(str(error))
    return [*preflight.unusable(run.registry, components, several), *problems]


def _light(run: Evaluation) -> set[str]:
    """Return the answerers that load no model."""
    return {each.component.name for each in run.registry.listing() if each.kind == "answerer"}


def asks(run: Evaluation) -> bool:
    """Return whether the benchmark has questions, and so needs a judge."""
    prompts = [each.prompt for each in run.plan_images()] if run.all_generated() else run.evaluated_prompts()
    benchmark = run.benchmark()
    return any(benchmark.questions(Candidate("example", prompt, Path("none.png"), (64, 64), 0)) for prompt in prompts)
