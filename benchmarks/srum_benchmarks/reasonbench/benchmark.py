"""The benchmark `reasonbench`: the judge describes the image, then answers each group of questions separately."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from srum_benchmarks import published, summary, templates
from srum_benchmarks.options import ReasonBenchOptions
from srum_benchmarks.reasonbench import prompts
from srum_benchmarks.reasonbench.prompts import DIMENSIONS, QUALITY
from srum_benchmarks.summary import Scored
from srum_core.errors import RecordError
from srum_core.records import Candidate, Layout, Prompt, PromptFile, Question, Row
from srum_core.stages.interview import json_values

ALLOWED = (0.0, 0.5, 1.0)
_LIST = re.compile(r'"score"\s*:\s*\[([^\[\]]*)\]')


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
        results = [read(answer, count) for answer, count in zip(answers[1:], counts, strict=False)]
        return {place: why for place, (scores, _, why) in enumerate(results, 1) if scores is None}

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
            scores, _, _ = read(answer, len(pairs))
            if scores is not None:
                averages[name] = sum(scores) / len(scores)
        measures = {"readable": len(averages) / len(groups), **averages}
        if all(name in averages for name in DIMENSIONS[dimension].weights):
            measures["accuracy"] = accuracy(dimension, averages)
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


# ---- answers ---------------------------------------------------------------------------------------------------------


def reference_json(text: str) -> Any:
    """The text that the original parses: from the first brace to the next one that closes. Raises ValueError where the
    original stops the run: another brace inside, a trailing comma, a stray quote, no JSON at all."""
    start = text.find("{")
    end = text.find("}", start)
    if start < 0 or end < 0:
        raise ValueError("there is no {…} in the answer")
    return json.loads(text[start : end + 1])


def read(text: str, count: int) -> tuple[list[float] | None, str, str]:
    """(the scores, how they were read, why not). Tries the original's way, then whole JSON objects, then the list
    alone; there must be `count` scores, each 0, 0.5 or 1."""
    why = "The answer holds no list of scores."
    for how, entries in (("reference", _reference(text)), ("object", _objects(text)), ("list", _list(text))):
        if entries is None:
            continue
        scores = [_score(each) for each in entries] if isinstance(entries, list) else []
        if len(scores) != count:
            why = f"The answer holds {len(scores)} scores for {count} questions."
        elif any(each not in ALLOWED for each in scores):
            why = "A score is none of 0, 0.5 and 1."
        else:
            return [each for each in scores if each is not None], how, ""
    return None, "", why


def _reference(text: str) -> Any:
    try:
        return reference_json(text).get("score")
    except (ValueError, RecursionError, AttributeError):  # no JSON, or no object
        return None


def _objects(text: str) -> Any:
    """The list in the last JSON object of the answer that has one."""
    try:
        values, _ = json_values(text, "{", strict=True)
    except RecursionError:
        return None
    return next((value["score"] for value in reversed(values) if "score" in value), None)


def _list(text: str) -> list[str] | None:
    lists = _LIST.findall(text)
    return [each.strip().strip('"') for each in lists[-1].split(",")] if lists else None


def _score(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def accuracy(dimension: str, averages: Mapping[str, float]) -> float:
    """Reasoning accuracy of one image, in [0, 1], from the averages of its groups."""
    return sum(weight * averages[group] for group, weight in DIMENSIONS[dimension].weights.items())
