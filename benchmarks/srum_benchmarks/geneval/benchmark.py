"""The benchmark `geneval`: detections come from a detector, or from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from srum_benchmarks import detections, published, summary
from srum_benchmarks.detections import Detection
from srum_benchmarks.geneval import detection, prompts, scoring
from srum_benchmarks.options import GenEvalOptions
from srum_benchmarks.summary import Cell, Scored
from srum_core.records import Candidate, Layout, Prompt, PromptFile, Question, Row


class GenEval:
    """Raises ConfigError for a folder without the prompts, and for images without detections."""

    judge: ClassVar[str] = "mask2former"
    layouts: ClassVar[Mapping[str, str]] = {"geneval": "GenEval's evaluation/evaluate_images.py, and copies of it"}

    def __init__(self, options: GenEvalOptions | None = None) -> None:
        self.options = options or GenEvalOptions()
        self._recorded: detections.Recorded | None = None

    def prompts(self, split: str) -> Sequence[Prompt]:
        return prompts.load(self.options.data, self.options.prompts, self.options.verify)

    def survey(self) -> Sequence[PromptFile]:
        return prompts.survey(self.options.data, self.options.prompts)

    published = staticmethod(partial(published.read, "geneval"))

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        if self.options.detections:
            return ()
        text = detection.question(detection.request_of(candidate.prompt.tags["metadata"]))
        return [Question(candidate.image, text, max_new_tokens=detection.TOKENS)]

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        _, why = self._detections(candidate, answers)
        return {0: why} if why else {}

    def item(self, prompt: Prompt) -> tuple[str, str]:
        return prompt.tags["tag"], str(int(prompt.id))

    def layout(self, target: str, images: Sequence[tuple[int, Candidate]]) -> Layout:
        """Images by prompt, each folder with the prompt's own line."""
        links = {path(each.prompt.id, number): each.image for number, each in images}
        lines = {
            Path(each.prompt.id) / "metadata.jsonl": json.dumps(each.prompt.tags["metadata"]) + "\n"
            for _, each in images
        }
        return Layout(links, lines, scored_files)

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        """Without `correct` the answer could not be read."""
        objects, _ = self._detections(candidate, answers)
        if objects is None:
            return {"readable": 0.0}
        return {"correct": float(scoring.evaluate(objects, candidate.prompt.tags["metadata"]).correct)}

    def _detections(self, candidate: Candidate, answers: Sequence[str]) -> tuple[Sequence[Detection] | None, str]:
        if answers:
            return detection.read(answers[0], candidate.prompt.tags["metadata"])
        if self._recorded is None:
            self._recorded = detections.read(self.options.detections, prompts.NAME)
        return self._recorded.of(candidate.image), ""

    def table(self, scored: Scored) -> Sequence[Row]:
        """One row a task, their mean, and the share of prompts with any correct image."""
        cells = summary.cells(scored, "correct")
        readable = summary.coverage(cells)
        kind, detector = f"{self.options.prompts} prompts", self.options.detector
        more = [kind, f"detector {detector}" if detector else ""]
        note = summary.note(self.options, readable, scored, sum(prompts.TAGS.values()), *more)
        parts = summary.by_group(scored, "correct", "tag", prompts.TAGS)
        rows = [summary.row(tag, [(1.0, part)], note) for tag, part in parts.items()]
        if parts:
            best: dict[str, float] = {}
            for cell in cells:
                if cell.value is not None:
                    best[cell.prompt] = max(best.get(cell.prompt, 0.0), cell.value)
            any_image = summary.part(Cell(prompt, value) for prompt, value in best.items())
            rows.append(summary.row("overall", summary.equal(parts.values()), note))
            rows.append(summary.row("images", [(1.0, summary.part(cells))], note))
            rows.append(summary.row("any of a prompt", [(1.0, any_image)], note))
        return [*rows, Row("readable", readable, len(scored), note=note)]


def path(prompt: str, image: int) -> Path:
    """The path at which GenEval's scorer expects image number `image` (from 0) of a prompt with this id."""
    return Path(prompt) / "samples" / f"{image:05d}.png"


def scored_files(folder: Path) -> list[Path]:
    """The files that it scores, relative to the folder, in order: every file in samples/ of a folder named by a number,
    whose name *starts* like 00000.png, so also 00005.png.bak."""
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and each.name.isdecimal())
    paths = [path for each in folders for path in sorted((each / "samples").glob("*"))]
    return [path.relative_to(folder) for path in paths if re.match(r"\d+\.png", path.name)]
