"""images -> answers: whoever judges is asked about every image, and what was said is kept as it is.

An answer lies under a hash of all that it depends on (the image's bytes, the request, who answered and how), so a
changed image or question is asked about anew, and answers can be read again by a changed parser without a model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from srum_core.errors import ConfigError, PluginError, RecordError
from srum_core.evaluation import benchmarking
from srum_core.evaluation.run import Evaluation, Pixels
from srum_core.options import Use
from srum_core.protocols import Answerer, Benchmark
from srum_core.records import Answer, Question
from srum_core.runs.progress import progress
from srum_core.runs.run import made_with
from srum_core.runs.store import Records, rank_and_world
from srum_core.stages.asking import put
from srum_core.stages.chunks import seed_everything
from srum_core.stages.interview import Interview, recall

SELF = "self"
"""The judge that is the evaluated model itself."""


@frozen
class Answered:
    """An answer as it was given. `id` is the hash of everything that it depends on."""

    id: str
    image: str
    sha256: str
    """Of the image's file."""
    question: Question
    answer: str
    by: str = ""
    """Who answered in the end, where the judge's options leave that open."""
    model: str = ""
    """The model that the reply names, where that is known."""
    refused: str = ""
    """Why the question was refused, where it was."""

    def given(self) -> Answer:
        return Answer(self.answer, self.model, self.refused)


@define
class Answers:
    """What one judge has said in an evaluation, in `answers/NAME`.

    Raises RecordError for a folder of answers that another judge gave, or that were asked for in another way."""

    run: Evaluation
    name: str
    judge: Use
    records: Records[Answered] = field(init=False)
    by: str = field(default="", init=False)
    _judge: str = field(default="", init=False)
    _known: dict[str, Answer] = field(factory=dict, init=False)
    _count: int = field(default=-1, init=False)

    def __attrs_post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise ConfigError(f'A judge\'s folder cannot be called "{self.name}": use letters, digits, - and _ (--as).')
        settings = self._settings()
        self._judge = json.dumps(settings["judge"], sort_keys=True)
        self.records = Records(folder(self.run, self.name), Answered, settings, stage="answers")
        self.reload()

    def _settings(self) -> dict[str, Any]:
        """Who answers. How often unreadable answers are asked for again may change from one call to the next."""
        if self.judge.use != SELF:
            return {"judge": made_with(self.run.registry, "answerer", self.judge)}
        model = self.run.generation_settings()
        return {"judge": {"use": SELF, "adapter": model["adapter"], "start": model.get("start")}}

    def of_the_same(self, other: Answers) -> bool:
        """Whether somebody with the same options answers; which model a server happens to serve is not asked here."""
        return self._judge == other._judge

    def reload(self) -> None:
        """Take up what is on disk, also from other processes. Raises RecordError where two have answered."""
        if len(self.records) == self._count:
            return
        found = list(self.records)
        by = sorted({each.by for each in found})
        if len(by) > 1:
            raise RecordError(
                f"{self.records.folder} holds answers of several: {', '.join(by)}. Make them again with --redo "
                "answers, or keep them apart with --as NAME."
            )
        self.by = by[0] if by else self.by
        self._known, self._count = {each.id: each.given() for each in found}, len(found)

    @property
    def models(self) -> set[str]:
        """The models that replies name."""
        return {each.model for each in self._known.values()} - {""}

    # ---- looking up -------------------------------------------------------------------------------------------------

    def key(self, image: Pixels, question: Question) -> str:
        request = {
            name: getattr(question, name)
            for name in ("text", "crop", "max_new_tokens", "think", "temperature", "seed", "history")
        }
        whole = {"image": image.sha256, "request": request, "judge": self._judge, "by": self.by}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def recall(self, benchmark: Benchmark, image: Pixels) -> tuple[Interview, list[Question]]:
        """The interview about an image as far as answers go, and the questions that wait for one."""
        use, s = self.run.settings.benchmark, self.run.settings.evaluate
        interview = benchmarking.opened(use.use if use else "", benchmark, image.candidate)
        known, seed = (lambda each: self._known.get(self.key(image, each))), partial(self.run.derive_seed, "evaluate")
        return interview, recall(interview, known, s.retries, s.temperature, seed)

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask_about(self, benchmark: Benchmark, images: Sequence[Pixels], answerer: Answerer) -> None:
        """Ask what the benchmark wants to know about some images, together; answers are on disk as they come.

        What was to be said at once is asked at once again if any of it is missing: who answers may depend on it."""
        place = {each.candidate.image: each for each in images}

        def ask(questions: Sequence[Question]) -> list[str]:
            keys = [self.key(place[each.image], each) for each in questions]
            if any(key not in self._known for key in keys):
                self._store(keys, questions, [place[each.image] for each in questions], put(answerer, questions))
            return [self._known[key] for key in keys]

        benchmarking.ask_all(self.run, benchmark, [each.candidate for each in images], ask)

    def _store(
        self, keys: Sequence[str], questions: Sequence[Question], images: Sequence[Pixels], answers: Sequence[str]
    ) -> None:
        records = [
            Answered(key, image.id, image.sha256, question, str(answer), self.by, answer.model, answer.refused)
            for key, question, image, answer in zip(keys, questions, images, map(Answer.of, answers), strict=True)
        ]
        self.records.extend(records)
        for each in records:
            self._known.setdefault(each.id, each.given())

    def introduce(self, answerer: Answerer) -> None:
        """Note who answers. Raises RecordError if it is somebody else than before."""
        by = _identity(answerer)
        if self._known and by != self.by:
            raise RecordError(
                f'{self.records.folder} holds answers of "{self.by}", and now "{by}" answers. Let the same one go on, '
                "give the new one a folder of its own with --as NAME, or begin again with --redo answers."
            )
        self.by = by


