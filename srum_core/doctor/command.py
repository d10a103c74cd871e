"""Check an adapter on its trained weights; name the faults and their fixes.

It generates a few images (or takes those of --images), checks sign and time of the velocity, at scale and geometry
of the latents, at seeds, words and answers, and measures one call of everything.

  srum doctor --adapter bagel --preset shapes
  srum doctor --adapter mine --checkpoint DIR --images FOLDER train.method=full

With --plan it loads no weights; it predicts the GPU memory of each stage and suggests changes where that is
too much.

  srum doctor --plan --gib 80 --adapter bagel train.method=full
  srum doctor --plan --gib 80 --gpus 8 --adapter blip3o

The exit status is 1 if something is wrong or does not fit; what these weights cannot show is no failure.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from srum_core import plugins
from srum_core.cli.common import Terminal, Typed, add_settings
from srum_core.runs.run import Run


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", type=Path, metavar="FOLDER", help="use these images; a-red-cup.png shows a red cup")
    add("--plan", action="store_true", help="predict each stage's memory from shapes alone, and what would make it fit")
    add("--gib", type=_positive, help="with --plan: GiB of each GPU (default: those of the one here, or 80)")
    add("--gpus", type=int, default=1, help="with --plan: how many there are")
    add("--on", choices=("cuda", "cpu"), default="cuda", help="with --plan: what is planned for")
    add_settings(parser)


def run(parsed: argparse.Namespace) -> int:
    """Return 0, or 1 if something is wrong with the adapter."""
    registry, typed = plugins.discover(), Typed.of(parsed)
    settings = typed.read(registry)
    with tempfile.TemporaryDirectory(prefix="srum-doctor-") as folder:
        run = Run(Path(folder) / "run", settings, registry)
        if parsed.plan:
            return _plan(run, parsed.on, parsed.gib, max(1, parsed.gpus), typed.command())
        return _examine(run, Path(folder), parsed.images)


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < 1e6:
        raise ValueError
    return value


def _plan(run: Run, on: str, gib: float | None, gpus: int, command: list[str]) -> int:
    from srum_core.doctor.plan import Device, Planner, memory_here
    from srum_core.doctor.suggestions import show

    device = Device(on, gib or memory_here(on), gpus)
    return 0 if show(Planner(run.registry, device, run), run.settings, Terminal(), command) else 1


def _examine(run: Run, folder: Path, images: Path | None) -> int:
    from srum_core.doctor.examine import examine
    from srum_core.doctor.findings import costs, verdicts

    console = Terminal(soft_wrap=True, highlight=False)
    run.judges()  # problems of the settings are reported before a model is loaded
    model = run.model(0)
    console.print(f"{run.settings.adapter.use}: {type(model).__module__}:{type(model).__qualname__} is loaded.")
    examination = examine(run, model, folder, images, lambda each: console.print(f"{each.check}: {each.text}"))
    tables = Terminal()
    if examination.costs:
        tables.print(costs(examination.costs))
        console.print(examination.estimate)
    tables.print(verdicts(examination.findings))
    wrong = [finding for finding in examination.findings if finding.verdict == "wrong"]
    for finding in wrong:
        console.print(f"wrong, {finding.check}: {finding.text}")
    return 1 if wrong else 0
