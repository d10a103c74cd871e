"""List every component that is installed, and what could not be loaded and why."""

from __future__ import annotations

import argparse

from srum_core import plugins
from srum_core.cli.common import say, show_table
from srum_core.errors import clean
from srum_core.evaluation.formatting import Grid


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(parsed: argparse.Namespace) -> int:
    """Return 0, or 1 if a plugin could not be loaded."""
    registry = plugins.discover()
    head = ["kind and name", "distribution", "version", "summary"]  # the first is repeated where the table is split
    rows = []
    for offer in registry.listing():
        component, plugin = offer.component, offer.plugin
        name = f"{offer.kind} {component.name}"
        rows.append([name, plugin.distribution, plugin.version, clean(component.summary)])
    show_table(Grid(head, rows, words=frozenset({1, 2, 3})))
    for sentence in registry.broken:
        say(f"broken: {sentence}")
    return 1 if registry.broken else 0
