"""List every component that is installed, and what could not be loaded and why."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from srum_core import plugins


def arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(parsed: argparse.Namespace) -> int:
    """0, or 1 if something could not be loaded."""
    registry = plugins.discover()
    table = Table()
    for name in ("kind", "name", "distribution", "version", "summary"):
        table.add_column(name, overflow="fold")
    for found in registry.listing():
        table.add_row(found.kind, found.component.name, found.distribution, found.version, found.component.summary)
    Console().print(table)
    for sentence in registry.broken:
        print(f"broken: {sentence}")
    return 1 if registry.broken else 0
