"""Settings out of layers: built-in < the adapter's presets < a TOML file < KEY=VALUE. No torch.

Every problem of every layer is collected before one ConfigError is raised, and nothing heavy is loaded before that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from srum_core.config.settings import COMPONENTS, Settings
from srum_core.config.toml import as_data
from srum_core.errors import ConfigError, PluginError, clean
from srum_core.files import DEPTH, from_toml, read_text
from srum_core.options import SAMPLING, SPEED, Keys, Problem, Problems, Use, build, closest, did_you_mean, to_plain
from srum_core.plugins import Registry

COMMAND_LINE = "on the command line"
log = logging.getLogger("srum")
Origins = dict[Keys, str]


@frozen
class Layer:
    """Settings from one place, as plain data."""

    where: str
    """With its preposition, "in my.toml"."""
    data: Mapping[str, Any]


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
    model_kind     the kind of component that `adapter` names: "generator" allows text-to-image models too
    lenient      leave unknown keys out, with a warning

    Raises ConfigError with all that is wrong.
    """
    broken: list[str] = []
    file = Layer(f"in {config_file}", _read(config_file, broken) if config_file else {})
    unread = bool(broken)
    if isinstance(overrides, Mapping):
        line = Layer("in overrides", _nest(overrides))
    else:
        line = Layer(COMMAND_LINE, _parse_overrides(overrides, broken))
    name = _adapter(adapter, [line, file], broken)
    if name == "" and not unread:
        broken.append(_no_adapter(registry, model_kind))
    beneath = Layer("by default", first or {})
    between = Layer("from the trained run", above or {})
    layers = [beneath, *_presets(name or "", presets, registry, broken, model_kind), between, file, line]
    said: Origins = {} if adapter is None else {("adapter",): COMMAND_LINE}
    return _settings(Settings(adapter=Use(name or "")), layers, said, broken, registry, model_kind, lenient)


def component(kind: str, text: str | Mapping[str, Any], registry: Registry, option: str) -> Use:
    """A component as it is typed after an option such as --judge: a name, or a table (in TOML); its options filled in.

    Raises ConfigError with all that is wrong."""
    try:
        value = _parse_value(text) if isinstance(text, str) else to_plain(text)
    except ValueError as error:
        raise ConfigError(f"{option} {clean(text, 100)}: this is not TOML: {error}.") from error
    found: list[Problem] = []
    use = _component((option,), {"use": value} if isinstance(value, str) else value, kind, registry, found)
    if found:
        raise ConfigError(" ".join(f"{'.'.join(each.path)} {each.text}{each.hint}" for each in found))
    return use


def changed(settings: Settings, overrides: Sequence[str], registry: Registry, where: str) -> Settings:
    """Settings with some of them changed by "KEY=VALUE"; `where` ("in arm sft") goes into messages.

    Raises ConfigError with all that is wrong."""
    broken: list[str] = []
    layer = Layer(where, _parse_overrides(overrides, broken, where))
    return _settings(settings, [layer], {("rounds",): where}, broken, registry)


def of_round(settings: Settings, round: int | None, registry: Registry, model_kind: str = "adapter") -> Settings:
    """The settings of a round: a run's own, with what `rounds` changes in them; the run's own for None
    and for a round that there is not. Raises ConfigError where they cannot be used."""
    if not settings.changes(round):
        return settings
    assert round is not None
    broken: list[str] = []
    components = {**COMPONENTS, "adapter": model_kind}
    made, found, origins = _change(settings, round, settings.changes(round), registry, components, {}, broken)
    broken += [_sentence(problem, origins) for problem in found]
    if broken or made is None:
        raise _unusable(broken)
    return made


