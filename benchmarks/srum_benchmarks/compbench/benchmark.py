"""The benchmark `compbench`: T2I-CompBench as the SRUM authors judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from srum_benchmarks import published, summary, templates
from srum_benchmarks.compbench import layout, prompts, scoring
from srum_benchmarks.options import CompBenchOptions
from srum_benchmarks.summary import Part, Scored
from srum_core.evaluation.published import Published
from srum_core.records import Candidate, Layout, Prompt, PromptFile, Question, Row


class CompBench:
    """Grades from 0 to 100. `complex` (the 300 prompts) and the mean of the released code's three complex folders (it
    counts 270 prompts twice) both have their overall.

    Raises ConfigError for a folder without the prompts, and for a template that cannot be used.
    """

    layouts: ClassVar[Mapping[str, str]] = {
        "compbench-srum": "CompBench_eval/qwen_eval.py of the SRUM authors: the first image of each prompt",
        "compbench-orig": "T2I-CompBench's own scorers (BLIP, UniDet, CLIP, 3-in-1)",
    }

    def __init__(self, options: CompBenchOptions | None = None) -> None:
        self.options = options or CompBenchOptions()
        self.template = templates.load(self.options.template, ["prompt"])

    def prompts(self, split: str) -> Sequence[Prompt]:
        return prompts.load(self.options.data, split, self.options.verify)

    def survey(self) -> Sequence[PromptFile]:
        return prompts.survey(self.options.data)

    @staticmethod
    def published() -> Published:
        return published.read("compbench")

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        text = templates.fill(self.template, {"prompt": candidate.prompt.text})
        return [Question(candidate.image, text, max_new_tokens=self.options.max_new_tokens)]

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        value, why = scoring.read(answers[0])
        return {0: why} if value is None else {}

    def item(self, prompt: Prompt) -> tuple[str, str]:
        return prompt.tags["category"], prompt.id

    def reference_seed(self, prompt: Prompt, image: int) -> int:
        """T2I-CompBench's own, 42 for the first image of every prompt; the SRUM authors seed once per process."""
        return 42 + image

    def layout(self, target: str, images: Sequence[tuple[int, Candidate]]) -> Layout:
        return layout.for_srum(images) if target == "compbench-srum" else layout.for_original(images)

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        """`reference` is the value in the released code; without `score` the answer could not be read."""
        (answer,) = answers
        value, _ = scoring.read(answer)
        reference = float(scoring.reference_score(answer))
        return {"reference": reference} if value is None else {"reference": reference, "score": float(value)}

    def table(self, scored: Scored) -> Sequence[Row]:
        readable = summary.coverage(summary.cells(scored, "score"))
        label = templates.label(self.template, scoring.KNOWN_MESSAGES, self.options.template)
        expected = sum(each.count for each in prompts.TEST.values())
        note = summary.note(self.options, readable, scored, expected, label)
        policy = self.options.policy
        measure = "reference" if policy == "reference" else "score"
        rows = _rows(summary.by_group(scored, measure, "category", prompts.TEST, policy), note)
        return [*rows, Row("readable", readable, len(scored), note=note)]


def _rows(groups: Mapping[str, Part], note: str) -> list[Row]:
    rows = [summary.row(name, [(1.0, part)], note, scoring.RANGE) for name, part in groups.items()]
    parts = [groups[name] for name in scoring.COMPLEX if name in groups]
    if len(parts) > 1:
        rows.append(summary.row("complex (composite)", summary.equal(parts), note, scoring.RANGE))
    plain = [part for name, part in groups.items() if name not in scoring.COMPLEX[1:]]
    if plain:
        rows.append(summary.row("overall (plain complex)", summary.equal(plain), note, scoring.RANGE))
    if groups:
        weights = scoring.columns(list(groups))
        rows.append(
            summary.row("overall", [(weights[name], part) for name, part in groups.items()], note, scoring.RANGE)
        )
    return rows
