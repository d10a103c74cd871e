"""The public Python API, which `import srum_core` gives (docs/python-api.md). No torch until a model is loaded.

Rounds are counted from 1; 0 is the base, the model before any training. Errors are those of `srum_core.errors`.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen
from rich.console import Console, Group, RenderableType
from rich.jupyter import JupyterMixin

from srum_core import config, plugins
from srum_core.errors import CheckpointError, ConfigError, PluginError, RecordError, TrainingError, refuse, who_ended
from srum_core.evaluation import plan, tables
from srum_core.evaluation.run import NO_JUDGE, Evaluation
from srum_core.evaluation.stage import compare, perform, read_table
from srum_core.models.images import open_image
from srum_core.protocols import Answerer
from srum_core.records import Box, Candidate, Grounding, Judgement, Prompt, Question, Region, Row, Sample
from srum_core.runs import run as runs
from srum_core.runs.files import lock
from srum_core.runs.progress import log_file
from srum_core.stages import preflight
from srum_core.stages.interview import put, seen_by
from srum_core.stages.judge import judgements
from srum_core.stages.order import perform_all, steps

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from srum_core.protocols import UnifiedModel
    from srum_core.training.lora import Tuned

Named = str | Mapping[str, Any]
"""A name, or a table {"use": name, option: value}."""
Names = str | Sequence[str]
Settings = Mapping[str, Any]
"""By dotted name, such as {"train.steps": 10}."""


@frozen(eq=False)
class Model:
    """A loaded model."""

    unified: UnifiedModel
    """The adapter's object: `denoiser`, `recipe`, `encode`, `condition` (srum_core.protocols.UnifiedModel)."""
    run: runs.Run
    """The settings that it was loaded with, and the plugins. Nothing is written to its folder."""

    @classmethod
    def load(cls, settings: config.Settings, registry: plugins.Registry) -> Model:
        run = Evaluation(Path(), settings, registry)
        return cls(run.model(0), run)

    def samples(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Sample]:
        """One for every prompt, `generate.batch` at once. One with a `failure` is no image."""
        size = self.run.settings.generate.batch
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            samples = self.unified.generate(batch, seeds[start : start + size])
            count = f"generated {len(samples)} images for {len(batch)} prompts."
            refuse(len(samples) != len(batch), self.unified, count)
            yield from samples

    def generate(self, prompts: Names, seeds: Sequence[int] | None = None) -> list[Image]:
        """One image for every prompt, by default with seed 0. The same prompt and seed give the same image.

        Raises CheckpointError for invalid images, such as values that are not finite."""
        prompts = _listed(prompts)
        seeds = [0] * len(prompts) if seeds is None else seeds
        if len(seeds) != len(prompts):
            raise ConfigError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}.")
        samples = list(self.samples(prompts, seeds))
        for prompt, seed, sample in zip(prompts, seeds, samples, strict=True):
            if sample.failure:
                raise CheckpointError(f'There is no image for "{prompt}" (seed {seed}): {sample.failure}')
        return [sample.image for sample in samples]

    def answer(self, image: Image | str | Path, questions: Names) -> list[str]:
        """The model's own answers to questions about an image. Raises PluginError if it only generates."""
        with _stored(image) as path:
            return put(_answering(self.unified), [Question(path, text) for text in _listed(questions)])

    def tune(self) -> Tuned:
        """Make the denoiser trainable, as set by `train.method` and `lora`: call `tuned.module`,
        `tuned.parameters` are the trained parameters by name."""
        from srum_core.training.lora import tune  # torch

        settings = self.run.settings
        return tune(self.unified, settings.train.method, settings.lora, settings.train.checkpointing)


