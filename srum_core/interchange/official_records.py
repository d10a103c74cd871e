"""A run's judged pictures as the JSON lines that the official SRUM scripts pass to one another.

output.jsonl  one candidate a line: what was to be drawn, and the thought that went before it
judge.jsonl   one judge record a line: scored regions, and the score of the whole picture
train.jsonl   one training record a line: the same as a flat list, under the name of the picture
images/       the pictures that the lines name

Boxes are whole pixels of the stored picture. Where several judges scored the same thing, their mean is written, as the
reward maps take it. Our training records keep a global score of exactly 0; the official script that makes them takes it
for a failed judge and drops the picture.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from srum_core.models.images import read_files
from srum_core.records import Box, Candidate, Judgement, Region, Score
from srum_core.runs.store import write_atomic

GLOBAL = "global_layout_reward"
Json = dict[str, Any]


def write_official(folder: Path, pictures: Iterable[tuple[Candidate, Judgement]]) -> Counter[str]:
    """Write all four; returns counts: pictures, failed and unscored (left out), zero and without (global scores),
    regions without a score, masks."""
    counts: Counter[str] = Counter()
    with (
        (folder / "output.jsonl").open("w", encoding="utf-8") as output,
        (folder / "judge.jsonl").open("w", encoding="utf-8") as judge,
        (folder / "train.jsonl").open("w", encoding="utf-8") as train,
    ):
        for candidate, judgement in pictures:
            if judgement.failures or not judgement.scores:
                counts["failed" if judgement.failures else "unscored"] += 1
                continue
            record, files = judge_record(candidate, judgement), read_files(candidate)
            good = None if candidate.reference is None else f"{candidate.id}-reference{candidate.reference.suffix}"
            write_atomic(folder / "images" / record["image_file"], files[candidate.image])
            if good and candidate.reference:
                write_atomic(folder / "images" / good, files[candidate.reference])
            for file, line in (
                (output, candidate_record(candidate)),
                (judge, record),
                (train, training_record(record, candidate.prompt.text, good)),
            ):
                file.write(json.dumps(line) + "\n")  # in ASCII, which has room for anything a model has said
            _count(counts, record, judgement)
    return counts


def _count(counts: Counter[str], record: Json, judgement: Judgement) -> None:
    whole = record[GLOBAL]
    counts["pictures"] += 1
    counts["without"] += whole is None
    counts["zero"] += whole is not None and whole["global_layout_score"] == 0
    counts["regions without a score"] += len(judgement.regions) - len(record["vlm_rewards"])
    counts["masks"] += any(region.mask for region in judgement.regions)


def candidate_record(candidate: Candidate) -> Json:
    """A line of output.jsonl."""
    text, thought = candidate.prompt.text, candidate.thought
    return {
        "prompt_id": candidate.prompt.id,
        "image_file": image_file(candidate),
        "original_prompt": text,
        "detailed_prompt": thought or text,
        "think_output": thought,
    }


def image_file(candidate: Candidate) -> str:
    return f"{candidate.id}{candidate.image.suffix}"


def judge_record(candidate: Candidate, judgement: Judgement) -> Json:
    """A line of judge.jsonl. Regions without a score are not in it."""
    scores: dict[str | None, list[Score]] = {}
    for score in judgement.scores:
        scores.setdefault(score.region, []).append(score)
    width, height = candidate.size
    whole = None
    if None in scores:
        whole = {
            "global_layout_score": fmean(score.value for score in scores[None]),
            "reason": _reason(scores[None]),
            "bbox": [0, 0, width, height],
            "area": width * height,
        }
    return {
        "image_file": image_file(candidate),
        "prompt": candidate.prompt.text,
        "vlm_rewards": [
            _entry(region, scores[region.id], candidate.size) for region in judgement.regions if region.id in scores
        ],
        GLOBAL: whole,
        "vlm_raw_output": _raw(judgement),
    }


def _entry(region: Region, scores: list[Score], size: tuple[int, int]) -> Json:
    box = pixels(region.box, size)
    label = next((score.label for score in scores if score.label), region.label)
    entry: Json = {
        "identified_object": label or f"region {region.id}",  # the official reader drops entries without one
        "score": fmean(score.value for score in scores),
        "bbox": box,
        "area": sum(region.mask.counts[1::2]) if region.mask else (box[2] - box[0]) * (box[3] - box[1]),
    }
    reason = _reason(scores)
    return {**entry, "reason": reason} if reason else entry


def _reason(scores: list[Score]) -> str:
    return "\n".join(score.reason for score in scores if score.reason)


def _raw(judgement: Judgement) -> str:
    """The last answer of the last judge: as in the release, where the judge of regions comes last."""
    return judgement.exchanges[-1].answer if judgement.exchanges else ""


def pixels(box: Box, size: tuple[int, int]) -> list[int]:
    """A box in whole pixels, at least one wide and high."""
    low, high = [], []
    for start, end, side in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        first = min(round(start * side), side - 1)
        low.append(first)
        high.append(max(round(end * side), first + 1))
    return low + high


def training_record(record: Mapping[str, Any], prompt: str, good: str | None = None) -> Json | None:
    """A line of train.jsonl out of one of judge.jsonl; None if nothing scored is left, which is never so for ours.

    `good`: the reference picture; without one the picture is its own."""
    entries: list[Json] = []
    whole = record.get(GLOBAL) or {}
    if "global_layout_score" in whole:
        box, reason = whole.get("bbox", [0, 0, 0, 0]), whole.get("reason", "")
        entries.append({"object": GLOBAL, "bbox": box, "score": whole["global_layout_score"], "reason": reason})
    entries += [
        {"object": each["identified_object"], "bbox": each["bbox"], "score": each["score"]}
        for each in record["vlm_rewards"]
        if {"identified_object", "bbox", "score"} <= each.keys()
    ]
    bad = record["image_file"]
    if not entries:
        return None
    return {"bad_image_file": bad, "good_image_file": good or bad, "prompt": prompt, "vlm_rewards": entries}
