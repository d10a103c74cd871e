"""Shared by the commands of `srum eval`: parse a call, and run it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from attrs import field, frozen

from srum_core import config, plugins
from srum_core.cli import launching
from srum_core.cli.common import Typed, add_settings, from_parsed, say, show_table
from srum_core.cli.launching import Launch
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation import plan, scoring, tables
from srum_core.evaluation.answers import Answers, judge
from srum_core.evaluation.formatting import Grid
from srum_core.evaluation.run import NO_JUDGE, Evaluation, generate_images
from srum_core.options import Use
from srum_core.runs.progress import NORMAL, shown, tell

LATER = ("benchmark.", "evaluate.retries", "evaluate.temperature")
"""Settings that may change after images are generated."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a model, a benchmark and a folder."""
    add_settings(parser)
    add = parser.add_argument
    add("--trained", metavar="RUN[:ROUND]", help="the model after a run's last finished round, or after ROUND")
    add("--benchmark", metavar="USE", help='a name, or \'{use="wise", data="DIR"}\'; srum plugins lists them')
    add("--out", type=Path, metavar="RUN", help="folder of the evaluation (default: runs/eval-BENCHMARK-ADAPTER)")
    add("--redo", action="append", default=[], choices=("images", "answers"), help="first delete the existing ones")
    add("--dry-run", action="store_true", help="print what would be done, load no model, write nothing")
    launching.add_arguments(parser)


def add_later(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an existing evaluation, and settings that may still change."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the evaluation")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as benchmark.template=my.txt")


def add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", metavar="USE", help='the judge: \'{use="remote", url="…"}\', an adapter, or self')
    parser.add_argument("--batch", type=int, metavar="N", help="images judged at once (default: evaluate.batch)")
    parser.add_argument("--as", dest="name", metavar="NAME", help="name of this judge's answers and table")


@frozen
class Plan:
    """What one call of a command does with an evaluation."""

    evaluation: Evaluation
    launch: Launch = field(factory=Launch)
    redo: Sequence[str] = ()
    judge: str | None = None
    name: str | None = None
    batch: int = 0
    partial: bool = False
    failures: str = ""
    judged: bool = False
    """Whether a judge may be named."""

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        """Plan a call. Raises ConfigError with all problems of the settings."""
        registry, typed = plugins.discover(), Typed.of(parsed)
        if "run" in parsed:
            evaluation = _opened(parsed.run, typed.settings, registry)
        else:
            words = (typed.adapter, typed.preset, typed.config, typed.overrides)
            settings = plan.read_settings(*words, registry, typed.trained, plan.FIRST)
            evaluation = plan.new(settings, registry, parsed.out)
        fields = {"evaluation": evaluation, "launch": from_parsed(Launch, parsed), "judged": "judge" in parsed}
        return from_parsed(cls, parsed, **fields)

    def problems(self) -> list[str]:
        """Return what would stop the evaluation before its first image."""
        again, several = "images" in self.redo, self.launch.separate
        return plan.problems(self.evaluation, again, self.judged, self.judge, self.name, several)

    def announce(self) -> int:
        """Print how many images would be generated, or what would stop the evaluation; return 1 in that case."""
        problems, run = self.problems(), self.evaluation
        for problem in problems:
            tell(f"The evaluation would not start: {problem}")
        if problems:
            return 1
        prompts = run.evaluated_prompts()
        ids = {item.id for item in run.plan_evaluation(prompts)}
        cells = [str(len(each)) for each in (prompts, ids, run.images().ids() & ids)]
        show_table(Grid(["prompts", "images", "generated"], [cells], f"{shown(run.folder)} (nothing is run)"))
        return 0

    def chosen_judge(self) -> tuple[str, Use]:
        return plan.chosen_judge(self.evaluation, self.judge, self.name)

    def delete(self, what: str, name: str = "") -> None:
        """Delete images or (a judge's) answers that --redo names. Answers about deleted images may stay: they are never
        read, because they are stored under hashes of images."""
        if what in self.redo:
            shutil.rmtree(self.evaluation.folder / what / name, ignore_errors=True)
            if what == "images":
                (self.evaluation.folder / "prompts.jsonl").unlink(missing_ok=True)

    # ---- stages -----------------------------------------------------------------------------------------------------

    def generate_all(self, handle: int) -> None:
        """Generate missing images. `handle` is that of the evaluation's lock."""
        run = self.evaluation
        run.begin()
        tell(f"generate: {len(run.plan_images())} images in {shown(run.folder / 'images')}", NORMAL)
        if self.launch.separate:
            self._launch(handle, "generate")
        else:
            generate_images(run)

    def judge_all(self, handle: int, name: str, use: Use) -> None:
        run = self.evaluation
        run.keep()
        Answers(run, name, use)  # refuses another judge's folder
        plan.keep_judge(run, name, use)
        tell(f"judge: {tables.component_name(use)}, in {shown(run.folder / 'answers' / name)}", NORMAL)
        if self.launch.separate:
            self._launch(handle, "judge", name, *["--partial"] * self.partial, "--batch", str(self.batch))
        else:
            judge(run, name, use, self.partial, self.batch)

    def _launch(self, handle: int, stage: str, *words: str) -> None:
        """Run a stage in separate processes."""
        command = self.launch.command(__package__, stage, str(self.evaluation.folder), *words)
        if code := launching.wait_for(command, handle):
            raise RecordError(f"{stage} ended with exit status {code}; its output is above. The same command resumes.")

    def score_all(self, name: str | None) -> None:
        """Write and print the table of every judge, or of one."""
        run = self.evaluation
        run.keep()
        judges: dict[str, Use | None] = dict(plan.judges(run))
        if not plan.asks(run):
            judges = {NO_JUDGE: None}
        elif name is None:  # a judge without any answer needs no table
            answers = run.folder / "answers"
            judges = {each: use for each, use in judges.items() if any((answers / each).glob("part-*"))} or judges
        if name is not None and name not in judges:
            raise RecordError(f'No judge "{name}" has judged in {run.folder}, only: {", ".join(judges) or "none"}.')
        if not judges:
            raise RecordError(f"The images of {run.folder} are not judged yet. Start with srum eval judge.")
        for each, use in judges.items():
            if name in (None, each):
                table = scoring.score(run, each, use, self.failures, self.partial)
                show_table(tables.show(table))
                say("\n".join(tables.remarks(table)))
                say(f"The table is in {shown(run.folder / 'tables' / each / 'table.json')}")


def _opened(folder: Path, words: Sequence[str], registry: plugins.Registry) -> Evaluation:
    """Open an evaluation with other settings. Raises ConfigError for settings that images depend on."""
    run = Evaluation.open(folder, registry)
    wrong = [each for each in words if not each.startswith(LATER) or each.startswith("benchmark.use")]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} cannot be set once images are generated: only benchmark.*, evaluate.retries and "
            "evaluate.temperature can. Generate again with srum eval generate, into another folder."
        )
    if words:
        path = run.folder / "run.toml"
        run.settings = config.load_settings(None, (), path, words, registry, model_kind=Evaluation.model_kind)
    return run
