"""Look for GenEval's objects and colours in an evaluation's pictures: `python -m srum_benchmarks.geneval.detect RUN`.

What is seen is kept picture by picture in RUN/detections, so that the same command goes on where it stopped, and in the
end written to RUN/detections.jsonl, from which `srum eval score` works without torch. Needs the extra srum[detectors].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from srum_benchmarks.detections import Detection
from srum_benchmarks.geneval.rules import Thresholds
from srum_core.errors import CheckpointError, PluginError, RecordError, SrumError
from srum_core.evaluation.run import Evaluation, Picture
from srum_core.folders import lock
from srum_core.pictures import open_rgb
from srum_core.progress import progress
from srum_core.store import Records, write_atomic

if TYPE_CHECKING:
    from PIL import Image

    from srum_benchmarks.geneval.detector import Colors, Found

DETECTOR, CLIP = "facebook/mask2former-swin-small-coco-instance", "openai/clip-vit-large-patch14"
LEAST, MOST = Thresholds().score, Thresholds().most
"""Below this confidence nothing counts, and of a class no more than so many: no colour is asked for beyond."""


@frozen
class Looked:
    """What was seen in a picture; `id` is its SHA-256."""

    id: str
    detections: tuple[Detection, ...] = ()


def look(run: Evaluation, detector: str, clip: str, device: str = "auto", batch: int = 4) -> Path:
    """Look at all pictures that nobody looked at yet; the file of all detections.

    Raises PluginError without scipy, RecordError for an evaluation of another benchmark and for pictures that are
    missing, CheckpointError for checkpoints of another kind and detectors that do not know what prompts ask for."""
    if importlib.util.find_spec("scipy") is None:
        raise PluginError("Mask2Former needs scipy, which this environment does not have. Install srum[detectors].")
    benchmark = run.settings.benchmark
    if benchmark is None or benchmark.use != "geneval":
        raise RecordError(f"{run.folder} is no evaluation of geneval: {benchmark.use if benchmark else 'it has none'}.")
    records = Records(run.folder / "detections", Looked, {"detector": detector, "clip": clip}, stage="detections")
    pictures = run.drawn()
    if not records.ids().issuperset(each.sha256 for each in pictures):
        _look_at(pictures, records, detector, clip, device, batch)
    path = run.folder / "detections.jsonl"
    there = records.select(dict.fromkeys(each.sha256 for each in pictures))
    write_atomic(path, "".join(_line(each) for each in there))
    return path


def colors_asked(pictures: Sequence[Picture]) -> dict[str, set[str]]:
    """By picture, the classes of which its prompt (or any prompt of the same picture) asks for a colour."""
    asked: dict[str, set[str]] = {}
    for each in pictures:
        clauses = each.candidate.prompt.tags["metadata"].get("include", [])
        asked.setdefault(each.sha256, set()).update(clause["class"] for clause in clauses if "color" in clause)
    return asked


def _look_at(
    pictures: Sequence[Picture], records: Records[Looked], detector: str, clip: str, device: str, batch: int
) -> None:
    from srum_benchmarks.geneval.detector import Colors, Detector  # torch, transformers
    from srum_core.place import choose_device

    where = choose_device(device)
    eyes = Detector(detector, where)
    _refuse_strangers(pictures, eyes.names, detector)
    colors, wanted = Colors(clip, where), colors_asked(pictures)
    images = {each.sha256: each.candidate.image for each in pictures}
    names, there = list(images), records.ids()
    # by place among all pictures, whole again if any is missing: what is seen must not depend on interruptions
    chunks = [names[start : start + batch] for start in range(0, len(names), batch)]
    with progress(len(names), "detect", sum(name in there for name in names)) as advance:
        for some in chunks:
            new = [name for name in some if name not in there]
            if not new:
                continue
            shown = [open_rgb(images[name]) for name in some]
            for name, image, found in zip(some, shown, eyes.detect(shown), strict=True):
                if name in new:
                    records.append(Looked(name, _told(image, found, wanted[name], colors)))
            advance(len(new))


def _refuse_strangers(pictures: Sequence[Picture], known: Sequence[str], detector: str) -> None:
    """What a detector has no class for would count as not drawn."""
    tags = [each.candidate.prompt.tags["metadata"] for each in pictures]
    asked = {clause["class"] for each in tags for part in ("include", "exclude") for clause in each.get(part, [])}
    if strange := sorted(asked.difference(known)):
        raise CheckpointError(
            f"{detector} has no class for {', '.join(strange)}, which the prompts ask for. Take a Mask2Former that was "
            "trained on COCO's 80 classes."
        )


def _told(image: Image.Image, found: Sequence[Found], wanted: set[str], colors: Colors) -> tuple[Detection, ...]:
    """Detections with the colours of those that can count."""
    known: dict[int, str] = {}
    for name in sorted(wanted):
        own = [place for place, each in enumerate(found) if each.label == name and each.score > LEAST][:MOST]
        known |= zip(own, colors.classify(image, [found[place] for place in own]), strict=True)
    return tuple(Detection(each.label, each.box, each.score, known.get(i, "")) for i, each in enumerate(found))


def _line(looked: Looked) -> str:
    entries = [
        {"label": each.label, "box": list(each.box), "score": each.score, "color": each.color}
        for each in looked.detections
    ]
    return json.dumps({"sha256": looked.id, "detections": entries}, ensure_ascii=False) + "\n"


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m srum_benchmarks.geneval.detect", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="an evaluation of geneval whose pictures are drawn")
    parser.add_argument("--detector", default=DETECTOR, metavar="DIR", help=f"Mask2Former (default: {DETECTOR})")
    parser.add_argument("--clip", default=CLIP, metavar="DIR", help=f"for the colours (default: {CLIP})")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=_positive, default=4, help="pictures at once (default: 4)")
    given = parser.parse_args(arguments)
    try:
        with lock(given.run):
            path = look(Evaluation.open(given.run), given.detector, given.clip, given.device, given.batch)
    except SrumError as error:
        print(f"srum: {error}", file=sys.stderr)
        return 2
    name = f"transformers {given.detector}"
    print(f"The detections are in {path}. The table:")
    print(f"  srum eval score {given.run} benchmark.detections={path} benchmark.detector='{name}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
