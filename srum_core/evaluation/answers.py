"""images -> answers: ask the judge about every image, and store its answers unchanged.

An answer is stored under a hash of all that it depends on: the image's bytes, the request, the judge and its options.
So a changed image or question is asked again, and a changed parser reads stored answers without a model.
A benchmark asks like a judge (`srum_core.stages.interview`): in turns, with retries for unreadable answers, and stored
answers are parsed by the same code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import define, field, frozen

from srum_core.errors import ConfigError, PluginError, RecordError
from srum_core.evaluation.run import Evaluation
from srum_core.options import Use
from srum_core.protocols import Answerer, Benchmark
from srum_core.records import Answer, Candidate, Question, Region, Unreadable
from srum_core.runs.files import redo_option
from srum_core.runs.run import made_with
from srum_core.runs.store import Records
from srum_core.stages.chunks import chunks
from srum_core.stages.interview import Interview, conduct, put, recall

SELF = "self"
"""The name of the evaluated model as its own judge."""


@define
class _AsJudge:
    """A benchmark with the interface of a judge, for interviews. `further` is None where the benchmark has none."""

    benchmark: Benchmark
    further: Callable[..., Sequence[Question]] | None = None

    def questions(self, candidate: Candidate, regions: Sequence[Region]) -> Sequence[Question]:
        return self.benchmark.questions(candidate)

    def scores(self, candidate: Candidate, regions: Sequence[Region], answers: Sequence[str]) -> Sequence[Unreadable]:
        unreadable = getattr(self.benchmark, "unreadable", None)
        reasons = unreadable(candidate, answers) if unreadable is not None else {}
        return [Unreadable(index, why) for index, why in sorted(reasons.items())]


def open_interview(name: str, benchmark: Benchmark, candidate: Candidate) -> Interview:
    """Open an interview about one image, without asking anything."""
    further = getattr(benchmark, "further", None)
    judge = _AsJudge(benchmark, further and (lambda candidate, regions, answers: list(further(candidate, answers))))
    return Interview.open(name, judge, candidate, ())


@frozen
class StoredAnswer:
    """An unchanged answer. `id` is the hash of everything that it depends on."""

    id: str
    image: str
    sha256: str
    """Of the image's file."""
    question: Question
    answer: str
    by: str = ""
    """The model that answered, where the judge's options leave that open."""
    model: str = ""
    """The model that the reply names, where that is known."""
    refused: str = ""
    """Why the question was refused, where it was."""

    def reply(self) -> Answer:
        return Answer(self.answer, self.model, self.refused)


