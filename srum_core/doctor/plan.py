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
from srum_core.options import SmallMemory
from srum_core.plugins import Registry
from srum_core.protocols import UnifiedModel
from srum_core.records import Candidate, Prompt
from srum_core.runs.run import Run, on_base
from srum_core.stages.interview import Interview
from srum_core.training import lora

GIB = 2**30


@frozen
class Device:
    """`count` devices with `gib` GiB each."""

    kind: str
    """cuda or cpu."""
    gib: float
    count: int = 1

    @property
    def usable(self) -> float:
        """Bytes left for tensors. An assumption: a GPU's context and libraries take 1 GiB, and 5 % is lost in gaps."""
        return max(0.0, self.gib - 1) * 0.95 * GIB if self.kind == "cuda" else self.gib * GIB

    def is_spread(self, settings: Settings) -> bool:
        """Whether one process uses all of them."""
        return self.count > 1 and self.kind == "cuda" and settings.adapter.options.get("device_map") == "auto"

    def holding(self, size: int) -> int:
        """Return the GiB of a device of this kind with so many usable bytes, rounded up."""
        return math.ceil(size / GIB / 0.95 + 1 if self.kind == "cuda" else size / GIB)


def memory_here(kind: str) -> float:
    """Return the GiB of this machine's GPU (80 if it has none), or of its main memory for a CPU."""
    if kind == "cpu":
        return float(psutil.virtual_memory().total / GIB)
    return float(torch.cuda.get_device_properties(0).total_memory / GIB) if torch.cuda.is_available() else 80.0


