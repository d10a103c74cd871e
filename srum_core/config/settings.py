"""Everything that can be set about a run. Defaults are the paper's (Table 5); an adapter's presets change them.

"Per device" counts are for each process; everything else is for the run as a whole.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from srum_core.options import Use

_at_least_0: Any = validators.ge(0)
_at_least_1: Any = validators.ge(1)
_few: Any = [validators.ge(1), validators.le(10_000)]  # of what a plan in memory lists one by one
_positive: Any = validators.gt(0)
_share: Any = [validators.ge(0), validators.lt(1)]


def _not_empty(_: Any, attribute: Any, value: Any) -> None:
    if not value:
        raise ValueError(f"'{attribute.name}' must not be empty")


def _some(_: Any, attribute: Any, value: int | tuple[object, ...]) -> None:
    number = value if isinstance(value, int) else len(value)
    for check in _few:
        check(_, attribute, number)


def _names(most: int, without: str = "") -> Any:
    """Of at most so many characters, and none of others."""

    def check(_: Any, attribute: Any, value: str | tuple[str, ...]) -> None:
        for name in (value,) if isinstance(value, str) else value:
            if not 0 < len(name) <= most or set(name) & set(without):
                none = f", none of {without}" if without else ""
                raise ValueError(f"'{attribute.name}' must have 1 to {most} characters{none}: {name!r:.40}")

    return check


@frozen
class Generate:
    """Generation of candidates."""

    candidates: int = field(default=1, validator=_few)
    """Images per prompt and round."""
    batch: int = field(default=8, validator=_at_least_1)
    """Images generated at once, per device."""
    limit: int = field(default=0, validator=_at_least_0)
    """Use only the first so many prompts; 0 = all."""


@frozen
class Ground:
    """Finding regions."""

    batch: int = field(default=8, validator=_at_least_1)
    """Images grounded at once, per device."""
    duplicates: float = field(default=0.9, validator=[validators.gt(0), validators.le(1)])
    """Of two boxes whose intersection over union is above it, the later one is dropped; 1 = keep all."""
    retries: int = field(default=2, validator=_at_least_0)
    """Retries of an unreadable answer (of boxes, of the verifier) before it counts as a failure."""
    temperature: float = field(default=0.7, validator=_positive)
    """Sampling temperature of those retries; the first answer is greedy."""


@frozen
class Judge:
    """Asking the judges' questions."""

    batch: int = field(default=8, validator=_at_least_1)
    """Images judged at once, per device; an image may take several questions."""
    retries: int = field(default=2, validator=_at_least_0)
    """Retries of an unreadable answer before it counts as a failure."""
    temperature: float = field(default=0.7, validator=_positive)
    """Sampling temperature of those retries, and of votes; a single first answer is greedy."""
    votes: int = field(default=1, validator=_few)
    """Answers to every question; more than one are sampled, and a score is the median over them."""
    doubt: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """How much disagreement counts: a score becomes median * (1 - doubt * spread); 0 = not at all."""


@frozen
class Select:
    """Which judged images are trained on, and what their scores are measured against; records stay as they are."""

    best_of: int = field(default=0, validator=_at_least_0)
    """Only so many of each prompt's images, those with the best global scores (of equal ones, the best mean regional
    score); 0 = all."""
    least: float = field(default=-1.0, validator=[validators.ge(-1), validators.le(1)])
    """Only images whose global score is at least so; -1 = all."""
    filter: float = field(default=-1.0, validator=[validators.ge(-1), validators.lt(1)])
    """Only images judged right: global score and mean regional score (as far as there are any) both above it; -1 = all.
    With loss=sft this is rejection-sampling fine-tuning, the baseline to beat."""
    relative: Literal["none", "centre", "standardise"] = "none"
    """centre = scores less the mean of their prompt's images; standardise = that, in standard deviations; both cut to
    [-1, 1]. Scores that are all the same become 0."""


