"""The benchmark `reasonbench`: the judge describes the image, then answers each group of questions separately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from srum_benchmarks import published, summary, templates
from srum_benchmarks.options import ReasonBenchOptions
from srum_benchmarks.reasonbench import prompts, scoring
from srum_benchmarks.reasonbench.prompts import DIMENSIONS, QUALITY
from srum_benchmarks.summary import Scored
from srum_core.errors import RecordError
from srum_core.records import Candidate, Layout, Prompt, PromptFile, Question, Row


class ReasonBench:
    """Accuracy (reasoning) and quality in per cent; `overall` is the mean accuracy of the four dimensions.

    Raises ConfigError for a folder without the prompts, and for templates that cannot be used.
    """

    layouts: ClassVar[Mapping[str, str]] = {"reasonbench": "T2I-ReasonBench's evaluation/eval_*.py"}

    def __init__(self, options: ReasonBenchOptions | None = None) -> None:
        self.options = options or ReasonBenchOptions()
        self.describe = templates.load(self.options.describe, [], "describe")
        self.template = templates.load(self.options.template, ["questions"])

    def prompts(self, split: str) -> Sequence[Prompt]:
        return prompts.load(self.options.data, self.options.verify)

    def survey(self) -> Sequence[PromptFile]:
        return prompts.survey(self.options.data)

    published = staticmethod(partial(published.read, "reasonbench"))

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return [Question(candidate.image, self.describe, max_new_tokens=self.options.max_new_tokens)]

    def further(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Question]:
        """A question for each group; no group sees the answers about another."""
        if len(answers) != 1 or not answers[0].strip():
            return ()
        history = ((self.describe, answers[0]),)
        groups = candidate.prompt.tags["criteria"].values()
        limit = self.options.max_new_tokens
        texts = [templates.fill(self.template, {"questions": _listed(pairs)}) for pairs in groups]
        return [Question(candidate.image, text, max_new_tokens=limit, history=history) for text in texts]

    def unreadable(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[int, str]:
        if not answers[0].strip():
            return {0: "The image was not described."}
        counts = [len(pairs) for pairs in candidate.prompt.tags["criteria"].values()]
        read = [scoring.read(answer, count) for answer, count in zip(answers[1:], counts, strict=False)]
        return {place: why for place, (found, _, why) in enumerate(read, 1) if found is None}

    def item(self, prompt: Prompt) -> tuple[str, str]:
        return prompt.tags["dimension"], str(prompt.tags["number"])

    def layout(self, target: str, images: Sequence[tuple[int, Candidate]]) -> Layout:
        """The first image of each prompt: the scorers know no others."""
        return prompts.layout([candidate for number, candidate in images if number == 0])

    def score(self, candidate: Candidate, answers: Sequence[str]) -> Mapping[str, float]:
        """The average of each group that could be read, and `accuracy` where all that it needs could be."""
        groups = candidate.prompt.tags["criteria"]
        dimension = candidate.prompt.tags["dimension"]
        averages = {}
        for (name, pairs), answer in zip(groups.items(), answers[1:], strict=False):
            found, _, _ = scoring.read(answer, len(pairs))
            if found is not None:
                averages[name] = scoring.mean(found)
        measures = {"readable": len(averages) / len(groups), **averages}
        if all(name in averages for name in DIMENSIONS[dimension].weights):
            measures["accuracy"] = scoring.accuracy(dimension, averages)
        return measures

    def table(self, scored: Scored) -> Sequence[Row]:
        readable = sum(values["readable"] for _, values in scored) / len(scored) if scored else 1.0
        if self.options.policy == "reference" and readable < 1:
            raise RecordError(
                "T2I-ReasonBench's own scripts stop at the first answer that they cannot read, and here are some. "
                'So policy = "reference" has no result. Take "exclude" or "zero".'
            )
        expected = sum(each.prompts.count for each in DIMENSIONS.values())
        label = templates.label(self.template, {}, self.options.template)
        note = summary.note(self.options, readable, scored, expected, label)
        accurate, quality = (
            summary.by_group(scored, measure, "dimension", DIMENSIONS, self.options.policy)
            for measure in ("accuracy", QUALITY)
        )
        rows = [summary.row(name, [(100.0, part)], note) for name, part in accurate.items()]
        if len(accurate) == len(DIMENSIONS):
            rows.append(summary.row("overall", summary.equal(accurate.values(), 100.0), note))
        rows += [summary.row(f"{name} (quality)", [(100.0, part)], note) for name, part in quality.items()]
        return [*rows, Row("readable", readable, len(scored), note=note)] if scored else rows


def _listed(pairs: Sequence[Sequence[str]]) -> str:
    return "\n\n".join(
        f"Question {number}: {question}\nIts rule: {criterion}" for number, (question, criterion) in enumerate(pairs, 1)
    )
