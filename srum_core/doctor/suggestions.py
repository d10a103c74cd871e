"""A plan as a table, and what to change where a stage does not fit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

import attrs
from attrs import frozen
from rich.console import Console

from srum_core.config import Settings
from srum_core.doctor.plan import GIB, Device, Need, Planner
from srum_core.errors import ConfigError, TrainingError, extra
from srum_core.evaluation.formatting import Grid

ASSUMED = (
    "These are predictions from shapes, of one process a device; docs/results/memory.md has what was measured. "
    "Of a GPU, 1 GiB and then 5 % are taken to be lost to its libraries and to gaps."
)


@frozen
class Fix:
    """Settings with which a stage fits, and its memory then."""

    words: tuple[str, ...]
    need: Need


def needs(planner: Planner, settings: Settings) -> list[Need]:
    """Predict the stages that use the run's model."""
    stages = [planner.generate(settings), planner.judge(settings), planner.train(settings)]
    return [need for need in stages if need is not None]


def fix(planner: Planner, settings: Settings, need: Need, attempts: list[Fix] | None = None) -> Fix | None:
    """Add changes until the stage fits, then drop those that it fits without; None if all together are not enough.

    attempts    collects what was evaluated, without changes that save nothing"""
    changes: list[Change] = []
    for change in _changes(planner, settings, need):
        changes.append(change)
        after = _after(planner, settings, need.stage, changes)
        if attempts and after.total < attempts[-1].need.total:
            attempts.append(Fix((*attempts[-1].words, change[0]), after))
        if after.total <= planner.device.usable:
            break
    else:
        return None
    for change in reversed(changes[:-1]):  # changes that matter least to training come first, and are dropped last
        fewer = [each for each in changes if each is not change]
        if _after(planner, settings, need.stage, fewer).total <= planner.device.usable:
            changes = fewer
    return Fix(tuple(word for word, _ in changes), _after(planner, settings, need.stage, changes))


Change = tuple[str, Callable[[Settings], Settings]]


def _after(planner: Planner, settings: Settings, stage: str, changes: Sequence[Change]) -> Need:
    for _, change in changes:
        settings = change(settings)
    need: Need = getattr(planner, stage)(settings)
    return need


def _changes(planner: Planner, settings: Settings, need: Need) -> Iterator[Change]:
    if need.stage != "train":
        batch = getattr(settings, need.stage).batch
        room = planner.device.usable - need.weights
        fewer = max(1, min(int(batch * room / need.passing), batch - 1)) if need.passing and batch > 1 else batch
        if fewer < batch:
            yield _set(need.stage, "batch", fewer)
        return
    train = settings.train
    rows, columns, _ = planner.outline(settings).grid
    if not train.checkpointing:
        yield _set("train", "checkpointing", True)
    if train.max_cells // (rows * columns) > 1:
        yield _set("train", "max_cells", rows * columns)
    if train.ema:
        yield _set("train", "ema", 0.0)
    if train.method == "full":
        if train.optimizer == "adamw":
            yield _set("train", "optimizer", "adamw8bit")
        yield _set("train", "method", "lora")


def _set(section: str, name: str, value: object) -> Change:
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value

    def change(settings: Settings) -> Settings:
        return attrs.evolve(settings, **{section: attrs.evolve(getattr(settings, section), **{name: value})})

    return f"{section}.{name}={text}", change


@frozen
class Together:
    """Changes with which every stage fits."""

    words: tuple[str, ...]
    needs: tuple[Need, ...]


def together(planner: Planner, settings: Settings) -> Together | None:
    """Return the first way to hold the weights with which all stages fit, with each stage's own changes; None without
    one."""
    for weight_changes in _holding(planner, settings):
        words = [word for word, _ in weight_changes]
        new = settings
        for _, change in weight_changes:
            new = change(new)
        fitting_needs: list[Need] = []
        try:
            for need in needs(planner, new):
                fix_of_stage = Fix((), need) if need.total <= planner.device.usable else fix(planner, new, need)
                if fix_of_stage is None:
                    break
                words += fix_of_stage.words
                fitting_needs.append(fix_of_stage.need)
            else:
                return Together(tuple(dict.fromkeys(words)), tuple(fitting_needs))
        except (ConfigError, TrainingError):
            continue  # trained weights would be quantised, or options exclude each other
    return None


def _holding(planner: Planner, settings: Settings) -> Iterator[list[Change]]:
    """Yield ways to hold the weights, those that change training least first."""
    component = planner.registry.component("adapter", settings.adapter.use)
    options = attrs.fields_dict(component.options) if component.options else {}
    several, spread = planner.device.count > 1, planner.device.is_spread(settings)
    over = [_option("device_map", "auto")] if several and not spread else []
    if over and ("device_map" not in options or planner.device.kind == "cpu"):
        return
    yield over
    can_offload = "offload" in options and not several
    if can_offload:
        yield [_option("offload", "cpu")]
    fewer = []
    if find_spec("bitsandbytes") is not None and "quantize" in options:
        fewer = [[_option("quantize", kind), *over] for kind in ("int8", "nf4")]
    if settings.train.method == "full":
        more = (_option("quantize_part", "understanding"), _set("train", "method", "lora"))
        fewer = [[*each, change] for change in more for each in fewer]
    yield from fewer
    if can_offload and fewer:
        yield [*fewer[-1], _option("offload", "cpu")]


