"""Stages in process groups of their own, started by accelerate. No torch in this process."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from srum_core.errors import SrumError

LAUNCHES = ("none", "ddp", "fsdp2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--launch", choices=LAUNCHES, default="none", help="how each stage runs: in this process, or by accelerate")
    add("--processes", type=int, help="processes per stage with --launch (default: one per accelerator; 2 on a CPU)")


def command(launch: str, processes: int, module: str, *words: str) -> list[str]:
    """The command that runs a module in so many processes."""
    preset = Path(__file__).with_name("launch") / f"{launch}.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(preset)]
    return [*accelerate, "--num_processes", str(processes), "-m", module, *words]


def exit_status(work: Callable[[], object]) -> int:
    """Of a process that does one stage: 0 when done, 2 with a sentence for errors that a person can mend, 130 when
    interrupted."""
    try:
        work()
    except SrumError as error:
        print(f"srum: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def wait_for(words: Sequence[str], handle: int) -> int:
    """Run a command to its end, and return its exit status. It holds on to a lock, should this process be killed."""
    child = subprocess.Popen(words, pass_fds=[handle])
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()  # the terminal has told it too
        raise


def devices() -> int:
    """How many accelerators torch sees, 2 without any; asked in a process of its own, so that this one stays small."""
    code = "import torch; print(torch.accelerator.device_count() if torch.accelerator.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout) or 2
