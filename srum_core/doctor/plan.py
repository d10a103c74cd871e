"""Predict the device memory of a run's stages from shapes alone: no weights are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import attrs
import psutil
import torch
from attrs import frozen

from srum_core.config import Settings
from srum_core.doctor.answering import HALVES
from srum_core.doctor.memory_meter import Metered, metered
from srum_core.errors import ConfigError
from srum_core.flow import flow_step
from srum_core.models import small_memory
from srum_core.models.memory_outline import Outline
from srum_core.plugins import Registry
from srum_core.protocols import UnifiedModel
from srum_core.records import Candidate, Prompt
from srum_core.runs.run import Run, on_base
from srum_core.stages.interview import Interview
from srum_core.training import lora

GIB = 2**30


@frozen
class Device:
    """The devices: `count` of them, with `gib` GiB each."""

    kind: str
    """cuda or cpu."""
    gib: float
    count: int = 1

    @property
    def usable(self) -> float:
        """Bytes left for tensors. An assumption: a GPU's context and libraries take 1 GiB, and 5 % is lost in gaps."""
        return max(0.0, self.gib - 1) * 0.95 * GIB if self.kind == "cuda" else self.gib * GIB

    def holding(self, size: int) -> int:
        """GiB of a device of this kind on which so many bytes are usable, rounded up."""
        return math.ceil(size / GIB / 0.95 + 1 if self.kind == "cuda" else size / GIB)


def memory_here(kind: str) -> float:
    """GiB of the GPU of this machine, or of a large one if it has none; of the machine's own memory for a CPU."""
    if kind == "cpu":
        return float(psutil.virtual_memory().total / GIB)
    return float(torch.cuda.get_device_properties(0).total_memory / GIB) if torch.cuda.is_available() else 80.0


@frozen
class Need:
    """Bytes that a stage takes of each device."""

    stage: str
    work: str
    """The work of one batch."""
    weights: int
    passing: int
    """Activations and whatever else comes and goes: by how much the height of a step is above its gradients."""
    gradients: int = 0
    optimizer: int = 0
    """Its state; an averaged copy of the weights and the round's first weights too, where they are kept."""
    largest: int = 0
    """Weights and gradients of the largest of the repeated layers, which sharding gathers one by one."""
    replicated: int = 0
    """The part of the weights that sharding does not divide."""

    @property
    def total(self) -> int:
        return self.weights + self.passing + self.gradients + self.optimizer

    def sharded(self, count: int) -> Need:
        """As on each of `count` devices with --launch fsdp2: two layers gathered at a time (an estimate)."""
        weights = self.replicated + (self.weights - self.replicated) // count + 2 * self.largest
        gradients, optimizer = self.gradients // count, self.optimizer // count
        return attrs.evolve(self, weights=weights, largest=0, gradients=gradients, optimizer=optimizer)

    def offloaded(self, count: int) -> Need:
        """The same with --launch fsdp2-offload: shards are in host memory, two layers on the device."""
        return attrs.evolve(self.sharded(count), weights=self.replicated + 2 * self.largest, gradients=0, optimizer=0)


