"""A run: a folder, the settings it is made with, and the plugins they name. No torch until a model is needed."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs
from attrs import field, frozen

from srum_core import config, plugins
from srum_core.config import Settings
from srum_core.config.settings import COMPONENTS
from srum_core.errors import ConfigError, RecordError, clean
from srum_core.options import SPEED, Use, to_plain
from srum_core.records import Candidate, Grounding, Judgement, Prompt
from srum_core.runs.files import ABOUT, FOLDERS, STAGES, delete, lora_only, read_file, read_json, trained_in, way_out
from srum_core.runs.prompts import check_prompts, load_prompts
from srum_core.runs.store import Records, check_settings, read_list, refuse_older, write_atomic, write_list

if TYPE_CHECKING:
    from srum_core.protocols import Answerer, Benchmark, ImageGenerator, Judge, UnifiedModel

_INPUTS = {
    "generate": ("seed", "adapter", "generator", "prompts", "generate"),
    "ground": ("grounder", "verifier", "ground", "answerer"),
    "judge": ("judges", "judge", "answerer"),
    "train": ("seed", "select", "train", "lora", "map", "loss"),
    "evaluate": ("seed", "adapter", "benchmark", "evaluate", "answerer"),
}
"""The settings that the output of a stage depends on, without those of earlier stages."""


@frozen
class Planned:
    """An image to be generated. `id` never changes: it is the hash of the prompt's id, the index and the seed."""

    id: str
    prompt: Prompt
    seed: int

    @classmethod
    def of(cls, prompt: Prompt, index: int, seed: int) -> Planned:
        return cls(hashlib.sha256(repr((prompt.id, index, seed)).encode()).hexdigest()[:20], prompt, seed)


def _absolute(folder: Path) -> Path:
    return Path(folder).absolute()


