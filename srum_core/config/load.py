"""Settings out of layers: built-in < the adapter's presets < a TOML file < KEY=VALUE. No torch.

Every problem of every layer is collected before one ConfigError is raised, and nothing heavy is loaded before that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field

from srum_core.config.settings import COMPONENTS, Settings
from srum_core.config.toml import as_data
from srum_core.errors import ConfigError, PluginError, clean
from srum_core.options import SAMPLING, SPEED, Keys, Problem, Problems, Use, build, closest, did_you_mean, to_plain
from srum_core.plugins import Registry, as_use
from srum_core.runs.files import DEPTH, from_toml, read_text

COMMAND_LINE = "on the command line"
log = logging.getLogger("srum")
Origins = dict[Keys, str]
Layer = tuple[str, Mapping[str, Any]]
"""The place of some settings with its preposition ("in my.toml"), and the settings as plain data."""


def load_settings(
    adapter: str | None,
    presets: Sequence[str],
    config_file: Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
    registry: Registry,
    first: Mapping[str, Any] | None = None,
    above: Mapping[str, Any] | None = None,
    model_kind: str = "adapter",
    lenient: bool = False,
) -> Settings:
    """The settings of a run, with every option of every component filled in.

    adapter      name or "module:Class"; None = as in the file or an override
    presets      names of the adapter's presets, later ones win; one called "default" comes before them by itself
    config_file  TOML, such as a run's run.toml; its [versions] are not read
    overrides    "KEY=VALUE" with a dotted key; a value that is not TOML is taken as a text. In Python also values by
                 dotted key, or tables of them; None is "", which is nothing
    first        settings that come before all others, in place of built-in ones
    above        settings that come after the presets, and before the file
    model_kind   the kind of component that `adapter` names: "generator" allows text-to-image models too
    lenient      leave unknown keys out, with a warning

    Raises ConfigError with all that is wrong.
    """
    reader = _Reader(registry, model_kind)
    file = (f"in {config_file}", reader.file(config_file) if config_file else {})
    unread = bool(reader.broken)
    if isinstance(overrides, Mapping):
        values = ((str(key).split("."), "" if value is None else to_plain(value)) for key, value in overrides.items())
        line = ("in overrides", _nested(values))
    else:
        line = (COMMAND_LINE, reader.overrides(overrides, COMMAND_LINE))
    name = reader.adapter(adapter, [line, file])
    if name == "" and not unread:
        known = ", ".join(each.component.name for each in registry.listing() if each.kind in ("adapter", model_kind))
        reader.broken.append(f"No adapter is named. Add --adapter NAME; installed are: {known or 'none'}.")
    beneath, between = ("by default", first or {}), ("from the trained run", above or {})
    layers = [beneath, *reader.presets(name or "", presets), between, file, line]
    reader.origins = {} if adapter is None else {("adapter",): COMMAND_LINE}
    return reader.settings(Settings(adapter=Use(name or "")), layers, lenient)


def component(kind: str, text: str | Mapping[str, Any], registry: Registry, option: str) -> Use:
    """A component as it is typed after an option such as --judge: a name, or a table (in TOML); its options filled in.

    Raises ConfigError with all that is wrong."""
    try:
        value = _parse_value(text) if isinstance(text, str) else to_plain(text)
    except ValueError as error:
        raise ConfigError(f"{option} {clean(text, 100)}: this is not TOML: {error}.") from error
    problems: list[Problem] = []
    use = _component((option,), {"use": value} if isinstance(value, str) else value, kind, registry, problems)
    if problems:
        raise ConfigError(" ".join(map(str, problems)))
    return use


def changed(settings: Settings, overrides: Sequence[str], registry: Registry, where: str) -> Settings:
    """Settings with some of them changed by "KEY=VALUE"; `where` ("in arm sft") goes into messages.

    Raises ConfigError with all that is wrong."""
    reader = _Reader(registry, origins={("rounds",): where})
    return reader.settings(settings, [(where, reader.overrides(overrides, where))])


def of_round(settings: Settings, round: int | None, registry: Registry, model_kind: str = "adapter") -> Settings:
    """The settings of a round: a run's own, with what `rounds` changes in them; the run's own for None
    and for a round that there is not. Raises ConfigError where they cannot be used."""
    if not settings.changes(round):
        return settings
    assert round is not None
    reader = _Reader(registry, model_kind)
    return reader.usable(reader.of_round(settings, round, settings.changes(round)))


def open_settings(path: Path, registry: Registry, model_kind: str = "adapter") -> Settings:
    """The settings that a run.toml holds. Options that another version of srum or of a plugin wrote there, and that
    this one does not know, are left out with a warning. Raises ConfigError."""
    return load_settings(None, (), path, (), registry, model_kind=model_kind, lenient=True)


_EVALUATED = "evaluations have the run's own settings, so that rounds can be compared."
_ONE_FOR_ALL = {
    "seed": "all random numbers of a run follow from one seed.",
    "rounds": "it defines the rounds.",
    "start": "the first round starts from it, and each of the others from the round before.",
    "benchmark": _EVALUATED,
    "evaluate": _EVALUATED,
}
"""Why settings cannot differ between rounds."""


@define
class _Reader:
    """Reads layers, and collects what is wrong with them."""

    registry: Registry
    model_kind: str = "adapter"
    origins: Origins = field(factory=dict)
    """The layer that each setting comes from."""
    broken: list[str] = field(factory=list)
    """Problems, a sentence each."""

    def file(self, path: Path) -> dict[str, Any]:
        try:
            data = from_toml(read_text(path))
        except ConfigError as error:
            self.broken.append(str(error))
        except ValueError as error:
            self.broken.append(f"{path} is not TOML: {error}.")
        else:
            return {key: value for key, value in data.items() if key != "versions"}
        return {}

    def overrides(self, texts: Sequence[str], where: str) -> dict[str, Any]:
        values = []
        for text in texts:
            key, equals, value = text.partition("=")
            keys = tuple(part.strip() for part in key.split("."))
            if not equals or not all(keys) or len(keys) > DEPTH:
                self.broken.append(f'"{clean(text, 100)}" {where} should read KEY=VALUE, such as train.lr=1e-5.')
                continue
            try:
                values.append((keys, _parse_value(value)))
            except ValueError as error:
                self.broken.append(f"{clean(text, 100)} {where}: the value is not TOML: {error}.")
        return _nested(values)

    def adapter(self, option: str | None, layers: Sequence[Layer]) -> str | None:
        """The adapter's name, "" if there is none, None if the value is not a name. A file that names another one than
        --adapter is refused: its options are not for this one."""
        name: Any = option
        for where, data in layers:
            value = data.get("adapter")
            use = value.get("use") if isinstance(value, Mapping) else value
            if option is not None and use not in (None, option):
                self.broken.append(f'--adapter {option} contradicts adapter = "{use}" {where}. Leave one of them out.')
            name = use if name is None else name
        return name if isinstance(name, str) else "" if name is None else None

    def presets(self, adapter: str, names: Sequence[str]) -> Iterator[Layer]:
        try:
            there = self.registry.component(self.model_kind, adapter).presets if adapter else {}
        except PluginError:
            return  # reported with the other components
        for name in [*(["default"] if "default" in there else []), *names]:
            if name in there:
                yield f'in the preset "{name}" of {adapter}', self.file(Path(there[name]))
            elif adapter:
                known = f"There are {', '.join(sorted(there))}." if there else "It has none."
                self.broken.append(
                    f'The adapter "{adapter}" has no preset "{name}".{did_you_mean(name, there)} {known}'
                )

    def settings(self, start: Settings, layers: Iterable[Layer], lenient: bool = False) -> Settings:
        """Raises ConfigError with all that is wrong, also with the changes of single rounds."""
        data = _merge_all(start, layers, self.origins)
        settings, problems = self._structure(data)
        if lenient and (unknown := [problem for problem in problems if problem.unknown]):
            for problem in unknown:
                log.warning("%s It is left out.", _sentence(problem, self.origins))
                _remove(data, problem.path)
            settings, problems = self._structure(data)
        self.broken += [_sentence(problem, self.origins) for problem in problems]
        if settings is not None and not isinstance(settings.rounds, int):
            if lenient:
                rounds = [self._known_changes(settings, number) for number in settings.round_numbers]
                settings = attrs.evolve(settings, rounds=tuple(rounds))
            for number in settings.round_numbers:
                self.of_round(settings, number, settings.changes(number), problems)
        return self.usable(settings)

    def usable(self, settings: Settings | None) -> Settings:
        """Raises ConfigError unless all that was read is right."""
        if self.broken or settings is None:
            lines = "".join(f"\n  - {sentence}" for sentence in self.broken)
            raise ConfigError(f"The settings cannot be used; nothing was loaded.{lines}")
        return settings

    def of_round(
        self, settings: Settings, round: int, changes: Sequence[str], known: Sequence[Problem] = ()
    ) -> Settings | None:
        """The settings with a round's changes. Problems that are `known` are not repeated."""
        changed, problems, origins = self._change(settings, round, changes)
        self.broken += [_sentence(problem, origins) for problem in problems if problem not in known]
        return changed

    def _change(
        self, settings: Settings, round: int, changes: Sequence[str]
    ) -> tuple[Settings | None, list[Problem], Origins]:
        place = _origin(("rounds", str(round - 1)), self.origins)
        where = f"in round {round} of {settings.round_count}{f' {place}' if place else ''}"
        origins: Origins = {}
        data = _merge_all(settings, [(where, self.overrides(changes, where))], origins)
        for path in origins:
            if why := self._one_for_all(path, settings):
                self.broken.append(f"{clean('.'.join(path), 100)} ({where}) cannot differ between rounds: {why}")
        return *self._structure(data), origins

    def _one_for_all(self, path: Keys, settings: Settings) -> str:
        """Why a setting cannot differ between rounds; "" = it can, or it is no setting."""
        if path[0] != "adapter":
            return _ONE_FOR_ALL.get(path[0], "")
        try:
            options = self.registry.component(self.model_kind, settings.adapter.use).options
        except PluginError:
            return ""  # reported with the other components
        known = attrs.fields_dict(options) if options else {}
        free = [name for name, option in known.items() if option.metadata.keys() & {*SAMPLING, *SPEED}]
        if path[1:] and (path[1] in free or path[1] not in {"use", *known}):
            return ""
        names = [f"adapter.{name}" for name in free if known[name].metadata.keys() >= SAMPLING.keys()]
        others = (
            f"only how it samples may differ ({', '.join(names) or 'of this adapter nothing is known to be that'})."
        )
        return f"all rounds train one model; {others}"

    def _known_changes(self, settings: Settings, round: int) -> tuple[str, ...]:
        """A round's changes without those of settings that are not known, with a warning."""
        changes: list[str] = []
        for text in settings.changes(round):
            trial = _Reader(self.registry, self.model_kind, self.origins)
            _, problems, origins = trial._change(settings, round, [*changes, text])
            unknown = [problem for problem in problems if problem.unknown]
            for problem in unknown:
                log.warning("%s %s is left out.", _sentence(problem, origins), clean(text, 100))
            changes += [] if unknown else [text]
        return tuple(changes)

    def _structure(self, data: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
        """Components first, each with its own options; then everything else, whatever was wrong with them."""
        problems: list[Problem] = []
        component = partial(_component, registry=self.registry, problems=problems)
        parts = dict(data)
        for name, kind in {**COMPONENTS, "adapter": self.model_kind}.items():
            value = data[name]
            if name == "judges" and isinstance(value, list):
                parts[name] = [component((name, str(i)), judge, kind) for i, judge in enumerate(value)]
            elif name in ("generator", "answerer", "verifier", "benchmark") and value in ("", {"use": ""}):
                parts[name] = None
            elif name != "judges":
                parts[name] = component((name,), value, kind)
        try:
            return build(Settings, parts), problems
        except Problems as error:
            return None, problems + error.list


def _component(path: Keys, data: Any, kind: str, registry: Registry, problems: list[Problem]) -> Use:
    """The component with all its options; where there are problems the result is invalid."""
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        problems.append(Problem(path, 'should be a name, or a table {use = "name", option = value}.'))
        return Use("")
    use = as_use(data)
    if use.use == "" and path == ("adapter",):
        return use  # none is named: already reported
    try:
        options = registry.options(kind, use)
    except PluginError as error:
        problems.append(Problem(path, f'cannot be "{use.use}". {error}'))
    except Problems as error:
        problems += [problem.below(*path) for problem in error.list]
    else:
        return Use(use.use, to_plain(options) if options is not None else {})
    return use


# ---- layers ----------------------------------------------------------------------------------------------------------


def _parse_value(text: str) -> Any:
    """TOML, or else a bare word: a name or a path need no quotes. Text with TOML syntax has to be valid TOML."""
    try:
        data = from_toml(f"value = {text}")
    except ValueError:
        if text.lstrip().startswith(("[", "{", '"', "'")):
            raise
        return text
    return data["value"] if data.keys() == {"value"} else text


def _nested(values: Iterable[tuple[Sequence[str], Any]]) -> dict[str, Any]:
    """Values by the parts of their keys, as tables inside one another."""
    data: dict[str, Any] = {}
    for keys, value in values:
        for key in reversed(keys):
            value = {key: value}
        data = _merge(data, value, (), "", {})
    return data


def _merge_all(start: Settings, layers: Iterable[Layer], origins: Origins) -> dict[str, Any]:
    data = as_data(start)
    for where, layer in layers:
        data = _merge(data, layer, (), where, origins)
    return data


def _merge(old: Any, new: Any, path: Keys, origin: str, origins: Origins) -> Any:
    """Tables merge key by key, all else is replaced. Another component drops the options of the one before; entries of
    a list can be changed by number (`judges.0.think=false`)."""
    new = _shape(path, new)
    if isinstance(old, list) and isinstance(new, Mapping) and new and new.keys() <= set(map(str, range(len(old)))):
        changes = {int(i): _merge(old[int(i)], value, (*path, i), origin, origins) for i, value in new.items()}
        return [changes.get(i, value) for i, value in enumerate(old)]
    uses = [data["use"] for data in (old, new) if isinstance(data, Mapping) and "use" in data]
    other = _is_component(path) and len(uses) == 2 and uses[0] != uses[1]
    if isinstance(old, dict) and isinstance(new, Mapping) and not other:
        return old | {key: _merge(old.get(key), value, (*path, key), origin, origins) for key, value in new.items()}
    for stale in [place for place in origins if place[: len(path)] == path]:
        del origins[stale]
    origins[path] = origin
    return new


def _is_component(path: Keys) -> bool:
    return bool(path) and path[0] in COMPONENTS and len(path) == (2 if path[0] == "judges" else 1)


def _shape(path: Keys, value: Any) -> Any:
    """A component as a table, however it was written."""
    if path == ("judges",) and (isinstance(value, str) or (isinstance(value, Mapping) and "use" in value)):
        value = [value]  # a single one
    if path == ("judges",) and isinstance(value, list):
        return [_shape(("judges", str(i)), judge) for i, judge in enumerate(value)]
    return {"use": value} if _is_component(path) and isinstance(value, str) else value


def _remove(data: Any, path: Keys) -> None:
    """Delete a key; entries of lists count by number."""
    for key in path[:-1]:
        data = data[int(key) if isinstance(data, list) else key]
    del data[path[-1]]


# ---- problems --------------------------------------------------------------------------------------------------------


def _sentence(problem: Problem, origins: Origins) -> str:
    origin = _origin(problem.path, origins)
    hint = _meant(problem) if problem.unknown else problem.hint or _beside(problem)
    name = clean(".".join(problem.path), 100)
    if problem.path[:1] == ("rounds",) and problem.path[1:]:
        name = f"rounds, round {int(problem.path[1]) + 1},"
    return f"{name}{f' ({origin})' if origin else ''} {problem.text}{hint}"


def _origin(path: Keys, origins: Origins) -> str:
    prefixes = (path[:length] for length in range(len(path), 0, -1))
    return next((origins[prefix] for prefix in prefixes if prefix in origins), "")


def _meant(problem: Problem) -> str:
    """What an unknown key may have meant: a setting known by this name, a neighbour, or one with a name like it."""
    names = settings_called(problem.path[-1]) or settings_called("_".join(problem.path))
    if not names and problem.hint:
        return problem.hint
    last = {name.rpartition(".")[2]: name for name in _names()}
    if not names and (close := closest(problem.path[-1], last)):
        names = [last[close]]
    quoted = '" or "'.join(names)
    return f' Did you mean "{quoted}"?' if names else ""


def _beside(problem: Problem) -> str:
    """A section was set to a component's name: the setting that names the component."""
    names = {"generate": "generator", "ground": "grounder", "judge": "judges"}
    name = names.get(".".join(problem.path)) if problem.text.startswith("should be a table") else None
    return f' Did you mean "{name}"?' if name else ""


def _names() -> list[str]:
    """Every setting with its section: "train.lr"; not the options of components."""
    names = []
    for setting in attrs.fields(Settings):
        section, name = type(setting.default), setting.name
        names += [f"{name}.{knob.name}" for knob in attrs.fields(section)] if attrs.has(section) else [name]
    return names


def settings_called(word: str) -> list[str]:
    """The settings (or options) that other programs, or other sections, call so; "learning-rate" is train.lr."""
    key = word.lower().replace("-", "_")
    elsewhere = [name for name, others in _ELSEWHERE.items() if key in others.split()]
    return elsewhere or [name for name in _names() if key in (name, name.rpartition(".")[2], name.replace(".", "_"))]


_ELSEWHERE = {
    "adapter.offload": "release",
    "train.lr": "learning_rate",
    "train.max_cells": "batch_size train_batch_size per_device_train_batch_size micro_batch_size",
    "train.accumulation": "gradient_accumulation gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "train.steps": "steps max_steps num_steps train_steps max_train_steps iterations",
    "train.epochs": "num_epochs num_train_epochs max_epochs",
    "train.warmup": "warmup_steps lr_warmup_steps num_warmup_steps",
    "train.clip": "grad_clip max_grad_norm clip_grad_norm gradient_clipping gradient_clip_val",
    "train.weight_decay": "wd adam_weight_decay",
    "train.beta1": "adam_beta1",
    "train.beta2": "adam_beta2",
    "train.eps": "epsilon adam_epsilon",
    "train.optimizer": "optim optimiser",
    "train.mixed_precision": "precision amp fp16 bf16",
    "train.checkpointing": "gradient_checkpointing activation_checkpointing",
    "train.ema": "ema_decay use_ema",
    "train.save_every": "save_steps checkpointing_steps",
    "train.trackers": "tracker report_to log_with logger wandb tensorboard",
    "train.project": "wandb_project project_name tracker_project_name",
    "train.tags": "wandb_tags",
    "lora.rank": "r lora_r",
    "loss.constraint": "lambda lambda_ lambda_c lam constraint",
    "generator": "generate_use generate_generator sampler",
    "generate.candidates": "num_images images_per_prompt num_images_per_prompt num_samples",
    "adapter.checkpoint": "checkpoint ckpt model model_path model_name_or_path pretrained_model_name_or_path",
    "adapter.size": "size resolution image_size",
    "adapter.device": "device",
    "adapter.sampling": "drawing adapter_drawing",
    "adapter.generation_sides": "drawing_sides adapter_drawing_sides",
    "evaluate.images": "pictures evaluate_pictures",
    "prompts": "prompt prompt_file data dataset",
    "judges": "judge",
    "rounds": "num_rounds",
    "seed": "random_seed manual_seed",
    "map": "reward_map",
    "--out": "out output output_dir out_dir save_dir",
}
"""Settings by what others call them."""
