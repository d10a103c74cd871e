"""The hooks that a plugin can implement, and the light description of a component that they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import pluggy
from attrs import field, frozen, validators

from srum_core import protocols
from srum_core.errors import PluginError
from srum_core.records import Prompt

GROUP = "srum"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


def _text(value: str) -> str:
    """A plain text: a subclass may do anything when it is shown."""
    return str.__str__(value) if isinstance(value, str) else value


def _presets(value: Mapping[str, Path] | Path) -> Mapping[str, Path]:
    return {path.stem: path for path in sorted(value.glob("*.toml"))} if isinstance(value, Path) else value


@frozen
class Component:
    """Something a plugin offers. Describing it must be cheap: the class is imported when a run uses it."""

    name: str = field(converter=_text, validator=validators.instance_of(str))
    """The name for `use`."""
    load: str = field(converter=_text, validator=validators.instance_of(str))
    """Where the class is, "package.module:Class". It is called with an instance of `options`, or with nothing."""
    options: type | None = None
    """attrs class of the options; None = no options. A field with `metadata=SPEED` may change within a run."""
    presets: Mapping[str, Path] = field(
        factory=dict,
        hash=False,
        converter=_presets,
        validator=validators.instance_of(Mapping),  # type: ignore[type-abstract]
    )
    """Adapters and generators only: settings by name, as TOML files, or their folder. One called "default" is always
    applied first."""
    summary: str = field(default="", converter=_text, validator=validators.instance_of(str))
    """One line for lists."""

    def __attrs_post_init__(self) -> None:
        name, options = self.name, self.options
        if not name.isprintable() or not name or (":" in name and name != self.load):  # of a class named by its path
            raise PluginError(f'A component is called "{name}"; a name is printable and has no colon.')
        if self.load.count(":") != 1:
            raise PluginError(f'load="{self.load}" of the component "{name}" should read "module:Class".')
        if options is not None and not attrs.has(options):
            raise PluginError(f'The options of the component "{name}" are not an attrs class.')
        if options is not None and "use" in attrs.fields_dict(options):
            raise PluginError(f'The component "{name}" has an option called "use", which means the component.')


@frozen
class Kind:
    """A kind of component."""

    hook: str
    protocol: type
    words: str
    also: str = ""
    """Another kind whose components can stand here too."""


KINDS: Mapping[str, Kind] = {
    "adapter": Kind("srum_adapters", protocols.UnifiedModel, "adapter"),
    "grounder": Kind("srum_grounders", protocols.Grounder, "grounder"),
    "judge": Kind("srum_judges", protocols.Judge, "judge"),
    "map": Kind("srum_reward_maps", protocols.RewardMap, "reward map"),
    "loss": Kind("srum_losses", protocols.Loss, "loss"),
    "benchmark": Kind("srum_benchmarks", protocols.Benchmark, "benchmark"),
    "answerer": Kind("srum_answerers", protocols.Answerer, "answerer", also="adapter"),
    "generator": Kind("srum_generators", protocols.ImageGenerator, "image generator", also="adapter"),
}


class Hooks(Protocol):
    """A plugin implements any of these as functions of its module, each marked with `@hookimpl`."""

    @hookspec
    def srum_adapters(self) -> Iterable[Component]:
        """Models that generate and understand images (`UnifiedModel`)."""

    @hookspec
    def srum_grounders(self) -> Iterable[Component]:
        """Components that propose regions (`Grounder`)."""

    @hookspec
    def srum_judges(self) -> Iterable[Component]:
        """What asks about images and reads scores (`Judge`)."""

    @hookspec
    def srum_reward_maps(self) -> Iterable[Component]:
        """What spreads a judgement over a grid (`RewardMap`)."""

    @hookspec
    def srum_losses(self) -> Iterable[Component]:
        """What training minimises (`Loss`)."""

    @hookspec
    def srum_benchmarks(self) -> Iterable[Component]:
        """Prompts and how images of them become a table (`Benchmark`)."""

    @hookspec
    def srum_answerers(self) -> Iterable[Component]:
        """What answers judges in the model's place (`Answerer`)."""

    @hookspec
    def srum_generators(self) -> Iterable[Component]:
        """Text-to-image models that are only evaluated (`ImageGenerator`); they may have presets, as adapters do."""

    @hookspec(firstresult=True)
    def srum_prompts(self, source: str) -> Sequence[Prompt] | None:
        """The prompts that `prompts = "source"` names; None for a source that this plugin does not provide."""

    @hookspec
    def srum_commands(self, subparsers: Any) -> None:
        """Add commands to `srum`: `subparsers.add_parser("NAME", help=…, module="package.command")`, a module with a
        docstring, `arguments(parser)` and `run(parsed) -> int`; or argparse's own way, with the function that does the
        work in `parser.set_defaults(execute=function)`."""

    @hookspec
    def srum_metrics(self, run: protocols.RunView, metrics: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl was written. A plugin that fails at an event is named, and not called again."""

    @hookspec
    def srum_stage_finished(self, run: protocols.RunView, stage: str, round: int | None) -> None:
        """A stage is done; `round` counts from 1, and is None for the evaluation of the untrained model."""

    @hookspec
    def srum_checkpoint_ready(self, run: protocols.RunView, round: int, path: Path, name: str) -> str | None:
        """The servers of the setting `generator` must load `path`, what `round` trained, and serve it as `name` before
        the next round: return when they do; or the name, where it is another one. A plugin that fails ends the run."""
