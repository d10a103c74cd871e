"""A toy plugin: a real, tiny denoiser (some hundred parameters), and one of every other kind of component.

Load them with import paths ("toy:ToyModel") after putting tests/ on the path. With SRUM_TOY_KILL="WHAT:N" in the
environment, the process kills itself (SIGKILL) at the Nth call of WHAT: draw, step, look, answer, encode, train or
measure.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from einops import rearrange, reduce, repeat
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srum_core.flow import Recipe, Schedule
from srum_core.models.weights import failure
from srum_core.records import Candidate, Prompt, Question, Region, Row, Sample, Score, Unreadable

GRID, CHANNELS, SIDE, WIDTH = 4, 3, 8, 12
COMPONENTS = [
    "--adapter=toy:ToyModel",
    "grounder=toy:ToyGrounder",
    "judges=['toy:ToyJudge']",
    "benchmark=toy:ToyBenchmark",
    "map=srum_losses.maps:Paper",
    "loss=srum_losses.objectives:SrumLoss",
]
"""For a command line: everything a run needs."""
_calls: Counter[str] = Counter()


def called(what: str) -> None:
    """Count a call, and die where SRUM_TOY_KILL says so."""
    _calls[what] += 1
    if os.environ.get("SRUM_TOY_KILL") == f"{what}:{_calls[what]}":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("SRUM_TOY_INTERRUPT") == f"{what}:{_calls[what]}":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        os.kill(os.getpid(), signal.SIGINT)


class ToyBlock(nn.Module):
    """Mixes the cells of one image, and what is known about it, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, owner: Tensor) -> Tensor:
        """x: (cells, WIDTH) of all images; owner: (cells,), the image each cell belongs to."""
        count = int(owner.max()) + 1
        sums = torch.zeros(count, WIDTH, dtype=x.dtype).index_add(0, owner, x)
        means = sums / torch.bincount(owner, minlength=count)[:, None]
        return x + self.down(torch.tanh(self.up(x + means[owner])))


class ToyDenoiser(nn.Module):
    """`forward(noisy, time, condition)`; the condition is one vector (WIDTH,) per image."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(CHANNELS + 1, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(GRID, GRID, WIDTH))
        self.blocks = nn.ModuleList([ToyBlock(), ToyBlock()])
        self.leave = nn.Linear(WIDTH, CHANNELS)

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
        called("train" if torch.is_grad_enabled() else "step")
        sizes = [x.shape[0] * x.shape[1] for x in noisy]
        owner = torch.repeat_interleave(torch.arange(len(noisy)), torch.tensor(sizes))
        cells = torch.cat([rearrange(x, "h w c -> (h w) c") for x in noisy])
        places = torch.cat([rearrange(self.place[: x.shape[0], : x.shape[1]], "h w c -> (h w) c") for x in noisy])
        x = self.enter(torch.cat([cells, time[owner, None]], 1)) + places + condition[owner]
        for block in self.blocks:
            x = block(x, owner)
        parts = self.leave(x).split(sizes)
        return [rearrange(part, "(h w) c -> h w c", w=x.shape[1]) for part, x in zip(parts, noisy, strict=True)]


@frozen
class ToyOptions:
    checkpoint: str = ""
    """A directory that `save` wrote; empty = fresh weights."""
    mumbles: bool = False
    """Whether greedy answers cannot be read (sampled ones can, two times out of three)."""


class ToyModel:
    """Draws 8x8 images out of 4x4x3 latents, and answers in the judges' format with what the pixels say."""

    Options = ToyOptions
    recipe = Recipe(
        blocks=("ToyBlock",),
        full=(r"blocks\..*", r"enter\..*", r"leave\..*", "place"),
        lora=r"blocks\.\d+\.(up|down)",
        schedule=Schedule("logit-normal", shift=1.0),
    )

    def __init__(self, options: ToyOptions | None = None) -> None:
        self.options = options or ToyOptions()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser: nn.Module = ToyDenoiser()
        if self.options.checkpoint:
            self.denoiser.load_state_dict(load_file(Path(self.options.checkpoint) / "toy.safetensors"))
        self.denoiser.requires_grad_(False).eval()

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Sample]:
        """Three Euler steps from noise."""
        called("draw")
        x = [torch.randn(GRID, GRID, CHANNELS, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        condition = self.condition(list(prompts))
        for step in range(3, 0, -1):
            velocity = self.denoiser(x, torch.full((len(x),), step / 3), condition)
            x = [each - v / 3 for each, v in zip(x, velocity, strict=True)]
        return [Sample(_image(latent), failure=failure("image", latent)) for latent in x]

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        called("answer")
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> str:
        key = f"{question.image.name}{question.text}{question.seed}".encode()
        unclear = hashlib.sha256(key).digest()[0] % 3 == 0 if question.temperature else True
        if self.options.mumbles and unclear:
            return "I would rather not say."
        brightness = reduce(_pixels(question.image), "h w c -> c", "mean") / 255
        regions = re.findall(r"Region ID: (\S+)", question.text) or [""]
        doubt = f", or so ({question.seed % 5})" if question.temperature else ""
        return "\n---\n".join(
            (f"Region ID: {region}\n" if region else "")
            + f"Score: {2 * float(brightness[i % 3]) - 1:.2f}\nReason: it is that bright{doubt}"
            for i, region in enumerate(regions)
        )

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Tensor]:
        called("encode")
        arrays = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
        return [torch.from_numpy(reduce(a / 127.5 - 1, "(h p) (w q) c -> h w c", "mean", p=2, q=2)) for a in arrays]

    def condition(self, texts: Sequence[str | None]) -> Tensor:
        """(n, WIDTH): zeros for None, else numbers in [-1, 1] out of a hash of the text."""
        digests = [b"" if text is None else hashlib.sha256(text.encode()).digest()[:WIDTH] for text in texts]
        rows = [[byte / 127.5 - 1 for byte in digest] or [0.0] * WIDTH for digest in digests]
        return torch.tensor(rows)

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {**self.denoiser.state_dict(), **weights}
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
            directory / "toy.safetensors",
        )


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)


