"""`srum-train` and `srum`. Imports no torch: stages do, when they run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Self

from attrs import frozen

from srum_core import config, plugins
from srum_core.api import default_folder
from srum_core.cli import launching
from srum_core.cli.common import (
    Parser,
    Typed,
    add_settings,
    add_verbosity,
    finish_with_report,
    from_parsed,
    say,
    show_table,
)
from srum_core.cli.launching import Launch
from srum_core.errors import ConfigError, SrumError, clean, explain
from srum_core.evaluation.formatting import Grid
from srum_core.evaluation.stage import compare
from srum_core.options import odd
from srum_core.runs.files import STAGES, lock
from srum_core.runs.progress import NORMAL, VERBOSE, log_file, set_verbosity, shown, tell
from srum_core.runs.run import Run
from srum_core.stages import preflight
from srum_core.stages.chunks import Step
from srum_core.stages.order import count, perform_all, say_start, steps, undone

_EXAMPLES = """\
examples:
  srum-train --adapter bagel --preset shapes               the whole method on the bundled model, on a CPU
  srum-train --adapter bagel --checkpoint DIR              post-train a checkpoint in the official layout
  srum-train --config my.toml train.lr=1e-5 --only judge   settings from a file, one of them changed, one stage
  srum-train --config my.toml --redo judge                 make the judgements, and all that follows, again

The same command resumes where it stopped. KEY=VALUE is read as TOML: train.lr=1e-5 judges='["mine"]'.
"""


@frozen
class Stopped(Exception):
    """Interrupted, or a stage process ended with `code`."""

    code: int
    step: Step | None = None


def train_main(arguments: Sequence[str] | None = None) -> int:
    """`srum-train`: 0 when done, 2 with a message for user errors, 130 when interrupted."""
    return _execute(_train_parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """`srum`: the other commands, those of plugins among them."""
    return _execute(_parser, arguments)


def _execute(make_parser: Callable[[], argparse.ArgumentParser], arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    for word in words:
        if why := odd(word):
            tell(f"srum: the argument {clean(word, 100)} {why}")
            return 2
    if isinstance(sys.stdout, TextIOWrapper):  # of a pipe on Windows: it has no minus sign, and no "é" of a prompt
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, for components such as `use = "my_module:MyJudge"`
    parsed = make_parser().parse_args(words, argparse.Namespace(given=words))
    set_verbosity(getattr(parsed, "verbosity", NORMAL))
    return launching.exit_status(lambda: int(parsed.execute(parsed)), "srum: stopped.")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srum", description="Everything beside training, which is srum-train.")
    parser.add_argument("--version", action="version", version=f"srum {version('srum')}")
    commands: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        commands.add_parser(name, help=text, module=f"srum_core.cli.{name.replace('-', '_')}")
    for sentence in plugins.discover().add_commands(commands):
        tell(f"srum: {sentence}")
    if "eval" not in commands.choices:  # an editable installation keeps old entry points
        tell("srum: commands are missing: what is installed is older than the code. Install it again: pip install -e .")
    return parser


_COMMANDS = {
    "generate": "generate images for a few prompts, with any adapter or with what a run has trained",
    "new-plugin": "write an installable plugin package with passing tests",
    "plugins": "list what is installed: adapters, generators, answerers, grounders, judges, maps, losses, benchmarks",
}
"""Modules of this package; features and third-party plugins add theirs by the hook `srum_commands`."""


# ---- srum-train -----------------------------------------------------------------------------------------------------


def _train_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="srum-train",
        description="Post-train a unified model on its own images: generate, ground, judge, train, evaluate.",
        epilog=_EXAMPLES,
    )
    parser.set_defaults(execute=_train)
    add_settings(parser)
    add_verbosity(parser)
    add = parser.add_argument
    add("--only", choices=STAGES, metavar="STAGE", help=f"run one stage only: {', '.join(STAGES)}")
    redo = "first delete what STAGE and all after it made"
    add("--redo", action="append", default=[], metavar="STAGE[:ROUND]", help=redo)
    launching.add_arguments(parser)
    add("--out", type=Path, help="folder of the run (default: runs/ADAPTER-PRESET)")
    add("--dry-run", action="store_true", help="print what would be done, load no model, write nothing")
    add("--print-config", action="store_true", help="print every setting with what it means, as TOML, and stop")
    return parser


@frozen
class Plan:
    """What one call of `srum-train` does."""

    run: Run
    launch: Launch
    only: str | None
    redo: Sequence[tuple[str, int]]
    words: Sequence[str]
    """The arguments."""

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        registry, typed = plugins.discover(), Typed.of(parsed)
        settings = typed.read(registry)
        run = Run(parsed.out or default_folder(settings, typed.preset), settings, registry)
        return cls(run, from_parsed(Launch, parsed), parsed.only, [_redo(text) for text in parsed.redo], parsed.given)

    @property
    def steps(self) -> list[Step]:
        return steps(self.run, self.only)

    def makes_again(self, step: Step) -> bool:
        return any(undone(stage, round, step) for stage, round in self.redo)

    def problems(self) -> list[str]:
        """Return what would stop the unfinished steps and those that --redo names."""
        todo = [step for step in self.steps if not self.run.done(step.stage, step.round) or self.makes_again(step)]
        return preflight.problems(self.run, todo, self.launch.launch)


def _redo(text: str) -> tuple[str, int]:
    stage, _, round = text.partition(":")
    if stage not in STAGES or (round and not (round.isdecimal() and int(round))):
        raise ConfigError(
            f"--redo {text}: it should be one of {', '.join(STAGES)}, or STAGE:ROUND such as judge:2. "
            "Rounds count from 1."
        )
    return stage, int(round or 1)


def _train(parsed: argparse.Namespace) -> int:
    plan = Plan.of(parsed)
    run = plan.run
    if parsed.print_config:
        print(config.describe(run.settings, run.registry), end="")
        return 0
    if parsed.dry_run:
        return _announce(plan)
    with lock(run.folder) as handle:
        preflight.refuse(plan.problems())
        with log_file(run.folder):  # only now: a refused run must not leave files
            versions = ", ".join(map(" ".join, run.registry.versions().items()))
            tell(f"srum-train {shlex.join(plan.words)} ({versions})", VERBOSE)
            for stage, round in plan.redo:
                run.redo(stage, round)
            Run.create(run.folder, run.settings, run.registry)
            return _work(plan, handle)


def _work(plan: Plan, handle: int) -> int:
    """Run all steps. Stages in separate processes inherit the run's lock `handle`, in case this process is killed."""

    def start(step: Step) -> None:
        if code := launching.wait_for(launch_command(plan.launch, plan.run.folder, step), handle):
            raise Stopped(code, step)

    try:
        perform_all(plan.run, plan.only, start if plan.launch.separate else None)
    except KeyboardInterrupt:
        return _say_stopped(plan, Stopped(130))
    except Stopped as stop:
        return _say_stopped(plan, stop)
    except Exception as error:
        if isinstance(error, SrumError) or (message := explain(error)) is None:
            raise
        tell(f"srum: {message}")
        return _say_stopped(plan, Stopped(2))
    table, evaluated = compare(plan.run), plan.only in (None, "evaluate")
    if table is not None and evaluated:
        show_table(table)
    say(f"The run is in {shown(plan.run.folder)}")
    if evaluated:
        finish_with_report(plan.run.folder)
    return 0


