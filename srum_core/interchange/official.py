"""The JSON lines that the official SRUM scripts pass to one another: read, and written out of a run.

output.jsonl  one candidate per line: the prompt, and the thought before the image
judge.jsonl   one judge record a line: scored regions, and the score of the whole image
train.jsonl   one training record a line: the same as a flat list, under the name of the image
images/       the images that the lines name

A file to read holds judge records or training records. A box counts in pixels of the stored image. As for the
official reader its edges may be texts of whole numbers, and it is cut to the image; an entry without a box or a
score, or whose box is empty, is left out, and the result reports it. Fractions of pixels are kept. Where the official
reader drops the whole sample without a word (a score that is no number, an infinite edge) or trains on nonsense (a
score of 8), the line is `Bad`.

Written boxes are whole pixels. Where several judges scored the same thing, their mean is written, as the reward maps
take it. Our training records keep a global score of exactly 0; the official script that makes them takes it for a
failed judge and drops the image.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from srum_core.errors import RecordError, clean
from srum_core.interchange.incoming import Bad, Incoming, Unusable, find, load_image, score_in_range, text_of
from srum_core.models.images import read_files
from srum_core.records import Box, Candidate, Judgement, Prompt, Region, Score
from srum_core.runs.prompts import other_task, tell_once
from srum_core.runs.store import write_atomic

GLOBAL = "global_layout_reward"
Json = dict[str, Any]
JUDGE = "imported"
"""`Score.judge` of records read here."""
KEYS = {"prompt", "image_file", "vlm_rewards", GLOBAL, "bad_image_file", "good_image_file"}
KEYS |= {"prompt_id", "original_prompt", "detailed_prompt", "think_output"}
"""The fields of the official records."""


Generated = Mapping[str, tuple[Prompt, str]]
"""The entries of the official output.jsonl by image file: the prompt, and the thought before the image."""


def read_official(path: Path, images: Path | None = None, candidates: Path | None = None) -> Iterator[Incoming | Bad]:
    """Read every line of a file.

    images      where the images are; None = the file's folder, or `images/` in it
    candidates  an output.jsonl, whose prompts are then taken instead of the judge records' own

    Raises RecordError if a file cannot be read, or if a line of `candidates` is not a record of output.jsonl."""
    folders = [images] if images else [path.parent, path.parent / "images"]
    generated = None if candidates is None else dict(_generated(candidates))
    for where, line in lines_of(path):
        try:
            yield _incoming(where, record_of(line), folders, generated)
        except Unusable as error:
            yield Bad(where, str(error))


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the place and the bytes of each line that is not empty. Raises RecordError."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}.") from error


def record_of(line: bytes) -> Json:
    """Parse the JSON object in a line. Raises Unusable."""
    try:
        value = json.loads(line.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unusable(f"it is not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise Unusable(f"it is not JSON ({error.msg}, character {error.pos + 1})") from error
    except (ValueError, RecursionError) as error:
        raise Unusable(f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Unusable(f"it is no JSON object but a {type(value).__name__}; a line should hold one record")
    return value


def _generated(path: Path) -> Iterator[tuple[str, tuple[Prompt, str]]]:
    for where, line in lines_of(path):
        try:
            record = record_of(line)
            if wrong := other_task(record, images=False):
                raise Unusable(wrong)
            thought = record.get("think_output")
            prompt, name = text_of(record, "original_prompt"), text_of(record, "image_file")
            identity = str(record.get("prompt_id", Path(name).stem))
            yield name, (Prompt(identity, prompt), thought if isinstance(thought, str) else "")
        except Unusable as error:
            raise RecordError(f"{path.parent / where}: {error}. It should be the official output.jsonl.") from error


def _incoming(where: str, record: Json, folders: Sequence[Path], generated: Generated | None) -> Incoming:
    trained = "bad_image_file" in record or "good_image_file" in record
    if not trained and "image_file" not in record:
        raise Unusable("it is neither a judge record (image_file) nor a training record (bad_image_file)")
    if not trained and "vlm_rewards" not in record and GLOBAL not in record:
        raise Unusable(
            "it holds no scores: an output.jsonl is not judged, and belongs to --candidates. Images with captions "
            "alone are read with --captions"
        )
    if wrong := other_task(record, images=False):
        raise Unusable(wrong)
    if unknown := [key for key in record if key not in KEYS]:
        tell_once(f"{where.rpartition(':')[0]}: these fields are not read: {clean(', '.join(unknown))}.")
    name = text_of(record, "bad_image_file" if trained else "image_file")
    if generated is not None and name not in generated:
        raise Unusable(f"{name} is not in the file of --candidates")
    prompt, thought = (
        generated[name] if generated is not None else (Prompt(Path(name).stem, text_of(record, "prompt")), "")
    )
    path = find(name, folders)
    image = load_image(path)
    regions, scores, notes = _entries(record, trained, image.size)
    good = find(text_of(record, "good_image_file"), folders) if trained else path
    reference = None if good == path else load_image(good)
    if reference and reference.size != image.size:
        sizes = " and ".join(f"{each.name} is {each.size[0]}x{each.size[1]}" for each in (image, reference))
        raise Unusable(f"its two images must be of one size, but {sizes}")
    return Incoming(where, prompt, image, reference, regions, scores, thought=thought, notes=notes)


class _LeftOut(Exception):
    """Why an entry of a record is left out."""


def _entries(
    record: Json, trained: bool, size: tuple[int, int]
) -> tuple[tuple[Region, ...], tuple[Score, ...], tuple[str, ...]]:
    """Return the regions, the scores, and notes on what was left out or changed."""
    entries = record.get("vlm_rewards")
    if not isinstance(entries, list):
        raise Unusable(f'its "vlm_rewards" is {entries!r}, and should be a list')
    regions, scores, notes = list[Region](), list[Score](), list[str]()
    global_entries = [] if trained or record.get(GLOBAL) is None else [record[GLOBAL]]
    number = 0
    for place, entry in enumerate([*global_entries, *entries]):
        is_global = trained and isinstance(entry, dict) and entry.get("object") == GLOBAL
        try:
            if is_global and any(score.region is None for score in scores):
                notes.append("a second global score was left out: the first counts")
            elif is_global or place < len(global_entries):
                scores.append(_global(entry, "score" if trained else "global_layout_score"))
            else:
                number += 1
                region, score, note = _regional(entry, number, "object" if trained else "identified_object", size)
                regions.append(region)
                scores.append(score)
                notes += note
        except _LeftOut as reason:
            notes.append(str(reason))
    if not scores:
        raise Unusable("; ".join(["it holds no score that can be used", *notes]))
    return tuple(regions), tuple(scores), tuple(notes)


def _global(entry: Any, key: str) -> Score:
    if not isinstance(entry, dict) or key not in entry:
        raise _LeftOut("its global entry has no score, and was left out")
    return Score(score_in_range(entry[key], "its global entry"), None, _words(entry, "reason"), JUDGE)


def _regional(entry: Any, number: int, key: str, size: tuple[int, int]) -> tuple[Region, Score, list[str]]:
    """Return the region, its score, and a note if the box was clipped."""
    label = _words(entry, key) if isinstance(entry, dict) else ""
    what = f"entry {number} ({label})" if label else f"entry {number}"
    if not isinstance(entry, dict):
        raise _LeftOut(f"{what} was left out: it is no object but {entry!r}")
    if "score" not in entry:
        raise _LeftOut(f"{what} was left out: it has no score")
    value = score_in_range(entry["score"], what)
    x0, y0, x1, y1 = edges = _edges(entry.get("bbox"), what)
    width, height = size
    cut = (max(0.0, x0 / width), max(0.0, y0 / height), min(1.0, x1 / width), min(1.0, y1 / height))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        why = f"lies outside the {width}x{height} image"
        if x0 >= x1 or y0 >= y1:
            why = "is empty" if x0 == x1 or y0 == y1 else "is reversed"
        raise _LeftOut(f"{what} was left out: its box {_format(edges)} {why}")
    clipped = any(edge < 0 for edge in edges) or x1 > width or y1 > height
    note = f"{what} was clipped to the image: {_format(edges)} in {width}x{height}"
    score = Score(value, str(number), _words(entry, "reason"), JUDGE, label)
    return Region(str(number), cut), score, [note] if clipped else []


def _words(entry: Json, key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _edges(values: Any, what: str) -> Box:
    """Return the four edges of a box. Raises Unusable for values that are not finite, as the official reader fails."""
    if not isinstance(values, list) or len(values) != 4:
        raise _LeftOut(f"{what} was left out: its box is {values!r}, and should be four numbers")
    numbers = [_number(value) for value in values]
    if None in numbers:
        raise _LeftOut(f"{what} was left out: its box {values!r} does not hold four numbers")
    x0, y0, x1, y1 = (edge for edge in numbers if edge is not None)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise Unusable(f"{what} has a box that is not finite: {_format((x0, y0, x1, y1))}")
    return x0, y0, x1, y1


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(int(value)) if isinstance(value, str) else float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def _format(edges: Box) -> str:
    return f"[{', '.join(f'{edge:g}' for edge in edges)}]"


# ---- writing --------------------------------------------------------------------------------------------------------


def write_official(folder: Path, images: Iterable[tuple[Candidate, Judgement]]) -> Counter[str]:
    """Write all four. Return counts: images; failed and unscored (left out); zero and without (global scores); regions
    without a score; masks."""
    counts: Counter[str] = Counter()
    with (
        (folder / "output.jsonl").open("w", encoding="utf-8") as output,
        (folder / "judge.jsonl").open("w", encoding="utf-8") as judge,
        (folder / "train.jsonl").open("w", encoding="utf-8") as train,
    ):
        for candidate, judgement in images:
            if judgement.failures or not judgement.scores:
                counts["failed" if judgement.failures else "unscored"] += 1
                continue
            record, files = judge_record(candidate, judgement), read_files(candidate)
            good = None if candidate.reference is None else f"{candidate.id}-reference{candidate.reference.suffix}"
            write_atomic(folder / "images" / record["image_file"], files[candidate.image])
            if good and candidate.reference:
                write_atomic(folder / "images" / good, files[candidate.reference])
            text, thought = candidate.prompt.text, candidate.thought
            generated = {
                "prompt_id": candidate.prompt.id,
                "image_file": record["image_file"],
                "original_prompt": text,
                "detailed_prompt": thought or text,
                "think_output": thought,
            }
            lines = (output, generated), (judge, record), (train, training_record(record, text, good))
            for file, line in lines:
                file.write(json.dumps(line) + "\n")  # in ASCII, which can hold any text of a model
            global_entry = record[GLOBAL]
            counts["images"] += 1
            counts["without"] += global_entry is None
            counts["zero"] += global_entry is not None and global_entry["global_layout_score"] == 0
            counts["regions without a score"] += len(judgement.regions) - len(record["vlm_rewards"])
            counts["masks"] += any(region.mask for region in judgement.regions)
    return counts


def judge_record(candidate: Candidate, judgement: Judgement) -> Json:
    """Return a line of judge.jsonl, without the regions that have no score."""
    scores: dict[str | None, list[Score]] = {}
    for score in judgement.scores:
        scores.setdefault(score.region, []).append(score)
    width, height = candidate.size
    global_entry = None
    if None in scores:
        global_entry = {
            "global_layout_score": fmean(score.value for score in scores[None]),
            "reason": _reason(scores[None]),
            "bbox": [0, 0, width, height],
            "area": width * height,
        }
    return {
        "image_file": f"{candidate.id}{candidate.image.suffix}",
        "prompt": candidate.prompt.text,
        "vlm_rewards": [
            _entry(region, scores[region.id], candidate.size) for region in judgement.regions if region.id in scores
        ],
        GLOBAL: global_entry,
        # As in the release, where the judge of regions comes last: the last answer of the last judge.
        "vlm_raw_output": judgement.exchanges[-1].answer if judgement.exchanges else "",
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


def pixels(box: Box, size: tuple[int, int]) -> list[int]:
    """Round a box to whole pixels, at least one wide and high."""
    low, high = [], []
    for start, end, side in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        first = min(round(start * side), side - 1)
        low.append(first)
        high.append(max(round(end * side), first + 1))
    return low + high


def training_record(record: Mapping[str, Any], prompt: str, good: str | None = None) -> Json | None:
    """Convert a line of judge.jsonl to one of train.jsonl; None if it has no scores, as only lines of others can.

    good        the reference image; None: the image itself"""
    entries: list[Json] = []
    global_entry = record.get(GLOBAL) or {}
    if "global_layout_score" in global_entry:
        box, reason = global_entry.get("bbox", [0, 0, 0, 0]), global_entry.get("reason", "")
        entries.append({"object": GLOBAL, "bbox": box, "score": global_entry["global_layout_score"], "reason": reason})
    entries += [
        {"object": each["identified_object"], "bbox": each["bbox"], "score": each["score"]}
        for each in record["vlm_rewards"]
        if {"identified_object", "bbox", "score"} <= each.keys()
    ]
    bad = record["image_file"]
    if not entries:
        return None
    return {"bad_image_file": bad, "good_image_file": good or bad, "prompt": prompt, "vlm_rewards": entries}
