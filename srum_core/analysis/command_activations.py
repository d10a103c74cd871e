"""Compare how active neurons are before and after training (the paper's Appendix B, Algorithm 1).

srum analyze activations sft=RUN srum=RUN

Neurons that are most particular to understanding and to generation are found once, on the base model: from questions
that the first RUN's judges asked in its round 1, and from prompts that it trained on. They are then measured in every
model on other such questions, and on the prompts of the evaluation. Results: activations.md and .json.
"""

from __future__ import annotations

import argparse

from srum_core import plugins
from srum_core.analysis import models, samples
from srum_core.analysis.neurons import compare
from srum_core.errors import ConfigError
from srum_core.files import lock
from srum_core.runs.progress import shown, tell


def arguments(parser: argparse.ArgumentParser) -> None:
    models.add_arguments(parser, "analyze-activations")
    parser.add_argument(
        "--share", type=float, default=0.01, metavar="F", help="of each layer's neurons in a cluster (default: 0.01)"
    )


def run(parsed: argparse.Namespace) -> int:
    """0 when the table is written."""
    if not 0 < parsed.share <= 0.5 or parsed.count < 4:
        raise ConfigError("--share must be above 0 and at most 0.5, and --count at least 4.")
    found = models.subjects(parsed.runs, plugins.discover())
    first = found[0].run
    tasks = {
        "understanding": samples.understanding(first, parsed.count),
        "generation": samples.generation(first, models.plan(first, parsed.prompts, parsed.count), parsed.count),
    }
    with lock(parsed.out):
        print(compare(found, tasks, parsed.share, parsed.out))
    tell(f"The table is in {shown(parsed.out)}")
    return 0
