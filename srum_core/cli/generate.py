"""Generate images for a few prompts, with any adapter or with a model that a run has trained.

srum generate --adapter bagel --preset shapes "a red circle"
srum generate --trained runs/bagel-shapes "a red circle" "a green square" --seed 7 --count 4 --out images
srum generate --adapter bagel --preset shapes "a red circle" adapter.sampling.guidance=3

The same prompt, seed and settings give the same image. With --count the seeds continue from --seed.
"""

from __future__ import annotations

import argparse
import re
from io import BytesIO
from pathlib import Path

import attrs

from srum_core import plugins
from srum_core.api import Model
from srum_core.cli.common import Typed, add_model_settings, add_verbosity, from_parsed
from srum_core.config import Settings
from srum_core.errors import ConfigError
from srum_core.evaluation.plan import read_settings
from srum_core.runs.progress import shown, tell
from srum_core.runs.store import write_atomic


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_settings(parser)
    add_verbosity(parser)
    add("--trained", metavar="RUN[:ROUND]", help="the model after a run's last finished round, or after ROUND")
    add("--seed", type=int, default=0, metavar="N", help="of each prompt's first image (default: 0)")
    add("--count", type=int, default=1, metavar="N", help="images of each prompt (default: 1)")
    add("--out", type=Path, default=Path("generated"), metavar="DIR", help="where to put them (default: generated)")
    add(
        "words", nargs="+", metavar="PROMPT|KEY=VALUE", help="prompts, and settings such as adapter.sampling.guidance=3"
    )


def run(parsed: argparse.Namespace) -> int:
    """Return 0, or 1 if an image failed."""
    names = [field.name for field in attrs.fields(Settings)]
    is_setting = re.compile(rf"(?:{'|'.join(names)})(?:\.\w+)*=").match
    prompts = [word for word in parsed.words if not is_setting(word)]
    if not prompts or parsed.count < 1:
        raise ConfigError("There has to be at least one prompt, and a --count of at least 1.")
    registry = plugins.discover()
    typed = from_parsed(Typed, parsed, settings=[word for word in parsed.words if is_setting(word)])
    settings = read_settings(typed.adapter, typed.preset, typed.config, typed.overrides, registry, typed.trained)
    images = [(prompt, parsed.seed + k) for prompt in prompts for k in range(parsed.count)]
    failures = 0
    samples = Model.load(settings, registry).samples(*zip(*images, strict=True))
    for (prompt, seed), sample in zip(images, samples, strict=True):
        if sample.failure:
            failures += 1
            tell(f"{prompt} (seed {seed}): no image. {sample.failure}")
            continue
        slug = re.sub(r"\W+", "-", prompt).strip("-")[:60]
        path, data = parsed.out / f"{prompts.index(prompt):03d}-{slug}-{seed}.png", BytesIO()
        sample.image.save(data, format="PNG")
        write_atomic(path, data.getvalue())
        print(shown(path.absolute()))
    return int(failures > 0)
