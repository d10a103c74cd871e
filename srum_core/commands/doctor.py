"""Try an adapter on its real weights, and say in sentences what is wrong with it, and what mends it.

It draws a few pictures (or takes those of --pictures), looks at sign and time of the velocity, at scale and geometry
of the latents, at seeds, words and answers, and measures one call of everything.

  srum doctor --adapter bagel --preset shapes
  srum doctor --adapter mine --checkpoint DIR --pictures FOLDER train.method=full

The exit status is 1 if something is wrong; what these weights cannot tell is no failure.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from srum_core import plugins
from srum_core.console import add_settings, read_settings
from srum_core.run import Run


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--pictures", type=Path, metavar="FOLDER", help="look at these pictures; a-red-cup.png is shown as a red cup")
    add_settings(parser)


def run(parsed: argparse.Namespace) -> int:
    """0, or 1 if something is wrong with the adapter."""
    settings = read_settings(parsed, registry := plugins.discover())
    with tempfile.TemporaryDirectory(prefix="srum-doctor-") as folder:
        return _examine(Run(Path(folder) / "run", settings, registry), Path(folder), parsed.pictures)


def _examine(run: Run, folder: Path, pictures: Path | None) -> int:
    from srum_core.doctor.examine import examine
    from srum_core.doctor.findings import costs, verdicts

    console = Console(soft_wrap=True, highlight=False)
    run.judges()  # what is wrong with the settings is told before a model is loaded
    model = run.model(0)
    console.print(f"{run.settings.adapter.use}: {type(model).__module__}:{type(model).__qualname__} is loaded.")
    found = examine(run, model, folder, pictures, lambda each: _tell(console, each.check, each.text))
    tables = Console()
    if found.costs:
        tables.print(costs(found.costs))
        console.print(found.estimate, markup=False)
    tables.print(verdicts(found.findings))
    wrong = [finding for finding in found.findings if finding.verdict == "wrong"]
    for finding in wrong:
        _tell(console, f"wrong, {finding.check}", finding.text)
    return 1 if wrong else 0


def _tell(console: Console, about: str, text: str) -> None:
    console.print(f"{about}: {text}", markup=False)
