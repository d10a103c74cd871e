"""A benchmark's pictures before and after: the same prompts and seeds, drawn by the first and the last model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from srum_core.evaluation.stage import Scored, scored
from srum_core.report.pictures import data_uri
from srum_core.runs.run import Run

Data = dict[str, Any]


def pairs(run: Run, rounds: Sequence[int], limit: int) -> Data | None:
    """{"before", "after": names, "measures": [{"name", "binary"}], "pairs": [...], "left_out"}; None without two
    evaluations. Of more than `limit` pairs (0: no limit) those whose measures changed most are kept, in order."""
    if run.settings.benchmark is None:
        return None
    there = [k for k in (None, *rounds) if run.done("evaluate", k)]
    if len(there) < 2:
        return None
    first, last = there[0], there[-1]
    before, after = (_usable(scored(run, k)) for k in (first, last))
    ids = [item.id for item in run.planned_evaluation() if item.id in before and item.id in after]
    explain, kept = getattr(run.benchmark(), "explain", None), ids
    if limit and len(ids) > limit:
        ranked = sorted(ids, key=lambda each: -_change(before[each].values, after[each].values))  # stable
        chosen = set(ranked[:limit])
        kept = [each for each in ids if each in chosen]
    return {
        "before": _name(first),
        "after": _name(last),
        "measures": _measures([*before.values(), *after.values()]),
        "pairs": [_pair(before[each], after[each], explain) for each in kept],
        "left_out": len(ids) - len(kept),
    }


def _usable(found: Iterable[Scored]) -> dict[str, Scored]:
    """By id, without failures."""
    return {each.id: each for each in found if not each.candidate.failure}


def _name(round: int | None) -> str:
    return "base" if round is None else f"round {round}"


def _change(before: dict[str, float], after: dict[str, float]) -> float:
    return sum(abs(after[name] - value) for name, value in before.items() if name in after)


def _measures(found: Sequence[Scored]) -> list[Data]:
    """Every measure, and whether it is 0 or 1 for all pictures: those are right and wrong ones."""
    names = dict.fromkeys(name for each in found for name in each.values)
    binary = {name: all(each.values.get(name, 0.0) in (0.0, 1.0) for each in found) for name in names}
    return [{"name": name, "binary": binary[name]} for name in sorted(names, key=lambda each: not binary[each])]


def _pair(before: Scored, after: Scored, explain: Callable[..., str] | None) -> Data:
    (old, small), (new, _) = data_uri(before.candidate.image), data_uri(after.candidate.image)
    return {
        "id": before.id,
        "prompt": before.candidate.prompt.text,
        "seed": before.candidate.seed,
        "small": small,
        "before": {"src": old, "values": before.values, "why": _why(before, explain)},
        "after": {"src": new, "values": after.values, "why": _why(after, explain)},
        "answers": [
            {"by": f"{name}: {exchange.asked_by}", "text": exchange.answer}
            for name, each in (("before", before), ("after", after))
            for exchange in each.exchanges
        ],
    }


def _why(found: Scored, explain: Callable[..., str] | None) -> str:
    """What the benchmark says is wrong with an image, if it can."""
    return str(explain(found.candidate, [each.answer for each in found.exchanges])) if explain else ""
