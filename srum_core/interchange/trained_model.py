"""Export a trained model, whole or as LoRA weights, with a model card; upload it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from itertools import chain
from pathlib import Path
from typing import Any, cast

import attrs
from yaml import YAMLError

from srum_core.cli.common import say
from srum_core.errors import ConfigError, PluginError, RecordError, clean
from srum_core.evaluation import comparison
from srum_core.interchange.importer import LOG
from srum_core.interchange.incoming import fresh
from srum_core.options import SmallMemory
from srum_core.report.gather import log_lines, trained_on
from srum_core.runs.files import read_text
from srum_core.runs.progress import shown
from srum_core.runs.run import Run, on_base, started_from
from srum_core.runs.store import write_atomic

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_WHOLE = "Write the whole model with --to checkpoint."
_BELOW = "base_model.model."
"""PEFT puts this before every name."""
_LICENCE = ("license", "license_name", "license_link")
"""Of a model card's front matter; a name and a link come with the licence "other"."""
_LORA = "pytorch_lora_weights.safetensors"
"""The file of LoRA weights in a folder, for diffusers."""

Written = tuple[str, str]
"""What was written of the base model, and the function of a library that loads it ("": the adapter does)."""


def export_model(run: Run, round: int | None, to: str, folder: Path) -> None:
    """Write the model after a round (None: the last trained one), and print where. Raises RecordError or ConfigError if
    it has no such format."""
    run, round = started_from(str(run.folder) + ("" if round is None else f":{round}"), run.registry)
    with fresh(folder) as new:
        what, loader = FORMATS[to](run, round, new)
        write_atomic(new / "README.md", model_card(run, round, what, loader))
    print(f"The model after round {round} of {shown(run.folder)}.\nWritten to {shown(folder)}")
    base = str(run.trained(round)[0].options.get("checkpoint", ""))
    if to == "peft" and base and Path(base).is_dir():
        say(f"It names {base}, a local folder, as the base: change that before others load it.")
    if loader:
        say(f"It loads with {loader}.")


# ---- formats ---------------------------------------------------------------------------------------------------------


def _checkpoint(run: Run, round: int, folder: Path) -> Written:
    from srum_core.models import trained  # torch

    trained.export(in_full(run).model(round), folder)
    return "The whole model trained from", ""


def _peft(run: Run, round: int, folder: Path) -> Written:
    lora = _lora_folders(run, round)
    if len(lora) == 1:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(lora[0] / name, folder / name)
    else:
        from safetensors.torch import save_file

        about, tensors = _added(lora)
        about.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return "LoRA weights for", "PeftModel.from_pretrained of peft"


def _diffusers(run: Run, round: int, folder: Path) -> Written:
    """LoRA weights as pipelines of diffusers load them, or else the trained part as a model of diffusers."""
    name = run.settings.adapter.use
    adapter = run.registry.load("adapter", name)
    part = getattr(adapter, "diffusers_name", "")
    if part and run.trained(round)[1]:
        from safetensors.torch import save_file

        _, tensors = _added(_lora_folders(run, round))
        renamed = {f"{part}.{name.removeprefix(_BELOW)}": tensor for name, tensor in tensors.items()}
        save_file(renamed, folder / _LORA, metadata={"format": "pt"})
        return "LoRA weights for", "load_lora_weights of a pipeline of diffusers"
    if not hasattr(adapter, "diffusers_model"):
        able = ", ".join(sorted(_able(run))) or "none"
        raise ConfigError(
            f"diffusers has no class for the model that {name} trains{' whole' if part else ''}. {_WHOLE} Of the "
            f"installed adapters --to diffusers is for: {able}."
        )
    model: Any = in_full(run).model(round)
    component = model.diffusers_model()
    component.save_pretrained(folder)
    return "The part that was trained of", f"{type(component).__name__}.from_pretrained of diffusers"


