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
from srum_core.errors import TrainingError, extra
from srum_core.evaluation.formatting import Grid

ASSUMED = (
    "These are predictions from shapes, of one process a device; docs/results/memory.md has what was measured. "
    "Of a GPU, 1 GiB and then 5 % are taken to be lost to its libraries and to gaps."
)


@frozen
class Fix:
    """Find settings with which a stage fits, and its memory then."""

    words: tuple[str, ...]
    need: Need


def needs(planner: Planner, settings: Settings) -> list[Need]:
    """Of the stages that the run's model takes part in."""
    found = [planner.generate(settings), planner.judge(settings), planner.train(settings)]
    return [need for need in found if need is not None]


def fix(planner: Planner, settings: Settings, need: Need, tried: list[Fix] | None = None) -> Fix | None:
    """The first changes, one added to another, with which the stage fits, less those that it fits without; None if all
    together are not enough. `tried` is given all that was evaluated until then, without words that spare nothing."""
    made: list[Change] = []
    for change in _changes(planner, settings, need):
        made.append(change)
        after = _after(planner, settings, need.stage, made)
        if tried and after.total < tried[-1].need.total:
            tried.append(Fix((*tried[-1].words, change[0]), after))
        if after.total <= planner.device.usable:
            break
    else:
        return None
    for change in reversed(made[:-1]):  # what changes least about a training stays longest
        others = [each for each in made if each is not change]
        if _after(planner, settings, need.stage, others).total <= planner.device.usable:
            made = others
    return Fix(tuple(word for word, _ in made), _after(planner, settings, need.stage, made))


Change = tuple[str, Callable[[Settings], Settings]]


def _after(planner: Planner, settings: Settings, stage: str, changes: Sequence[Change]) -> Need:
    for _, change in changes:
        settings = change(settings)
    found: Need = getattr(planner, stage)(settings)
    return found


def _changes(planner: Planner, settings: Settings, need: Need) -> Iterator[Change]:
    if need.stage != "train":
        batch = getattr(settings, need.stage).batch
        room = planner.device.usable - need.weights
        fewer = max(1, min(int(batch * room / need.passing), batch - 1)) if need.passing and batch > 1 else batch
        if fewer < batch:
            yield _set(need.stage, "batch", fewer)
        return
    own = settings.train
    rows, columns, _ = planner.outline(settings).grid
    if not own.checkpointing:
        yield _set("train", "checkpointing", True)
    if own.max_cells // (rows * columns) > 1:
        yield _set("train", "max_cells", rows * columns)
    if own.ema:
        yield _set("train", "ema", 0.0)
    if own.method == "full":
        if own.optimizer == "adamw":
            yield _set("train", "optimizer", "adamw8bit")
        yield _set("train", "method", "lora")


def _set(section: str, name: str, value: object) -> Change:
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value

    def change(settings: Settings) -> Settings:
        return attrs.evolve(settings, **{section: attrs.evolve(getattr(settings, section), **{name: value})})

    return f"{section}.{name}={shown}", change


@frozen
class Together:
    """Changes with which every stage fits."""

    words: tuple[str, ...]
    needs: tuple[Need, ...]


def together(planner: Planner, settings: Settings) -> Together | None:
    """The first way of holding the weights with which all stages fit, and each stage's own changes; None if there is
    none."""
    for shared in _holding(planner, settings):
        words = [word for word, _ in shared]
        changed = settings
        for _, change in shared:
            changed = change(changed)
        found: list[Need] = []
        try:
            for need in needs(planner, changed):
                own = Fix((), need) if need.total <= planner.device.usable else fix(planner, changed, need)
                if own is None:
                    break
                words += own.words
                found.append(own.need)
            else:
                return Together(tuple(dict.fromkeys(words)), tuple(found))
        except TrainingError:
            continue  # what is to be trained would be quantised
    return None


def _holding(planner: Planner, settings: Settings) -> Iterator[list[Change]]:
    """Ways of holding the weights, those that change least about a training first."""
    component = planner.registry.component("adapter", settings.adapter.use)
    known = attrs.fields_dict(component.options) if component.options else {}
    yield []
    if "offload" in known:
        yield [_option("offload", "cpu")]
    fewer = []
    if find_spec("bitsandbytes") is not None and "quantize" in known:
        fewer = [[_option("quantize", kind)] for kind in ("int8", "nf4")]
    if settings.train.method == "full":
        more = (_option("quantize_part", "understanding"), _set("train", "method", "lora"))
        fewer = [[*each, change] for change in more for each in fewer]
    yield from fewer
    if "offload" in known and fewer:
        yield [*fewer[-1], _option("offload", "cpu")]