def folder(run: Evaluation, name: str) -> Path:
    return run.folder / "answers" / name


def judge(run: Evaluation, name: str, use: Use, partial: bool = False, batch: int = 0) -> None:
    """Ask about every image that something is still to be asked about, `batch` images at once."""
    answers, benchmark, size = Answers(run, name, use), run.benchmark(), batch or run.settings.evaluate.batch
    images = run.generated(partial)
    rank, world = rank_and_world()
    chunks = [images[start : start + size] for start in range(rank * size, len(images), size * world)]
    missing = [chunk for chunk in chunks if any(answers.recall(benchmark, each)[1] for each in chunk)]
    left = sum(map(len, missing))
    if missing:
        answerer = who_answers(run, use)
        answers.introduce(answerer)
    with progress(sum(map(len, chunks)), f"judge ({name})", sum(map(len, chunks)) - left) as advance:
        for chunk in missing:
            seed_everything(run.derive_seed("answers", chunk[0].id))
            answers.ask_about(benchmark, chunk, answerer)
            advance(len(chunk))


def _identity(answerer: Answerer) -> str:
    identity = getattr(answerer, "identity", None)
    return str(identity()) if identity is not None else ""


def who_is(run: Evaluation, use: Use) -> str:
    """What a judge says of itself, where its options leave that open; "" otherwise."""
    return _identity(who_answers(run, use))


def who_answers(run: Evaluation, use: Use) -> Answerer:
    """Raises PluginError if the model is to judge itself and cannot."""
    if use.use != SELF:
        made: Answerer = run.registry.create("answerer", use)
        return made
    model = run.generator
    if not isinstance(model, Answerer):
        raise only_generates(run)
    return model


def only_generates(run: Evaluation) -> PluginError:
    return PluginError(
        f'"{run.settings.adapter.use}" only draws, so it cannot judge its own pictures. Name a judge, such as '
        '--judge \'{use="remote", url="http://localhost:8000/v1"}\'.'
    )
