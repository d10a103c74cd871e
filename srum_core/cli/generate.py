"""Generate images for a few prompts, with any adapter or with a model that a run has trained.

srum generate --adapter bagel --preset shapes "a red circle"
srum generate --trained runs/bagel-shapes "a red circle" "a green square" --seed 7 --count 4 --out images
srum generate --adapter bagel --preset shapes "a red circle" adapter.drawing.guidance=3

The same prompt, seed and settings give the same image. With --count the seeds go on from --seed.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs

from srum_core import plugins
from srum_core.cli.common import add_model_settings, read_settings
from srum_core.config import Settings
from srum_core.config.toml import as_data
from srum_core.errors import ConfigError, refuse
from srum_core.evaluation.run import Evaluation
from srum_core.runs.progress import shown, tell
from srum_core.runs.run import started_from
from srum_core.runs.store import write_atomic


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_settings(parser)
    add("--trained", metavar="RUN[:ROUND]", help="the model after a run's last finished round, or after ROUND")
    add("--seed", type=int, default=0, metavar="N", help="of each prompt's first image (default: 0)")
    add("--count", type=int, default=1, metavar="N", help="images of each prompt (default: 1)")
    add("--out", type=Path, default=Path("generated"), metavar="DIR", help="where to put them (default: generated)")
    add("words", nargs="+", metavar="PROMPT|KEY=VALUE", help="prompts, and settings such as adapter.drawing.guidance=3")


def run(parsed: argparse.Namespace) -> int:
    """0, or 1 if any of them is no image of the model."""
    names = [field.name for field in attrs.fields(Settings)]
    is_setting = re.compile(rf"(?:{'|'.join(names)})(?:\.\w+)*=").match
    prompts = [word for word in parsed.words if not is_setting(word)]
    if not prompts or parsed.count < 1:
        raise ConfigError("There has to be at least one prompt, and a --count of at least 1.")
    registry = plugins.discover()
    above: dict[str, Any] = {}
    if parsed.trained:
        trained, rounds = started_from(parsed.trained, registry)
        tell(f"The model after {rounds} round{'s' * (rounds > 1)} of {shown(trained.folder)}.")
        above = {"adapter": as_data(trained.settings)["adapter"], "start": parsed.trained}
    parsed.settings = [word for word in parsed.words if is_setting(word)]
    settings = read_settings(parsed, registry, above, Evaluation.drawn_by)
    with tempfile.TemporaryDirectory() as folder:  # nothing is written to it
        return _generate(Evaluation(Path(folder), settings, registry), prompts, parsed)


def _generate(made: Evaluation, prompts: Sequence[str], parsed: argparse.Namespace) -> int:
    model, batch = made.model(0), made.settings.generate.batch
    wanted = [(prompt, parsed.seed + k) for prompt in prompts for k in range(parsed.count)]
    failed = 0
    for start in range(0, len(wanted), batch):
        some = wanted[start : start + batch]
        samples = model.generate([prompt for prompt, _ in some], [seed for _, seed in some])
        refuse(len(samples) != len(some), model, f"generated {len(samples)} images for {len(some)} prompts.")
        for (prompt, seed), sample in zip(some, samples, strict=True):
            if sample.failure:
                failed += 1
                tell(f"{prompt} (seed {seed}): no image. {sample.failure}")
                continue
            slug = re.sub(r"\W+", "-", prompt).strip("-")[:60]
            path, data = parsed.out / f"{prompts.index(prompt):03d}-{slug}-{seed}.png", BytesIO()
            sample.image.save(data, format="PNG")
            write_atomic(path, data.getvalue())
            print(shown(path.absolute()))
    return int(failed > 0)
