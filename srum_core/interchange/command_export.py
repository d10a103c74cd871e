"""Export a run's judged images, in the official SRUM format or as a Parquet data set, or its model.

srum      output.jsonl, judge.jsonl, train.jsonl and images/, as the official scripts exchange them. Boxes
          become whole pixels. Images with answers that could not be read are left out and counted. A global score of
          exactly 0 is written unchanged, but the official script that converts judge.jsonl to training records reads 0
          as a failed judge and drops the image; train.jsonl here keeps it.
parquet   one file, images included, with all data of a judgement: datasets.load_dataset("parquet",
          data_files=...) opens it, and srum import returns equal records. Needs srum[data].
checkpoint  the whole model after the round's training, in its project's layout, LoRA merged.
peft      only the LoRA weights of the round, as PEFT and --checkpoint load them.

With the last two a model card is written (README.md: base, data, tables, settings), and --push OWNER/NAME uploads the
folder to a private repository of the hub.

Without --round it is the last finished round: judged for the first two, trained for a checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import attrs

from srum_core import plugins
from srum_core.cli.common import add_round, add_run, judged_round, say
from srum_core.config import Settings
from srum_core.errors import ConfigError, RecordError, clean
from srum_core.interchange.incoming import fresh, judged
from srum_core.interchange.model_card import model_card
from srum_core.interchange.official import write_official
from srum_core.interchange.parquet import need, write_parquet
from srum_core.options import SmallMemory
from srum_core.runs.progress import shown
from srum_core.runs.run import Run, started_from
from srum_core.runs.store import write_atomic

_MODELS = ("checkpoint", "peft")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to create; must be empty or new")
    parser.add_argument("--format", choices=("srum", "parquet", *_MODELS), default="srum", help="default: srum")
    parser.add_argument("--push", metavar="OWNER/NAME", help="of a model: also upload it to the hub, privately")
    add_round(parser)


def run(parsed: argparse.Namespace) -> int:
    """0. Raises RecordError if there is nothing to write, or if the target is not empty."""
    source = Run.open(parsed.run, plugins.discover())
    if parsed.push:
        _check_push(parsed.push, parsed.format)
    if parsed.format in _MODELS:
        which = str(source.folder) + ("" if parsed.round is None else f":{parsed.round}")
        source, rounds = started_from(which, source.registry)
        with fresh(parsed.to) as folder:
            if parsed.format == "peft":
                _peft(source, rounds, folder)
            else:
                from srum_core.models import trained  # torch

                source.settings = _in_full(source.settings)
                trained.export(source.model(rounds), folder)
            write_atomic(folder / "README.md", model_card(source, rounds, parsed.format == "peft"))
        print(f"The model after round {rounds} of {shown(source.folder)}.\nWritten to {shown(parsed.to)}")
        base = str(source.trained(0)[0].options.get("checkpoint", ""))
        if parsed.format == "peft" and base and Path(base).is_dir():
            say(f"It names {base}, a local folder, as the base: change that before others load it.")
        if parsed.push:
            _push(parsed.to, parsed.push)
        return 0
    round = judged_round(source, parsed.round)
    if parsed.format == "parquet":
        need("srum export --format parquet")
    with fresh(parsed.to) as folder:
        sentences = (_srum if parsed.format == "srum" else _parquet)(source, round, folder)
    if not source.done("judge", round):
        planned = len(source.planned(round))
        sentences.append(f"Judging of round {round} is not finished: {planned} images are planned.")
    for sentence in [f"Round {round} of {shown(source.folder)}.", *sentences]:
        say(sentence)
    print(f"Written to {shown(parsed.to)}")
    return 0


def _in_full(settings: Settings) -> Settings:
    """Without options that hold the weights in less memory, and then in host memory: all of them may fit no GPU."""
    adapter, small = settings.adapter, attrs.fields_dict(SmallMemory)
    if small.keys().isdisjoint(adapter.options):
        return settings
    options = {name: value for name, value in adapter.options.items() if name not in small} | {"device": "cpu"}
    return attrs.evolve(settings, adapter=attrs.evolve(adapter, options=options))


def _peft(run: Run, rounds: int, folder: Path) -> None:
    """The LoRA weights that the round trained. Raises RecordError where there are none, or others too."""
    _, lora = run.trained(rounds)
    way_out = "Write the whole model with --format checkpoint."
    if not lora or lora[-1] != run.stage_folder("train", rounds):
        raise RecordError(f"Round {rounds} of {run.folder} trained whole weights, not LoRA. {way_out}")
    if len(lora) > 1:
        below = ", ".join(map(str, lora[:-1]))
        raise RecordError(f"The LoRA weights of round {rounds} are for a model with those of {below} merged. {way_out}")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(lora[-1] / name, folder / name)


def _check_push(name: str, form: str) -> None:
    """Raise ConfigError for an impossible upload, before anything is written."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if form not in _MODELS:
        raise ConfigError(f"--push is for models: add --format {' or '.join(_MODELS)}.")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--push {clean(name)}: {clean(error)}") from error
    if get_token() is None:
        raise ConfigError("--push needs a token of the hub. Log in with hf auth login, or set HF_TOKEN.")


def _push(folder: Path, name: str) -> None:
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


def _srum(run: Run, round: int, folder: Path) -> list[str]:
    counts = write_official(folder, judged(run, round))
    labels = {
        "failed": "left out: answers about them could not be read.",
        "unscored": "left out: they have no scores.",
        "zero": "have a global score of exactly 0, which the official reader counts as a failure.",
        "without": "have no global score, which the official reader counts as 0.",
        "regions without a score": "are not written.",
        "masks": "have regions with an exact shape; only their boxes are written.",
    }
    sentences = [
        f"{counts[name]} {name if name.startswith('regions') else 'images'} {words}"
        for name, words in labels.items()
        if counts[name]
    ]
    return [f"{counts['images']} images, judged.", *sentences]


def _parquet(run: Run, round: int, folder: Path) -> list[str]:
    path = folder / f"round-{round}.parquet"
    rows, repaired = write_parquet(path, judged(run, round))
    sentence = f"In {repaired} of them, characters that Parquet cannot hold (lone surrogates) were replaced by U+FFFD."
    return [f"{rows} images in {path.name}.", *([sentence] if repaired else [])]
