"""The model card of an exported model: README.md for the hub, with base, rounds, tables and settings."""

from __future__ import annotations

import re
from pathlib import Path

from srum_core import config
from srum_core.evaluation import comparison
from srum_core.runs.run import Run

_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(run: Run, rounds: int, peft: bool) -> str:
    """Markdown. `peft`: the folder has only LoRA weights."""
    use = run.trained(0)[0]
    base = str(use.options.get("checkpoint", ""))
    about = {"base_model": base} if _HUB.fullmatch(base) and not Path(base).exists() else {}
    about |= {"library_name": "peft"} if peft else {}
    front = [f"{key}: {value}" for key, value in about.items()]
    what = "LoRA weights for" if peft else "The whole model trained from"
    parts = [
        "\n".join(["---", *front, "pipeline_tag: text-to-image", "tags: [srum]", "---"]),
        f"# {use.use} after {rounds} round{'s' * (rounds != 1)} of post-training",
        f"{what} `{base or use.use}` with srum, adapter `{use.use}`. Its licence applies to these weights too.",
        "## Data",
        "\n".join(_round(run, number) for number in range(1, rounds + 1)),
    ]
    if any(run.folder.glob("*/evaluation/tables/*/table.json")):
        tables = comparison.compare(comparison.found(run.folder), run.registry)
        parts += ["## Evaluation", comparison.markdown(tables).strip()]
    settings = config.to_toml(run.settings, run.registry.versions()).strip()
    parts += ["## Settings", f"```toml\n{settings}\n```"]
    return "\n\n".join(parts) + "\n"


def _round(run: Run, number: int) -> str:
    """The training data of a round."""
    settings = run.at("train", number).settings
    images, prompts = len(run.candidates(number)), settings.prompts
    source = prompts if isinstance(prompts, str) else f"{len(prompts)} texts"
    origin = "images" if not (run.folder / "import.log").is_file() or number > 1 else "imported images"
    how = f"{settings.train.method}, loss `{settings.loss.use}`, map `{settings.map.use}`"
    return f"* Round {number}: {images} {origin}, prompts `{source}`; {how}."