def _announce(plan: Plan) -> int:
    """Print the planned work and what is missing. Return 1 if the run would not start.

    Settings that differ from those of finished stages stop a run, unless --redo deletes these stages."""
    run, rows = plan.run, []
    blocked = preflight.blocked(run.folder)
    problems = blocked or plan.problems()
    if not problems:
        say_start(run)
    for step in [] if blocked else plan.steps:
        try:
            finished, total = map(str, count(run, step, fresh=plan.makes_again(step)))
        except SrumError as error:
            problems.append(str(error))
            finished = total = "?"
        unit = "checkpoint" if step.stage == "train" else "images"
        rows.append([str(step), finished, f"{total} {unit}", shown(run.stage_folder(step.stage, step.round))])
    head, title = ["stage", "done", "of", "folder"], f"{shown(run.folder)} (nothing is run)"
    show_table(Grid(head, rows, title, words=frozenset({3})))
    for problem in dict.fromkeys(problems):
        tell(f"The run would not start: {problem}")
    return int(bool(problems))


def launch_command(launch: Launch, run: Path, step: Step) -> list[str]:
    """Return the command that runs one stage in its own process group."""
    round = "base" if step.round is None else str(step.round)
    return launch.command("srum_core.cli.stage", step.stage, str(run), round)


def _say_stopped(plan: Plan, stop: Stopped) -> int:
    """Print the finished work, and how to resume. Return the exit status."""
    tell("")
    if stop.step is not None and stop.code != 130:
        tell(f"srum: {stop.step} ended with exit status {stop.code}; see its output above.")
    for step in plan.steps:
        finished, total = count(plan.run, step)
        if finished:
            tell(f"  {step}: {finished} of {total}")
    tell(f"srum: stopped; nothing that is on disk is lost. To resume:\n  {resume_command(plan.words)}")
    return stop.code


def resume_command(words: Sequence[str]) -> str:
    """Return the same command without --redo, whose stages are already deleted."""
    command, skip = ["srum-train"], False
    for word in words:
        if not skip and word != "--redo" and not word.startswith("--redo="):
            command.append(word)
        skip = word == "--redo" and not skip
    return shlex.join(command)


if __name__ == "__main__":
    sys.exit(train_main())