def _settings(
    start: Settings,
    layers: Sequence[Layer],
    said: Origins,
    broken: list[str],
    registry: Registry,
    model_kind: str = "adapter",
    lenient: bool = False,
) -> Settings:
    data, origins = _merge_all(start, layers)
    components = {**COMPONENTS, "adapter": model_kind}
    settings, found = _structure(data, registry, components)
    origins = {**said, **origins}
    if lenient and (unknown := [problem for problem in found if problem.unknown]):
        for problem in unknown:
            log.warning("%s It is left out.", _sentence(problem, origins))
            data = _without(data, problem.path)
        settings, found = _structure(data, registry, components)
    broken += [_sentence(problem, origins) for problem in found]
    if settings is not None and not isinstance(settings.rounds, int):
        if lenient:
            settings = _without_unknown_changes(settings, registry, components, origins)
        for round in settings.round_numbers:
            changes = settings.changes(round)
            _, wrong, places = _change(settings, round, changes, registry, components, origins, broken)
            broken += [_sentence(problem, places) for problem in wrong if problem not in found]
    if broken or settings is None:
        raise _unusable(broken)
    return settings


def _unusable(broken: Sequence[str]) -> ConfigError:
    lines = "".join(f"\n  - {sentence}" for sentence in broken)
    return ConfigError(f"The settings cannot be used; nothing was loaded.{lines}")


def open_settings(path: Path, registry: Registry, model_kind: str = "adapter") -> Settings:
    """The settings that a run.toml holds. Options that another version of srum or of a plugin wrote there, and that
    this one does not know, are left out with a warning. Raises ConfigError."""
    return load_settings(None, (), path, (), registry, model_kind=model_kind, lenient=True)


# ---- rounds ----------------------------------------------------------------------------------------------------------

_EVALUATED = "evaluations have the run's own settings, so that rounds can be compared."
_ONE_FOR_ALL = {
    "seed": "all random numbers of a run follow from one seed.",
    "rounds": "it defines the rounds.",
    "start": "the first round starts from it, and each of the others from the round before.",
    "benchmark": _EVALUATED,
    "evaluate": _EVALUATED,
}
"""Why settings cannot differ between rounds."""


def _change(
    settings: Settings,
    round: int,
    changes: Sequence[str],
    registry: Registry,
    components: Mapping[str, str],
    said: Origins,
    broken: list[str],
) -> tuple[Settings | None, list[Problem], Origins]:
    """The settings with a round's changes, the problems, and their place. What cannot be read, and
    what cannot differ between rounds, goes to `broken`."""
    place = _origin(("rounds", str(round - 1)), said)
    where = f"in round {round} of {settings.round_count}{f' {place}' if place else ''}"
    data, origins = _merge_all(settings, [Layer(where, _parse_overrides(changes, broken, where))])
    for path in origins:
        if why := _one_for_all(path, settings, registry, components):
            broken.append(f"{clean('.'.join(path), 100)} ({where}) cannot differ between rounds: {why}")
    return *_structure(data, registry, components), origins


def _one_for_all(path: Keys, settings: Settings, registry: Registry, components: Mapping[str, str]) -> str:
    """Why a setting cannot differ between rounds; "" = it can, or it is no setting."""
    if path[0] != "adapter":
        return _ONE_FOR_ALL.get(path[0], "")
    try:
        options = registry.component(components["adapter"], settings.adapter.use).options
    except PluginError:
        return ""  # reported with the other components
    known = attrs.fields_dict(options) if options else {}
    free = [name for name, each in known.items() if each.metadata.keys() & {*SAMPLING, *SPEED}]
    if path[1:] and (path[1] in free or path[1] not in {"use", *known}):
        return ""
    names = [f"adapter.{name}" for name in free if known[name].metadata.keys() >= SAMPLING.keys()]
    others = f"only how it samples may differ ({', '.join(names) or 'of this adapter nothing is known to be that'})."
    return f"all rounds train one model; {others}"


def _without_unknown_changes(
    settings: Settings, registry: Registry, components: Mapping[str, str], said: Origins
) -> Settings:
    """Without what rounds change in settings that are not known, with a warning."""
    rounds = []
    for round in settings.round_numbers:
        kept: list[str] = []
        for text in settings.changes(round):
            _, found, origins = _change(settings, round, [*kept, text], registry, components, said, [])
            unknown = [problem for problem in found if problem.unknown]
            for problem in unknown:
                log.warning("%s %s is left out.", _sentence(problem, origins), clean(text, 100))
            kept += [] if unknown else [text]
        rounds.append(tuple(kept))
    return attrs.evolve(settings, rounds=tuple(rounds))


