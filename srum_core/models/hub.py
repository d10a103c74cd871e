"""Where weights come from, and how long they stay in memory: what components that load a model have in common."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from attrs import field, frozen
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from srum_core.errors import CheckpointError, ConfigError, clean
from srum_core.models import small_memory
from srum_core.protocols import UnifiedModel

log = logging.getLogger("srum")
_fetching: ContextVar[bool] = ContextVar("fetching", default=True)
LARGE = 4 * 2**30
"""Bytes of weights above which a machine without an accelerator is refused before anything is loaded."""


def choose_device(name: str) -> torch.device:
    """`auto`: this process's accelerator if there is one, else the CPU.

    Raises ConfigError for a device that torch does not know, or that this machine does not have."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        if accelerator is None:
            return torch.device("cpu")
        return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f'device="{name}" is not known to torch. Use auto, cpu, or the name of an accelerator such as cuda, '
            "cuda:1 or mps."
        ) from error
    here = [] if accelerator is None else [accelerator.type]
    count = torch.accelerator.device_count()
    if device.type not in ("cpu", *here) or (device.type in here and (device.index or 0) >= count):
        devices = f"{count} x {here[0]}" if here else "no accelerator"
        raise ConfigError(f'device="{name}" is not available: torch sees {devices} here. Use auto or cpu.')
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: float32 on a CPU, else bfloat16."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


class NotDownloaded(CheckpointError):
    """A hub repository that is not fetched in `offline`: it may be there, and more cannot be known."""


@contextmanager
def offline() -> Iterator[None]:
    """Let `download` raise NotDownloaded instead: checks before a run must not download gigabytes."""
    token = _fetching.set(False)
    try:
        yield
    finally:
        _fetching.reset(token)


def download(repository: str, setting: str, patterns: Sequence[str], instead: str = "") -> Path:
    """A hub repository as a directory here; only files that match. Raises CheckpointError naming the setting that asked
    for it; `instead`: what else would run."""
    try:
        wanted = [*patterns, "README.md"]  # its licence goes into the card of a model trained from it
        if not _fetching.get():
            validate_repo_id(repository)
            if repository.count("/") != 1:
                raise HFValidationError("a repository's id reads OWNER/NAME")
            if constants.HF_HUB_OFFLINE:
                snapshot_download(repository, allow_patterns=wanted, local_files_only=True)
            raise NotDownloaded(repository)
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{setting}={repository} is neither a directory here nor a repository that could be downloaded from the "
            f"hub ({type(error).__name__}: {clean(error)}). Give a directory in the published layout{instead}."
        ) from error


@frozen(kw_only=True)
class Checkpoints:
    """Where the checkpoints of a component are: in folders, on the hub, or bundled with its package."""

    patterns: Sequence[str]
    """Files that are taken from a hub repository: weights and settings, never code."""
    needs: str
    """Requirements and an alternative: a sentence for a machine without an accelerator."""
    published: Mapping[str, int] = field(factory=dict)
    """About how many bytes of weights are behind well-known hub ids, so that a laptop does not download them first."""
    weights: str = "*.safetensors"
    """Pattern of the files of weights in a folder."""
    bundled: Mapping[str, Path] = field(factory=dict)
    """Folders that `bundled:NAME` stands for."""
    setting: str = "adapter.checkpoint"
    instead: str = ""
    """What to try instead of a name that is not found: it ends a sentence."""

    def find(self, checkpoint: str, device: str) -> Path:
        """Return the folder of a path, a hub id or `bundled:NAME`. Raises CheckpointError, also for weights that are
        too large for this machine; `device` is the setting."""
        if checkpoint.startswith("bundled:"):
            folder = self.bundled.get(checkpoint.removeprefix("bundled:"))
            if folder is None:
                names = ", ".join(f"bundled:{name}" for name in self.bundled) or "none"
                raise CheckpointError(f"{self.setting}={checkpoint}: no such bundled model; there is {names}.")
            return folder
        self.refuse_large(checkpoint, device)
        folder = Path(checkpoint).expanduser()
        return folder if folder.is_dir() else download(checkpoint, self.setting, self.patterns, self.instead)

    def refuse_large(self, checkpoint: str, device: str) -> None:
        """A large model on a CPU would swap for hours: CheckpointError at once. Naming the device overrules."""
        if device != "auto" or choose_device(device).type != "cpu":
            return
        folder, size = Path(checkpoint).expanduser(), self.published.get(checkpoint, 0)
        if folder.is_dir():
            size = sum(path.stat().st_size for path in folder.glob(self.weights))
        if size > LARGE:
            raise CheckpointError(
                f"{checkpoint} is {size / 1e9:.0f} GB of weights and this machine has no accelerator. {self.needs} To "
                "load it on the CPU all the same, set its device=cpu (of an adapter: adapter.device=cpu)."
            )


# ---- memory ---------------------------------------------------------------------------------------------------------


class Parts:
    """Parts of a model by name, loaded onto the device when they are first needed.

    offload  what becomes of those that are not needed: "disk": they are freed, and loaded again later; "cpu": they wait
             in host memory; "none": they stay on the device"""

    def __init__(
        self, makers: Mapping[str, Callable[[], Any]], device: torch.device, offload: Literal["none", "disk", "cpu"]
    ) -> None:
        self.makers, self.device, self.offload = makers, device, offload
        self.loaded: dict[str, Any] = {}
        self.waiting: set[str] = set()
        """Parts in host memory."""

    def add(self, name: str, module: nn.Module) -> None:
        """Let a module that is on the device, and is never freed, wait in host memory like the parts."""
        if self.offload == "cpu":
            self.loaded[name] = module

    def __getitem__(self, name: str) -> Any:
        if name not in self.loaded:
            before = _allocated()
            self.loaded[name] = self.makers[name]()
            log.info("loaded the %s (%.1f GB; %.1f GB in all)", name, _allocated() - before, _allocated())
        elif name in self.waiting:
            self._move(name, self.device)
            self.waiting.remove(name)
        return self.loaded[name]

    def only(self, *names: str, of: Collection[str] = ()) -> None:
        """Have these parts on the device, if they were ever loaded, and no others. `of`: all parts of the operation of
        which these are needed now; with "disk" they stay loaded."""
        if self.offload == "cpu":
            surplus = [name for name in self.loaded if name not in {*names, *self.waiting}]
            for name in surplus:
                self._move(name, torch.device("cpu"))
            self.waiting.update(surplus)
        else:
            surplus = [name for name in self.loaded if name not in {*names, *of}] if self.offload == "disk" else []
            for name in surplus:
                del self.loaded[name]
        if surplus:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.info("let go of the %s (%.1f GB in all)", ", the ".join(surplus), _allocated())
        for name in self.waiting.intersection(names):
            self[name]

    def _move(self, name: str, device: torch.device) -> None:
        part = self.loaded[name]
        for module in [part] if isinstance(part, nn.Module) else part.modules:
            small_memory.move(module, device)


def device_of(model: UnifiedModel) -> torch.device:
    """Where a model computes: its `device`, if it says one, because its denoiser may wait elsewhere."""
    return torch.device(getattr(model, "device", None) or next(model.denoiser.parameters()).device)


def _allocated() -> float:
    """GB on the accelerators, or of this process."""
    if torch.cuda.is_available():
        return sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count()))) / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9