def _option(name: str, value: str) -> Change:
    def change(settings: Settings) -> Settings:
        adapter = settings.adapter
        return attrs.evolve(settings, adapter=attrs.evolve(adapter, options={**adapter.options, name: value}))

    return f"adapter.{name}={value}", change


def show(planner: Planner, settings: Settings, console: Console, command: Sequence[str] = ("srum-train",)) -> bool:
    """Print the plan; where something does not fit, also the `command` with changes that make all of it fit. Returns
    whether everything fits as it is."""
    device, found = planner.device, needs(planner, settings)
    name = f"{device.gib:g} GiB" if device.count == 1 else f"{device.count} devices of {device.gib:g} GiB"
    console.print(table(found, device.usable))
    fits = True
    console.print(f"At once: {'; '.join(f'{need.stage} {need.work}' for need in found)}.", markup=False, soft_wrap=True)
    for need in found:
        if need.total > device.usable:
            fits = False
            console.print(_advice(planner, settings, need), markup=False, soft_wrap=True)
    if not fits and device.count == 1:
        ways = together(planner, settings)
        if ways is not None:
            sizes = ", ".join(f"{need.stage} {need.total / GIB:.1f}" for need in ways.needs)
            console.print(f"Every stage fits ({sizes} GiB) with", markup=False)
            console.print("  " + shlex.join([*command, *ways.words]), markup=False, soft_wrap=True)
        elif find_spec("bitsandbytes") is None:
            console.print(f"Weights in 4 or 8 bits are planned too with {extra('8bit')}.", markup=False, soft_wrap=True)
    if fits:
        console.print(f"All of it fits on {name}, {device.usable / GIB:.1f} of them usable.", markup=False)
    console.print(f"{planner.outline(settings).note} {ASSUMED}".strip(), markup=False, soft_wrap=True)
    return fits


def _advice(planner: Planner, settings: Settings, need: Need) -> str:
    """Only changes that are enough according to the plan."""
    device, tried = planner.device, [Fix((), need)]
    own = fix(planner, settings, need, tried)
    message = f"{need.stage} needs {need.total / GIB:.1f} GiB and has {device.usable / GIB:.1f}."
    ways = [] if own is None else [f"{' '.join(own.words)} ({own.need.total / GIB:.1f})"]
    if need.stage == "train" and (own is None or device.count > 1):
        ways += _shared(device, tried)
    if need.stage == "judge":
        ways.append("an answerer elsewhere, such as answerer=remote")
    if own is None:
        least = min(tried, key=lambda each: each.need.total)
        message += " With all its weights there in full, no setting makes it fit on one such device"
        if least.need.weights > device.usable:
            message += f": its weights alone take {least.need.weights / GIB:.1f}"
        message += "."
        ways.append(" and ".join([f"a device of {device.holding(least.need.total)} GiB", *least.words]))
    return f"{message} It fits with {'; or '.join(ways)}."


def _shared(device: Device, tried: Sequence[Fix]) -> list[str]:
    """The fewest devices, and changes, with which training fits if they share its weights; none if that is not
    enough."""
    for launch, share in (("fsdp2", Need.sharded), ("fsdp2-offload", Need.offloaded)):
        for count in [device.count] if device.count > 1 else [2, 4, 8, 16, 32, 64]:
            for found in tried:
                if (each := share(found.need, count).total) <= device.usable:
                    words = " and ".join([f"--launch {launch} over {count} devices", *found.words])
                    return [f"{words} (about {each / GIB:.1f} each)"]
    return []


def table(found: Sequence[Need], usable: float) -> Grid:
    """GiB by stage."""
    rows = []
    for need in found:
        sizes = (need.weights, need.gradients, need.optimizer, need.passing, need.total)
        rows.append([need.stage, *(f"{size / GIB:.2f}" for size in sizes), "yes" if need.total <= usable else "no"])
    return Grid(["stage", "weights", "gradients", "optimizer", "transient", "total, GiB", "fits"], rows)
