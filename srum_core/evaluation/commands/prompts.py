"""Check the prompts of published benchmarks: which files are there, are they the release's, which are missing.

srum eval prompts ~/T2I-CompBench                       a folder: all benchmarks whose files it holds
srum eval prompts ~/prompts --benchmark wise            all that this benchmark needs
srum eval prompts https://github.com/djghosh13/geneval  a repository: the known revision, cloned into checkouts/
srum eval prompts OWNER/NAME --revision main            a data set of the Hugging Face hub
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from rich.table import Table

from srum_core import plugins
from srum_core.cli.common import say, show_table
from srum_core.errors import ConfigError, PluginError, clean
from srum_core.options import Use
from srum_core.records import PromptFile
from srum_core.runs.progress import tell

PATTERNS = ("*.json", "*.jsonl", "*.txt")
"""The files that are downloaded; others may be large, such as images and weights."""
_GIT = re.compile(r"(https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+")
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a checkout or folder, a git address, or a hub id OWNER/NAME")
    parser.add_argument("--revision", default="", help="which revision to download (default: the known one, or newest)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to store it (default: checkouts/NAME)")
    parser.add_argument(
        "--benchmark", action="append", default=[], metavar="NAME", help="only this one, complete; may be repeated"
    )


def run(parsed: argparse.Namespace) -> int:
    """Return 0, or 1 if a file is missing or is not the release's. Raises ConfigError where no prompt file is found."""
    registry = plugins.discover()
    revision = parsed.revision or _known_revision(registry, parsed.source)
    folder = fetch(parsed.source, revision, parsed.to)
    surveys = _surveys(registry, str(folder), parsed.benchmark)
    if not surveys:
        names = ", ".join(_readers(registry))
        raise ConfigError(
            f"{folder} holds no prompt file of a known benchmark ({names}). "
            "Name one with --benchmark to see which files it needs and where they come from."
        )
    show_table(_table(surveys), wrap=False)
    problems = {name: [line for file in files for line in _lines(name, file)] for name, files in surveys.items()}
    for line in (line for lines in problems.values() for line in lines):
        say(line)
    for name, lines in problems.items():
        if not lines:
            print(f'{name}: complete. Use it with benchmark={{use="{name}", data="{folder}"}}.')
    return int(any(problems.values()))


def _known_revision(registry: plugins.Registry, source: str) -> str:
    """Return the revision at which a benchmark's files were checked; "" for an unknown repository."""
    surveys = _surveys(registry, "", _readers(registry))
    sources = sorted({file.source for files in surveys.values() for file in files})
    states = [each.split(" at ") for each in sources if each.count(" at ") == 1]
    name = source.rstrip("/").removesuffix(".git")
    return next((state for repository, state in states if name.endswith(f"/{repository}")), "")


def _readers(registry: plugins.Registry) -> list[str]:
    """Return the benchmarks whose prompts are read from a folder."""
    benchmarks = [each.component for each in registry.listing() if each.kind == "benchmark"]
    return [each.name for each in benchmarks if each.options and "data" in attrs.fields_dict(each.options)]


def _surveys(registry: plugins.Registry, folder: str, chosen: Sequence[str]) -> dict[str, list[PromptFile]]:
    """Survey the chosen benchmarks; without a choice, those with a file in the folder."""
    readers = _readers(registry)
    surveys = {}
    for name in chosen or readers:
        try:
            benchmark = registry.create("benchmark", Use(name, {"data": folder} if name in readers else {}))
        except PluginError as error:  # of another plugin
            if chosen:
                raise
            tell(str(error))
            continue
        survey = getattr(benchmark, "survey", None)
        if survey is None:
            if chosen:
                raise ConfigError(f'The benchmark "{name}" reads no prompts from a folder.')
            continue
        files = list(survey())
        if chosen or any(file.path for file in files):
            surveys[name] = files
    return surveys


def _table(surveys: Mapping[str, Sequence[PromptFile]]) -> Table:
    table = Table()
    for column in ("benchmark", "file", "prompts", "release", "SHA-256", ""):
        table.add_column(column, justify="right" if column in ("prompts", "release") else "left", overflow="fold")
    for name, files in surveys.items():
        for each in files:
            state = "missing" if each.path is None else "not the release" if each.problems else "ok"
            count = "" if each.path is None else str(each.count)
            table.add_row(name, each.name, count, str(each.expected), each.sha256[:12], state)
    return table


def _lines(name: str, file: PromptFile) -> list[str]:
    if file.path is None:
        return [f"{name}: {file.name} is missing. It is part of {file.source}."]
    return [f"{name}: {problem}" for problem in file.problems]


# ---- repositories ---------------------------------------------------------------------------------------------------


def fetch(source: str, revision: str = "", to: Path | None = None) -> Path:
    """Return the folder `source`, or download it to `to` or checkouts/NAME. `revision` "" = the newest.

    Existing files are not downloaded again. Raises ConfigError if it cannot be downloaded."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    git = bool(_GIT.fullmatch(source))
    if not git and not _HUB.fullmatch(source):
        raise ConfigError(f"{source} is not a folder, not a git address (https://…) and not a hub id (OWNER/NAME).")
    folder = to or Path("checkouts") / re.split("[/:]", source.rstrip("/").removesuffix(".git"))[-1]
    if folder.is_dir():
        return folder
    aside = folder.with_name(f".{folder.name}.part")
    aside.parent.mkdir(parents=True, exist_ok=True)
    (_clone if git else _download)(source, revision, aside)
    aside.replace(folder)
    return folder


def _clone(source: str, revision: str, folder: Path) -> None:
    """Clone only the texts of one revision, if the server supports that."""
    shutil.rmtree(folder, ignore_errors=True)
    words = ["clone", "--quiet", "--no-checkout", "--filter=blob:none", "--", source, str(folder)]
    _git(words, f"{source} cannot be cloned")
    _git(["-C", str(folder), "sparse-checkout", "set", "--no-cone", *PATTERNS], f"{source} cannot be read")
    words = ["-C", str(folder), "checkout", "--quiet", *(["--detach", revision] if revision else [])]
    _git(words, f"{source} has no revision {revision or 'to check out'}")


def _git(words: Sequence[str], problem: str) -> None:
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    way_out = "Check the network and the address, or download it in another way and name the folder."
    try:
        process = subprocess.run(
            ["git", *words], env={**os.environ, **quiet}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{problem}: git is not installed. Install it, or download the files yourself.") from error
    if process.returncode:
        raise ConfigError(f"{problem}: {' '.join(process.stderr.split()) or 'git gives no reason'}. {way_out}")


def _download(source: str, revision: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(
            source, repo_type="dataset", revision=revision or None, local_dir=folder, allow_patterns=list(PATTERNS)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{source} is not a folder, and not a data set that could be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {clean(error)}). Check the network and the name, or "
            "download the files in another way and name the folder."
        ) from error