def _option(name: str, value: str) -> Change:
    def change(settings: Settings) -> Settings:
        adapter = settings.adapter
        return attrs.evolve(settings, adapter=attrs.evolve(adapter, options={**adapter.options, name: value}))

    return f"adapter.{name}={value}", change


def show(planner: Planner, settings: Settings, console: Console, command: Sequence[str] = ("srum-train",)) -> bool:
    """Print the plan; if a stage does not fit, also the `command` with changes that make all stages fit.

    Return whether all stages fit without changes."""
    device, stage_needs = planner.device, needs(planner, settings)
    name = f"{device.gib:g} GiB" if device.count == 1 else f"{device.count} devices of {device.gib:g} GiB"
    console.print(table(stage_needs, device.usable))
    short = [need for need in stage_needs if need.total > device.usable]
    batches = "; ".join(f"{need.stage} {need.work}" for need in stage_needs)
    console.print(f"At once: {batches}.", markup=False, soft_wrap=True)
    for need in short:
        console.print(_advice(planner, settings, need), markup=False, soft_wrap=True)
    # Processes can share the weights in training only.
    if short if device.count == 1 else any(need.stage != "train" for need in short):
        ways = together(planner, settings)
        if ways is not None:
            sizes = ", ".join(f"{need.stage} {need.total / GIB:.1f}" for need in ways.needs)
            console.print(f"Every stage fits ({sizes} GiB) with", markup=False)
            console.print("  " + shlex.join([*command, *ways.words]), markup=False, soft_wrap=True)
        elif find_spec("bitsandbytes") is None:
            console.print(f"Weights in 4 or 8 bits are planned too with {extra('8bit')}.", markup=False, soft_wrap=True)
    if not short:
        console.print(f"All of it fits on {name}, {device.usable / GIB:.1f} of them usable.", markup=False)
    console.print(f"{planner.outline(settings).note} {ASSUMED}".strip(), markup=False, soft_wrap=True)
    return not short


def _advice(planner: Planner, settings: Settings, need: Need) -> str:
    """Suggest changes that are enough according to the plan."""
    device, attempts = planner.device, [Fix((), need)]
    stage_fix = fix(planner, settings, need, attempts)
    message = f"{need.stage} needs {need.total / GIB:.1f} GiB and has {device.usable / GIB:.1f}."
    ways = [] if stage_fix is None else [f"{' '.join(stage_fix.words)} ({stage_fix.need.total / GIB:.1f})"]
    if need.stage == "train" and (stage_fix is None or device.count > 1) and not device.is_spread(settings):
        ways += _shared(device, attempts)
    if need.stage == "judge":
        ways.append("an answerer elsewhere, such as answerer=remote")
    if stage_fix is None:
        least = min(attempts, key=lambda each: each.need.total)
        number = f"{device.count} such devices" if device.is_spread(settings) else "one such device"
        message += f" With all its weights there in full, no setting makes it fit on {number}"
        if least.need.weights > device.usable:
            message += f": its weights alone take {least.need.weights / GIB:.1f}"
        message += "."
        larger = "devices" if device.is_spread(settings) else "a device"
        ways.append(" and ".join([f"{larger} of {device.holding(least.need.total)} GiB", *least.words]))
    return f"{message} It fits with {'; or '.join(ways)}."


def _shared(device: Device, attempts: Sequence[Fix]) -> list[str]:
    """Return the fewest devices, and changes, with which sharded training fits; nothing if none is enough."""
    for launch, share in (("fsdp2", Need.sharded), ("fsdp2-offload", Need.offloaded)):
        for count in [device.count] if device.count > 1 else [2, 4, 8, 16, 32, 64]:
            for attempt in attempts:
                if (size := share(attempt.need, count).total) <= device.usable:
                    words = " and ".join([f"--launch {launch} over {count} devices", *attempt.words])
                    return [f"{words} (about {size / GIB:.1f} each)"]
    return []


def table(stage_needs: Sequence[Need], usable: float) -> Grid:
    """Tabulate the GiB of each stage."""
    rows = []
    for need in stage_needs:
        sizes = (need.weights, need.gradients, need.optimizer, need.passing, need.total)
        rows.append([need.stage, *(f"{size / GIB:.2f}" for size in sizes), "yes" if need.total <= usable else "no"])
    return Grid(["stage", "weights", "gradients", "optimizer", "transient", "total, GiB", "fits"], rows)
