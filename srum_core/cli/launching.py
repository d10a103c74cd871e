"""Run stages in separate process groups, started by accelerate or by --launcher. No torch in this process."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_core.errors import ConfigError, SrumError, explain, who_ended
from srum_core.runs.progress import VERBOSE, VERBOSITY, tell, verbosity

LAUNCHES = ("none", "ddp", "fsdp2", "fsdp2-offload")
PRESETS = Path(__file__).with_name("launch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--launch",
        choices=LAUNCHES,
        default="none",
        help="how each stage runs: in this process, or in several, which share the weights in training with fsdp2",
    )
    add("--processes", type=int, help="processes per stage with --launch (default: one per accelerator; 2 on a CPU)")
    add(
        "--launcher",
        metavar="COMMAND",
        help="what starts the processes of --launch instead of accelerate, as in --launcher 'srun torchrun ...'",
    )


@frozen
class Launch:
    """How stages run. Raises ConfigError for a launcher with nothing to launch."""

    launch: str = "none"
    processes: int | None = None
    launcher: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.launcher and not self.separate:
            raise ConfigError(f"--launcher needs --launch, which selects what it starts: {', '.join(LAUNCHES[1:])}.")

    @property
    def separate(self) -> bool:
        """Return whether stages run in separate processes."""
        return self.launch != "none"

    def command(self, module: str, *words: str) -> list[str]:
        """Return the command that runs a module in the selected processes."""
        if self.launcher:
            return [*shlex.split(self.launcher), "-m", module, *words, "--launch", self.launch]
        accelerate = [
            sys.executable,
            "-m",
            "srum_core.cli.launching",
            "--config_file",
            str(PRESETS / f"{self.launch}.yaml"),
            "--log_dir",
            os.devnull,  # without it torchrun leaves a temporary folder
        ]
        return [*accelerate, "--num_processes", str(self.processes or devices()), "-m", module, *words]


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add the option for a stage that another launcher starts."""
    parser.add_argument("--launch", choices=LAUNCHES[1:], default="ddp", help="as in accelerate's preset")


def take_preset(launch: str) -> None:
    """Set the environment variables that accelerate sets for a process."""
    if launch != "ddp":
        import yaml

        options = yaml.safe_load((PRESETS / f"{launch}.yaml").read_text("utf-8"))["fsdp_config"]
        os.environ |= {
            "ACCELERATE_USE_FSDP": "true",
            **{key.upper(): str(value).upper() for key, value in options.items()},
        }


def exit_status(work: Callable[[], int | None], stopped: str = "") -> int:
    """Do the work and return its exit status; 2 with a message for errors that a user can fix, 130 when interrupted.
    `stopped` is the message then; without it another process prints one."""
    try:
        return work() or 0
    except SrumError as error:
        message = str(error)
        if verbosity() >= VERBOSE:
            _show(type(error), error, error.__traceback__)
    except KeyboardInterrupt:
        if stopped:
            tell(stopped)
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal has sent the signal; a launcher sends it again
        return 130
    except SystemExit as error:
        message = who_ended(error)
    except BaseException as error:
        if (explained := explain(error)) is None:
            sys.excepthook = _show  # the message may contain text from outside
            raise
        message = explained
    tell(f"srum: {message}")
    return 2


def _show(*error: Any) -> None:
    """Print a traceback without control characters and secrets."""
    tell("".join(traceback.format_exception(*error)))


def main() -> int:
    """Run accelerate's launcher, without its own tracebacks for errors that processes have printed."""
    logging.disable(logging.ERROR)  # of this process, which only waits for others
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch.main()
    except (SignalException, KeyboardInterrupt):
        return 130
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        for rank, code in codes.items():
            if code < 0:
                tell(f"srum: process {rank} was ended by {signal.Signals(-code).name}.")
        return max(codes.values()) if max(codes.values()) > 0 else 1
    return 0


def wait_for(words: Sequence[str], handle: int) -> int:
    """Run a command and return its exit status. It inherits the lock `handle`, in case this process is killed."""
    environment = {**os.environ, VERBOSITY: str(verbosity())}
    child = subprocess.Popen(words, env=environment, pass_fds=[handle] if os.name == "posix" else [])
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()  # the terminal has sent it the signal too
        raise


def devices() -> int:
    """Return the number of accelerators, or 2 without any; count in another process, so that this one stays small."""
    code = "import torch; print(torch.accelerator.device_count() if torch.accelerator.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout) or 2


if __name__ == "__main__":
    sys.exit(main())