def load_model(
    adapter: str | None = None, preset: Names = (), trained: str | Path = "", overrides: Settings | None = None
) -> Model:
    """A model by its adapter's name, or `trained`: that of a run, after its last round (RUN) or after round K (RUN:K).

    Raises ConfigError with all that is wrong with the settings."""
    registry = plugins.discover()
    settings = plan.read_settings(adapter, _listed(preset), None, overrides or {}, registry, str(trained))
    return Model.load(settings, registry)


def judge(
    model: Model,
    image: Image | str | Path,
    prompt: str | Prompt,
    regions: Sequence[Region | Box],
    judges: Sequence[Named] = (),
) -> Judgement:
    """Judge an image with the given judges, or those of the settings. The setting `answerer` or the model answers.

    A box is (x0, y0, x1, y1) as fractions of the image; boxes become the regions "1", "2", …"""
    run = model.run
    prompt = Prompt("prompt", prompt) if isinstance(prompt, str) else prompt
    known = tuple(part if isinstance(part, Region) else Region(str(n), part) for n, part in enumerate(regions, 1))
    settings = attrs.evolve(run.settings, judges=tuple(map(plugins.as_use, judges)) or run.settings.judges)
    named_judges = runs.Run(run.folder, settings, run.registry).judges()

    def answerer() -> Answerer:
        return _answering(model.unified) if settings.answerer is None else run.answerer(0)

    with _stored(image) as path:
        candidate = Candidate("image", prompt, path, open_image(path).size, 0)
        if not all(hasattr(judge, "score_many") for _, judge in named_judges):  # else no answerer is needed
            (candidate,) = seen_by(answerer(), [candidate])
        pair = (candidate, Grounding(candidate.id, known))
        ask, seed = (lambda questions: put(answerer(), questions)), partial(run.derive_seed, "ask")
        (judgement,) = judgements(named_judges, [pair], settings.judge, ask, seed)
    return judgement


def reward_map(
    use: Named, judgement: Judgement, grid: tuple[int, int], among: Sequence[Judgement] | None = None
) -> Tensor:
    """A weight in [-1, 1] for every cell of a latent grid (rows, columns), out of a judgement's boxes and scores.

    `among`: all judgements of the round, on grids of this size; a map with `fit`, such as "advantage", compares with
    them, and raises TrainingError without them."""
    spread = plugins.discover().create("map", use)
    fit = getattr(spread, "fit", None)
    if among is not None and fit is not None:
        fit(among, [grid] * len(among))
    try:
        weight: Tensor = spread(judgement, grid)
    except TrainingError as error:
        hint = " In srum_core.reward_map: among=[all judgements of the round]." if fit and among is None else ""
        raise TrainingError(f"{error}{hint}") from error
    return weight


def train(adapter: str, preset: Names = (), out: str | Path | None = None, overrides: Settings | None = None) -> Run:
    """Do what `srum-train` does, in this process: every stage of every round that is not done yet in the folder `out`.

    Raises ConfigError before anything is loaded, with all that is wrong with the settings or missing for the run."""
    registry, presets = plugins.discover(), _listed(preset)
    settings = config.load_settings(adapter, presets, None, overrides or {}, registry)
    run = runs.Run(Path(out or default_folder(settings, presets)), settings, registry)
    with _at_work(run):
        preflight.refuse(preflight.problems(run, [step for step in steps(run) if not run.done(step.stage, step.round)]))
        with log_file(run.folder):
            perform_all(runs.Run.create(run.folder, settings, registry))
    return Run(run)


def default_folder(settings: config.Settings, presets: Sequence[str]) -> Path:
    """The usual folder of a run."""
    return Path("runs") / f"{settings.adapter.use.replace(':', '.')}-{'-'.join(presets) or 'default'}"


