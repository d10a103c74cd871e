"""TensorBoard and W&B, and checks of optional packages. No torch at import.

Trackers are off unless `train.trackers` names them; metrics.jsonl is always written. The base and every round
are separate runs: W&B groups them by the folder's name, TensorBoard reads `logs` in their folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from attrs import frozen

from srum_core.errors import ConfigError, TrainingError, clean, extra
from srum_core.models.images import open_rgb
from srum_core.options import flatten
from srum_core.runs.store import write_atomic

if TYPE_CHECKING:
    from srum_core.config.settings import Train
    from srum_core.records import Box, Candidate, Judgement
    from srum_core.runs.run import Run

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Packages of each tracker, one of which is needed."""
_OFFLINE = "Run `wandb login`, set WANDB_API_KEY, or keep everything on disk with WANDB_MODE=offline."
_SIDE = 512
"""Longer side in pixels of TensorBoard's images: labels are written into them."""
log = logging.getLogger("srum")


def check(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed, or that would ask for an account."""
    for name in names:
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise ConfigError(
                f'train.trackers names "{name}", but the package {PACKAGES[name][0]} is not installed. Install it with '
                f"{extra(name)}, or leave {name} out of train.trackers; metrics.jsonl is written anyway."
            )
    if "wandb" in names:
        import wandb

        try:
            logged_in = wandb.setup().settings.mode != "online" or wandb.login(prompt=False)
        except TypeError:  # an older version, which asks for an account
            logged_in = True
        except Exception as error:  # the server refuses the key or cannot be reached
            raise ConfigError(f"train.trackers names wandb, which cannot log in: {clean(error)} {_OFFLINE}") from error
        if not logged_in:
            raise ConfigError(f"train.trackers names wandb, but no account is logged in. {_OFFLINE}")


def check_optimizer(name: str, sharded: bool) -> None:
    """Raise TrainingError if the optimizer `train.optimizer` is not available for full or sharded weights."""
    if name == "adamw8bit" and sharded:
        raise TrainingError(
            "train.optimizer=adamw8bit does not work on sharded weights. Use train.optimizer=adamw, whose state is "
            "sharded with them, or --launch ddp."
        )
    if name == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise TrainingError(
            "train.optimizer=adamw8bit needs the package bitsandbytes, which is not installed here: "
            f"{extra('8bit')}, or use train.optimizer=adamw."
        )


def check_offload(offloaded: bool, several: bool) -> None:
    """Raise TrainingError if several processes train a model that is partly `offloaded` to host memory."""
    if offloaded and several:
        raise TrainingError(
            "adapter.offload=cpu works with one process. Leave out --launch; or use --launch fsdp2-offload without "
            "adapter.offload=cpu."
        )


# ---- what is tracked -------------------------------------------------------------------------------------------------


@frozen
class Example:
    """A sample image: its caption, and boxes with label and score (None = it has none)."""

    image: Path
    caption: str
    boxes: tuple[tuple[Box, str, float | None], ...] = ()


def examples(run: Run, round: int) -> list[Example]:
    """Return the first judged image of each of the first prompts, which are the same in every round."""
    first: dict[str, str] = {}
    for item in run.planned(round):
        first.setdefault(item.prompt.id, item.id)
    candidates, judgements = run.candidates(round), run.judgements(round)
    both = candidates.ids() & judgements.ids()
    ids = [each for each in first.values() if each in both][: run.settings.train.samples]
    return [_example(*each) for each in zip(candidates.select(ids), judgements.select(ids), strict=True)]


def _example(candidate: Candidate, judgement: Judgement) -> Example:
    boxes = []
    for region in judgement.regions:
        values = [each.value for each in judgement.scores if each.region == region.id]
        score = fmean(values) if values else None
        name = clean(region.label or region.id, 40)
        boxes.append((region.box, f"{name} {'no score' if score is None else f'{score:+.2f}'}", score))
    lines = [f"{each.region or 'global'} {each.value:+.2f} {clean(each.reason)}" for each in judgement.scores]
    return Example(candidate.image, "\n".join([clean(candidate.prompt.text), *lines]), tuple(boxes))


# ---- the trackers ----------------------------------------------------------------------------------------------------


class TensorBoard:
    """Evaluations are logged by round."""

    def open(self, folder: Path, train: Train, settings: Mapping[str, Any], done: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            from tensorboardX import SummaryWriter  # type: ignore[no-redef]
        # What an interrupted training has logged beyond its saved state is forgotten, without one also its images.
        purge = done + 1 if done else done
        self.writer: Any = SummaryWriter(str(folder / "logs" / train.project), purge_step=purge)
        if done is not None:
            self.writer.add_hparams(settings, metric_dict={})
        if train.tags:
            self.writer.add_text("tags", ", ".join(train.tags))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def images(self, name: str, step: int, examples: Sequence[Example]) -> None:
        import numpy as np
        from PIL import ImageOps

        for number, each in enumerate(examples, 1):
            image = ImageOps.contain(open_rgb(each.image), (_SIDE, _SIDE))
            boxes = np.array([box for box, *_ in each.boxes]).reshape(-1, 4) * (*image.size, *image.size)
            labels = [label.encode("ascii", "replace").decode() for _, label, _ in each.boxes]
            self.writer.add_image_with_boxes(
                f"{name}/{number}",
                np.asarray(image),
                np.minimum(boxes, _SIDE - 1),
                step,
                dataformats="HWC",
                labels=labels,
            )
        captions = [each.caption.replace("\n", "  \n   ") for each in examples]
        self.writer.add_text(name, "\n".join(f"{number}. {text}" for number, text in enumerate(captions, 1)), step)

    def table(
        self, name: str, step: int, values: Mapping[str, float], head: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in (head, ["---"] * len(head), *rows)]
        self.writer.add_text(name, "\n".join(lines), step)
        self.numbers(step, {f"{name}/{row}": value for row, value in values.items()})

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A training that is resumed, and its evaluation, continue the run."""

    def open(self, folder: Path, train: Train, settings: Mapping[str, Any], done: int | None) -> None:
        import wandb

        path = folder / "logs" / "wandb-id"
        if not path.exists():
            write_atomic(path, uuid4().hex)
        group = folder.parent.name
        self.run: Any = wandb.init(
            project=train.project,
            group=group,
            name=f"{group}/{folder.name}",
            tags=list(train.tags),
            id=path.read_text("utf-8"),
            resume="allow",
            dir=str(folder),
        )
        self.run.config.update(settings, allow_val_change=True)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def images(self, name: str, step: int, examples: Sequence[Example]) -> None:
        import wandb

        images = []
        for each in examples:
            boxes = [
                {
                    "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
                    "class_id": 2 if score is None else int(score >= 0),
                    "box_caption": label,
                    "scores": {} if score is None else {"score": score},
                }
                for box, label, score in each.boxes
            ]
            layer = {"box_data": boxes, "class_labels": {0: "below 0", 1: "0 or more", 2: "no score"}}
            images.append(wandb.Image(open_rgb(each.image), caption=each.caption, boxes={"regions": layer}))
        # A training that begins again does not log its candidates twice: W&B ignores earlier steps.
        self.run.log({name: images}, step=0 if name == "candidates" else None)

    def table(
        self, name: str, step: int, values: Mapping[str, float], head: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        import wandb

        table = wandb.Table(columns=list(head), data=[list(row) for row in rows])
        self.run.log({name: table, **{f"{name}/{row}": value for row, value in values.items()}})

    def close(self) -> None:
        self.run.finish()


KINDS: Mapping[str, Callable[[], TensorBoard | WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Trackers:
    """The trackers of one round (None: the base). One that fails is reported and not used again; the run continues."""

    def __init__(self, run: Run, round: int | None, stage: str, done: int | None = None, used: bool = True) -> None:
        """`done`: steps of training that are logged already; `used`: whether this process logs."""
        train, folder = run.settings.train, run.round_folder(round)
        self.step = 0 if done is not None else round or 0  # a resumed training purges later steps from TensorBoard
        plain = bool | int | float | str  # trackers take nothing else
        settings = flatten(run.stage_settings(stage, round))
        settings = {name: each if isinstance(each, plain) else str(each) for name, each in settings.items()}
        self.active = {name: KINDS[name]() for name in train.trackers if used}
        self._call(lambda tracker: tracker.open(folder, train, settings, done))

    def numbers(self, step: int, *tables: Mapping[str, Any]) -> None:
        """Log one step's numbers, without unknown ones (None)."""
        values = {name: value for table in tables for name, value in table.items() if value is not None}
        self._call(lambda tracker: tracker.numbers(step, values))

    def images(self, name: str, examples: Callable[[], Sequence[Example]]) -> None:
        """Log sample images."""
        if self.active and (samples := examples()):
            self._call(lambda tracker: tracker.images(name, self.step, samples))

    def table(self, name: str, values: Mapping[str, float], head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Log a table as it is printed, and its numbers."""
        self._call(lambda tracker: tracker.table(name, self.step, values, head, rows))

    def close(self) -> None:
        """Close the trackers, and only them: other stages may continue in this process."""
        self._call(lambda tracker: tracker.close())

    def _call(self, act: Callable[[TensorBoard | WandB], None]) -> None:
        for name, tracker in list(self.active.items()):
            try:
                act(tracker)
            except Exception as error:  # hours of training must not end because a logger fails
                log.warning("%s failed and is not used again: %s. metrics.jsonl is complete.", name, clean(error))
                del self.active[name]