@frozen
class Need:
    """Bytes that a stage needs on each device."""

    stage: str
    work: str
    """The work of one batch."""
    weights: int
    passing: int
    """Activations and other transient tensors: the peak of a step without its gradients."""
    gradients: int = 0
    optimizer: int = 0
    """The optimizer's state, and the averaged and the first weights if training keeps them."""
    largest: int = 0
    """Weights and gradients of the largest of the repeated layers: sharding gathers them one by one, and a device map
    does not divide them."""
    replicated: int = 0
    """The part of the weights that sharding does not divide."""

    @property
    def total(self) -> int:
        return self.weights + self.passing + self.gradients + self.optimizer

    def sharded(self, count: int) -> Need:
        """Estimate the need on each of `count` devices with --launch fsdp2: two layers are gathered at a time."""
        weights = self.replicated + (self.weights - self.replicated) // count + 2 * self.largest
        gradients, optimizer = self.gradients // count, self.optimizer // count
        return attrs.evolve(self, weights=weights, largest=0, gradients=gradients, optimizer=optimizer)

    def spread(self, count: int) -> Need:
        """As on each of `count` devices with adapter.device_map=auto: its share and one layer more (an estimate)."""
        weights = self.weights // count + self.largest
        return attrs.evolve(self, weights=weights, gradients=self.gradients // count, optimizer=self.optimizer // count)

    def offloaded(self, count: int) -> Need:
        """Estimate the need with --launch fsdp2-offload: shards are in host memory, two layers on the device."""
        return attrs.evolve(self.sharded(count), weights=self.replicated + 2 * self.largest, gradients=0, optimizer=0)


@frozen
class Planner:
    """Predicts the needs of each stage for settings."""

    registry: Registry
    device: Device
    run: Run

    def outline(self, settings: Settings) -> Outline:
        """Return the adapter's outline. Raises ConfigError if it has none, or for options that exclude each other."""
        adapter: Any = self.registry.load("adapter", settings.adapter.use)
        if not hasattr(adapter, "outline"):
            raise ConfigError(
                f"The adapter {settings.adapter.use} has no `outline`, from which a plan could be made. Without --plan "
                "srum doctor measures it with its weights; docs/writing-an-adapter.md explains how to add one."
            )
        base, _ = on_base(settings.adapter)
        options = self.registry.options("adapter", base)
        if isinstance(options, SmallMemory):
            small_memory.check(options)
        outline: Outline = adapter.outline(options, self.device.kind)
        return outline

    def generate(self, settings: Settings) -> Need | None:
        """Predict generation; None if another component generates."""
        model, batch = self.outline(settings), settings.generate.batch
        if model.generate is None or settings.generator is not None:
            return None
        phases = model.phases or [(self._weights(model, "generate"), model.generate)]
        sizes = [(weights, self._peak(lambda _, work=work: work(batch))) for weights, work in phases]  # type: ignore[misc]
        need = Need("generate", f"{batch} images", *max(sizes, key=sum))
        return self._spread(settings, model, model.denoiser, need)

    def judge(self, settings: Settings) -> Need | None:
        """Predict judging, with the first questions of all judges about each image; None if another model answers."""
        model = self.outline(settings)
        # One image before each judge, with two regions; what is asked does not depend on what it shows.
        candidate = Candidate("image", Prompt("prompt", "a picture"), self.run.folder / "none.png", (1024, 1024), 0)
        interviews = [Interview.open(name, judge, candidate, HALVES) for name, judge in self.run.judges()]
        questions = [entry.question for each in interviews for entry in each.votes[0]]
        if model.judge is None or settings.answerer is not None or not questions:
            return None
        count = settings.judge.batch * len(questions)
        tokens = max(question.max_new_tokens for question in questions)
        peak = self._peak(lambda _: model.judge(count, tokens))  # type: ignore[misc]
        work = f"{count} questions about {settings.judge.batch} images, {tokens} tokens"
        need = Need("judge", work, self._weights(model, "judge"), peak)
        return self._spread(settings, model, model.denoiser, need)

    def train(self, settings: Settings) -> Need:
        """Predict a step of the run's loss, with the largest batch that `train.max_cells` allows."""
        train, model = settings.train, self.outline(settings)
        rows, columns, channels = model.grid
        count = max(1, train.max_cells // (rows * columns))
        with torch.device("meta"):
            tuned = lora.tune(cast(UnifiedModel, model), train.method, settings.lora, train.checkpointing)
        objective = self.registry.create("loss", settings.loss)
        begins = lora.Start.of(tuned) if getattr(objective, "needs_start", False) else None
        latents = [torch.zeros(rows, columns, channels, device="meta") for _ in range(count)]

        def step(meter: Metered) -> None:
            for _ in range(min(train.accumulation, 2)):  # from the second on, gradients exist at its start
                condition = model.condition(count)
                flow = flow_step(
                    tuned.module, latents, condition, torch.zeros(count, device="meta"), None, latents, start=begins
                )
                meter.backward(objective(flow)[0])

        autocast = train.mixed_precision == "bf16" or (train.mixed_precision == "auto" and self.device.kind == "cuda")
        peak = self._peak(step, autocast)
        numbers = sum(each.numel() for each in tuned.parameters.values())
        gradients = 4 * numbers
        copies = bool(train.ema) + (begins is not None)
        quantised = [each for each in tuned.module.parameters() if small_memory.is_quantised(each)]
        need = Need(
            "train",
            f"{count} images of {rows} x {columns} cells, {numbers / 1e6:,.1f} M parameters trained",
            weights=small_memory.size(tuned.module.parameters())
            + model.parts.get("train", 0)
            - model.elsewhere.get("train", 0),
            passing=max(0, peak - gradients),
            gradients=gradients,
            optimizer=self._state(train.optimizer, numbers) + 4 * numbers * copies,
            replicated=model.parts.get("train", 0) + small_memory.size(quantised),
        )
        return self._spread(settings, model, tuned.module, need)

    def _spread(self, settings: Settings, model: Outline, module: torch.nn.Module, need: Need) -> Need:
        """With the largest layer of `module`; over all devices if the settings ask for it."""
        blocks = [each for each in module.modules() if type(each).__name__ in model.recipe.blocks]
        need = attrs.evolve(need, largest=max(map(_gathered, blocks), default=0))
        return need.spread(self.device.count) if self.device.is_spread(settings) else need

    @staticmethod
    def _state(optimizer: str, numbers: int) -> int:
        """Return the bytes of AdamW's two means: in float32, or in 8 bits with a float32 scale for every 256."""
        return 8 * numbers if optimizer == "adamw" else round(2 * numbers * (1 + 4 / 256))

    def _peak(self, work: Callable[[Metered], object], autocast: bool = False) -> int:
        with metered(autocast) as meter:
            work(meter)
        return meter.peak

    def _weights(self, model: Outline, stage: str) -> int:
        size = small_memory.size(model.denoiser.parameters())
        return size + model.parts.get(stage, 0) - model.elsewhere.get(stage, 0)


def _gathered(block: torch.nn.Module) -> int:
    parameters = [each for each in block.parameters() if not small_memory.is_quantised(each)]
    return small_memory.size(parameters) + small_memory.size(each for each in parameters if each.requires_grad)
