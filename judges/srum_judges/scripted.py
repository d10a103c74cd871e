"""An answerer without a model, so that the whole loop can be tested on a checkpoint that cannot answer.

Its numbers come from a hash of the image file, not from its content: never report results made with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from srum_core.records import Question
from srum_core.runs.files import read_file
from srum_judges.options import ScriptedOptions

_SIDES = re.compile(r"counts as (\S+) wide and (\S+) high")
_LISTED = re.compile(r"^Region ID: (\S+)\nBounding Box:", re.MULTILINE)


class Scripted:
    """Answers every question in the judges' format, always the same way for the same image file."""

    def __init__(self, options: ScriptedOptions | None = None) -> None:
        self.options = options or ScriptedOptions()

    def answer(self, questions: Sequence[Question]) -> Sequence[str]:
        return [self.options.text or _reply(question) for question in questions]


def _reply(question: Question) -> str:
    image = read_file(question.image)
    ids = _LISTED.findall(question.text)
    if "Write questions" in question.text:
        return "Is there anything?\nIs it what was asked for?"
    if '"bbox_2d"' in question.text:
        return _boxes(question)
    if not ids and "Verdict:" in question.text:
        verdict = "yes" if _value(image, question.text) > 0 else "no"
        return f"Verdict: {verdict}\nReason: scripted reply"
    if not ids:
        part = "" if question.crop is None else repr(question.crop)
        return f"Score: {_value(image, part):.1f}\nReason: scripted reply"
    verify = "Verdict:" in question.text  # every box may stay
    return "\n---\n".join(
        f"Region ID: {identity}\nIdentified Object: something\n"
        + ("Verdict: yes\n" if verify else f"Score: {_value(image, identity):.1f}\n")
        + "Reason: scripted reply"
        for identity in ids
    )


def _boxes(question: Question) -> str:
    """The upper left and the lower right of the image, in the size that the question gives."""
    stated = _SIDES.search(question.text)
    width, height = (float(stated[1]), float(stated[2])) if stated else (1.0, 1.0)
    boxes = ([0, 0, width / 2, height / 2], [width / 2, height / 4, width, height])
    return json.dumps([{"bbox_2d": box, "label": "something"} for box in boxes])


def _value(image: bytes, identity: str) -> float:
    """One of the 21 tenths in [-1, 1]."""
    digest = hashlib.sha256(image + b"\0" + identity.encode()).digest()
    return (int.from_bytes(digest[:4], "big") % 21 - 10) / 10
