"""Reads the questions out of an answer that was to consist of some, as a careful person would."""

from __future__ import annotations

import re

from srum_judges.parsing import Reading, spoken

_BEFORE_QUESTION = re.compile(
    r"""^(?: [^\w(] | _                                             # markup, bullets, what is left of a list's brackets
    | \(?[0-9]{1,3}[.):\]](?![0-9])                                 # 1.  2)  (3)
    | q(?:uestion)?[ _]{0,2}[0-9]{0,3}[*_]{0,3}[.):]                # Q1:
    | \((?:yes|no)\) | (?:yes|no)\b[^\w\s]                          # the answer to the question before it
    )+""",
    re.IGNORECASE | re.VERBOSE,
)
_NOT_YES_OR_NO = re.compile(
    r"(?:what|which|who|whom|whose|where|when|why|how)\b"
    r"|(?:would|do) you (?:like|want|need)\b|(?:shall|may|can|should) i\b",  # an offer to write more
    re.IGNORECASE,
)


def read_questions(answer: str) -> list[str]:
    """The questions of an answer that can be answered with yes or no, each once, without numbers and bullets. What is
    no such question is left out: headings, remarks, "How many …?", answers behind a question, offers."""
    text = spoken(answer)
    if isinstance(text, Reading):
        return []
    found: dict[str, str] = {}
    for line in text.replace("？", "?").split("\n"):
        for written in dict.fromkeys(line.split("?")[:-1] if "?" in line else ()):
            question = " ".join(_BEFORE_QUESTION.sub("", written).split()).rstrip("*_` ") + "?"
            if question.count('"') % 2:
                question = f'"{question}'  # its opening quotation mark looked like markup
            if re.search(r"\w", question) and not _NOT_YES_OR_NO.match(question):
                found.setdefault(re.sub(r"\W+", " ", question.casefold()), question)
    return list(found.values())
