"""Other people's repositories as a folder here: a git address, or a data set of the Hugging Face hub. No torch.

What was got once stays: the same call again needs no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from srum_core.errors import ConfigError, clean

PATTERNS = ("*.json", "*.jsonl", "*.txt")
"""What is taken; the rest may be large, such as images and weights."""
_GIT = re.compile(r"(https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+")
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def fetched(source: str, revision: str = "", to: Path | None = None) -> Path:
    """The folder that `source` is, or the one that it is put in: `to`, or checkouts/NAME. `revision` "" = the newest.

    Raises ConfigError where it cannot be had, such as without a network."""
    here = Path(source).expanduser()
    if here.is_dir():
        return here
    git = bool(_GIT.fullmatch(source))
    if not git and not _HUB.fullmatch(source):
        raise ConfigError(f"{source} is no folder here, no git address (https://…) and no hub id (OWNER/NAME).")
    folder = to or Path("checkouts") / re.split("[/:]", source.rstrip("/").removesuffix(".git"))[-1]
    if folder.is_dir():
        return folder
    aside = folder.with_name(f".{folder.name}.part")
    aside.parent.mkdir(parents=True, exist_ok=True)
    (_clone if git else _download)(source, revision, aside)
    aside.replace(folder)
    return folder


def _clone(source: str, revision: str, folder: Path) -> None:
    """Only texts of one state: other blobs are left out where the server can do that."""
    shutil.rmtree(folder, ignore_errors=True)
    words = ["clone", "--quiet", "--no-checkout", "--filter=blob:none", "--", source, str(folder)]
    _git(words, f"{source} cannot be cloned")
    _git(["-C", str(folder), "sparse-checkout", "set", "--no-cone", *PATTERNS], f"{source} cannot be read")
    which = ["--detach", revision] if revision else []
    _git(["-C", str(folder), "checkout", "--quiet", *which], f"{source} has no state {revision or 'to check out'}")


def _git(words: Sequence[str], what: str) -> None:
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    way_out = "Is there a network, and is the address right? Or get it in another way, and name the folder."
    try:
        done = subprocess.run(
            ["git", *words], env={**os.environ, **quiet}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{what}: there is no git on this machine. Install it, or get the files yourself.") from error
    if done.returncode:
        raise ConfigError(f"{what}: {' '.join(done.stderr.split()) or 'git says no more'}. {way_out}")


def _download(source: str, revision: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(
            source, repo_type="dataset", revision=revision or None, local_dir=folder, allow_patterns=list(PATTERNS)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{source} is no folder here, and no data set that could be got from the Hugging Face hub "
            f"({type(error).__name__}: {clean(error)}). Is there a network, and is the name right? Or "
            "get the files in another way, and name the folder."
        ) from error