# ---- layers ----------------------------------------------------------------------------------------------------------


def _read(path: Path, broken: list[str]) -> dict[str, Any]:
    try:
        data = from_toml(read_text(path))
    except ConfigError as error:
        broken.append(str(error))
    except ValueError as error:
        broken.append(f"{path} is not TOML: {error}.")
    else:
        data.pop("versions", None)
        return data
    return {}


def _parse_overrides(overrides: Sequence[str], broken: list[str], where: str = COMMAND_LINE) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        keys = tuple(part.strip() for part in key.split("."))
        if not equals or not all(keys) or len(keys) > DEPTH:
            broken.append(f'"{clean(text, 100)}" {where} should read KEY=VALUE, such as train.lr=1e-5.')
            continue
        try:
            parsed = _parse_value(value)
        except ValueError as error:
            broken.append(f"{clean(text, 100)} {where}: the value is not TOML: {error}.")
            continue
        nested: Any = parsed
        for part in reversed(keys):
            nested = {part: nested}
        data = _merge(data, nested, (), where, {})
    return data


def _nest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key, as tables inside one another."""
    data: dict[str, Any] = {}
    for key, value in overrides.items():
        nested: Any = "" if value is None else to_plain(value)
        for part in reversed(str(key).split(".")):
            nested = {part: nested}
        data = _merge(data, nested, (), "", {})
    return data


def _parse_value(text: str) -> Any:
    """TOML, or else a bare word: a name or a path need no quotes. Text with TOML syntax has to be valid TOML."""
    try:
        made = from_toml(f"value = {text}")
    except ValueError:
        if text.lstrip().startswith(("[", "{", '"', "'")):
            raise
        return text
    return made["value"] if made.keys() == {"value"} else text


def _adapter(named: str | None, layers: Sequence[Layer], broken: list[str]) -> str | None:
    """The adapter's name, "" if none is given, None if the value is not a name.

    A file that names another one than --adapter is refused: its options are not for this one."""
    said = [(layer.where, _shape(("adapter",), layer.data.get("adapter"))) for layer in layers]
    named_there = [(where, value.get("use") if isinstance(value, Mapping) else value) for where, value in said]
    uses = [(where, use) for where, use in named_there if use is not None]
    for where, use in uses:
        if named is not None and use != named:
            broken.append(f'--adapter {named} contradicts adapter = "{use}" {where}. Leave one of them out.')
    name = named if named is not None else next((use for _, use in uses), "")
    return name if isinstance(name, str) else None


def _no_adapter(registry: Registry, model_kind: str) -> str:
    names = ", ".join(found.component.name for found in registry.listing() if found.kind in ("adapter", model_kind))
    return f"No adapter is named. Add --adapter NAME; installed are: {names or 'none'}."


def _presets(
    adapter: str, names: Sequence[str], registry: Registry, broken: list[str], model_kind: str
) -> Iterator[Layer]:
    try:
        there = registry.component(model_kind, adapter).presets if adapter else {}
    except PluginError:
        return  # reported with the other components
    for name in [*(["default"] if "default" in there else []), *names]:
        if name in there:
            yield Layer(f'in the preset "{name}" of {adapter}', _read(Path(there[name]), broken))
        elif adapter:
            known = f"There are {', '.join(sorted(there))}." if there else "It has none."
            broken.append(f'The adapter "{adapter}" has no preset "{name}".{did_you_mean(name, there)} {known}')


# ---- merging ---------------------------------------------------------------------------------------------------------


def _merge_all(defaults: Settings, layers: Sequence[Layer]) -> tuple[dict[str, Any], Origins]:
    data: Any = as_data(defaults)
    origins: Origins = {}
    for layer in layers:
        data = _merge(data, layer.data, (), layer.where, origins)
    return data, origins


def _merge(old: Any, new: Any, path: Keys, origin: str, origins: Origins) -> Any:
    """Tables merge key by key, all else is replaced. Another component drops the options of the one before; entries of
    a list can be changed by number (`judges.0.think=false`)."""
    new = _shape(path, new)
    if isinstance(old, list) and isinstance(new, Mapping) and new and new.keys() <= set(map(str, range(len(old)))):
        entries = ((str(i), each) for i, each in enumerate(old))
        return [_merge(each, new[i], (*path, i), origin, origins) if i in new else each for i, each in entries]
    uses = [each["use"] for each in (old, new) if isinstance(each, Mapping) and "use" in each]
    other = _is_component(path) and len(uses) == 2 and uses[0] != uses[1]
    if isinstance(old, dict) and isinstance(new, Mapping) and not other:
        return {
            **old,
            **{key: _merge(old.get(key), value, (*path, key), origin, origins) for key, value in new.items()},
        }
    for stale in [known for known in origins if known[: len(path)] == path]:
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
        return [_shape(("judges", str(i)), each) for i, each in enumerate(value)]
    return {"use": value} if _is_component(path) and isinstance(value, str) else value


# ---- checking --------------------------------------------------------------------------------------------------------


def _structure(
    data: Mapping[str, Any], registry: Registry, components: Mapping[str, str]
) -> tuple[Settings | None, list[Problem]]:
    """Components first, each with its own options; then everything else, whatever was found there."""
    found: list[Problem] = []
    parts = dict(data)
    for name, kind in components.items():
        value = data[name]
        optional = name in ("generator", "answerer", "verifier", "benchmark")
        if name == "judges" and isinstance(value, list):
            parts[name] = [_component((name, str(i)), each, kind, registry, found) for i, each in enumerate(value)]
        elif optional and value in ("", {"use": ""}):
            parts[name] = None
        elif name != "judges":
            parts[name] = _component((name,), value, kind, registry, found)
    try:
        settings = build(Settings, parts)
    except Problems as problems:
        return None, found + problems.found
    return settings, found


def _component(path: Keys, data: Any, kind: str, registry: Registry, found: list[Problem]) -> Use:
    """The component with all its options; problems go to `found`, and then the result is invalid."""
    use = data.get("use") if isinstance(data, Mapping) else None
    if not isinstance(use, str):
        found.append(Problem(path, 'should be a name, or a table {use = "name", option = value}.'))
        return Use("")
    given = Use(use, {key: value for key, value in data.items() if key != "use"})
    if use == "" and path == ("adapter",):
        return given  # none is named: already reported
    try:
        options = registry.options(kind, given)
    except PluginError as error:
        found.append(Problem(path, f'cannot be "{use}". {error}'))
    except Problems as problems:
        found += [problem.below(*path) for problem in problems.found]
    else:
        return Use(use, to_plain(options) if options is not None else {})
    return given


def _without(data: Any, path: Keys) -> Any:
    """The data without one key; entries of lists count by number."""
    if isinstance(data, list):
        return [_without(each, path[1:]) if str(i) == path[0] else each for i, each in enumerate(data)]
    kept = {key: value for key, value in data.items() if key != path[0] or path[1:]}
    return {key: _without(value, path[1:]) if key == path[0] else value for key, value in kept.items()}


def _sentence(problem: Problem, origins: Origins) -> str:
    origin = _origin(problem.path, origins)
    hint = _meant(problem) if problem.unknown else problem.hint
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
    close = closest(problem.path[-1], last)
    names = names or ([last[close]] if close else [])
    quoted = [f'"{name}"' for name in names]
    return f" Did you mean {' or '.join(quoted)}?" if quoted else ""


def _names() -> list[str]:
    """Every setting with its section: "train.lr"; not the options of components."""
    names = []
    for each in attrs.fields(Settings):
        section = type(each.default)
        names += [f"{each.name}.{knob.name}" for knob in attrs.fields(section)] if attrs.has(section) else [each.name]
    return names


def settings_called(word: str) -> list[str]:
    """The settings (or options) that other programs, or other sections, call so; "learning-rate" is train.lr."""
    key = word.lower().replace("-", "_")
    elsewhere = [name for name, others in _ELSEWHERE.items() if key in others.split()]
    return elsewhere or [name for name in _names() if key in (name, name.rpartition(".")[2], name.replace(".", "_"))]


_ELSEWHERE = {
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