@attrs.define
class Run:
    """Round k lies in `round-k/`; it starts from the base model and the checkpoints of all earlier rounds. Rounds count
    from 1; None is the model before training, `base`.

    What is read from and written to a round's folder goes by the settings of that round. Components (`model`,
    `answerer`, `judges`, `settings.map`, …) are the run's own; those of a round are `at(stage, round)`."""

    model_kind: ClassVar[str] = "adapter"
    """The kind of component that the setting `adapter` names."""
    folder: Path = field(converter=_absolute)
    settings: Settings
    registry: plugins.Registry
    checked: bool = True
    """Whether a folder that was made with other settings is refused; a report only reads."""
    _own: Settings | None = field(default=None, init=False, repr=False)
    """Where `settings` are those of a round: the run's."""
    _loaded: dict[str, tuple[Any, Any]] = field(factory=dict, init=False, repr=False)
    """The model, generator and answerer in memory, each with what it was made for."""

    def __attrs_post_init__(self) -> None:
        refuse_older(self.folder)  # before --redo can take its second round for the first

    @classmethod
    def create(cls, folder: Path, settings: Settings, registry: plugins.Registry) -> Run:
        """Create the folder or reopen it. Raises RecordError if its content was made with other settings."""
        run = cls(folder, settings, registry)
        run.check()
        run.write_settings()
        return run

    def write_settings(self) -> None:
        text = config.to_toml(self.settings, self.registry.versions())
        path = self.folder / "run.toml"
        if not path.exists() or read_file(path) != text.encode():
            write_atomic(path, text)

    @classmethod
    def open(cls, folder: Path, registry: plugins.Registry | None = None) -> Run:
        """The run in a folder, as its run.toml says. Raises RecordError where there is none.

        Options of another version in it are left out, with a warning."""
        path = Path(folder) / "run.toml"
        if not path.is_file():
            raise RecordError(f"{folder} is not the folder of a run: it has no run.toml.")
        registry = registry or plugins.discover()
        return cls(Path(folder), config.open_settings(path, registry), registry)

    def check(self) -> None:
        """Raise RecordError if any stage's output was made with settings that differ from this run's."""
        for stage in STAGES:
            for k in (None, *sorted({*self._rounds()} & {*self.settings.round_numbers})):
                check_settings(self.stage_folder(stage, k), self.stage_settings(stage, k), stage)

    def at(self, stage: str, round: int | None) -> Self:
        """This run with the settings that a stage of a round has; an evaluation has the run's own settings.

        Both keep the same model loaded."""
        run = copy(self)
        run._own = self._own or self.settings
        changed = None if stage == "evaluate" else round
        run.settings = config.of_round(run._own, changed, self.registry, self.model_kind)
        return run

    # ---- folders ----------------------------------------------------------------------------------------------------

    def round_folder(self, round: int | None) -> Path:
        """`round-k`, or `base` for None: the model before any training."""
        return self.folder / ("base" if round is None else f"round-{round}")

    def stage_folder(self, stage: str, round: int | None) -> Path:
        return self.round_folder(round) / FOLDERS[stage]

    def done(self, stage: str, round: int | None) -> bool:
        return (self.stage_folder(stage, round) / "DONE").exists()

    def last(self, stage: str) -> int | None:
        """The last round that has finished a stage; None if none has."""
        return max((k for k in self._rounds() if self.done(stage, k)), default=None)

    def redo(self, stage: str, round: int = 1) -> None:
        """Delete a stage's output and all that was made from it: the rest of its round, and later rounds.

        Nothing is made from an evaluation, so `evaluate` deletes evaluations only (of every round from `round` on, and
        the base's with the first)."""
        if stage == "evaluate":
            for k in (None, *self._rounds()):
                if (k or 1) >= round:
                    shutil.rmtree(self.stage_folder(stage, k), ignore_errors=True)
            return
        for k in sorted((k for k in self._rounds() if k >= round), reverse=True):
            keep = {"memory.json", "prompts.jsonl", *(FOLDERS[before] for before in STAGES[: STAGES.index(stage)])}
            keep = keep if k == round and stage != "generate" else set()
            for path in self.round_folder(k).iterdir():
                if path.name.partition(".before-")[0] not in keep:  # `srum reread` keeps judgements.before-1, …
                    delete(path)

    def _rounds(self) -> list[int]:
        """Those with a folder."""
        numbers = (path.name.removeprefix("round-") for path in self.folder.glob("round-*"))
        return [int(number) for number in numbers if number.isdecimal()]

    # ---- inputs and outputs of the stages -------------------------------------------------------------------------

    def stage_settings(self, stage: str, round: int | None) -> dict[str, Any]:
        """The settings that a stage's folder remembers; those of the stages before it are checked in their folders."""
        settings = self.at(stage, round).settings
        # Folders of layout 1, in which images and measures were one list, are refused.
        inputs: dict[str, Any] = {"layout": 2} if stage == "evaluate" else {}
        for name in _INPUTS[stage]:
            value, kind = getattr(settings, name), COMPONENTS.get(name)
            if kind is None:
                inputs[name] = to_plain(value)
            elif name == "judges":
                inputs[name] = [made_with(self.registry, kind, use) for use in value]
            elif name != "generator" or value is not None:
                kind = "generator" if name == "adapter" else kind  # finds adapters too
                inputs[name] = made_with(self.registry, kind, value)
        if stage == "evaluate":
            inputs["evaluate"].pop("before")  # whether there is a base evaluation, not how it is made
        if stage == "train":
            for name in ("project", "tags", "samples"):  # of trackers
                inputs["train"].pop(name)
        if self.settings.start and stage in ("generate", "train", "evaluate"):
            run, rounds = started_from(self.settings.start, self.registry)
            inputs["start"] = {"run": self.settings.start, "trained": run.fingerprint(rounds)}
        return inputs

    def prompts(self, round: int) -> list[Prompt]:
        """The prompts of a round, as they were when it started (`prompts.jsonl`) or as they are now."""
        path = self.round_folder(round) / "prompts.jsonl"
        if path.exists():
            return read_list(path, Prompt)
        settings = self.at("generate", round).settings
        return load_prompts(settings.prompts, self.registry, settings.generate.limit)

    def keep_prompts(self, round: int) -> None:
        """Write down the prompts a round starts with: a list that is edited later changes nothing in it."""
        path = self.round_folder(round) / "prompts.jsonl"
        if not path.exists():
            write_list(path, self.prompts(round))

    def planned(self, round: int) -> list[Planned]:
        """The images of a round, in order. All stages process them in this order."""
        count = self.at("generate", round).settings.generate.candidates
        return [self.plan(prompt, index, round) for prompt in self.prompts(round) for index in range(count)]

    def planned_evaluation(self) -> list[Planned]:
        """The images of every evaluation: the same prompts and seeds before and after each round."""
        return self.plan_evaluation(self.evaluated_prompts())

    def evaluated_prompts(self) -> list[Prompt]:
        """The benchmark's prompts as they are today, as many as are set. Raises ConfigError if there is none."""
        settings, name = self.settings.evaluate, self._benchmark().use
        prompts = list(self.benchmark().prompts(settings.split))
        check_prompts(prompts, f"benchmark {name}, split {settings.split}")
        if not prompts:
            raise ConfigError(f"benchmark {name} has no prompts in the split {settings.split}.")
        return prompts[: settings.limit or None]

    def plan_evaluation(self, prompts: Sequence[Prompt]) -> list[Planned]:
        """As many images as are set for each prompt of a benchmark, with the seeds that are set."""
        settings, name = self.settings.evaluate, self._benchmark().use
        places = [(prompt, index) for prompt in prompts for index in range(settings.images)]
        if settings.seeds == "run":
            return [self.plan(prompt, index, "evaluate") for prompt, index in places]
        benchmark = self.benchmark()
        if settings.seeds == "image":
            item = getattr(benchmark, "item", lambda prompt: ("", prompt.id))
            labels = [":".join(map(str, (self.settings.seed, name, *item(prompt), index))) for prompt, index in places]
            seeds = [int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") for label in labels]
        elif hasattr(benchmark, "reference_seed"):
            seeds = [int(benchmark.reference_seed(prompt, index)) for prompt, index in places]
        else:
            raise ConfigError(
                f'evaluate.seeds = "reference" is not available for {name}: the original scripts seed once and '
                "generate one image after another, so that an image depends on the number of processes and on "
                'existing images. Use evaluate.seeds = "image".'
            )
        return [Planned.of(*place, seed) for place, seed in zip(places, seeds, strict=True)]

    def plan(self, prompt: Prompt, index: int, purpose: int | str) -> Planned:
        """Image number `index` for a prompt, generated in a round (or for another purpose, which gives other seeds)."""
        if isinstance(purpose, int):
            return Planned.of(prompt, index, self.round_seed("draw", purpose, prompt.id, index))
        return Planned.of(prompt, index, self.derive_seed("draw", purpose, prompt.id, index))

    def round_seed(self, purpose: str, round: int | None, *what: str | int | None) -> int:
        """A seed for something in a round."""
        # Streams count rounds from 0, as folders once did: a run with the same seed gives the same numbers as before.
        return self.derive_seed(purpose, None if round is None else round - 1, *what)

    def derive_seed(self, *what: str | int | None) -> int:
        """A seed (31 bits) that depends on the run's seed and on its purpose only."""
        digest = hashlib.sha256(repr((self.settings.seed, *what)).encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    # ---- records ----------------------------------------------------------------------------------------------------

    def candidates(self, round: int) -> Records[Candidate]:
        return self.records("generate", round, Candidate)

    def groundings(self, round: int) -> Records[Grounding]:
        return self.records("ground", round, Grounding)

    def judgements(self, round: int) -> Records[Judgement]:
        return self.records("judge", round, Judgement)

    def records(self, stage: str, round: int | None, kind: type[Any]) -> Records[Any]:
        """The records of a stage. Raises RecordError if they were made with other settings."""
        settings = self.stage_settings(stage, round) if self.checked else None
        return Records(self.stage_folder(stage, round), kind, settings, stage=stage)

    # ---- components -------------------------------------------------------------------------------------------------

    def _cached(self, name: str, purpose: Any, make: Callable[[], Any]) -> Any:
        if name not in self._loaded or self._loaded[name][0] != purpose:
            self._loaded.pop(name, None)  # before the next one needs its memory
            if name != "answerer":
                self.release()
            self._loaded[name] = (purpose, make())
        return self._loaded[name][1]

    def release(self) -> None:
        """Let go of the model and the generator: one has been trained or wrapped, or their memory is needed."""
        for name in ("model", "generator"):
            self._loaded.pop(name, None)
        gc.collect()

    def model(self, rounds: int) -> UnifiedModel:
        """The model after so many rounds, 0 = the base, with which round 1 starts: a full checkpoint takes the base's
        place, PEFT ones are merged in order.

        Kept until that of another round is needed, or one with other options, or `release`. Raises RecordError if
        one of these rounds is not trained."""
        model: UnifiedModel = self._cached("model", (rounds, self.settings.adapter), lambda: self._load(rounds))
        return model

    def _load(self, rounds: int) -> UnifiedModel:
        from srum_core.models import trained  # torch

        use, adapters = self.trained(rounds)
        model: UnifiedModel = self.registry.create(self.model_kind, use)
        for folder in adapters:
            trained.apply(model, folder)
        return model

    def sampler(self, rounds: int) -> ImageGenerator:
        """Who generates candidates after so many rounds: `generator`, or else the model itself."""
        use = self.generated_by
        if use is None:
            return self.model(rounds)
        make = partial(self.registry.create, "generator", use)
        generator: ImageGenerator = self._cached("generator", (rounds, use), make)
        return generator

    def answerer(self, rounds: int) -> Answerer:
        """The answerer after so many rounds: `answerer`, or else the model itself."""
        use = self.settings.answerer
        if use is None:
            return self.model(rounds)
        answerer: Answerer = self._cached("answerer", use, partial(self.registry.create, "answerer", use))
        return answerer

    def trained(self, rounds: int) -> tuple[Use, list[Path]]:
        """What so many rounds left: the adapter with its last full checkpoint, and the PEFT ones to merge into it."""
        use, adapters = on_base(self.settings.adapter)
        if self.settings.start:
            run, last = started_from(self.settings.start, self.registry)
            before, adapters = run.trained(last)
            use = Use(use.use, {**use.options, **{k: v for k, v in before.options.items() if k == "checkpoint"}})
        for k in range(1, rounds + 1):
            folder = self.stage_folder("train", k)
            if not self.done("train", k):
                raise RecordError(f"The model that round {k} trains is needed, but {folder} is not finished.")
            from srum_core.models import trained  # torch

            if trained.kind(folder) == "lora":
                adapters = [*adapters, folder]
            else:
                use, adapters = Use(use.use, {**use.options, "checkpoint": str(folder)}), []
        return use, adapters

    def fingerprint(self, rounds: int) -> str:
        """A hash of how the first rounds were trained: another training has another log."""
        logs = [self.round_folder(k) / "metrics.jsonl" for k in range(1, rounds + 1)]
        return hashlib.sha256(b"".join(path.read_bytes() for path in logs if path.is_file())).hexdigest()

    @property
    def generated_by(self) -> Use | None:
        """The setting `generator`, with the adapter's size where one is set and its own option `size` is not."""
        use, size = self.settings.generator, self.settings.adapter.options.get("size")
        if use is None or not size or use.options.get("size") != [0, 0]:
            return use
        return Use(use.use, {**use.options, "size": size})

    def judges(self) -> list[tuple[str, Judge]]:
        """The judges, under the names by which their exchanges are recorded: the second "zoom" is "zoom 2"."""
        names = Counter[str]()
        judges = []
        for use in self.settings.judges:
            names[use.use] += 1
            name = use.use if names[use.use] == 1 else f"{use.use} {names[use.use]}"
            judges.append((name, self.registry.create("judge", use)))
        return judges

    def benchmark(self) -> Benchmark:
        benchmark: Benchmark = self.registry.create("benchmark", self._benchmark())
        return benchmark

    def _benchmark(self) -> Use:
        if self.settings.benchmark is None:
            raise ConfigError(
                "This needs a benchmark, but the settings name none. Set benchmark=NAME (see `srum plugins`)."
            )
        return self.settings.benchmark


def made_with(registry: plugins.Registry, kind: str, use: Use | None) -> dict[str, Any] | None:
    """A component as plain data, without options that change only its speed."""
    if use is None:
        return None
    options = registry.component(kind, use.use).options
    fields = attrs.fields(options) if options else ()
    speed = {field.name for field in fields if field.metadata.keys() >= SPEED.keys()}
    return {name: value for name, value in to_plain(use).items() if name not in speed}


def generated(candidates: Records[Candidate], plan: Sequence[Planned]) -> Iterator[Candidate]:
    """The candidates of planned images, in order.

    Raises RecordError where one is missing, or was generated for another prompt than the plan has."""
    for item, candidate in zip(plan, candidates.select(item.id for item in plan), strict=True):
        then, now = candidate.prompt, item.prompt
        if then != now:
            path = candidates.folder.parent / "prompts.jsonl"
            raise RecordError(
                f'{path} was changed after image {candidate.id} was generated: prompt "{clean(now.id)}" is '
                f'"{clean(now.text, 80)}" {clean(now.tags or "", 80)} and was "{clean(then.text, 80)}" '
                f"{clean(then.tags or '', 80)}. {way_out(path)}"
            )
        yield candidate


def on_base(use: Use) -> tuple[Use, list[Path]]:
    """The adapter with the base that its checkpoint names, if that is a folder of LoRA weights in PEFT's layout; and
    the LoRA folders to merge into it, in order: those that it was trained on top of, and itself.

    Raises ConfigError where it names no base, or where its folder or one of the others is not there."""
    folder = Path(str(use.options.get("checkpoint", ""))).expanduser()
    config, about = folder / "adapter_config.json", folder / ABOUT
    if not use.options.get("checkpoint") or not config.is_file():
        return use, []
    content = read_json(config)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"adapter.checkpoint={folder} holds LoRA weights and names no base model. Write the folder or the name of "
            f"the one they were trained on as base_model_name_or_path into {config}."
        )
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ConfigError(
            f"adapter.checkpoint={folder} holds LoRA weights for the base model {base}, which is not there. Copy it "
            f"there, or correct base_model_name_or_path in {config}."
        )
    origin = read_json(about) if about.is_file() else {}
    below = origin.get("on_top_of", []) if isinstance(origin, dict) else []
    folders = [Path(os.path.normpath(folder / str(name))) for name in below]
    for path in folders:
        if not path.is_dir():
            raise ConfigError(
                f"adapter.checkpoint={folder} holds LoRA weights that were trained on top of those in {path}, which "
                f"is not there. Copy it there, or correct on_top_of in {about}."
            )
    return Use(use.use, {**use.options, "checkpoint": base}), [*folders, folder]


def started_from(start: str, registry: plugins.Registry) -> tuple[Run, int]:
    """The run that FOLDER:ROUND, FOLDER/round-ROUND/checkpoint, or FOLDER (the last round that is trained), means, and
    the round that trained the model last.

    Raises RecordError where that training is not finished."""
    folder, round = Path(start), ""
    if place := trained_in(folder):  # its checkpoint was named
        folder, round = place[0], str(place[1])
    elif not folder.is_dir():
        name, _, round = start.rpartition(":")
        folder = Path(name)
    if not (folder / "run.toml").is_file() or (round and not round.isdecimal()):
        if advice := lora_only(folder):
            raise RecordError(f"{start} {advice}")
        raise RecordError(f"{start} is not the folder of a run, nor FOLDER:ROUND of one: there is no run.toml.")
    run = Run.open(folder, registry)
    last = int(round) if round else run.last("train")
    if last is None or not run.done("train", last):
        which = "any round" if last is None else f"its round {last}"
        ending = "Rounds count from 1." if last == 0 else "Finish that run first."
        raise RecordError(f"{start} has not trained {which} to the end. {ending}")
    return run, last
