"""What the commands of `srum eval` share: settings as they are typed, judges by name, stages in processes."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srum_core import config, plugins
from srum_core.cli import launching
from srum_core.cli.common import add_settings, say, show_table
from srum_core.config.toml import as_data
from srum_core.errors import ConfigError, RecordError, SrumError
from srum_core.evaluation import scoring, tables
from srum_core.evaluation.answers import SELF, Answers, judge, only_generates, who_is
from srum_core.evaluation.draw import draw
from srum_core.evaluation.run import NOBODY, Evaluation
from srum_core.files import from_json, read_file
from srum_core.options import Use, to_plain
from srum_core.records import Candidate
from srum_core.runs.progress import shown, tell
from srum_core.runs.run import started_from
from srum_core.runs.store import write_atomic
from srum_core.stages import preflight

FIRST: dict[str, Any] = {"seed": 42, "evaluate": {"seeds": "picture"}}
"""Settings of an evaluation that differ from a training run's: seeds that the published benchmarks can be named by."""
LATER = ("benchmark.", "evaluate.retries", "evaluate.temperature")
"""What may be set after the pictures have been drawn."""


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
    above: dict[str, Any] = {}
    if parsed.trained:
        run, rounds = started_from(parsed.trained, registry)
        tell(f"The model after round {rounds} of {shown(run.folder)}.")
        above = {"adapter": as_data(run.settings)["adapter"], "start": parsed.trained}
    adapter = parsed.adapter or above.get("adapter", {}).get("use")
    settings = config.load_settings(
        adapter, parsed.preset, parsed.config, overrides, registry, FIRST, above, Evaluation.drawn_by
    )
    if settings.benchmark is None:
        raise ConfigError("No benchmark is named. Add --benchmark NAME (srum plugins lists them).")
    return settings


def default_folder(settings: config.Settings) -> Path:
    assert settings.benchmark is not None
    return Path("runs") / f"eval-{settings.benchmark.use}-{settings.adapter.use}".replace(":", ".")


def open_later(parsed: argparse.Namespace, registry: plugins.Registry) -> Evaluation:
    """The evaluation with what is set now. Raises ConfigError for settings that pictures depend on."""
    run = Evaluation.open(parsed.run, registry)
    wrong = [each for each in parsed.settings if not each.startswith(LATER) or each.startswith("benchmark.use")]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} cannot be set once pictures are drawn: only benchmark.*, evaluate.retries and "
            "evaluate.temperature can. Draw again with srum eval generate, into another folder."
        )
    if parsed.settings:
        path = run.folder / "run.toml"
        settings = config.load_settings(None, (), path, parsed.settings, registry, drawn_by=Evaluation.drawn_by)
        return Evaluation(run.folder, settings, registry)
    return run


# ---- judges ----------------------------------------------------------------------------------------------------------


def chosen_judge(run: Evaluation, text: str | None, name: str | None) -> tuple[str, Use]:
    """(folder, judge): the one that is typed; else the setting `answerer`; else one that was there before."""
    if text is None and run.settings.answerer is None:
        known = judges(run)
        if name in known or (name is None and len(known) == 1):
            return next((each, use) for each, use in known.items() if name in (each, None))
        raise ConfigError(_who(run))
    if text is None:
        assert run.settings.answerer is not None
        use = run.settings.answerer
    else:
        use = Use(SELF) if text == SELF else config.component("answerer", text, run.registry, "--judge")
    name = name or re.sub(r"[^\w.-]+", ".", use.use)
    _refuse_twin(run, name, use)
    return name, use


def _refuse_twin(run: Evaluation, name: str, use: Use) -> None:
    """The table of a judge that is asked twice would look like a second opinion."""
    known = judges(run)
    others = {other: Answers(run, other, theirs) for other, theirs in known.items() if other != name}
    if name in known or not others:
        return
    mine = Answers(run, name, use)
    if not any(each.of_the_same(mine) for each in others.values()):
        return
    mine.by = who_is(run, use) if use.use in _light(run) else ""  # a server's model may be another one by now
    if twin := next((other for other, each in others.items() if each.of_the_same(mine) and each.by == mine.by), ""):
        raise ConfigError(
            f"{run.folder / 'answers' / twin} holds answers of this very judge, {tables.named(use)}: a second table "
            f"would look like a second opinion. Go on with --as {twin}. To see how its answers vary, judge a copy of "
            "the folder."
        )