def in_full(run: Run) -> Run:
    """Return a run that loads full weights where the run has quantised ones, on the CPU: they may not fit on a GPU."""
    adapter = run.settings.adapter
    if adapter.options.get("quantize", "none") == "none":
        return run
    small = attrs.fields_dict(SmallMemory)
    options = {name: value for name, value in adapter.options.items() if name not in small} | {"device": "cpu"}
    full_run = copy(run)  # whose records are read by its own settings
    full_run.settings = attrs.evolve(run.settings, adapter=attrs.evolve(adapter, options=options))
    return full_run


FORMATS: Mapping[str, Callable[[Run, int, Path], Written]] = {
    "checkpoint": _checkpoint,
    "peft": _peft,
    "diffusers": _diffusers,
}


def _able(run: Run) -> list[str]:
    """Return the adapters with --to diffusers."""
    able = []
    for name in (each.component.name for each in run.registry.listing() if each.kind == "adapter"):
        with suppress(PluginError):  # its own libraries may be missing
            adapter = run.registry.load("adapter", name)
            if hasattr(adapter, "diffusers_model"):
                able.append(name)
            elif hasattr(adapter, "diffusers_name"):
                able.append(f"{name} (LoRA)")
    return able


def _lora_folders(run: Run, round: int) -> list[Path]:
    """Return the LoRA weights to merge into the base model, in order; the last are the round's. Raises RecordError."""
    _, lora = run.trained(round)
    if not lora or lora[-1] != run.stage_folder("train", round):
        raise RecordError(f"Round {round} of {run.folder} trained whole weights, not LoRA. {_WHOLE}")
    return lora


def _added(folders: Sequence[Path]) -> tuple[Any, dict[str, Any]]:
    """Join the LoRA weights of successive trainings to one, with PEFT's configuration.

    Products of two matrices add up if the matrices are concatenated; the second takes the scale (alpha / rank)."""
    import torch

    from srum_core.models import trained

    parts: dict[str, list[Any]] = {}
    targets = []
    for folder in folders:
        about, tensors = cast(Any, trained.read_lora(folder))
        plain = not (about.use_rslora or about.rank_pattern or about.alpha_pattern)
        for name, tensor in tensors.items():
            if not plain or not name.endswith((".lora_A.weight", ".lora_B.weight")):
                raise RecordError(f"The LoRA weights in {folder} are of a special kind ({clean(name)}). {_WHOLE}")
            scale = about.lora_alpha / about.r if ".lora_B." in name else 1
            parts.setdefault(name, []).append(scale * tensor.float())
        targets.append(about.target_modules)
    added = {name: torch.cat(each, dim=1 if ".lora_B." in name else 0) for name, each in parts.items()}
    ranks = {name.removeprefix(_BELOW): len(tensor) for name, tensor in added.items() if ".lora_A." in name}
    ranks = {name.removesuffix(".lora_A.weight"): rank for name, rank in ranks.items()}
    about.r = about.lora_alpha = max(ranks.values())
    if any(each != targets[0] for each in targets):
        about.target_modules = "|".join(map(re.escape, ranks))
        about.rank_pattern = {name: rank for name, rank in ranks.items() if rank != about.r}
        about.alpha_pattern = about.rank_pattern
    return about, added


# ---- the card --------------------------------------------------------------------------------------------------------