@frozen
class Run:
    """A training run in a folder."""

    run: runs.Run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Raises RecordError where there is none."""
        return cls(runs.Run.open(Path(folder)))

    @property
    def folder(self) -> Path:
        return self.run.folder

    def table(self) -> Table:
        """The evaluations of the base and after every round. Raises RecordError if none is finished."""
        comparison = compare(self.run)
        if comparison is None:
            raise RecordError(f"{self.folder} has no evaluation that is finished. Set a benchmark, and train again.")
        rounds = {"base": None, **{f"round {k}": k for k in self.run.settings.round_numbers}}
        columns = {name: read_table(self.run, number) for name, number in rounds.items()}
        return Table({name: rows for name, rows in columns.items() if rows}, comparison)

    def candidates(self, round: int = 1) -> dict[str, Candidate]:
        """The images of a round, by id."""
        return {candidate.id: candidate for candidate in self.run.candidates(self._known(round))}

    def judgements(self, round: int = 1) -> list[Judgement]:
        """The judgements of a round's images."""
        return list(self.run.judgements(self._known(round)))

    def model(self, round: int | None = None) -> Model:
        """The model after a round, by default the last; 0 = the base. It is loaded anew with every call.

        Raises RecordError if the round is not trained."""
        after = self.run.settings.round_count if round is None else round
        if after:
            self._known(after)
        model = Model(self.run.model(after), self.run)
        self.run.release()
        return model

    def _known(self, round: int) -> int:
        """The round. Raises RecordError where there is no such round."""
        if not 1 <= round <= self.run.settings.round_count:
            raise RecordError(f"{self.folder} has the rounds 1 to {self.run.settings.round_count}, not {round}.")
        return round


@frozen(repr=False)
class Table(JupyterMixin):
    """Rows of numbers by column, `table["round 1"]["accuracy"].value`; `print` and notebooks show them as a table."""

    columns: Mapping[str, Mapping[str, Row]]
    shown: RenderableType

    def __getitem__(self, column: str) -> Mapping[str, Row]:
        return self.columns[column]

    def __rich__(self) -> RenderableType:
        return self.shown

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=80, markup=False, emoji=False)
        with console.capture() as captured:
            console.print(self.shown)
        return captured.get().rstrip()


def evaluate(
    adapter: str | None = None,
    preset: Names = (),
    benchmark: Named | None = None,
    judge: Named | None = None,
    trained: str | Path = "",
    out: str | Path | None = None,
    overrides: Settings | None = None,
) -> Table:
    """Do what `srum eval run` does, in this process. The table has one column, "value".

    `judge` answers a benchmark's questions: an answerer, an adapter, or "self". `trained` as for `load_model`.
    Raises ConfigError before anything is loaded, with all that is wrong with the settings."""
    registry = plugins.discover()
    changes = {**({} if benchmark is None else {"benchmark": benchmark}), **(overrides or {})}
    settings = plan.read_settings(adapter, _listed(preset), None, changes, registry, str(trained), plan.FIRST)
    run = plan.new(settings, registry, Path(out) if out else None)
    with _at_work(run):
        preflight.refuse(plan.problems(run, judge=judge))
        with log_file(run.folder):
            run.begin()
            table = perform(run, *(plan.chosen_judge(run, judge, None) if plan.asks(run) else (NO_JUDGE, None)))
    assert table is not None, "no other process has a part in it"
    return Table({"value": table.by_name()}, Group(tables.show(table), *tables.remarks(table)))


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _answering(model: Any) -> Answerer:
    refuse(not isinstance(model, Answerer), model, "only generates images: it cannot answer. Set an answerer.")
    answerer: Answerer = model
    return answerer


@contextmanager
def _at_work(run: runs.Run) -> Iterator[None]:
    """Alone in the run's folder. A plugin's sys.exit() does not end the process."""
    try:
        with lock(run.folder):
            yield
    except SystemExit as error:
        raise PluginError(who_ended(error)) from error
    finally:
        run.release()


@contextmanager
def _stored(image: Image | str | Path) -> Iterator[Path]:
    """Write the image to a temporary file for the duration of the context."""
    if isinstance(image, str | Path):
        yield Path(image)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        image.save(path)
        yield path