@define
class Answers:
    """The answers of one judge in an evaluation, in `answers/NAME`.

    Raises RecordError for a folder with the answers of another judge, or of the same judge with other options."""

    run: Evaluation
    name: str
    judge: Use
    benchmark: Benchmark = field(init=False)
    records: Records[StoredAnswer] = field(init=False)
    by: str = field(default="", init=False)
    _judge: str = field(default="", init=False)
    _replies: dict[str, Answer] = field(factory=dict, init=False)
    _count: int = field(default=-1, init=False)

    def __attrs_post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise ConfigError(f'A judge\'s folder cannot be called "{self.name}": use letters, digits, - and _ (--as).')
        self.benchmark, settings = self.run.benchmark(), self._settings()
        self._judge = json.dumps(settings["judge"], sort_keys=True)
        checked = settings if self.run.source is None else None  # a stage's settings are checked as a whole
        self.records = Records(self.run.folder / "answers" / self.name, StoredAnswer, checked, stage="answers")
        self.reload()

    def _settings(self) -> dict[str, Any]:
        """Return the judge and its options; the number of retries may change between calls."""
        if self.judge.use != SELF:
            return {"judge": made_with(self.run.registry, "answerer", self.judge)}
        model = self.run.generation_settings()
        return {"judge": {"use": SELF, "adapter": model["adapter"], "start": model.get("start")}}

    def of_the_same(self, other: Answers) -> bool:
        """Return whether the judge has the same options; the model that a server serves is not compared."""
        return self._judge == other._judge

    def reload(self) -> None:
        """Read the answers on disk, also of other processes. Raises RecordError if two models have answered."""
        if len(self.records) == self._count:
            return
        records = list(self.records)
        by = sorted({each.by for each in records})
        if len(by) > 1:
            raise RecordError(
                f"{self.records.folder} holds answers of several models: {', '.join(by)}. Generate them again with "
                f"{redo_option(self.records.folder)}, or keep them separate with --as NAME (srum eval)."
            )
        self.by = by[0] if by else self.by
        self._replies, self._count = {each.id: each.reply() for each in records}, len(records)

    @property
    def models(self) -> set[str]:
        """Return the models that replies name."""
        return {each.model for each in self._replies.values()} - {""}

    # ---- reading ----------------------------------------------------------------------------------------------------

    def key(self, image: Candidate, question: Question) -> str:
        request = {
            name: getattr(question, name)
            for name in ("text", "crop", "max_new_tokens", "think", "temperature", "seed", "history")
        }
        parts = {"image": image.sha256, "request": request, "judge": self._judge, "by": self.by}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def open(self, image: Candidate) -> Interview:
        use = self.run.settings.benchmark
        return open_interview(use.use if use else "", self.benchmark, image)

    def recall(self, image: Candidate) -> tuple[Interview, list[Question]]:
        """Return the interview about an image with its stored answers, and the questions without an answer."""
        interview, s = self.open(image), self.run.settings.evaluate
        seed = partial(self.run.derive_seed, "evaluate")
        stored = lambda question: self._replies.get(self.key(image, question))  # noqa: E731
        return interview, recall(interview, stored, s.retries, s.temperature, seed)

    def ids(self) -> set[str]:
        """Return the images whose questions all have an answer."""
        self.reload()
        return {each.id for each in self.run.images() if each.failure or not self.recall(each)[1]}

    def mark_done(self) -> None:
        self.records.mark_done()

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask_about(self, images: Sequence[Candidate], answerer: Answerer) -> None:
        """Ask the benchmark's questions about images in one batch, and store each answer at once.

        If one answer is missing, ask the whole batch again: answers may depend on the batch."""
        by_path = {each.image: each for each in images}

        def ask(questions: Sequence[Question]) -> list[str]:
            about = [by_path[each.image] for each in questions]
            keys = list(map(self.key, about, questions))
            if any(key not in self._replies for key in keys):
                replies = map(Answer.of, put(answerer, questions))
                records = [
                    StoredAnswer(key, image.id, image.sha256, question, str(reply), self.by, reply.model, reply.refused)
                    for key, image, question, reply in zip(keys, about, questions, replies, strict=True)
                ]
                self.records.extend(records)
                for each in records:
                    self._replies.setdefault(each.id, each.reply())
            return [self._replies[key] for key in keys]

        s, seed = self.run.settings.evaluate, partial(self.run.derive_seed, "evaluate")
        conduct([self.open(each) for each in images], ask, s.retries, s.temperature, seed)

    def introduce(self, answerer: Answerer) -> None:
        """Record which model answers. Raises RecordError if another model answered before."""
        by = identity(answerer)
        if self._replies and by != self.by:
            raise RecordError(
                f'{self.records.folder} holds answers of "{self.by}", and now "{by}" answers. Use the same model, '
                f"start again with {redo_option(self.records.folder)}, or (srum eval) store the new answers in a "
                "separate folder with --as NAME."
            )
        self.by = by


def judge(run: Evaluation, name: str, use: Use, partial: bool = False, batch: int = 0) -> None:
    """Ask all questions without an answer, `batch` images at once."""
    answers, images = Answers(run, name, use), {each.id: each for each in run.generated(partial)}
    ids = [item.id for item in run.plan_images()]
    if run.source is None:
        ids = [each for each in ids if each in images]  # in a stage, other processes may still be generating
    answerer: list[Answerer] = []

    def load() -> None:
        answerer.append(who_answers(run, use))
        answers.introduce(answerer[0])

    size, step = batch or run.settings.evaluate.batch, run.step("answers")
    for chunk in chunks(run, ids, size, answers, step, load, run.label(f"judge ({name})")):
        answers.ask_about([images[each] for each in chunk if each in images], answerer[0])


def identity(answerer: Answerer) -> str:
    """Return the model that a judge reports if its options do not determine it; "" otherwise."""
    return str(answerer.identity()) if hasattr(answerer, "identity") else ""


def who_answers(run: Evaluation, use: Use) -> Answerer:
    """Load the judge's model. Raises PluginError if the evaluated model is the judge and cannot answer."""
    if use == run.settings.answerer:
        return run.answerer(0)  # it may be loaded already
    if use.use != SELF:
        answerer: Answerer = run.registry.create("answerer", use)
        return answerer
    model = run.model()
    if not isinstance(model, Answerer):
        raise only_generates(run)
    return model


def only_generates(run: Evaluation) -> PluginError:
    return PluginError(
        f'"{run.settings.adapter.use}" only generates, so it cannot judge its own images. Name a judge, such as '
        '--judge \'{use="remote", url="http://localhost:8000/v1"}\'.'
    )
