"""An evaluation's folder: settings, plan, images. Imports no torch before it generates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from srum_core import config, plugins
from srum_core.errors import RecordError, clean
from srum_core.models.images import read_files
from srum_core.records import Candidate, Prompt
from srum_core.runs.files import redo_option, way_out
from srum_core.runs.run import Planned, Run
from srum_core.runs.store import Records, check_settings, read_list, to_json, write_atomic, write_list
from srum_core.stages import generate
from srum_core.stages.chunks import Step, chunks

if TYPE_CHECKING:
    from srum_core.protocols import UnifiedModel


NO_JUDGE = "rules"
"""The name of the table of a benchmark without a judge."""


@attrs.define
class Evaluation(Run):
    """One model on one benchmark, in a folder of its own (`open`) or in a round of a training run (`after`).

    Settings are those of a training run; only adapter, start, benchmark, evaluate, answerer and seed are used."""

    model_kind: ClassVar[str] = "generator"
    source: tuple[Run, int | None] | None = None
    """The training run, and the round whose model is evaluated."""

    @classmethod
    def open(cls, folder: Path, registry: plugins.Registry | None = None) -> Evaluation:
        """Open the evaluation in a folder. Raises RecordError if there is none."""
        path = Path(folder) / "run.toml"
        if not path.is_file():
            raise RecordError(
                f"{folder} is not the folder of an evaluation: it has no run.toml. Start with srum eval run."
            )
        registry = registry or plugins.discover()
        return cls(Path(folder), config.open_settings(path, registry, cls.model_kind), registry)

    @classmethod
    def after(cls, run: Run, round: int | None) -> Evaluation:
        """Open the evaluation after a round of a training run. Raises RecordError if its settings differ."""
        run = run.at("evaluate", round)
        folder = run.stage_folder("evaluate", round)
        if run.checked:
            check_settings(folder, run.stage_settings("evaluate", round), "evaluate")
        evaluation = cls(folder, run.settings, run.registry, run.checked, (run, round))
        evaluation._loaded = run._loaded
        return evaluation

    def keep(self) -> None:
        """Write the settings. Raises RecordError if the existing images were generated with others."""
        if self.source is None:
            check_settings(self.folder / "images", self.generation_settings(), "images")
            self.write_settings()
        elif not (self.folder / "settings.json").exists():
            run, round = self.source
            write_atomic(self.folder / "settings.json", to_json(run.stage_settings("evaluate", round)))

    def model(self, rounds: int = 0) -> UnifiedModel:
        """Load the evaluated model, with all rounds that `start` names; it may only generate."""
        if self.source is None:
            return super().model(0)
        run, round = self.source
        return run.model(round or 0)

    def step(self, purpose: str) -> Step:
        """Return the step that seeds chunks: `purpose`, or the stage of the training run."""
        return Step(purpose, None) if self.source is None else Step("evaluate", self.source[1])

    def label(self, part: str) -> str:
        """Return the label of a part's progress bar."""
        return part if self.source is None else f"{self.step(part)}, {part}"

    # ---- what is generated ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write the settings and, the first time, the benchmark's prompts. Raises RecordError if the prompts have
        changed, unless every image exists."""
        self.keep()
        if self.all_generated():
            return
        prompts, path = self.evaluated_prompts(), self.folder / "prompts.jsonl"
        if not (path.exists() and self.images().ids()):
            write_list(path, prompts)
        elif _as_json(existing := read_list(path, Prompt)) != _as_json(prompts):
            option = redo_option(path)
            way = f"run once with {option}" if option else "choose another folder with --out"
            raise RecordError(
                f"{path} holds {len(existing)} prompts, and the benchmark now gives {len(prompts)}, which are not the "
                f"same. Restore the benchmark's files, or {way}."
            )

    def plan_images(self) -> list[Planned]:
        """Plan the images of the stored prompts, in order; this needs no files of the benchmark."""
        path = self.folder / "prompts.jsonl"
        if not path.exists():
            raise RecordError(f"Nothing is generated in {self.folder} yet. Start with srum eval generate.")
        prompts = read_list(path, Prompt)
        if not prompts:
            raise RecordError(f"{path} holds no prompt. {way_out(path)}")
        return self.plan_evaluation(prompts)

    def all_generated(self) -> bool:
        """Return whether every planned image exists."""
        path = self.folder / "prompts.jsonl"
        if not path.exists() or not read_list(path, Prompt):
            return False
        return self.images().ids().issuperset(item.id for item in self.plan_images())

    def numbers(self) -> dict[str, int]:
        """Return by id the number of each image among those of its prompt, from 0."""
        count = self.settings.evaluate.images
        return {item.id: place % count for place, item in enumerate(self.plan_images())}

    def generation_settings(self) -> dict[str, Any]:
        """Return the settings that images depend on; prompts are compared separately, word by word."""
        settings: dict[str, Any] = self.stage_settings("evaluate", None)
        benchmark = settings["benchmark"] or {"use": ""}
        names = ("split", "images", "batch", "limit", "seeds", "postprocess")
        generated = {name: settings["evaluate"][name] for name in names}
        model: dict[str, Any] = {name: settings[name] for name in ("seed", "adapter", "start") if name in settings}
        return {"layout": settings["layout"], **model, "benchmark": benchmark["use"], "drawn": generated}

    def images(self) -> Records[Candidate]:
        settings = (
            self.generation_settings() if self.source is None else None
        )  # a stage's settings are checked as a whole
        return Records(self.folder / "images", Candidate, settings, stage="images")

    def generated(self, partial: bool = False) -> list[Candidate]:
        """Return all images in order, without failures; with `partial`, without missing images.

        Raises RecordError for missing or changed files."""
        plan, records = [item.id for item in self.plan_images()], self.images()
        existing = records.ids()
        missing = [id for id in plan if id not in existing]
        if missing and not partial:
            raise RecordError(
                f"{len(missing)} of {len(plan)} images of {self.folder} are not generated yet. Generate them with "
                "srum eval generate and the same settings, or add --partial to use the existing ones."
            )
        _refuse_extra(records.folder / "images", plan)
        images = list(records.select(id for id in plan if id in existing))
        for image in images:
            read_files(image)
        usable = [image for image in images if not image.failure]
        if not missing and not usable:
            raise RecordError(
                f"None of the {len(images)} images of {self.folder} can be scored: {clean(images[0].failure)} Use "
                f"another adapter.dtype or checkpoint, and {redo_option(records.folder)}."
            )
        return usable


def _as_json(prompts: Sequence[Prompt]) -> list[str]:
    """Convert prompts to JSON, to compare them: tags may hold tuples, which JSON reads as lists."""
    return [json.dumps(attrs.asdict(prompt), sort_keys=True) for prompt in prompts]


def _refuse_extra(folder: Path, plan: Sequence[str]) -> None:
    """Raise RecordError for files that are not of this evaluation, and so would not be scored."""
    planned = {f"{identity}.png" for identity in plan}
    extra = sorted(path for path in folder.glob("[!.]*") if path.name not in planned)
    if extra:
        raise RecordError(
            f"{extra[0]} is not an image of this evaluation ({len(extra)} such files in its folder), and would not be "
            "scored. Remove it; images are generated with srum eval generate."
        )


def generate_images(run: Evaluation) -> None:
    """Generate every missing image; write an image before its record."""
    records, settings, step = run.images(), run.settings.evaluate, run.step("generate")
    plan, images = {item.id: item for item in run.plan_images()}, records.folder / "images"
    for chunk in chunks(run, list(plan), settings.batch, records, step, run.model, run.label("generate")):
        items = [plan[identity] for identity in chunk]
        records.extend(
            generate.generate_images(run.model(), items, images, records, latents=False, borders=settings.borders)
        )