@frozen
class Train:
    """Training (paper, Table 5)."""

    method: Literal["lora", "full"] = "lora"
    """lora = low-rank adapters; full = every weight that the adapter's recipe lists."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw = torch's, fused on an accelerator; adamw8bit = its two means in 8 bits (bitsandbytes)."""
    lr: float = field(default=2.5e-5, validator=_positive)
    """Learning rate of AdamW after warm-up; it stays constant."""
    beta1: float = field(default=0.9, validator=_share)
    """AdamW: decay of the mean gradient, per step."""
    beta2: float = field(default=0.95, validator=_share)
    """AdamW: decay of the mean squared gradient, per step."""
    eps: float = field(default=1e-15, validator=_positive)
    """AdamW: added to the root of the mean squared gradient."""
    weight_decay: float = field(default=0.0, validator=_at_least_0)
    """AdamW: decoupled weight decay."""
    clip: float = field(default=1.0, validator=_at_least_0)
    """Largest gradient norm; a larger one is scaled down to it. 0 = off."""
    warmup: int = field(default=-1, validator=validators.ge(-1))
    """Steps in which the learning rate rises linearly; -1 = a tenth of the round's steps, at most 500 (the paper's)."""
    steps: int = field(default=0, validator=[validators.ge(0), validators.le(10_000_000)])
    """Optimiser steps per round; 0 = as many as `epochs` takes."""
    epochs: int = field(default=1, validator=_few)
    """Passes over a round's images; used where `steps` is 0."""
    max_cells: int = field(default=8192, validator=_at_least_1)
    """Latent cells per micro-batch and device, padding included. BAGEL at 1024x1024 has 4096 an image."""
    accumulation: int = field(default=1, validator=_at_least_1)
    """Micro-batches per optimizer step, per device."""
    text_dropout: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Share of images trained without their prompt, for classifier-free guidance (release: 0.1)."""
    ema: float = field(default=0.0, validator=_share)
    """Decay per step of a moving average of the trained weights, saved in their place; 0 = off."""
    mixed_precision: Literal["no", "bf16", "auto"] = "auto"
    """auto = bf16 on an accelerator that has it. Trained weights are kept in float32 either way."""
    checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""
    compile: bool = False
    """Compile the repeated layers (torch.compile): the first steps of every shape take long, the others less."""
    shift: float = field(default=4.0, validator=_at_least_0)
    """Shift of the training times, s*t / (1 + (s-1)*t); larger = noisier. 0 = the adapter's own."""
    save_every: int = field(default=100, validator=_at_least_1)
    """Steps between states from which an interrupted training resumes."""
    guard: float = field(default=10.0, validator=_at_least_0)
    """Stop when the mean error of net-negative cells (weight + lambda below 0) is so many times what it was in
    the first steps; 0 = never."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where else to log, with sample images and the tables of evaluations. metrics.jsonl is written always."""
    project: str = field(default="srum", validator=_names(128, "/\\#?%:"))
    """The trackers' project."""
    tags: tuple[str, ...] = field(default=(), validator=_names(64))
    """The trackers' tags."""
    samples: int = field(default=8, validator=_at_least_0)
    """Images with their boxes and scores that the trackers get every round; 0 = none."""


@frozen
class Lora:
    """Low-rank adapters, with train.method = "lora"."""

    rank: int = field(default=16, validator=_at_least_1)
    """Rank of each adapter."""
    alpha: float = field(default=32.0, validator=_positive)
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = field(default=0.0, validator=_share)
    """Dropout before the adapters while training."""