def _image(latent: Tensor) -> Image.Image:
    levels = ((latent.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(repeat(levels.numpy(), "h w c -> (h p) (w q) c", p=2, q=2))


class ToyGrounder:
    """Left and right halves; asks one question and pays no heed to the answer."""

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, "What is there?")]

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        assert len(answers) == 1
        called("look")
        return [Region("1", (0.0, 0.0, 0.5, 1.0)), Region("2", (0.5, 0.0, 1.0, 1.0))]


class ToyJudge:
    """One question about the whole, one about each region."""

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        questions = [Question(candidate.image, candidate.prompt.text)]
        return questions + [Question(candidate.image, f"Region ID: {region.id}", crop=region.box) for region in regions]

    def scores(
        self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]
    ) -> Sequence[Score | Unreadable]:
        scores: list[Score | Unreadable] = []
        for index, (region, answer) in enumerate(zip([None, *[r.id for r in regions]], answers, strict=True)):
            match = re.search(r"Score: (-?(?:0(?:\.\d+)?|1(?:\.0+)?))(?!\S)", answer)
            if match:
                scores.append(Score(float(match[1]), region, judge="toy"))
            else:
                scores.append(Unreadable(index, "there is no score", region, "toy"))
        return scores


class ToyBenchmark:
    """How green the images are: mean of green minus mean of the others, in [-1, 1]."""

    def prompts(self, split: str) -> Sequence[Prompt]:
        return [Prompt(f"{split}-{i}", f"{word} number {i}") for i in range(3) for word in ["a leaf"]]

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return []

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        called("measure")
        red, green, blue = reduce(_pixels(candidate.image), "h w c -> c", "mean") / 255
        return {"green": float(green - (red + blue) / 2)}

    def table(self, scored: Sequence[tuple[Candidate, Mapping[str, float]]]) -> Sequence[Row]:
        values = [score["green"] for _, score in scored]
        return [Row("green", sum(values) / len(values), len(values))]


class AskingBenchmark(ToyBenchmark):
    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, "How is it?")]