def model_card(run: Run, round: int, what: str, loader: str) -> str:
    """Markdown, for the hub: base and its licence, rounds, tables and settings."""
    rounds = _rounds(run, round)
    first = rounds[0][0]
    use, below = on_base(first.settings.adapter)
    if what.startswith("LoRA"):  # what they are loaded onto: earlier rounds may have trained the whole model
        use = run.trained(round)[0]
    base = str(use.options.get("checkpoint", ""))
    licence = _licence(base)
    about = {"base_model": base} if _HUB.fullmatch(base) and not Path(base).exists() else {}
    about |= {"library_name": loader.rpartition(" ")[2]} if loader else {}
    front = [f"{key}: {json.dumps(value)}" for key, value in {**about, **licence}.items()]
    named = f" ({licence['license']})" if licence else ""
    loads = f" It loads with `{loader}`." if loader else ""
    data = [f"* Before: LoRA weights, `{folder}`." for folder in below]
    for each, number in rounds:
        whose = "" if first is run else f" of {each.folder.name}"
        data.append(f"* Round {number}{whose}: {_round(each, number)}")
    parts = [
        "\n".join(["---", *front, "pipeline_tag: text-to-image", "tags: [srum]", "---"]),
        f"# {use.use} after {len(rounds)} round{'s' * (len(rounds) != 1)} of post-training",
        f"{what} `{base or use.use}` with srum, adapter `{use.use}`. Its licence{named} applies to these weights "
        f"too.{loads}",
        "## Data",
        "\n".join(data),
    ]
    evaluated = [run.stage_folder("evaluate", k) for k in (None, *range(1, round + 1))]
    found = [comparison.read_tables(folder) for folder in evaluated if any(folder.glob("tables/*/table.json"))]
    if found:
        tables = comparison.compare(chain.from_iterable(found), run.registry)
        parts += ["## Evaluation", comparison.markdown(tables).strip()]
    settings = read_text(run.folder / "run.toml").strip()  # with the versions of then
    parts += ["## Settings", f"```toml\n{settings}\n```"]
    return "\n\n".join(parts) + "\n"


def _licence(base: str) -> dict[str, str]:
    """What the base's own model card says about its licence, for ours; {} where it is not here or says nothing."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    if not base:
        return {}
    card: Any = Path(base).expanduser() / "README.md"
    about: Any = {}
    with suppress(OSError, ValueError, TypeError, YAMLError):  # ValueError: no name of the hub; TypeError: not cached
        if _HUB.fullmatch(base) and not card.is_file():
            card = try_to_load_from_cache(base, "README.md")
        about = metadata_load(card)
    texts = {key: about.get(key) for key in _LICENCE} if isinstance(about, dict) else {}
    return {key: clean(text) for key, text in texts.items() if isinstance(text, str)} if texts.get("license") else {}


def _rounds(run: Run, round: int) -> list[tuple[Run, int]]:
    """All that trained the model: the rounds of the runs that it started from first."""
    before = _rounds(*started_from(run.settings.start, run.registry)) if run.settings.start else []
    return [*before, *((run, number) for number in range(1, round + 1))]


def _round(run: Run, number: int) -> str:
    """The training data of a round."""
    settings = run.at("train", number).settings
    candidates, prompts = run.candidates(number), settings.prompts
    source = prompts if isinstance(prompts, str) else f"{len(prompts)} texts"
    log, first = run.folder / LOG, next(iter(candidates), None)
    imported = first is not None and log.is_file() and f"is image {first.id}" in log.read_text("utf-8")
    origin = "imported images with their prompts" if imported else f"images, prompts `{source}`"
    used = trained_on(log_lines(run, number))
    trained = "" if used in (None, len(candidates)) else f", of which {used} were trained on"
    how = f"{settings.train.method}, loss `{settings.loss.use}`, map `{settings.map.use}`"
    return f"{len(candidates)} {origin}{trained}; {how}."


# ---- the hub ---------------------------------------------------------------------------------------------------------


def check_push(name: str, to: str) -> None:
    """Raise ConfigError for an impossible upload, before anything is written."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if to not in FORMATS:
        raise ConfigError(f"--push is for models: add --to {' or '.join(FORMATS)}.")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--push {clean(name)}: {clean(error)}") from error
    if get_token() is None:
        raise ConfigError("--push needs a token of the hub. Log in with hf auth login, or set HF_TOKEN.")


def push(folder: Path, name: str) -> None:
    """Upload a folder to a private repository of the hub. Raises RecordError."""
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        hub.create_repo(name, private=True, exist_ok=True)
        where = hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload with srum export")
    except Exception as error:  # of many kinds, for a refusal of the hub or a network failure
        raise RecordError(
            f"{folder} is complete, but could not be uploaded to {name}: {clean(error)} Try again with "
            f"hf upload {name} {folder}."
        ) from error
    say(f"Uploaded to {where}")