@frozen
class Evaluate:
    """Generation for a benchmark's prompts, and scoring of the images."""

    split: str = field(default="test", validator=_not_empty)
    """Which of the benchmark's splits."""
    images: int = field(default=1, validator=_few)
    """Images per prompt; the same seeds before and after."""
    batch: int = field(default=16, validator=_at_least_1)
    """Images generated at once, per device."""
    limit: int = field(default=0, validator=_at_least_0)
    """Use only the first so many prompts; 0 = all."""
    seeds: Literal["run", "image", "reference"] = "run"
    """run = from the run's seed; image = from the run's seed and the benchmark's own names for an image, the same in
    every run; reference = those of the benchmark's original scripts, where they can be had."""
    postprocess: Literal["none", "reference"] = "none"
    """reference = borders of pure black are cut off, as in BAGEL's and SRUM's scripts; images may become smaller."""
    retries: int = field(default=2, validator=_at_least_0)
    """Retries of an answer that the benchmark cannot read before it counts as unreadable."""
    temperature: float = field(default=0.7, validator=_positive)
    """Sampling temperature of those retries; the first answer is greedy."""
    before: bool = True
    """Also evaluate the model as it was before any training."""

    @property
    def borders(self) -> bool:
        """Whether images keep black borders."""
        return self.postprocess == "none"


@frozen(kw_only=True)
class Settings:
    """A run. A component is a name, or a table {use = "name", option = value}; `use` may be a path "module:Class"."""

    seed: int = field(default=0, validator=_at_least_0)
    """Every random number of the run follows from it."""
    rounds: int | tuple[tuple[str, ...], ...] = field(default=1, validator=_some)
    """Rounds of generate, ground, judge, train; each starts from the weights of the one before. Instead of a number, a
    list of each round's changes to these settings, as texts KEY=VALUE ([] = none); evaluations keep the settings."""
    prompts: str | tuple[str, ...] = field(default="starter", validator=_not_empty)
    """A list that a plugin knows ("starter"), a .txt, .csv, .json or .jsonl file, or a list of the texts themselves."""
    adapter: Use
    """The model."""
    start: str = ""
    """The folder of another run, whose trained model this one starts from (FOLDER = after its last finished round, or
    FOLDER:ROUND); "" = the adapter's own weights."""
    generator: Use | None = None
    """Who generates the candidates; "" = the model itself. It is not trained and not evaluated."""
    answerer: Use | None = None
    """The answerer of the judges' questions; "" = the model itself."""
    grounder: Use = field(factory=lambda: Use("grid"))
    """Proposes the regions."""
    verifier: Use | None = None
    """A judge that is asked about the proposed regions first; those it scores below 0 are dropped. "" = none."""
    judges: tuple[Use, ...] = field(factory=lambda: (Use("global-layout"), Use("local-regions")), validator=_not_empty)
    """The judges, which ask questions and score."""
    map: Use = field(factory=lambda: Use("paper"))
    """How scores become a weight per latent cell."""
    loss: Use = field(factory=lambda: Use("srum"))
    """The loss; the reference term's weight is one of its options."""
    benchmark: Use | None = None
    """The benchmark of the evaluations; "" = none."""
    generate: Generate = Generate()
    ground: Ground = Ground()
    judge: Judge = Judge()
    select: Select = Select()
    train: Train = Train()
    lora: Lora = Lora()
    evaluate: Evaluate = Evaluate()

    @property
    def round_count(self) -> int:
        """How many rounds there are."""
        return self.rounds if isinstance(self.rounds, int) else len(self.rounds)

    @property
    def round_numbers(self) -> range:
        """The numbers of the rounds, from 1."""
        return range(1, self.round_count + 1)

    def changes(self, round: int | None) -> tuple[str, ...]:
        """The changes of a round; none for None (the model before training) and for a round that does not exist."""
        if isinstance(self.rounds, int) or round is None or round not in self.round_numbers:
            return ()
        return self.rounds[round - 1]


COMPONENTS = {
    "adapter": "adapter",
    "generator": "generator",
    "answerer": "answerer",
    "grounder": "grounder",
    "verifier": "judge",
    "judges": "judge",
    "map": "map",
    "loss": "loss",
    "benchmark": "benchmark",
}
"""The settings that name components, and of which kind."""
