"""What the commands of `srum eval` share: settings as they are typed, judges by name, stages in processes."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from srum_core import config, plugins
from srum_core.cli import launching
from srum_core.cli.common import add_settings, say, show_table
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation import plan, scoring, tables
from srum_core.evaluation.answers import Answers, judge
from srum_core.evaluation.plan import asks, judges, keep_judge
from srum_core.evaluation.run import NOBODY, Evaluation, draw
from srum_core.options import Use
from srum_core.runs.progress import NORMAL, shown, tell

LATER = ("benchmark.", "evaluate.retries", "evaluate.temperature")
"""What may be set after the images have been drawn."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, on which benchmark, into which folder."""
    add_settings(parser)
    add = parser.add_argument
    add("--trained", metavar="RUN[:ROUND]", help="the model after a run's last finished round, or after ROUND")
    add("--benchmark", metavar="USE", help='a name, or \'{use="wise", data="DIR"}\'; srum plugins lists them')
    add("--out", type=Path, metavar="RUN", help="folder of the evaluation (default: runs/eval-BENCHMARK-ADAPTER)")


def add_later(parser: argparse.ArgumentParser) -> None:
    """An evaluation that is there, and what may still be set about it."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the evaluation")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as benchmark.template=my.txt")


def add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", metavar="USE", help='who answers: \'{use="remote", url="…"}\', an adapter, or self')
    parser.add_argument("--batch", type=int, metavar="N", help="pictures asked about at once (default: evaluate.batch)")
    parser.add_argument("--as", dest="name", metavar="NAME", help="what this judge's answers and table are kept under")


def read_model(parsed: argparse.Namespace, registry: plugins.Registry) -> config.Settings:
    """The settings of a new evaluation, or of one that is taken up again. Raises ConfigError with all that is wrong."""
    overrides = list(parsed.settings)
    if parsed.checkpoint is not None:
        overrides.append(f"adapter.checkpoint={json.dumps(parsed.checkpoint, ensure_ascii=False)}")
    if parsed.benchmark is not None:
        overrides.insert(0, f"benchmark={parsed.benchmark}")
    return plan.read_settings(parsed.adapter, parsed.preset, parsed.config, overrides, registry, parsed.trained or "")


def open_later(parsed: argparse.Namespace, registry: plugins.Registry) -> Evaluation:
    """The evaluation with what is set now. Raises ConfigError for settings that images depend on."""
    run = Evaluation.open(parsed.run, registry)
    wrong = [each for each in parsed.settings if not each.startswith(LATER) or each.startswith("benchmark.use")]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} cannot be set once pictures are drawn: only benchmark.*, evaluate.retries and "
            "evaluate.temperature can. Draw again with srum eval generate, into another folder."
        )
    if parsed.settings:
        path = run.folder / "run.toml"
        settings = config.load_settings(None, (), path, parsed.settings, registry, model_kind=Evaluation.model_kind)
        return Evaluation(run.folder, settings, registry)
    return run


# ---- stages ----------------------------------------------------------------------------------------------------------


def redo(run: Evaluation, what: Sequence[str], name: str | None = None) -> None:
    """Delete what is to be made again. Answers lie under hashes of images: those about old ones do no harm."""
    if "images" in what:
        shutil.rmtree(run.folder / "images", ignore_errors=True)
        (run.folder / "prompts.jsonl").unlink(missing_ok=True)
    if "answers" in what:
        shutil.rmtree(run.folder / "answers" / name if name else run.folder / "answers", ignore_errors=True)


def generate_all(run: Evaluation, parsed: argparse.Namespace, handle: int) -> None:
    run.keep()
    if not run.all_generated():
        run.choose_prompts()
    tell(f"generate: {len(run.plan_images())} pictures in {shown(run.folder / 'images')}", NORMAL)
    _perform(run, parsed, handle, "generate")


def judge_all(run: Evaluation, parsed: argparse.Namespace, handle: int, name: str, use: Use) -> None:
    run.keep()
    Answers(run, name, use)  # refuses another judge's folder
    keep_judge(run, name, use)
    tell(f"judge: {tables.named(use)}, in {shown(run.folder / 'answers' / name)}", NORMAL)
    _perform(run, parsed, handle, "judge", name)


def _perform(run: Evaluation, parsed: argparse.Namespace, handle: int, stage: str, name: str = "") -> None:
    partial, batch = bool(getattr(parsed, "partial", False)), getattr(parsed, "batch", None) or 0
    if not launching.apart(parsed):
        perform(run, stage, name, partial, batch)
        return
    words = [stage, str(run.folder), *([name] if name else []), *(["--partial"] if partial else [])]
    words += ["--batch", str(batch)] if batch else []
    code = launching.wait_for(launching.command(parsed, "srum_core.evaluation.commands", *words), handle)
    if code:
        raise RecordError(f"{stage} ended with exit status {code}; what it said is above. The same command goes on.")


def perform(run: Evaluation, stage: str, name: str, partial: bool = False, batch: int = 0) -> None:
    """One stage in this process."""
    if stage == "generate":
        draw(run)
    else:
        judge(run, name, judges(run)[name], partial, batch)


def problems(run: Evaluation, again: bool, parsed: argparse.Namespace) -> list[str]:
    """What would stop an evaluation before its first image; with a `--judge` among the arguments, the judge too."""
    judging = "judge" in parsed
    chosen = (parsed.judge, parsed.name) if judging else (None, None)
    return plan.problems(run, again, judging, *chosen)


def score_all(run: Evaluation, name: str | None, policy: str, partial: bool) -> None:
    """The table of every judge, or of one."""
    run.keep()
    known: dict[str, Use | None] = dict(judges(run))
    if name is None:  # a judge that could not even begin has no table to miss
        begun = {each: use for each, use in known.items() if any((run.folder / "answers" / each).glob("part-*"))}
        known = begun or known
    if not asks(run):
        known = {NOBODY: None}
    if name is not None and name not in known:
        raise RecordError(f'Nobody called "{name}" has judged in {run.folder}: {", ".join(known) or "nobody has"}.')
    if not known:
        raise RecordError(f"Nobody has judged the pictures of {run.folder} yet. Begin with srum eval judge.")
    for each, use in known.items():
        if name in (None, each):
            table = scoring.score(run, each, use, policy, partial)
            show_table(tables.show(table))
            say("\n".join(tables.remarks(table)))
            say(f"The table is in {shown(scoring.table_folder(run, each) / 'table.json')}")
