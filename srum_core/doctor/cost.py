"""Measure one call of each operation, and estimate a round with these settings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from attrs import define, field
from torch import Tensor

from srum_core.doctor import answering
from srum_core.doctor.findings import Cost, Finding
from srum_core.doctor.subject import Subject
from srum_core.flow import FlowStep, flow_step
from srum_core.records import Question
from srum_core.runs.progress import clock
from srum_core.stages.interview import Interview, put
from srum_core.training import lora, metrics
from srum_core.training.latent_cache import CHUNK

T = TypeVar("T")
FEW = 8
"""Images in a first call, however large the run's batches are."""
BRIEF = 2.0
"""Seconds. A call that takes less is repeated warm, with the run's own batch."""
TRAINING = "training step"
GRADIENTS = "gradients"


def measure(subject: Subject) -> tuple[list[Cost], list[Finding]]:
    """Measure one call of each operation; the training step is last, because it prepares the model for training."""
    settings, device = subject.run.settings, subject.device
    text = next((each for each in subject.texts if each), "a picture")
    first_questions = [entry.question for interview in answering.interviews(subject) for entry in interview.votes[0]]
    questions = first_questions or [Question(subject.candidates[0].image, "What does this picture show?")]
    latents = subject.encode(subject.images)
    batch = fitting(subject, latents[0])

    def denoise(count: int) -> object:
        return subject.velocity(_fill(latents, count), torch.full((count,), 0.5), [text] * count)

    costs = [
        take("generate", settings.generate.batch, device, lambda n: subject.draw([text] * n, range(n))),
        take("encode", CHUNK, device, lambda n: subject.encode(_fill(subject.images, n))),
        take("answer", settings.judge.batch, device, lambda n: put(subject.model, _fill(questions, n))),
        take("denoiser", batch, device, denoise),
    ]
    trainer = _Trainer(subject, [latent.to(device) for latent in latents], text)
    costs.append(take(TRAINING, batch, device, trainer.step))
    return costs, [trainer.finding()]


def fitting(subject: Subject, latent: Tensor) -> int:
    """Return how many latents of this size a micro-batch of training holds."""
    return max(1, subject.run.settings.train.max_cells // (latent.shape[0] * latent.shape[1]))


def take(operation: str, most: int, device: torch.device, call: Callable[[int], object]) -> Cost:
    """Measure a call with a few images, and with `most` if that was quick."""
    count = min(FEW, most)
    first = _take(operation, count, device, call)
    return first if first.seconds > BRIEF else _take(operation, most, device, call)


def _take(operation: str, count: int, device: torch.device, call: Callable[[int], object]) -> Cost:
    metrics.forget_peaks()
    before, began = metrics.memory()["memory"], time.perf_counter()
    call(count)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds, peaks = time.perf_counter() - began, metrics.peaks()
    on_device = peaks["gpu_memory_peak"] if device.type == "cuda" else None
    return Cost(operation, count, seconds, max(0.0, peaks["memory_peak"] - before), on_device)


def _fill(values: Sequence[T], count: int) -> list[T]:
    return [values[index % len(values)] for index in range(count)]


# ---- training -------------------------------------------------------------------------------------------------------


@define
class _Trainer:
    """Runs a training step of the run's loss on its trained parameters, without changing weights."""

    subject: Subject
    latents: list[Tensor]
    text: str
    tuned: lora.Tuned = field(init=False)
    missing: list[str] = field(init=False, factory=list)
    """Trained parameters without a gradient."""

    def __attrs_post_init__(self) -> None:
        settings = self.subject.run.settings
        with torch.random.fork_rng():
            torch.manual_seed(0)  # LoRA's first weights
            train = settings.train
            self.tuned = lora.tune(self.subject.model, train.method, settings.lora, train.checkpointing, train.compile)

    def step(self, count: int) -> None:
        subject, settings = self.subject, self.subject.run.settings
        objective = subject.run.registry.create("loss", settings.loss)
        times = torch.linspace(0.2, 0.8, count)
        noise = torch.Generator().manual_seed(0)
        with subject.precision():
            condition = subject.model.condition([self.text] * count)
            flow: FlowStep = flow_step(self.tuned.module, _fill(self.latents, count), condition, times, None, noise)
            loss, _ = objective(flow)
        loss.backward()
        self.missing = [name for name, parameter in self.tuned.parameters.items() if parameter.grad is None]
        for parameter in self.tuned.parameters.values():
            parameter.grad = None

    def finding(self) -> Finding:
        count = sum(parameter.numel() for parameter in self.tuned.parameters.values())
        if self.missing:
            examples = ", ".join(self.missing[:3]) + (", …" if len(self.missing) > 3 else "")
            message = (
                f"{len(self.missing)} of {len(self.tuned.parameters)} trained parameters get no gradient ({examples})"
            )
            fix = "leave them out of the adapter's recipe, or find where the gradient stops (no_grad, detach)."
            return Finding(GRADIENTS, "wrong", f"{message}: {fix}")
        message = f"train.method={self.tuned.kind} trains {count:,} parameters, and a gradient reaches all of them"
        return Finding(GRADIENTS, "fine", f"{message}. AdamW will keep another {count * 8 / 2**20:.1f} MiB.")


# ---- a round --------------------------------------------------------------------------------------------------------


def estimate(subject: Subject, costs: Sequence[Cost]) -> str:
    """Estimate the duration of a round on this machine from single calls, as a sentence."""
    settings = subject.run.settings
    seconds_each = {cost.operation: cost.seconds / cost.count for cost in costs}
    images = len(subject.run.planned(1))
    interviews = answering.interviews(subject)
    questions = math.ceil(sum(len(h.votes[0]) for h in interviews) / len({h.candidate.id for h in interviews}))
    train = settings.train
    batch = train.accumulation * fitting(subject, subject.encode(subject.images[:1])[0])
    trained = train.steps * batch if train.steps else train.epochs * images
    parts = {
        "generate": images * seconds_each["generate"],
        "judge": images * questions * settings.judge.votes * seconds_each["answer"],
        "train": images * seconds_each["encode"] + trained * seconds_each[TRAINING],
    }
    if settings.benchmark is not None:
        parts["evaluate"] = len(subject.run.planned_evaluation()) * seconds_each["generate"]
    message = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts.items())
    return (
        f"A round of these settings ({images} images, {questions} question{'s' * (questions != 1)} each, {trained} "
        f"trained on) would take about {clock(sum(parts.values()))} on this machine: {message}. {_left_out(interviews)}"
    )


def _left_out(interviews: Sequence[Interview]) -> str:
    """Name what the estimate leaves out. The number of further questions depends on the answers about two images."""
    with_turns = dict.fromkeys(h.name for h in interviews if any(entry.turn for entry in h.votes[0]))
    without_turns = dict.fromkeys(
        h.name for h in interviews if hasattr(h.judge, "further") and h.name not in with_turns
    )
    *parts, last = ["Finding regions", "asking again", *(f"further turns of {name}" for name in without_turns)]
    message = f"{', '.join(parts)} and {last} are not counted."
    return f"{message} Further turns are: as on two images ({', '.join(with_turns)})." if with_turns else message
