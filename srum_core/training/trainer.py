"""Train on the judged candidates of a round. Read from `train` downwards; the heart is `Trainer.update` and `.flow`."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, set_seed
from attrs import evolve
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from srum_core.errors import TrainingError, naming
from srum_core.flow import FlowStep, flow_step
from srum_core.models import weights
from srum_core.models.hub import device_of
from srum_core.runs.files import aside, put_in_place, redo_option, settle, way_out
from srum_core.runs.progress import NORMAL, progress, tell
from srum_core.runs.store import check_settings, to_json
from srum_core.training import batching, fsdp, lora, trackers
from srum_core.training.batching import Batch
from srum_core.training.checkpoint import STATE, Log, Saved
from srum_core.training.latent_cache import Latents
from srum_core.training.metrics import Guard, Tally, memory, refuse_infinite
from srum_core.training.selection import choose, duplicates

if TYPE_CHECKING:
    from srum_core.protocols import Loss, RewardMap, UnifiedModel
    from srum_core.runs.run import Run

Metrics = dict[str, float | int | None]
WARMUP = 500
"""Steps of warm-up in a long run (paper, Table 5)."""
log = logging.getLogger("srum")


def train(run: Run, round: int) -> Path:
    """Train round `round` and return its checkpoint folder. Resume an interrupted training from its last checkpoint,
    with any number of processes; with the same number, the result is the same, bit for bit on a CPU.

    Raises RecordError without finished judgements, TrainingError if training cannot start or must not continue.
    """
    run = run.at("train", round)
    result = run.stage_folder("train", round)
    check_settings(result, run.stage_settings("train", round), "train")
    if run.done("train", round):
        return result
    trackers.check(run.settings.train.trackers)
    trainer = Trainer(run, round)
    try:
        trainer.run_all()
        trainer.finish(result)
    finally:
        trainer.trackers.close()
        run.release()  # the round has changed the model
        if trainer.accelerator.num_processes == 1:  # else accelerate keeps its precision and device in this process
            AcceleratorState._reset_state(reset_partial_state=True)
    return result


def start(run: Run, model: UnifiedModel) -> Accelerator:
    """Create the accelerator on the device where the adapter computes."""
    device = device_of(model)
    precision = run.settings.train.mixed_precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
    if accelerator.distributed_type not in supported:
        raise TrainingError(
            f"Training on {accelerator.distributed_type.value} is not supported. Use --launch ddp, or --launch fsdp2 "
            "if memory is short."
        )
    return accelerator


class Trainer:
    """The parts and the state of one round's training."""

    def __init__(self, run: Run, round: int) -> None:
        self.run, self.round, self.settings = run, round, run.settings.train
        settings, folder = self.settings, run.round_folder(round)
        reward_map: RewardMap = run.registry.create("map", run.settings.map)
        objective: Loss = run.registry.create("loss", run.settings.loss)
        self.reward_map, self.objective = reward_map, objective
        self.images = choose(run, round)
        self.model = run.model(round - 1)
        self.schedule = evolve(own := self.model.recipe.schedule, shift=settings.shift or own.shift)
        self.accelerator = accelerator = start(run, self.model)
        rank, world = accelerator.process_index, accelerator.num_processes
        self.latents = Latents(folder / "latents", json.dumps(run.stage_settings("generate", round)["adapter"]))
        self.latents.prepare(self.model, self.images.candidates, rank, world)
        accelerator.wait_for_everyone()
        announce = getattr(self.model, "before_training", None)
        if announce is not None:
            announce(sorted({candidate.prompt.text for candidate in self.images.candidates}))
        self.sizes = [rows * columns for rows, columns in map(self.latents.grid, self.images.candidates)]
        """Latent cells per image."""
        self.judgements = self.latents.fit(reward_map, self.images)
        """Cropped to the part of each image that its latent covers."""

        set_seed(run.round_seed("start of training", round))  # LoRA's first weights are random
        several, lora_settings = fsdp.is_requested() and world > 1, run.settings.lora
        self.tuned = lora.tune(
            self.model, settings.method, lora_settings, settings.checkpointing, settings.compile, several
        )
        trackers.check_offload(run.settings.adapter.options.get("offload") == "cpu", world > 1)
        if several:
            blocks = lora.find_blocks(self.tuned.module, self.model.recipe.blocks)
            parameters = fsdp.shard(self.tuned.module, blocks, accelerator.mixed_precision == "bf16")
            self.tuned = evolve(self.tuned, parameters=parameters)
            self.denoiser = accelerator.prepare_model(self.tuned.module, evaluation_mode=True)  # autocast, no DDP
        else:
            # An adapter that holds some of its weights elsewhere places them itself.
            devices = {each.device for each in self.tuned.module.parameters()}
            self.denoiser = accelerator.prepare(self.tuned.module, device_placement=[len(devices) == 1])
        lora.check_types(self.tuned, accelerator.mixed_precision)
        needs_start = getattr(objective, "needs_start", False)
        self.beginning = lora.Start.of(self.tuned) if needs_start else None  # before a saved state is loaded
        self.optimizer = lora.make_optimizer(self.tuned.parameters.values(), settings)
        self.average = lora.Average(self.tuned.parameters, settings.ema)
        self.guard = Guard(settings.guard)
        logs = (Log(folder / "metrics.jsonl"), Log(folder / "speed.jsonl"))
        self.saved = Saved(folder / "training", run.stage_settings("train", round), logs)
        self.width = world * settings.accumulation
        """Batches of a full step over all processes. A resumed training keeps it, whatever their number."""
        self.done = 0
        """Updates made."""
        self.warmup = 0
        """Steps of warm-up, known once the steps are planned."""
        self.idle = False
        """A step had no gradient."""
        self.resume()

    # ---- step by step -----------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        """Do all remaining steps."""
        settings, steps = self.settings, self.plan()
        self.warmup = min(len(steps) // 10, WARMUP) if settings.warmup < 0 else settings.warmup
        if self.accelerator.is_main_process:
            tell(self.outlook(len(steps)), NORMAL)
            if warning := duplicates(self.images.objects_before, self.images.objects):
                log.warning(warning)
        self.stop_if_warned()  # also when resumed: divergence does not recover by itself
        with progress(len(steps), f"train round {self.round}", self.done) as advance:
            for step in steps[self.done :]:
                start = time.perf_counter()
                metrics = self.update(step)
                self.done += 1
                self.log(metrics, time.perf_counter() - start)
                self.guard.watch(metrics["negative_error"])
                if self.guard.warning or self.done % settings.save_every == 0 or self.done == len(steps):
                    self.save()
                self.stop_if_warned()
                note = {"loss": metrics["loss"], "lr": metrics["lr"], "gradient norm": metrics["gradient_norm"]}
                advance(1, ", ".join(f"{name} {value:.3g}" for name, value in note.items()))

    def outlook(self, planned: int) -> str:
        """Return a summary before training: steps, peak learning rate, parameters."""
        settings, images = self.settings, len(self.images.candidates)
        first = min(self.warmup, planned)
        peak = settings.lr * min(1.0, planned / max(self.warmup, 1))
        count = sum(parameter.numel() for parameter in self.tuned.parameters.values())
        text = (
            f"{count:,} trained parameters ({settings.method}), {images} images, {planned} steps, "
            f"peak learning rate {peak:.3g} after {first} step{'s' * (first != 1)} of warm-up."
        )
        if peak < settings.lr:
            text += f" train.lr={settings.lr:g} is never reached: train.warmup={self.warmup} is longer than the run."
        return text + (f" Continues after step {self.done}." if self.done else "")

    def stop_if_warned(self) -> None:
        if self.guard.warning:
            way_out = f"Then train again with {redo_option(self.saved.folder)}."
            raise TrainingError(f"Training was stopped after step {self.done}. {self.guard.warning} {way_out}")

    def plan(self) -> list[list[Batch]]:
        """Return the batches of every step."""
        settings = self.settings
        large = max(self.sizes)
        if large > settings.max_cells and self.accelerator.is_main_process:
            log.warning(
                f"An image of {large} latent cells is larger than train.max_cells={settings.max_cells}: such images "
                "are trained on one by one. Raise train.max_cells if memory allows."
            )
        seed = partial(self.run.round_seed, "order", self.round)
        return list(batching.steps(self.sizes, settings.max_cells, self.width, seed, settings.epochs, settings.steps))

    def update(self, step: Sequence[Batch]) -> Metrics:
        """Update the weights once. Every cell of the step counts the same, whatever its batch and process."""
        settings, accelerator = self.settings, self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        total = sum(self.sizes[index] for batch in step for index in batch)
        # The first update has lr / warmup; in the release it has lr 0 and so changes nothing.
        rate = settings.lr * min(1.0, (self.done + 1) / max(self.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        tally = Tally(getattr(self.objective, "constraint", 0.0))
        mine = batching.share(step, rank, world)
        for place, (batch, counts) in enumerate(mine):
            # Dropout depends on the step and the batch alone, not on earlier steps or the process.
            set_seed(self.run.round_seed("step", self.round, self.done, place * world + rank))
            last = place == len(mine) - 1 or fsdp.is_sharded(self.denoiser)  # gradients stay sharded, to save memory
            with nullcontext() if last else accelerator.no_sync(self.denoiser):
                flow = self.flow(batch)
                loss, parts = self.objective(flow)
                cells = sum(self.sizes[index] for index in batch) if counts else 0
                accelerator.backward(loss * (cells * world / total))  # processes' gradients are averaged
            tally.add(flow, loss, parts, counts)

        norm = accelerator.clip_grad_norm_(self.tuned.parameters.values(), settings.clip or float("inf"))
        add_up = lambda sums: sums if world == 1 else accelerator.reduce(sums.to(accelerator.device), "sum")  # noqa: E731
        metrics: Metrics = {
            "step": self.done + 1,
            **tally.means(add_up),
            **self.images.counts(),
            "lr": rate,
            "gradient_norm": float(norm),
        }
        refuse_infinite(metrics, self.done + 1, redo_option(self.saved.folder))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.tuned.parameters, self.done)
        return metrics

    def flow(self, batch: Batch) -> FlowStep:
        """Noise a batch and run the denoiser. The rng of an image depends on the step and the image alone."""
        texts, times, noise = list[str | None](), list[Tensor](), list[Tensor]()
        latents, reference = zip(*[self.latents.load(self.images.candidates[index]) for index in batch], strict=True)
        clean = [x.to(self.accelerator.device) for x in latents]
        for index, x in zip(batch, clean, strict=True):
            rng = torch.Generator().manual_seed(self.run.round_seed("noise", self.round, self.done, index))
            dropped = torch.rand((), generator=rng) < self.settings.text_dropout
            texts.append(None if dropped else self.images.candidates[index].prompt.text)
            times.append(self.schedule.sample(1, rng))
            noise.append(torch.randn(x.shape, generator=rng))
        weight = [self.reward_map(self.judgements[i], x.shape[:2]) for i, x in zip(batch, clean, strict=True)]
        condition = self.model.condition(texts)
        return flow_step(self.denoiser, clean, condition, torch.cat(times), weight, noise, reference, self.beginning)

    # ---- logs and checkpoints ---------------------------------------------------------------------------------------

    def log(self, metrics: Metrics, seconds: float) -> None:
        """Write reproducible numbers to metrics.jsonl, times and memory to speed.jsonl."""
        rate = (metrics["cells"] or 0) / seconds
        speed: Metrics = {"step": self.done, "seconds": seconds, "cells_per_second": rate, **memory()}
        if self.accelerator.is_main_process:
            for file, row in zip(self.saved.logs, (metrics, speed), strict=True):
                file.append(row)
            for sentence in self.run.registry.notify("srum_metrics", run=self.run, metrics=metrics):
                tell(sentence)
            if metrics["gradient_norm"] == 0 and not self.idle:  # a training without effect must not look like one
                self.idle = True
                log.warning(
                    "Step %d has no gradient, so it changes nothing: all weights of its images are 0. Check the "
                    "judgements (srum report), or use another map or loss.constraint > 0.",
                    self.done,
                )
            self.trackers.numbers(self.done, metrics, speed)

    def resume(self) -> None:
        """Load the last checkpoint, if there is one."""
        state = self.saved.load(lazily=fsdp.is_sharded(self.denoiser))
        self.accelerator.wait_for_everyone()  # no process writes before all have read
        if self.accelerator.is_main_process:
            self.saved.rewind(state)
        if state is not None:
            self.done, self.width = state["step"], state["width"]
            self.guard.first, self.guard.warning = state["guard"]
            path = self.saved.folder / STATE
            with weights.loading(f"The optimizer's state in {path}", hint=way_out(path)):
                # Where it is not divided, the optimizer itself moves it: weights may be on several devices.
                options = StateDictOptions(full_state_dict=fsdp.is_sharded(self.denoiser))
                set_optimizer_state_dict(self.tuned.module, self.optimizer, state["optimizer"], options=options)
            lora.copy_into(self.tuned.parameters, state["weights"], path)
            lora.copy_into(self.average.weights, state["average"], path)
        self.trackers = trackers.Trackers(self.run, self.round, "train", self.done, self.accelerator.is_main_process)
        if not self.done:
            self.trackers.images("candidates", lambda: trackers.examples(self.run, self.round))

    def save(self) -> None:
        """Save full tensors by name, so that any number of processes can resume."""
        main = self.accelerator.is_main_process
        weights = fsdp.full_tensors(self.tuned.parameters, main)
        average = fsdp.full_tensors(self.average.weights, main)
        # By parameter names, sharded or not: complete in the first process, empty in others.
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        optimizer = get_optimizer_state_dict(self.tuned.module, self.optimizer, options=options)
        if main:
            guard = (self.guard.first, self.guard.warning)
            state = {"step": self.done, "width": self.width, "weights": weights, "average": average, "guard": guard}
            self.saved.save({**state, "optimizer": optimizer})
        self.accelerator.wait_for_everyone()

    def finish(self, result: Path) -> None:
        """Write the checkpoint folder, complete or not at all, from the averaged weights if there are any."""
        if self.average.weights:
            lora.copy_into(self.tuned.parameters, self.average.weights)
        if fsdp.is_sharded(self.denoiser):
            self.tuned = lora.unshard(self.tuned, keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            new = aside(result)
            shutil.rmtree(new, ignore_errors=True)
            use, below = self.run.trained(self.round - 1)
            about: dict[str, Any] = {"round": self.round, "steps": self.done}
            if below and self.tuned.kind == "lora":  # LoRA weights to merge before these
                about["on_top_of"] = [Path(os.path.relpath(each, result)).as_posix() for each in below]
            with naming(new):
                lora.save(self.model, self.tuned, new, about, str(use.options.get("checkpoint", "")))
            (new / "settings.json").write_text(to_json(self.run.stage_settings("train", self.round)), "utf-8")
            (new / "DONE").write_text(f"{self.done}\n", "utf-8")
            settle(new)
            put_in_place(new, result)  # the existing folder has no DONE: this training replaces it
            shutil.rmtree(self.saved.folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
