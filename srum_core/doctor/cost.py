"""What one call of everything takes, and what a round with these settings would."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch
from attrs import define, field

from srum_core import tuning
from srum_core.doctor import answering
from srum_core.doctor.findings import Cost, Finding
from srum_core.doctor.patient import Patient
from srum_core.flow import FlowStep, flow_step
from srum_core.progress import clock
from srum_core.records import Question

MOST = 8
"""Pictures in a call, however large the run's batches are."""
TRAINING = "training step"
GRADIENTS = "gradients"
_BRIEF = 2.0
"""What takes fewer seconds is timed again, warm."""


def measure(patient: Patient) -> tuple[list[Cost], list[Finding]]:
    """One call of each operation, then a training step, which prepares the model for training and so comes last."""
    settings, device = patient.run.settings, patient.device
    drawn, asked, cells = (min(MOST, each.batch) for each in (settings.generate, settings.judge, settings.generate))
    text = next((each for each in patient.texts if each), "a picture")
    pictures = _fill(patient.pictures, drawn)
    questions = _fill(_questions(patient), asked)
    latents = patient.encode(pictures)
    times = torch.full((cells,), 0.5)
    found = [
        take("generate", drawn, device, lambda: patient.draw([text] * drawn, list(range(drawn)))),
        take("encode", drawn, device, lambda: patient.encode(pictures)),
        take("answer", asked, device, lambda: answering.ask(patient, questions)),
        take("denoiser", cells, device, lambda: patient.velocity(latents, times, [text] * cells)),
    ]
    trainer = _Trainer(patient, _fitting(patient, latents[0].shape[0] * latents[0].shape[1]), text)
    found.append(take(TRAINING, trainer.count, device, trainer.step))
    return found, [trainer.finding()]


def take(operation: str, count: int, device: torch.device, call: Callable[[], object]) -> Cost:
    """Time and memory of a call; a quick one is made twice, and the second time counts."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with _watched() as memory:
        seconds = _seconds(call, cuda)
    if seconds < _BRIEF:
        seconds = min(seconds, _seconds(call, cuda))
    return Cost(
        operation, count, seconds, memory.grown, torch.cuda.max_memory_allocated(device) / 2**20 if cuda else None
    )


def _seconds(call: Callable[[], object], cuda: bool) -> float:
    began = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


@define
class _Memory:
    grown: float = 0.0
    """MiB, at most."""


@contextmanager
def _watched() -> Iterator[_Memory]:
    """Looks at this process's memory every few milliseconds: the height of a short peak is a guess from below."""
    process, memory, over = psutil.Process(), _Memory(), threading.Event()
    before = process.memory_info().rss

    def look() -> None:
        memory.grown = max(memory.grown, (process.memory_info().rss - before) / 2**20)

    def watch() -> None:
        while not over.wait(0.005):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
        look()
    finally:
        over.set()
        thread.join()


def _fill(some: Sequence[object], count: int) -> list:  # type: ignore[type-arg]
    return [some[index % len(some)] for index in range(count)]


def _questions(patient: Patient) -> list[Question]:
    """Those of the run's judges, or a plain one."""
    asked = [question for hearing in answering.hearings(patient) for question in hearing.questions]
    return asked or [Question(patient.candidates[0].image, "What does this picture show?")]


def _fitting(patient: Patient, cells: int) -> int:
    """Pictures in a micro-batch of training."""
    return max(1, min(MOST, patient.run.settings.train.max_cells // cells))


# ---- training -------------------------------------------------------------------------------------------------------


@define
class _Trainer:
    """A step of the run's own loss on the run's own trained parameters; no weight is changed."""

    patient: Patient
    count: int
    text: str
    tuned: tuning.Tuned = field(init=False)
    missing: list[str] = field(init=False, factory=list)
    """Trained parameters that no gradient reached."""

    def __attrs_post_init__(self) -> None:
        settings = self.patient.run.settings
        with torch.random.fork_rng():
            torch.manual_seed(0)  # LoRA's first weights
            self.tuned = tuning.tune(
                self.patient.model, settings.train.method, settings.lora, settings.train.checkpointing
            )

    def step(self) -> None:
        patient, settings = self.patient, self.patient.run.settings
        objective = patient.run.registry.create("loss", settings.loss)
        clean = [latent.to(patient.device) for latent in patient.encode(_fill(patient.pictures, self.count))]
        times = torch.linspace(0.2, 0.8, self.count)
        noise = torch.Generator().manual_seed(0)
        with patient.precision():
            condition = patient.condition([self.text] * self.count)
            flow: FlowStep = flow_step(self.tuned.module, clean, condition, times, None, noise)
            loss, _ = objective(flow)
        loss.backward()
        self.missing = [name for name, parameter in self.tuned.parameters.items() if parameter.grad is None]
        for parameter in self.tuned.parameters.values():
            parameter.grad = None

    def finding(self) -> Finding:
        count = sum(parameter.numel() for parameter in self.tuned.parameters.values())
        if self.missing:
            named = ", ".join(self.missing[:3]) + (", …" if len(self.missing) > 3 else "")
            told = f"{len(self.missing)} of {len(self.tuned.parameters)} trained parameters get no gradient ({named})"
            mend = "leave them out of the adapter's recipe, or find where the gradient stops (no_grad, detach)."
            return Finding(GRADIENTS, "wrong", f"{told}: {mend}")
        told = f"train.method={self.tuned.kind} trains {count:,} parameters, and a gradient reaches all of them"
        return Finding(GRADIENTS, "fine", f"{told}. AdamW will keep another {count * 8 / 2**20:.1f} MiB.")


# ---- a round --------------------------------------------------------------------------------------------------------


def estimate(patient: Patient, found: Sequence[Cost]) -> str:
    """What a round takes on this machine, in a sentence, from single calls."""
    settings = patient.run.settings
    each = {cost.operation: cost.seconds / cost.count for cost in found}
    pictures = len(patient.run.planned(0))
    opened = answering.hearings(patient)
    questions = math.ceil(sum(len(h.questions) for h in opened) / len({h.candidate.id for h in opened}))
    train = settings.train
    step = next(cost.count for cost in found if cost.operation == TRAINING)
    trained = train.steps * train.accumulation * step if train.steps else train.epochs * pictures
    parts = {
        "generate": pictures * each["generate"],
        "judge": pictures * questions * settings.judge.votes * each["answer"],
        "train": pictures * each["encode"] + trained * each[TRAINING],
    }
    if settings.benchmark is not None:
        parts["evaluate"] = len(patient.run.planned_evaluation()) * each["generate"]
    told = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts.items())
    return (
        f"A round of these settings ({pictures} pictures, {questions} question{'s' * (questions != 1)} each, {trained} "
        f"trained on) would take about {clock(sum(parts.values()))} on this machine: {told}. Larger batches than "
        "those above are faster; finding regions and asking again are not counted."
    )
