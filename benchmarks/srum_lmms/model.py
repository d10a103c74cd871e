"""The model that lmms-eval makes: the one module here that imports it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_eval.api.model import lmms

from srum_core.errors import AnswerError
from srum_core.runs.progress import progress
from srum_core.stages.interview import put
from srum_lmms import asking


class SrumUmm(lmms):  # type: ignore[misc]
    """Answers `generate_until` greedily or as the task sets, `batch_size` questions at once; see `asking.answerer` for
    the arguments."""

    is_simple = True

    def __init__(self, batch_size: Any = 1, **arguments: Any) -> None:
        super().__init__()
        self.batch = int(batch_size) if str(batch_size).isdecimal() else 1
        self.answerer = asking.answerer(**arguments)

    def generate_until(self, requests: Any) -> list[str]:
        """One answer per request, in order. The arguments of a request are (text, generation settings, images of a
        document, document's number, task, split)."""
        answers: list[str] = []
        with TemporaryDirectory() as folder, progress(len(requests), "answer") as advance:
            for start in range(0, len(requests), self.batch):
                part = requests[start : start + self.batch]
                questions = [self._question(each.args, Path(folder)) for each in part]
                for request, question, answer in zip(part, questions, put(self.answerer, questions), strict=True):
                    question.image.unlink(missing_ok=True)
                    answers.append(asking.cut(answer, request.args[1]))
                    self.cache_hook.add_partial("generate_until", (request.args[0], request.args[1]), answers[-1])
                advance(len(part))
        return answers

    def _question(self, args: Any, folder: Path) -> Any:
        text, settings, visual, number, task, split = args
        images = visual(self.task_dict[task][split][number])
        return asking.question(text, images, settings, folder, f"{task}-{split}-{number}")

    def loglikelihood(self, requests: Any) -> Any:
        """Raises AnswerError: adapters give text and no probabilities."""
        raise AnswerError("srum's models give no likelihoods: choose a task whose output_type is generate_until.")

    def generate_until_multi_round(self, requests: Any) -> Any:
        """Raises AnswerError: rounds are not supported."""
        raise AnswerError("srum_umm answers single questions: choose a task whose output_type is generate_until.")
