"""Shared by all commands: settings on the command line, and output. No torch."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import attrs
from attrs import frozen
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from srum_core import config, plugins
from srum_core.config import Settings
from srum_core.errors import RecordError, SrumError
from srum_core.options import closest, did_you_mean
from srum_core.runs.progress import NORMAL, QUIET, VERBOSE, printable, shown, write_log
from srum_core.runs.run import Run

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser without abbreviated options, which suggests an option for an unknown one.

    A `module` describes the command with its docstring and `arguments(parser)`, and does it with `run(parsed) -> int`.
    It is imported when the command is used, so that `srum --help` imports no command."""

    def __init__(self, module: str = "", **arguments: Any) -> None:
        more = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**more, **arguments})
        self._module, self._mixing = module, False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._mixing:
            return super().parse_known_args(args, namespace)
        if self._module:
            module, self._module = import_module(self._module), ""
            self.description = module.__doc__
            module.arguments(self)
            if hasattr(module, "run"):
                self.set_defaults(execute=module.run)
        if any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            return super().parse_known_args(args, namespace)
        self._mixing = True  # options may stand between KEY=VALUEs
        try:
            parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False
        if unknown:  # here, where the options are known
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        hints = [self._meant(word.partition("=")[0]) for word in unknown if word.startswith("--")]
        if (typed := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)) is not None:
            close = did_you_mean(typed[1], re.findall(r"[\w-]+", typed[2])).strip()
            is_command = typed[1] == "train" and "COMMAND" in message
            hints.append("Training is a program of its own: srum-train." if is_command else close)
        super().error("".join([message, *(f"\n{hint}" for hint in hints if hint)]))

    def _meant(self, option: str) -> str:
        takes_settings = any(action.dest == "settings" for action in self._actions)
        names = config.settings_called(option[2:]) if takes_settings else []
        settings = [name for name in names if not name.startswith("--")]
        if settings:
            return f"{option} is a setting, which is typed without dashes: {' or '.join(settings)}=VALUE."
        close = next(iter(names), closest(option, self._option_string_actions))
        return f'Did you mean "{close}"?' if close else ""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `Typed` reads."""
    add_model_settings(parser)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="single settings, such as train.lr=1e-5")


def add_model_settings(parser: argparse.ArgumentParser) -> None:
    """Add the same arguments without KEY=VALUE."""
    add = parser.add_argument
    add("--adapter", metavar="NAME", help="name of an installed adapter, or an import path module:Class")
    add("--preset", action="append", default=[], help="a named set of settings of the adapter; may be repeated")
    add("--checkpoint", help="short for adapter.checkpoint=...: a model directory, a hub id, or LoRA weights")
    add("--config", type=Path, help="a TOML file with settings; a run's run.toml repeats that run")


@frozen
class Typed:
    """Settings on the command line."""

    adapter: str | None = None
    preset: Sequence[str] = ()
    checkpoint: str | None = None
    config: Path | None = None
    settings: Sequence[str] = ()
    """KEY=VALUE."""
    trained: str | None = None
    benchmark: str | None = None

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        return from_parsed(cls, parsed)

    @property
    def overrides(self) -> list[str]:
        """Return, as KEY=VALUE, what overrides presets and files."""
        benchmark = [] if self.benchmark is None else [f"benchmark={self.benchmark}"]
        checkpoint = json.dumps(self.checkpoint, ensure_ascii=False)
        return [*benchmark, *self.settings, *([] if self.checkpoint is None else [f"adapter.checkpoint={checkpoint}"])]

    def command(self, *options: str) -> list[str]:
        """Return the srum-train command with these settings, and with further options."""
        presets = [("--preset", name) for name in self.preset]
        pairs = [("--adapter", self.adapter), *presets, ("--checkpoint", self.checkpoint), ("--config", self.config)]
        words = [str(word) for option, value in pairs if value is not None for word in (option, value)]
        return ["srum-train", *words, *options, *self.settings]

    def read(self, registry: plugins.Registry) -> Settings:
        """Load the settings. Raises ConfigError with all problems."""
        return config.load_settings(self.adapter, self.preset, self.config, self.overrides, registry)


def from_parsed(kind: type[T], parsed: argparse.Namespace, **more: Any) -> T:
    """Create an attrs object from the parsed arguments with its fields' names; None counts as missing."""
    values = {name: value for name, value in {**vars(parsed), **more}.items() if value is not None}
    return kind(**{name: values[name] for name in attrs.fields_dict(kind) if name in values})  # type: ignore[arg-type]


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add -q and -v, which `main` and `train_main` read."""
    group = parser.add_mutually_exclusive_group()
    options: dict[str, Any] = {"action": "store_const", "dest": "verbosity", "default": NORMAL}
    group.add_argument("-q", "--quiet", const=QUIET, help="print results, warnings and errors only", **options)
    group.add_argument(
        "-v", "--verbose", const=VERBOSE, help="also print what each stage took, and tracebacks", **options
    )


def say(text: str, end: str = "\n") -> None:
    """Print to standard output and to the open logs, without control characters (servers, plugins, files, records)."""
    write_log(text)
    print(printable(text), end=end)


class Terminal(Console):
    """A console that prints text as `printable`, never as markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def show_table(table: RenderableType, wrap: bool = True) -> None:
    """Print a table to standard output and to the open logs."""
    terminal = Terminal(soft_wrap=not wrap, record=True)
    terminal.print(table)
    write_log(f"\n{terminal.export_text()}")


# ---- runs -----------------------------------------------------------------------------------------------------------


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")


def judged_rounds(run: Run) -> list[int]:
    """Return the rounds that have judgements."""
    folders = [path.parent.parent for path in run.folder.glob("round-*/judgements/part-*.jsonl")]
    return sorted({int(number) for folder in folders if (number := folder.name.removeprefix("round-")).isdecimal()})


def add_round(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", type=int, metavar="K", help="which round (default: the last that is finished)")


def judged_round(run: Run, round: int | None) -> int:
    """Return the requested round, or the last judged one: a complete one, if any.

    Raises RecordError if it has no judgements."""
    rounds = judged_rounds(run)
    if round is None and rounds:
        last = run.last("judge")
        return rounds[-1] if last is None else last
    if round not in rounds:
        names = f"It has judgements of round {', '.join(map(str, rounds))}." if rounds else "It has none of any round."
        of_round = "" if round is None else f" of round {round}"
        raise RecordError(f"There are no judgements{of_round} in {shown(run.folder)}. {names}")
    return round


def finish_with_report(folder: Path) -> None:
    """Write the report of a run or an ablation. Raises RecordError if that fails; all else is finished then."""
    from srum_core.report.page import write_report

    try:
        path = write_report(folder)
    except (SrumError, OSError) as error:
        raise RecordError(
            f"All else is finished, but no report of it could be made: {error} "
            f"Once that is fixed, make it with: srum report {shlex.quote(shown(folder))}"
        ) from error
    say(f"The report is in {shown(path)}")
