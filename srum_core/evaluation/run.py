"""The folder of an evaluation: settings, plan, images. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs import frozen

from srum_core import config, plugins
from srum_core.errors import RecordError, clean
from srum_core.files import read_file, way_out
from srum_core.protocols import ImageGenerator
from srum_core.records import Candidate, Prompt
from srum_core.runs.run import Planned, Run
from srum_core.runs.store import Records, check_settings, read_list, write_list

NOBODY = "rules"
"""The table of a benchmark that asks nobody."""


@frozen
class Pixels:
    """An image of a benchmark as it was drawn."""

    id: str
    candidate: Candidate
    sha256: str
    """Of its file."""
    number: int = 0
    """Which of its prompt's images, from 0."""


@attrs.define
class Evaluation(Run):
    """Settings are those of a training run; of them count adapter, start, benchmark, evaluate, answerer and seed."""

    model_kind: ClassVar[str] = "generator"

    @classmethod
    def open(cls, folder: Path, registry: plugins.Registry | None = None) -> Evaluation:
        """The evaluation in a folder. Raises RecordError where there is none."""
        path = Path(folder) / "run.toml"
        if not path.is_file():
            raise RecordError(
                f"{folder} is not the folder of an evaluation: it has no run.toml. Begin with srum eval run."
            )
        registry = registry or plugins.discover()
        return cls(Path(folder), config.open_settings(path, registry, cls.model_kind), registry)

    def keep(self) -> None:
        """Write the settings down. Raises RecordError if the images that are there were made with others."""
        check_settings(self.folder / "images", self.generation_settings(), "images")
        self.write_settings()

    @property
    def generator(self) -> ImageGenerator:
        """The model that is evaluated, with all rounds that `start` names."""
        return self.model(0)

    # ---- what is drawn ----------------------------------------------------------------------------------------------

    def choose_prompts(self) -> list[Prompt]:
        """Those prompts, written down the first time. Raises RecordError if they are others today."""
        prompts = self.evaluated_prompts()
        path = self.folder / "prompts.jsonl"
        if not (path.exists() and self.images().ids()):
            write_list(path, prompts)
        elif _as_json(there := read_list(path, Prompt)) != _as_json(prompts):
            raise RecordError(
                f"{path} holds {len(there)} prompts, and the benchmark gives {len(prompts)} today, which are not the "
                "same. Restore the benchmark's files, or choose another folder with --out."
            )
        return prompts

    def plan_images(self) -> list[Planned]:
        """The images of the prompts that were written down, in order; the benchmark's own files are not needed."""
        path = self.folder / "prompts.jsonl"
        if not path.exists():
            raise RecordError(f"Nothing is drawn in {self.folder} yet. Begin with srum eval generate.")
        prompts = read_list(path, Prompt)
        if not prompts:
            raise RecordError(f"{path} holds no prompt. {way_out(path)}")
        return self.plan_evaluation(prompts)

    def all_generated(self) -> bool:
        """Whether every image of the plan is there."""
        path = self.folder / "prompts.jsonl"
        if not path.exists() or not read_list(path, Prompt):
            return False
        return self.images().ids().issuperset(item.id for item in self.plan_images())

    def numbers(self) -> dict[str, int]:
        """Which of its prompt's images each is, by id."""
        count = self.settings.evaluate.images
        return {item.id: place % count for place, item in enumerate(self.plan_images())}

    def generation_settings(self) -> dict[str, Any]:
        """What images depend on; the prompts themselves are compared word by word."""
        made: dict[str, Any] = self.stage_settings("evaluate", None)
        benchmark = made["benchmark"] or {"use": ""}
        names = ("split", "images", "batch", "limit", "seeds", "postprocess")
        generated = {name: made["evaluate"][name] for name in names}
        kept: dict[str, Any] = {name: made[name] for name in ("seed", "adapter", "start") if name in made}
        return {**kept, "benchmark": benchmark["use"], "drawn": generated}

    def images(self) -> Records[Pixels]:
        return Records(self.folder / "images", Pixels, self.generation_settings(), stage="images")

    def generated(self, partial: bool = False) -> list[Pixels]:
        """All images in order, their files being what they were, without those that are failures. Raises RecordError
        for what is missing or changed; with `partial`, images that are not drawn yet are left out."""
        plan, records = [item.id for item in self.plan_images()], self.images()
        there = records.ids()
        missing = [identity for identity in plan if identity not in there]
        if missing and not partial:
            raise RecordError(
                f"{len(missing)} of {len(plan)} pictures of {self.folder} are not drawn yet. Draw them first with srum "
                "eval generate and the settings of before, or add --partial to go on with those that are there."
            )
        _refuse_extra(records.folder / "images", plan)
        found = list(records.select(identity for identity in plan if identity in there))
        for image in found:
            _check(image)
        usable = [image for image in found if not image.candidate.failure]
        if found and not usable:
            raise RecordError(
                f"None of the {len(found)} images of {self.folder} can be scored: "
                f"{clean(found[0].candidate.failure)} Use another adapter.dtype or checkpoint, and --redo images."
            )
        return usable


def _as_json(prompts: Sequence[Prompt]) -> list[str]:
    """Tags may hold tuples, which JSON gives back as lists."""
    return [json.dumps(attrs.asdict(prompt), sort_keys=True) for prompt in prompts]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(read_file(path)).hexdigest()


def _refuse_extra(folder: Path, plan: Sequence[str]) -> None:
    """What somebody put between the images would not be scored, which they might not expect."""
    planned = {f"{identity}.png" for identity in plan}
    extra = sorted(path for path in folder.glob("[!.]*") if path.name not in planned)
    if extra:
        raise RecordError(
            f"{extra[0]} is no picture of this evaluation ({len(extra)} of its folder are none), and would not be "
            "looked at. Remove it; pictures are drawn with srum eval generate."
        )


def _check(image: Pixels) -> None:
    path = image.candidate.image
    way_out = (
        f"Restore it; or remove the line of {image.id} from {path.parent.parent}/part-*.jsonl, and srum eval "
        "generate draws it again."
    )
    sha = digest(path)
    if sha != image.sha256:
        raise RecordError(
            f"The picture {path} is not the one that was drawn: its SHA-256 is {sha[:12]}…, and was "
            f"{image.sha256[:12]}…. {way_out}"
        )
