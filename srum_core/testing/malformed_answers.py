"""Malformed answers of language models: a fixed list, and good answers damaged at random, by seed. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from srum_core.testing.fixtures import THREE_REGIONS

WELL_FORMED = (
    THREE_REGIONS,
    "Score: 0.5\nReason: Most of it is where it was wanted.",
    "**Region ID: 1**\nIdentified Object: a cup\n**Score:** -0.8\nReason: melted\n\n**Region ID: 2**\nScore: 1.0",
    '```json\n{"score": 0.5, "reason": "fine", "regions": [{"id": "1", "score": -1.0}]}\n```',
    '[{"bbox_2d": [10, 10, 40, 30], "label": "cup"}, {"bbox": [0.1, 0.2, 0.5, 0.9], "label": "table"}]',
    "<think>The cup looks right to me.</think>\nScore: -0.25\nReason: The table is missing.",
    "Verdict: no\nReason: There is no cup.",
    "yes",
)
QUESTIONS = "Is there a cup?\nIs there a table?\nIs the cup on the table?"
"""An answer that leads to further questions, for a judge that asks for questions."""
NOTHING = ("", " ", "\n\n", "\t", "<think></think>", "```\n```", "\u200b")
"""Answers without content."""
_ODD = (
    *NOTHING,
    "I cannot help with that.",
    "Region ID: 99\nScore: 0.5\nReason: there is no such region",
    "Region ID:\nScore: 0.5\nReason: which one?",
    "Region ID: 1\nScore: 0.5\nReason: a\n---\nRegion ID: 1\nScore: -0.5\nReason: b",
    "Score:\nReason:",
    "Verdict: maybe",
    "yes or no",
    "Yes.\nNo.",
    "?",
    "1. \n2. \n- ?\n??",
    "Which one?\nWould you like to know more?",
    "Is it so? " * 1000,
    f"{QUESTIONS}\n{QUESTIONS}",
    "Score: high\nReason: it looks good",
    "Score: 0,5\nReason: a comma",
    "Score: 0.5.1\nReason: two points",
    "Score: --0.5\nReason: two signs",
    "Score: −0.5\nReason: a typographic minus",
    "Score: ٠٫٥\nReason: other digits",
    "Score: ½\nReason: a fraction in one character",
    "Score: ²\nReason: a digit that is no number",
    "Score: 0.5 to 0.9\nReason: a range",
    "Score: 0.5\r\nReason: line ends\r\n\r\nRegion ID: 2\r\nScore: 0.1",
    "<think>It might be 0.9, Score: 0.9",
    "Score: 0.3\nReason: {regions} {prompt} %s {0} \\1 $x",
    '{"score": 0.5, "reason": "cut o',
    '{"score": null}',
    '{"score": [0.5]}',
    '{"score": {"value": 0.5}}',
    "[" * 2000,
    "{}",
    "[]",
    "null",
    "[[1, 2], [3, 4, 5], [], null, {}]",
    '[{"bbox_2d": [40, 30, 10, 10]}, {"bbox_2d": "10, 10"}, {"bbox_2d": [1e308, -1, "a", null]}, 7]',
    '[{"bbox_2d": [NaN, Infinity, 1, 2]}]',
    "\x00\x1b[31m\ufeff\ud83d\U0001f600 ￿ \u202e",
    "Score: 0.1\n" * 500,
    "-" * 5000 + "\n" + "*" * 5000,
    "word " * 5000,
)
_NUMBERS = ("7.0", "7", "-3", "1.01", "-1.0001", "1e9", "1e400", "nan", "inf", "-inf", "100%", "8/10", "9" * 400)
_PIECES = (
    "---",
    "\n\n",
    "Score: ",
    "Region ID: ",
    "Reason: ",
    "0.5",
    "-",
    ".",
    "}",
    "]",
    '"',
    "**",
    "</think>",
    "\x00",
)


def odd_answers(recorded: Sequence[str] = (), seed: int = 0, count: int = 150) -> list[str]:
    """Return the fixed list and `count` damaged copies of well-formed and recorded answers, the same for a seed."""
    rng = random.Random(seed)
    bases = [*WELL_FORMED, *recorded]
    return [*WELL_FORMED, *_ODD, *(_damaged(rng.choice(bases), rng) for _ in range(count))]


def out_of_range(ids: Sequence[str], recorded: Sequence[str] = ()) -> list[str]:
    """Return answers in usual formats, for these region ids too, with numbers outside [-1, 1] or that are none."""
    texts = []
    for number in _NUMBERS:
        texts += [
            number,
            f"Score: {number}\nReason: very good",
            f'{{"score": {number}, "reason": "very good"}}',
            "\n---\n".join(f"Region ID: {id}\nIdentified Object: a cup\nScore: {number}\nReason: good" for id in ids),
        ]
        texts += [_replaced(answer, number) for answer in recorded[:20]]
    return texts


def _replaced(text: str, number: str) -> str:
    """Replace every decimal number."""
    words = text.split(" ")
    return " ".join(
        number if word.strip("-+\n.").replace(".", "", 1).isdigit() and "." in word else word for word in words
    )


def _damaged(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        lines = text.split("\n")
        rng.shuffle(lines)
        text = rng.choice(
            (
                text[:at],
                text[at:],
                text[:at] + text[end:],
                text[:end] + text[at:],
                text[:at] + rng.choice(_PIECES) + text[at:],
                text[:at] + rng.choice(_NUMBERS) + text[at:],
                text[:at] + chr(rng.choice((9, 13, 34, 92, 160, 8217, 8722, 65306, 119808))) + text[at:],
                "\n".join(lines),
                text.replace("\n", rng.choice(("\r\n", " ", "\n\n", ""))),
                text.upper(),
            )
        )
    return text