@frozen
class Planner:
    """Predicts for settings; `registry` knows their adapter."""

    registry: Registry
    device: Device
    run: Run

    def outline(self, settings: Settings) -> Outline:
        """Of the run's adapter. Raises ConfigError for one that has none."""
        made: Any = self.registry.load("adapter", settings.adapter.use)
        if not hasattr(made, "outline"):
            raise ConfigError(
                f"The adapter {settings.adapter.use} has no `outline`, from which a plan could be made. Without --plan "
                "srum doctor measures it with its weights; docs/writing-an-adapter.md explains how to add one."
            )
        base, _ = on_base(settings.adapter)
        found: Outline = made.outline(self.registry.options("adapter", base), self.device.kind)
        return found

    def generate(self, settings: Settings) -> Need | None:
        """None if another component generates."""
        model, batch = self.outline(settings), settings.generate.batch
        if model.generate is None or settings.generator is not None:
            return None
        phases = model.phases or [(self._held(model, "generate"), model.generate)]
        found = [(held, self._peak(lambda _, work=work: work(batch))) for held, work in phases]  # type: ignore[misc]
        held, peak = max(found, key=sum)
        return Need("generate", f"{batch} images", held, peak)

    def judge(self, settings: Settings) -> Need | None:
        """With every first question of the run's judges about each image. None if another model answers."""
        model = self.outline(settings)
        # One image before each judge, with two regions; what is asked does not depend on what it shows.
        candidate = Candidate("image", Prompt("prompt", "a picture"), self.run.folder / "none.png", (1024, 1024), 0)
        opened = [Interview.open(name, judge, candidate, HALVES) for name, judge in self.run.judges()]
        asked = [entry.question for each in opened for entry in each.votes[0]]
        if model.judge is None or settings.answerer is not None or not asked:
            return None
        count = settings.judge.batch * len(asked)
        tokens = max(question.max_new_tokens for question in asked)
        peak = self._peak(lambda _: model.judge(count, tokens))  # type: ignore[misc]
        work = f"{count} questions about {settings.judge.batch} images, {tokens} tokens"
        return Need("judge", work, self._held(model, "judge"), peak)

    def train(self, settings: Settings) -> Need:
        """A step of the run's own loss, as full as `train.max_cells` allows."""
        own, model = settings.train, self.outline(settings)
        rows, columns, channels = model.grid
        count = max(1, own.max_cells // (rows * columns))
        with torch.device("meta"):
            tuned = lora.tune(cast(UnifiedModel, model), own.method, settings.lora, own.checkpointing)
        objective = self.registry.create("loss", settings.loss)
        begins = lora.Start.of(tuned) if getattr(objective, "needs_start", False) else None
        latents = [torch.zeros(rows, columns, channels, device="meta") for _ in range(count)]

        def step(found: Metered) -> None:
            for _ in range(min(own.accumulation, 2)):  # from the second on gradients are there from the start
                condition = model.condition(count)
                flow = flow_step(
                    tuned.module, latents, condition, torch.zeros(count, device="meta"), None, latents, start=begins
                )
                found.backward(objective(flow)[0])

        autocast = own.mixed_precision == "bf16" or (own.mixed_precision == "auto" and self.device.kind == "cuda")
        peak = self._peak(step, autocast)
        numbers = sum(each.numel() for each in tuned.parameters.values())
        gradients = 4 * numbers
        blocks = [each for each in tuned.module.modules() if type(each).__name__ in model.recipe.blocks]
        copies = bool(own.ema) + (begins is not None)
        whole = [each for each in tuned.module.parameters() if small_memory.is_quantised(each)]
        return Need(
            "train",
            f"{count} images of {rows} x {columns} cells, {numbers / 1e6:,.1f} M parameters trained",
            weights=small_memory.size(tuned.module.parameters())
            + model.parts.get("train", 0)
            - model.elsewhere.get("train", 0),
            passing=max(0, peak - gradients),
            gradients=gradients,
            optimizer=self._state(own.optimizer, numbers) + 4 * numbers * copies,
            largest=max(map(_gathered, blocks), default=0),
            replicated=model.parts.get("train", 0) + small_memory.size(whole),
        )

    @staticmethod
    def _state(optimizer: str, numbers: int) -> int:
        """Two means per number: in float32, or in 8 bits with a float32 scale for every 256."""
        return 8 * numbers if optimizer == "adamw" else round(2 * numbers * (1 + 4 / 256))

    def _peak(self, work: Callable[[Metered], object], autocast: bool = False) -> int:
        with metered(autocast) as found:
            work(found)
        return found.peak

    def _held(self, model: Outline, stage: str) -> int:
        own = small_memory.size(model.denoiser.parameters())
        return own + model.parts.get(stage, 0) - model.elsewhere.get(stage, 0)


def _gathered(block: torch.nn.Module) -> int:
    own = [each for each in block.parameters() if not small_memory.is_quantised(each)]
    return small_memory.size(own) + small_memory.size(each for each in own if each.requires_grad)