def _who(run: Evaluation) -> str:
    asks = f"The benchmark {run.settings.benchmark.use if run.settings.benchmark else ''} asks about its pictures."
    if meant := getattr(run.benchmark(), "judge", ""):
        return f"{asks} It is meant to be answered by {meant}: --judge {meant} (srum plugins lists others)."
    return (
        f'{asks} Say who answers: --judge \'{{use="remote", url="http://localhost:8000/v1"}}\' for a server, any '
        "adapter, or --judge self for the model itself, whose numbers cannot be set beside other models'."
    )


def judges(run: Evaluation) -> dict[str, Use]:
    """Who has answered in an evaluation, by folder."""
    found = {}
    for path in sorted(run.folder.glob("answers/*/judge.json")):
        try:
            data = from_json(read_file(path))
            found[path.parent.name] = Use(data["use"], dict(data["options"]))
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(f"{path} does not say who judges ({error}); judge again with --redo answers.") from error
    return found


# ---- stages ----------------------------------------------------------------------------------------------------------


def redo(run: Evaluation, what: Sequence[str], name: str | None = None) -> None:
    """Delete what is to be made again. Answers lie under hashes of pictures: those about old ones do no harm."""
    if "pictures" in what:
        shutil.rmtree(run.folder / "pictures", ignore_errors=True)
        (run.folder / "prompts.jsonl").unlink(missing_ok=True)
    if "answers" in what:
        shutil.rmtree(run.folder / "answers" / name if name else run.folder / "answers", ignore_errors=True)


def generate_all(run: Evaluation, parsed: argparse.Namespace, handle: int) -> None:
    run.keep()
    if not run.all_drawn():
        run.choose_prompts()
    tell(f"generate: {len(run.plan_pictures())} pictures in {shown(run.folder / 'pictures')}")
    _perform(run, parsed, handle, "generate")


def judge_all(run: Evaluation, parsed: argparse.Namespace, handle: int, name: str, use: Use) -> None:
    run.keep()
    Answers(run, name, use)  # refuses another judge's folder
    keep_judge(run, name, use)
    tell(f"judge: {tables.named(use)}, in {shown(run.folder / 'answers' / name)}")
    _perform(run, parsed, handle, "judge", name)


def keep_judge(run: Evaluation, name: str, use: Use) -> None:
    """Write down who judges, also for processes that are launched. What only changes its speed may change."""
    text = json.dumps({"use": use.use, "options": to_plain(use.options)}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(run.folder / "answers" / name / "judge.json", text)


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
    """What would stop an evaluation before its first image. `again`: what is drawn is drawn again; with a `--judge`
    among the arguments, the judge is checked too."""
    if found := preflight.blocked(run.folder):
        return found
    named = list[preflight.Named]()
    try:
        adapter = run.trained(0)[0] if run.settings.start else run.settings.adapter
        if again or not run.all_drawn():
            named.append(("adapter", run.drawn_by, adapter))
            run.evaluated_prompts()
        if "judge" in parsed and asks(run):
            _, use = chosen_judge(run, parsed.judge, parsed.name)
            if use.use != SELF:
                named.append(("--judge", "answerer", use))
            elif not hasattr(run.registry.load(run.drawn_by, adapter.use), "answer"):
                raise only_generates(run)
    except SrumError as error:
        found.append(str(error))
    return [*preflight.unusable(run.registry, named), *found]


def _light(run: Evaluation) -> set[str]:
    return {found.component.name for found in run.registry.listing() if found.kind == "answerer"}


def asks(run: Evaluation) -> bool:
    """Whether the benchmark asks anybody, as far as its first prompt tells."""
    prompts = run.evaluated_prompts() if not run.all_drawn() else [run.plan_pictures()[0].prompt]
    example = Candidate("example", prompts[0], Path("none.png"), (64, 64), 0)
    return bool(run.benchmark().questions(example))


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
            print(f"The table is in {shown(scoring.table_folder(run, each) / 'table.json')}")
