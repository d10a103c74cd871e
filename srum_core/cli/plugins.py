"""List every component that is installed, and what could not be loaded and why."""

from __future__ import annotations

import argparse

from rich.table import Table

from srum_core import plugins
from srum_core.cli.common import say, show_table
from srum_core.errors import clean


def arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(parsed: argparse.Namespace) -> int:
    """0, or 1 if something could not be loaded."""
    registry = plugins.discover()
    table = Table()
    for name in ("kind", "name", "distribution", "version", "summary"):
        table.add_column(name, overflow="fold")
    for found in registry.listing():
        component = found.component
        table.add_row(found.kind, component.name, found.distribution, found.version, clean(component.summary))
    show_table(table)
    for sentence in registry.broken:
        say(f"broken: {sentence}")
    return 1 if registry.broken else 0
