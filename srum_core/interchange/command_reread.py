"""Read a run's recorded answers again with today's judges. No questions are asked: no model is needed.

KEY=VALUE changes how answers are read: options of the judges, such as judges.1.penalty=false, and judge.doubt. The new
judgements take the place of the old ones, which are kept as judgements.before-1, -2, …; run.toml is brought
up to date. A judge that asks other questions today than it was answered cannot be read again, and then nothing is
written. Should this be interrupted, the same command again finishes it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import count, islice
from pathlib import Path
from statistics import fmean

import attrs
from attrs import frozen

from srum_core import config, plugins
from srum_core.cli.common import add_run, judged_round, judged_rounds, say, show_table
from srum_core.config.load import COMMAND_LINE
from srum_core.config.toml import as_data
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.formatting import Grid
from srum_core.records import Candidate, Judgement, Score, Unreadable
from srum_core.runs.files import lock, read_json, redo_option
from srum_core.runs.progress import shown
from srum_core.runs.run import Run
from srum_core.runs.store import Records, differences, sync_folder
from srum_core.stages.interview import Interview
from srum_core.stages.judge import judgement

Pair = tuple[Candidate, Judgement, Judgement]
"""An image, its judgement as it is, and as it is read today."""
_CHUNK = 256


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--round", type=int, metavar="K", help="one round only (default: all that are judged)")
    parser.add_argument("--dry-run", action="store_true", help="print what would change, write nothing")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="changes to show (default: 5)")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as judges.1.penalty=false")


def run(parsed: argparse.Namespace) -> int:
    """Return 0, also if nothing changes. Raises ConfigError, and RecordError for answers that cannot be read again."""
    registry = plugins.discover()
    old = Run.open(parsed.run, registry)
    settings = config.changed(old.settings, parsed.settings, registry, COMMAND_LINE)
    new = Run(old.folder, settings, registry)
    _refuse_others(old, new)
    with nullcontext() if parsed.dry_run else lock(new.folder):
        if not parsed.dry_run:
            _finish_interrupted(new)
        _reread(old, new, parsed.round, parsed.examples, parsed.dry_run)
    return 0


def _reread(old: Run, new: Run, only: int | None, examples: int, dry_run: bool) -> None:
    """Read the round `only` again; None: all judged rounds."""
    round = judged_round(new, only)
    rounds = judged_rounds(new) if only is None else [round]
    other = _other_settings(new, rounds)
    tallies = [_tally(round, _read_again(new, round)) for round in rounds]
    _show(tallies, examples)
    changed = [tally.round for tally in tallies if tally.differing]
    if not (changed or other or old.settings != new.settings):
        print("Nothing changes.")
        return
    if not changed:
        print("No judgement changes; only the settings do.")
    if dry_run:
        print("Nothing was written (--dry-run).")
        return
    stale = sorted({*changed, *other})
    for round in stale:
        _write_aside(new, round, _read_again(new, round))
    for round in stale:
        backup = _swap(new.stage_folder("judge", round))
        print(f"Round {round}: written; the judgements as they were are in {shown(backup)}")
    if old.settings != new.settings:
        Run.create(new.folder, new.settings, new.registry)
    _say_trained(new, changed)


# ---- settings -------------------------------------------------------------------------------------------------------


def _is_reading(key: str) -> bool:
    """Whether a setting affects how answers are parsed, and not how they were obtained."""
    return key == "judge.doubt" or key.split(".")[0] == "judges"


def _refuse_others(old: Run, new: Run) -> None:
    """Raise ConfigError if any other setting changes, for the run or for one round."""
    wrong: dict[str, str] = {}
    both = old.settings, new.settings
    changing = (k for k in old.settings.round_numbers if any(each.changes(k) for each in both))
    for round in [None, *changing]:
        pair = [as_data(run.at("judge", round).settings) | {"rounds": run.settings.round_count} for run in (old, new)]
        wrong |= {key: how for key, how in differences(*pair).items() if not _is_reading(key)}
    if wrong:
        message = "; ".join(f"{key} ({how})" for key, how in wrong.items())
        raise ConfigError(
            f"srum reread changes how recorded answers are read: options of the judges, and judge.doubt. "
            f"It cannot change {message}. For anything else run srum-train with these settings and --redo."
        )


def _other_settings(run: Run, rounds: Sequence[int]) -> dict[int, dict[str, str]]:
    """Return by round the settings that differ between its judgements and the run today."""
    differing = {
        k: differences(read_json(run.stage_folder("judge", k) / "settings.json"), run.stage_settings("judge", k))
        for k in judged_rounds(run)
    }
    for round, wrong in differing.items():
        message = "; ".join(f"{key} {how}" for key, how in wrong.items())
        if any(not _is_reading(key) for key in wrong):
            raise RecordError(
                f"{run.stage_folder('judge', round)} was made with settings other than run.toml's: {message}. This "
                "affects how answers were obtained, so they cannot be read again; judge again with "
                f"{redo_option(run.stage_folder('judge', round))}."
            )
        if wrong and round not in rounds:
            raise RecordError(
                f"Round {round} was judged with other settings: {message}. Settings hold for the whole run: leave "
                "--round out, and all rounds are read again."
            )
    return {round: wrong for round, wrong in differing.items() if wrong}


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_again(run: Run, round: int) -> Iterator[Pair]:
    """Read every judgement of a round again, in the order of writing. A judgement without known regions has no answers
    and stays as it is."""
    run = run.at("judge", round)
    judges = run.judges()
    records = Records(run.stage_folder("judge", round), Judgement)  # without settings, which may have changed
    candidates, groundings = run.candidates(round), run.groundings(round)
    if records.done:
        records.require(candidates.ids())
    for old in records:
        (candidate,) = candidates.select([old.candidate])
        (grounding,) = groundings.select([old.candidate])
        asks = any(each.questions(candidate, grounding.regions) for _, each in judges)
        if asks and not old.exchanges and old.scores:
            raise RecordError(
                f"{records.folder} holds scores of image {old.candidate}, but not the answers behind them, as "
                "after srum import. There is nothing to read again; to judge these images use "
                f"{redo_option(records.folder)}."
            )
        if grounding.failures:
            yield candidate, old, old
            continue
        image = attrs.evolve(candidate, boxes=old.boxes)
        interviews = [Interview.replay(name, judge, image, grounding.regions, old.exchanges) for name, judge in judges]
        yield candidate, old, judgement(grounding, interviews, run.settings.judge.doubt)


@frozen
class _Tally:
    """What changes in one round."""

    round: int
    row: list[str]
    """The cells of the table."""
    differing: int
    """Judgements in which anything changes, even a single word."""
    examples: list[str]


def _tally(round: int, pairs: Iterator[Pair]) -> _Tally:
    images = scores = differing = readable = unreadable = before = after = 0
    distances, examples = list[float](), list[str]()
    for candidate, old, new in pairs:
        images += 1
        scores += len(old.scores)
        before, after = before + len(old.failures), after + len(new.failures)
        readable += bool(old.failures) and not new.failures
        unreadable += bool(new.failures) and not old.failures
        differing += old != new
        values, today = _values(old), _values(new)
        for key in dict.fromkeys([*values, *today]):
            old_value, new_value = values.get(key), today.get(key)
            if old_value == new_value:
                continue
            if isinstance(old_value, float) and isinstance(new_value, float):
                distances.append(abs(old_value - new_value))
            judge, region, _ = key
            place = "whole image" if region is None else f"region {region}"
            pair = (old_value, new_value)
            texts = [f"{value:g}" if isinstance(value, float) else value or "nothing" for value in pair]
            about = f'{candidate.id} "{candidate.prompt.text}", {place} ({judge or "unnamed"})'
            examples.append(f"round {round}: {about}: {texts[0]} → {texts[1]}")
    changed = f"{len(distances)} of {scores}"
    mean = f"{fmean(distances):.4f}" if distances else "-"
    cells = (round, images, changed, mean, f"{before} → {after}", readable, unreadable)
    return _Tally(round, [str(each) for each in cells], differing, examples)


def _values(judged: Judgement) -> dict[tuple[str, str | None, int], float | str]:
    """Return the score, or why it is unreadable, by (judge, region, number of results before it with both the same)."""
    values: dict[tuple[str, str | None, int], float | str] = {}
    results: tuple[Score | Unreadable, ...] = (*judged.scores, *judged.failures)
    for each in results:
        number = sum(key[:2] == (each.judge, each.region) for key in values)
        value = f"unreadable ({each.why})" if isinstance(each, Unreadable) else float(each.value)
        values[each.judge, each.region, number] = value
    return values


def _show(tallies: Sequence[_Tally], examples: int) -> None:
    head = ["round", "images", "scores changed", "mean", "failures", "readable", "unreadable"]
    show_table(Grid(head, [tally.row for tally in tallies]))
    every = [line for tally in tallies for line in tally.examples]
    for line in every[:examples]:
        say(line)
    if len(every) > examples:
        print(f"… and {len(every) - examples} more (--examples N shows N of them)")
    words = sum(tally.differing for tally in tallies)
    if words and not every:
        print(f"No number changes; reasons, labels or rules change in {words} judgements.")


# ---- writing --------------------------------------------------------------------------------------------------------


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _write_aside(run: Run, round: int, pairs: Iterator[Pair]) -> None:
    """Write the new judgements to a folder beside the old one."""
    folder = run.stage_folder("judge", round)
    shutil.rmtree(_aside(folder), ignore_errors=True)
    records = Records(_aside(folder), Judgement, run.stage_settings("judge", round), writer=0)
    while chunk := list(islice(pairs, _CHUNK)):
        records.extend(new for _, _, new in chunk)
    if (folder / "DONE").exists():
        records.mark_done()


def _swap(folder: Path) -> Path:
    """Replace the old folder by the new one, and return the old one's new path."""
    backup = next(path for n in count(1) if not (path := folder.with_name(f"{folder.name}.before-{n}")).exists())
    folder.rename(backup)
    _aside(folder).rename(folder)
    sync_folder(folder.parent)
    return backup


def _finish_interrupted(run: Run) -> None:
    """Finish a swap that was interrupted between its two renames; delete an incomplete folder."""
    for aside in run.folder.glob("round-*/.judgements.new"):
        folder = aside.with_name("judgements")
        if folder.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(folder)


def _say_trained(run: Run, changed: Sequence[int]) -> None:
    """Print which rounds were trained on the old judgements."""
    trained = [k for k in changed if run.done("train", k) or (run.round_folder(k) / "training").exists()]
    if not trained:
        return
    where = shlex.quote(shown(run.folder))
    redo = "train" if trained[0] == 1 else f"train:{trained[0]}"
    names = ", ".join(map(str, trained))
    print(
        f"Training of round {names} was done, or begun, with the judgements as they were. Nothing of it was deleted. "
        f"To train again with the new ones (this deletes that training, and the rounds after round {trained[0]}):\n"
        f"  srum-train --config {shlex.quote(shown(run.folder / 'run.toml'))} --out {where} --redo {redo}"
    )
