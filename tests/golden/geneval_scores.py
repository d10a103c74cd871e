"""GenEval's table: the share of correct images of each task, and the mean over tasks."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen


@frozen
class Task:
    tag: str
    correct: int
    total: int

    @property
    def score(self) -> float:
        return self.correct / self.total


@frozen
class Summary:
    """`tasks` in order of first appearance; `overall` is the mean of their scores, not of the images."""

    tasks: tuple[Task, ...]
    images: int
    prompts: int
    correct_images: float
    correct_prompts: float
    """The share of prompts with any correct image."""
    overall: float


def summarise(rows: Sequence[tuple[str, str, bool]]) -> Summary:
    """`rows`: (tag, prompt, correct) of every image."""
    tags = dict.fromkeys(tag for tag, _, _ in rows)
    by_tag = {tag: [correct for each, _, correct in rows if each == tag] for tag in tags}
    tasks = tuple(Task(tag, sum(each), len(each)) for tag, each in by_tag.items())
    prompts = {prompt for _, prompt, _ in rows}
    right = {prompt for _, prompt, correct in rows if correct}
    return Summary(
        tasks,
        len(rows),
        len(prompts),
        sum(correct for _, _, correct in rows) / len(rows),
        len(right) / len(prompts),
        sum(task.score for task in tasks) / len(tasks),
    )


def released_table(summary: Summary) -> str:
    """The text that BAGEL's and SRUM's copies write. Its columns follow the order in which folders were listed,
    whatever the header says: do not read it by name."""
    numbers = [f"{task.score:.2f}" for task in summary.tasks] + [f"{summary.overall:.2f}"]
    return f"SO   TO   CT   CL   POS  ATTR ALL\n{' '.join(numbers)}\n"
